//! Named points of the walk of a task at which a test can kill, stop, block or panic a process: what is promised for a crash
//! between two steps is held by crashing there.
//!
//! `POOL_FAULT` in the environment says where and how: `worker.started=kill`, `worker.started=kill@3` for the third time
//! that it is reached, `dispatcher.result_taken=stop` (SIGSTOP of the own process), `dispatcher.result_taken=panic` (of the
//! tokio task that reaches it), `worker.claiming=block:20` (its thread,
//! for so many seconds); several are joined with `,`. It exists only with the feature `faults`, which the tests turn on, and
//! with debug assertions: a release build reads no variable and holds no name.

/// The points, a list a process, each with the name that `POOL_FAULT` uses.
macro_rules! points {
    ($($(#[$about:meta])* $list:ident { $($(#[$doc:meta])* $point:ident = $name:literal,)+ })+) => {
        /// A point of the walk.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($($(#[$doc])* $point,)+)+
        }

        #[cfg(all(feature = "faults", debug_assertions))]
        impl Point {
            $($(#[$about])* pub const $list: &[Self] = &[$(Self::$point,)+];)+

            /// As `POOL_FAULT` calls it.
            pub const fn name(self) -> &'static str {
                match self {
                    $($(Self::$point => $name,)+)+
                }
            }
        }
    };
}

points! {
    /// A worker's, in the order of the walk.
    WORKER {
        /// A delivery has come in.
        Delivered = "worker.delivered",
        /// It was read: it holds a task.
        Read = "worker.read",
        /// `started` is about to be appended.
        Claiming = "worker.claiming",
        /// `started` was read back: the attempt owns the task.
        Started = "worker.started",
        /// The worktree is there, the agent has not been started.
        WorktreeMade = "worker.worktree_made",
        /// The agent and the checks are done, the worktree is still there.
        AgentDone = "worker.agent_done",
        /// The result is about to be published.
        ResultReady = "worker.result_ready",
        /// The result is confirmed in `results`.
        ResultPublished = "worker.result_published",
        /// The task is about to be acked.
        Acking = "worker.acking",
        /// The ack is written.
        Acked = "worker.acked",
        /// The outcome was read from the log, and it is this attempt's.
        FinishedRead = "worker.finished_read",
        /// The branch is about to be set.
        SettingBranch = "worker.setting_branch",
        /// The branch is set.
        BranchSet = "worker.branch_set",
        /// Handing back: `released` is in the log, the message is still here.
        Released = "worker.released",
        /// Sending on: `reissued` is in the log, the new message is not published.
        Reissued = "worker.reissued",
        /// Sending on: the new message is in its queue, the log does not say so.
        SentOn = "worker.sent_on",
        /// Sending on: all is done but the ack of the old message.
        SentOnLogged = "worker.sent_on_logged",
        /// Made again: `reissued` has ended the attempt, the message is still here.
        RetryReissued = "worker.retry_reissued",
        /// Made again: the message is in `pool.retries`, the old one is not acked.
        RetryKept = "worker.retry_kept",
        /// Ending without an attempt: the result is confirmed, the task is not acked.
        EndTold = "worker.end_told",
        /// A finished task came again: its result was asked for once more, the task is not acked.
        RepeatAsked = "worker.repeat_asked",
        /// Dead-lettering: the submitter's result is confirmed, the message is still here.
        DeadTold = "worker.dead_told",
        /// The message was rejected.
        DeadLettered = "worker.dead_lettered",
    }
    /// A dispatcher's.
    DISPATCHER {
        /// Intake: the task message is in the history.
        TaskKept = "dispatcher.task_kept",
        /// Intake: `submitted` was accepted.
        Submitted = "dispatcher.submitted",
        /// Intake: the message is in its queue.
        Queued = "dispatcher.queued",
        /// Intake: `published` is in the log, the submitter has no answer.
        Published = "dispatcher.published",
        /// A result has come in.
        ResultTaken = "dispatcher.result_taken",
        /// `finished` was accepted.
        OutcomeWritten = "dispatcher.outcome_written",
        /// The result is in the history; on the reply queue perhaps.
        ResultKept = "dispatcher.result_kept",
        /// The result is on the reply queue, if there is one; in the history perhaps.
        ResultReplied = "dispatcher.result_replied",
        /// The result is where it has to be, and not acked.
        ResultDelivered = "dispatcher.result_delivered",
        /// The ack of a result is written.
        ResultAcked = "dispatcher.result_acked",
        /// The result of a finished task was asked for again.
        RepeatTaken = "dispatcher.repeat_taken",
        /// The next attempt at a task is due, its message is in `pool.retries`.
        RetryDue = "dispatcher.retry_due",
        /// The task is in its queue again, the log does not say so.
        RetryIssued = "dispatcher.retry_issued",
        /// All is done but the ack of the message in `pool.retries`.
        RetryLogged = "dispatcher.retry_logged",
        /// A message without a route has come in.
        UnroutableTaken = "dispatcher.unroutable_taken",
        /// It was put right or rejected, and not acked.
        UnroutableHandled = "dispatcher.unroutable_handled",
        /// A task waits in a queue that is no longer in use.
        RetiredTaken = "dispatcher.retired_taken",
        /// `reissued` is in the log, the new message is not published. Dead letters pass here too.
        RetiredReissued = "dispatcher.retired_reissued",
        /// The new message is in its queue, the log does not say so. Dead letters pass here too.
        RetiredSentOn = "dispatcher.retired_sent_on",
        /// All is done but the ack of the old message.
        RetiredLogged = "dispatcher.retired_logged",
        /// A lost task is published again: `reissued` is in the log, the message is not published.
        RepairReissued = "dispatcher.repair_reissued",
        /// The message is in its queue, the log does not say so.
        RepairPublished = "dispatcher.repair_published",
        /// The result of a task whose deadline has passed is in `results`.
        Expired = "dispatcher.expired",
        /// A result that its reply queue refuses is in `pool.dead`, and not acked.
        GaveUp = "dispatcher.gave_up",
        /// What the broker gave up is issued again, and still in `pool.dead`.
        RescueIssued = "dispatcher.rescue_issued",
        /// What an operator wanted of a dead letter is done, and it is still in `pool.dead`.
        DeadRetried = "dispatcher.dead_retried",
        /// What is open is about to be said again.
        Restating = "dispatcher.restating",
        /// Something of it is in the log again, the rest perhaps not.
        Restated = "dispatcher.restated",
        /// `configured` is in the log, the bindings are still those from before.
        Configured = "dispatcher.configured",
        /// Bindings that are no longer wanted are gone, new ones are not there yet.
        RoutesUnbound = "dispatcher.routes_unbound",
        /// The bindings are those of the file, and still locked.
        RoutesBound = "dispatcher.routes_bound",
    }
}

#[cfg(all(feature = "faults", debug_assertions))]
pub use armed::point;

/// Nothing happens here.
#[cfg(not(all(feature = "faults", debug_assertions)))]
#[inline(always)]
pub const fn point(_: Point) {}

#[cfg(all(feature = "faults", debug_assertions))]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::Point;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Act {
        Kill,
        Stop,
        Panic,
        Block(Duration),
    }

    /// One part of `POOL_FAULT`.
    #[derive(Debug)]
    pub(super) struct Fault {
        pub(super) point: Point,
        pub(super) act: Act,
        /// At which time that the point is reached: 1 is the first.
        pub(super) at: u32,
        reached: AtomicU32,
    }

    static FAULTS: LazyLock<Vec<Fault>> = LazyLock::new(|| {
        let text = std::env::var("POOL_FAULT").unwrap_or_default();
        parse(&text).unwrap_or_else(|problem| {
            // A test that means another point than it says must not pass.
            eprintln!("POOL_FAULT: {problem}");
            std::process::exit(2);
        })
    });

    /// A point of the walk: what `POOL_FAULT` says for it happens here.
    pub fn point(point: Point) {
        for fault in FAULTS.iter().filter(|fault| fault.point == point) {
            if fault.reached.fetch_add(1, Ordering::Relaxed) + 1 == fault.at {
                tracing::warn!(point = point.name(), act = ?fault.act, "a fault is injected");
                perform(fault.act);
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a blocked thread is what is asked for"
    )]
    fn perform(act: Act) {
        // A signal to oneself fails for no reason that a process could have.
        let _ = match act {
            Act::Kill => kill(Pid::this(), Signal::SIGKILL),
            Act::Stop => kill(Pid::this(), Signal::SIGSTOP),
            Act::Panic => panic!("a panic is injected"),
            Act::Block(duration) => {
                std::thread::sleep(duration);
                Ok(())
            }
        };
    }

    pub(super) fn parse(text: &str) -> Result<Vec<Fault>, String> {
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(parse_one)
            .collect()
    }

    fn parse_one(text: &str) -> Result<Fault, String> {
        let (name, what) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not <point>=<act>"))?;
        let mut known = Point::WORKER.iter().chain(Point::DISPATCHER);
        let point = *known
            .find(|point| point.name() == name)
            .ok_or_else(|| format!("there is no point {name:?}"))?;
        let (act, at) = what.split_once('@').unwrap_or((what, "1"));
        let at = at
            .parse()
            .map_err(|_| format!("{at:?} is no number of times"))?;
        let act = match act.split_once(':') {
            None if act == "kill" => Act::Kill,
            None if act == "stop" => Act::Stop,
            None if act == "panic" => Act::Panic,
            Some(("block", seconds)) => Act::Block(Duration::from_secs(
                seconds
                    .parse()
                    .map_err(|_| format!("{seconds:?} is no number"))?,
            )),
            Some(_) | None => {
                return Err(format!(
                    "{act:?} is neither kill, stop, panic nor block:<seconds>"
                ));
            }
        };
        Ok(Fault {
            point,
            act,
            at,
            reached: AtomicU32::new(0),
        })
    }
}

#[cfg(all(test, feature = "faults", debug_assertions))]
mod tests {
    use super::Point;
    use super::armed::{Act, parse};
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[test]
    fn the_variable_says_where_how_and_when() {
        let faults =
            parse("worker.started=kill@3,dispatcher.queued=block:20,dispatcher.result_taken=panic")
                .expect("three faults");
        let read: Vec<_> = faults
            .iter()
            .map(|fault| (fault.point, fault.act, fault.at))
            .collect();
        let expected = [
            (Point::Started, Act::Kill, 3),
            (Point::Queued, Act::Block(Duration::from_secs(20)), 1),
            (Point::ResultTaken, Act::Panic, 1),
        ];
        assert_eq!(read, expected, "all three");
        assert!(
            parse("").expect("nothing").is_empty(),
            "nothing is armed by default"
        );
    }

    #[test]
    fn a_fault_that_would_never_happen_is_a_mistake() {
        for wrong in [
            "worker.nowhere=kill",
            "worker.started",
            "worker.started=explode",
            "worker.started=kill@never",
        ] {
            assert!(
                parse(wrong).is_err(),
                "{wrong} must not pass for an armed fault"
            );
        }
    }

    #[test]
    fn every_point_has_a_name_of_its_own_that_says_whose_it_is() {
        let lists = [
            ("worker.", Point::WORKER),
            ("dispatcher.", Point::DISPATCHER),
        ];
        let mut names = BTreeSet::new();
        for (prefix, point) in lists
            .iter()
            .flat_map(|(prefix, list)| list.iter().map(move |point| (prefix, point)))
        {
            assert!(
                point.name().starts_with(prefix),
                "{} is listed with {prefix}",
                point.name()
            );
            assert!(
                names.insert(point.name()),
                "{} is there twice",
                point.name()
            );
        }
    }
}
