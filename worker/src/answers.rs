//! Reports of answered calls. A breaker needs them to know which share of an LLM's calls fails.
//!
//! Each process has one [`AnsweredCalls`]. It writes nothing while an LLM only succeeds. It puts its report into the log in front of
//! its own failure; and while the log knows of trouble with that LLM, it reports every few seconds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_broker::process::Process;
use pool_core::event::{Event, LlmAnswered};
use pool_core::id::ProgrammerId;
use pool_core::llm::LlmKey;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use tokio::time::Instant;

/// The most unreported calls that are kept for one programmer and LLM, the newest ones. A few
/// failures among so many are not an outage.
const MAX_UNREPORTED: usize = 32;
/// How often the process checks whether a report is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The pause between two reports about one LLM that is in doubt.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// The calls of one LLM that the log does not have yet.
#[derive(Debug, Default)]
struct UnreportedCalls {
    /// When each programmer's calls ended.
    ended: BTreeMap<ProgrammerId, VecDeque<Instant>>,
    reported: Option<Timestamp>,
    asked: Option<Timestamp>,
}

/// Answered calls that the log does not have yet.
#[derive(Debug, Default)]
pub struct AnsweredCalls(Mutex<BTreeMap<LlmKey, UnreportedCalls>>);

impl AnsweredCalls {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<LlmKey, UnreportedCalls>) -> T) -> T {
        // The map is valid at every instant, so a panic elsewhere does not spoil it.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a call has just been answered.
    pub fn note(&self, key: LlmKey, programmer: &ProgrammerId) {
        self.with(|llms| {
            let ended = llms
                .entry(key)
                .or_default()
                .ended
                .entry(programmer.clone())
                .or_default();
            if ended.len() == MAX_UNREPORTED {
                ended.pop_front();
            }
            ended.push_back(Instant::now());
        });
    }

    /// The report about this LLM that goes in front of a failure. None: there is nothing to report.
    pub fn unreported(&self, key: &LlmKey, host: &str) -> Option<Event> {
        self.with(|llms| llms.get_mut(key)?.take(key, host, false))
    }

    /// The report of this process when a call is in trouble. It asks the other processes for
    /// theirs. None: this process has asked recently.
    pub fn ask(&self, key: &LlmKey, host: &str, now: Timestamp) -> Option<Event> {
        self.with(|llms| {
            let calls = llms.entry(key.clone()).or_default();
            if calls
                .asked
                .is_some_and(|asked| now.since(asked) < REPORT_EVERY)
            {
                return None;
            }
            calls.asked = Some(now);
            calls.take(key, host, true)
        })
    }

    /// The reports that are due. `in_doubt` returns since when an LLM is in doubt.
    fn due(
        &self,
        host: &str,
        now: Timestamp,
        in_doubt: impl Fn(&LlmKey) -> Option<Timestamp>,
    ) -> Vec<Event> {
        let report = |(key, calls): (&LlmKey, &mut UnreportedCalls)| {
            let since = in_doubt(key)?;
            let waits = calls
                .reported
                .is_some_and(|reported| reported >= since && now.since(reported) < REPORT_EVERY);
            let decision = (!waits).then(|| calls.take(key, host, false)).flatten();
            calls.reported = if decision.is_some() {
                Some(now)
            } else {
                calls.reported
            };
            decision
        };
        self.with(|llms| llms.iter_mut().filter_map(report).collect())
    }

    /// Appends reports until the process ends.
    pub async fn append_reports(self: Arc<Self>, process: Process) {
        while !process.shutdown.is_cancelled() {
            // Jittered, so that the processes do not all append at the same moment.
            tokio::time::sleep(LOOK_EVERY.mul_f64(0.5 + rand::random::<f64>())).await;
            if !process.log.is_fresh() {
                continue;
            }
            let due = process.log.read(|fold| {
                let now = fold.now().max(wall_clock());
                self.due(&process.host, now, |key| fold.breakers.in_doubt(key, now))
            });
            for report in due {
                // A lost report only makes the share of failures look larger.
                let _ = process.log.append(report).await;
            }
        }
    }
}

impl UnreportedCalls {
    fn take(&mut self, key: &LlmKey, host: &str, asks: bool) -> Option<Event> {
        let age = |ended: Instant| u64::try_from(ended.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ended: BTreeMap<ProgrammerId, Vec<u64>> = std::mem::take(&mut self.ended)
            .into_iter()
            .map(|(programmer, ended)| (programmer, ended.into_iter().map(age).collect()))
            .collect();
        let tells = asks || !ended.is_empty();
        tells.then(|| {
            Event::from(LlmAnswered {
                key: key.clone(),
                host: host.to_owned(),
                ended,
                asks,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::BreakerEvent;
    use pool_core::id::LlmName;

    fn key() -> LlmKey {
        LlmKey::new("http://x/v1", &LlmName::new("p/m").expect("an LLM"), "h")
    }

    fn count(told: &Event) -> usize {
        let Event::Breaker(BreakerEvent::LlmAnswered(LlmAnswered { ended, .. })) = told else {
            panic!("{told:?}")
        };
        ended.values().map(Vec::len).sum()
    }

    #[test]
    fn it_reports_when_there_is_doubt_and_then_not_again_for_a_while() {
        let (answers, id) = (
            AnsweredCalls::default(),
            ProgrammerId::new("001").expect("an id"),
        );
        let note = |times: usize| (0..times).for_each(|_| answers.note(key(), &id));
        let due = |at: u64, since: Option<u64>| {
            let told = answers.due("h", Timestamp(at), |_| since.map(Timestamp));
            told.iter().map(count).collect::<Vec<_>>()
        };
        note(100);
        assert_eq!(due(10_000, None), [] as [usize; 0], "all is well");
        assert_eq!(due(10_000, Some(9000)), [MAX_UNREPORTED], "the newest");
        note(3);
        assert_eq!(
            due(10_500, Some(9000)),
            [] as [usize; 0],
            "not again within the pause"
        );
        assert_eq!(due(10_600, Some(10_550)), [3], "another failure");
        note(2);
        assert_eq!(due(15_600, Some(10_550)), [2], "after a while");
        assert_eq!(
            due(30_000, Some(29_000)),
            [] as [usize; 0],
            "there is nothing to report"
        );
        note(1);
        assert_eq!(
            answers.unreported(&key(), "h").as_ref().map(count),
            Some(1),
            "in front of a failure"
        );
        assert_eq!(answers.unreported(&key(), "h"), None, "once");
        assert_eq!(
            answers
                .ask(&key(), "h", Timestamp(30_000))
                .as_ref()
                .map(count),
            Some(0),
            "a question"
        );
        assert_eq!(
            answers.ask(&key(), "h", Timestamp(34_999)),
            None,
            "is not asked again within the pause"
        );
        assert!(
            answers.ask(&key(), "h", Timestamp(35_000)).is_some(),
            "but later"
        );
    }
}
