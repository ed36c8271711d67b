//! Acknowledges results in groups. Nobody waits for an ack, and each costs the broker a command to
//! the queue, so the acks of a few milliseconds go together. One ack covers all results up to the
//! first that is still in progress; each finished result behind it gets an ack of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicAckOptions;
use lapin::types::DeliveryTag;
use pool_broker::fault::{Point, point};
use pool_broker::{BrokerError, with_timeout};
use tokio::sync::mpsc;

/// The interval between two rounds of acks.
const PACE: Duration = Duration::from_millis(5);
/// After this many rounds a finished result no longer waits for an earlier one.
const ROUNDS: u8 = 4;
/// The most acks that are considered in one round.
const TOGETHER: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ack {
    tag: DeliveryTag,
    /// Also acks all earlier deliveries.
    multiple: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// Handled but not acked, for this many rounds.
    Waiting(u8),
    Acked,
}

/// The finished deliveries of a channel. Pure.
#[derive(Debug, Default)]
struct Tally {
    /// All deliveries up to this one are acked.
    through: DeliveryTag,
    /// Finished deliveries behind it.
    done: BTreeMap<DeliveryTag, Done>,
}

impl Tally {
    fn add(&mut self, tag: DeliveryTag) {
        self.done.insert(tag, Done::Waiting(0));
    }

    /// Ends a round: returns the acks that are due now.
    fn due(&mut self) -> Vec<Ack> {
        let mut acks: Vec<Ack> = self.whole().into_iter().collect();
        for (tag, done) in &mut self.done {
            match done {
                Done::Waiting(rounds) if *rounds >= ROUNDS => {
                    acks.push(Ack {
                        tag: *tag,
                        multiple: false,
                    });
                    *done = Done::Acked;
                }
                Done::Waiting(rounds) => *rounds += 1,
                Done::Acked => {}
            }
        }
        acks
    }

    /// One ack for all deliveries up to the first that is still in progress. The ack's tag must not
    /// have been acked before: the broker would close the channel.
    fn whole(&mut self) -> Option<Ack> {
        let mut last = None;
        while let Some(done) = self.done.remove(&(self.through + 1)) {
            self.through += 1;
            match done {
                Done::Waiting(_) => {
                    last = Some(Ack {
                        tag: self.through,
                        multiple: true,
                    })
                }
                Done::Acked => {}
            }
        }
        last
    }

    fn is_empty(&self) -> bool {
        self.done.values().all(|done| *done == Done::Acked)
    }
}

/// Acks the tags from `handled` until the channel is closed or all senders are gone.
///
/// # Errors
/// When an ack cannot be written: the broker delivers what is unacknowledged again.
pub(crate) async fn acknowledge(
    channel: &Channel,
    limit: Duration,
    mut handled: mpsc::Receiver<DeliveryTag>,
) -> Result<(), BrokerError> {
    let mut tally = Tally::default();
    let mut tags = Vec::new();
    loop {
        if tally.is_empty() {
            if handled.recv_many(&mut tags, TOGETHER).await == 0 {
                return Ok(());
            }
        } else {
            tokio::time::sleep(PACE).await;
            while let Ok(tag) = handled.try_recv() {
                tags.push(tag);
            }
        }
        tags.drain(..).for_each(|tag| tally.add(tag));
        for Ack { tag, multiple } in tally.due() {
            with_timeout(
                limit,
                "ack results",
                channel.basic_ack(tag, BasicAckOptions { multiple }),
            )
            .await?;
            point(Point::ResultAcked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn results_that_are_done_in_order_share_an_ack() {
        let mut tally = Tally::default();
        [2, 1, 3].into_iter().for_each(|tag| tally.add(tag));
        assert_eq!(
            tally.due(),
            [Ack {
                tag: 3,
                multiple: true
            }],
            "one ack for all"
        );
        assert_eq!(tally.due(), [], "once");
    }

    #[test]
    fn a_result_that_is_stuck_does_not_keep_those_behind_it() {
        let mut tally = Tally::default();
        [2, 3].into_iter().for_each(|tag| tally.add(tag));
        for _ in 0..ROUNDS {
            assert_eq!(tally.due(), [], "the first result may finish soon");
        }
        assert_eq!(
            tally.due(),
            [
                Ack {
                    tag: 2,
                    multiple: false
                },
                Ack {
                    tag: 3,
                    multiple: false
                }
            ],
            "one ack each"
        );
        tally.add(1);
        assert_eq!(
            tally.due(),
            [Ack {
                tag: 1,
                multiple: true
            }],
            "only the remaining ones"
        );
    }

    /// All orders in which these results can finish.
    fn orders(tags: Vec<u64>) -> Vec<Vec<u64>> {
        if tags.is_empty() {
            return vec![tags];
        }
        let first = |tag: u64| {
            let rest = tags.iter().copied().filter(|other| *other != tag).collect();
            orders(rest)
                .into_iter()
                .map(move |rest| [vec![tag], rest].concat())
        };
        tags.iter().copied().flat_map(first).collect()
    }

    /// Finishes the results in this order, with this many rounds after each; returns the acked
    /// tags.
    fn play(order: &[u64], rounds: usize) -> BTreeSet<u64> {
        let (mut tally, mut done, mut acked) = (Tally::default(), BTreeSet::new(), BTreeSet::new());
        for (number, tag) in order.iter().enumerate() {
            tally.add(*tag);
            done.insert(*tag);
            let rounds = if number + 1 == order.len() {
                usize::from(ROUNDS) + 1
            } else {
                rounds
            };
            for Ack { tag, multiple } in (0..rounds).flat_map(|_| tally.due()).collect::<Vec<_>>() {
                assert!(
                    !acked.contains(&tag),
                    "{tag} is acked twice, {order:?}, {rounds} rounds"
                );
                let all = if multiple { 1..=tag } else { tag..=tag };
                for tag in all {
                    assert!(
                        done.contains(&tag),
                        "{tag} is still in progress, {order:?}, {rounds} rounds"
                    );
                    acked.insert(tag);
                }
            }
        }
        acked
    }

    #[test]
    fn in_every_order_each_result_is_acked_once_and_none_that_is_in_hand() {
        for order in orders(vec![1, 2, 3, 4, 5]) {
            for rounds in 0..=usize::from(ROUNDS) + 1 {
                assert_eq!(
                    play(&order, rounds).len(),
                    5,
                    "all are acked in the end, {order:?}, {rounds} rounds"
                );
            }
        }
    }
}
