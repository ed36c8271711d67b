//! Decides which process is killed when. It depends on a seed alone, so that a run can be repeated.

use std::time::Duration;

/// The target of a blow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// A process of this kind, by its number.
    Worker(usize),
    Dispatcher(usize),
    Broker,
}

/// The way to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGTERM: it ends in order.
    Stop,
}

/// A blow after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub pause: Duration,
    pub victim: Victim,
    pub blow: Blow,
}

/// A sequence of pseudo-random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % sides).unwrap_or(0)
    }
}

/// The blows of about one minute.
const HAND: [(Kind, Blow); 8] = [
    (Kind::Worker, Blow::Kill),
    (Kind::Worker, Blow::Kill),
    (Kind::Worker, Blow::Stop),
    (Kind::Dispatcher, Blow::Kill),
    (Kind::Dispatcher, Blow::Kill),
    (Kind::Dispatcher, Blow::Stop),
    (Kind::Broker, Blow::Kill),
    (Kind::Broker, Blow::Stop),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Worker,
    Dispatcher,
    Broker,
}

/// The number of blows that hit every kind at least twice.
pub const HAND_SIZE: usize = HAND.len();

/// An endless sequence of blows.
#[derive(Debug)]
pub struct Plan {
    dice: Dice,
    hand: Vec<(Kind, Blow)>,
    workers: usize,
    dispatchers: usize,
}

impl Plan {
    pub fn new(seed: u64, workers: usize, dispatchers: usize) -> Self {
        Self {
            dice: Dice::new(seed),
            hand: Vec::new(),
            workers,
            dispatchers,
        }
    }

    fn draw(&mut self) -> (Kind, Blow) {
        if self.hand.is_empty() {
            self.hand = HAND.to_vec();
        }
        let place = self.dice.roll(self.hand.len());
        self.hand.swap_remove(place)
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let (kind, blow) = self.draw();
        let victim = match kind {
            Kind::Worker => Victim::Worker(self.dice.roll(self.workers)),
            Kind::Dispatcher => Victim::Dispatcher(self.dice.roll(self.dispatchers)),
            Kind::Broker => Victim::Broker,
        };
        let pause = Duration::from_millis(3000 + u64::try_from(self.dice.roll(7000)).unwrap_or(0));
        Some(Step {
            pause,
            victim,
            blow,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_eight_blows_hit_every_kind_at_least_twice() {
        for seed in 0..50 {
            let mut plan = Plan::new(seed, 4, 2);
            for _ in 0..5 {
                let hand: Vec<Step> = plan.by_ref().take(HAND.len()).collect();
                let of =
                    |is: fn(&Victim) -> bool| hand.iter().filter(|step| is(&step.victim)).count();
                let counted = (
                    of(|victim| matches!(victim, Victim::Worker(0..4))),
                    of(|victim| matches!(victim, Victim::Dispatcher(0..2))),
                    of(|victim| matches!(victim, Victim::Broker)),
                );
                assert_eq!(counted, (3, 3, 2), "seed {seed}: {hand:?}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_one_does_not() {
        let run = |seed| Plan::new(seed, 4, 2).take(40).collect::<Vec<_>>();
        assert_eq!(run(7), run(7), "it can be repeated");
        assert_ne!(run(7), run(8), "seeds matter");
    }
}
