//! Fault injection: named points in the life of a task at which a test can kill, stop, block or panic a process. So the
//! tests crash a process between any two steps and check what is promised for that crash.
//!
//! The environment variable `POOL_FAULT` names the point and the fault:
//! - `worker.started=kill` kills the process there, `worker.started=kill@3` the third time that it gets there;
//! - `dispatcher.result_taken=stop` stops the process (SIGSTOP);
//! - `dispatcher.result_taken=panic` panics in the tokio task that gets there;
//! - `worker.claiming=block:20` blocks the thread for 20 seconds.
//!
//! Several faults are joined with `,`. All of this exists only with the feature `faults`, which the tests turn on, and
//! with debug assertions: a release build reads no variable and contains no names.

/// The points, one list for each program, each with its name in `POOL_FAULT`.
macro_rules! points {
    ($($(#[$about:meta])* $list:ident { $($(#[$doc:meta])* $point:ident = $name:literal,)+ })+) => {
        /// A point in the life of a task.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($($(#[$doc])* $point,)+)+
        }

        #[cfg(all(feature = "faults", debug_assertions))]
        impl Point {
            $($(#[$about])* pub const $list: &[Self] = &[$(Self::$point,)+];)+

            /// The name in `POOL_FAULT`.
            pub const fn name(self) -> &'static str {
                match self {
                    $($(Self::$point => $name,)+)+
                }
            }
        }
    };
}

points! {
    /// The worker's points, in the order in which an attempt reaches them.
    WORKER {
        /// A message was delivered.
        Delivered = "worker.delivered",
        /// The message was read and contains a task.
        Read = "worker.read",
        /// The worker is about to append `started`.
        Claiming = "worker.claiming",
        /// The worker has read `started` back: the attempt owns the task.
        Started = "worker.started",
        /// The worktree exists; the agent has not been started.
        WorktreeMade = "worker.worktree_made",
        /// A piece of the agent's live output is published.
        OutputSent = "worker.output_sent",
        /// The objects of the commit are in the repository; the attempt's ref is not set yet.
        ObjectsMoved = "worker.objects_moved",
        /// The agent and the checks have ended; the worktree still exists.
        AgentDone = "worker.agent_done",
        /// The worker is about to publish the result.
        ResultReady = "worker.result_ready",
        /// The result is confirmed in `results`.
        ResultPublished = "worker.result_published",
        /// The worker is about to acknowledge the task.
        Acking = "worker.acking",
        /// The acknowledgement is written.
        Acked = "worker.acked",
        /// The worker has read the outcome from the log, and it is this attempt's.
        FinishedRead = "worker.finished_read",
        /// The worker is about to set the branch.
        SettingBranch = "worker.setting_branch",
        /// The branch is set.
        BranchSet = "worker.branch_set",
        /// Handing back: `released` is in the log; the message is not returned yet.
        Released = "worker.released",
        /// Sending on: `reissued` is in the log; the new message is not published.
        Reissued = "worker.reissued",
        /// Sending on: the new message is in its queue; `published` is not in the log.
        SentOn = "worker.sent_on",
        /// Sending on: only the acknowledgement of the old message is missing.
        SentOnLogged = "worker.sent_on_logged",
        /// Scheduling a retry: `reissued` has ended the attempt; the message is not in `pool.retries` yet.
        RetryReissued = "worker.retry_reissued",
        /// Scheduling a retry: the message is in `pool.retries`; the old one is not acknowledged.
        RetryKept = "worker.retry_kept",
        /// Ending without an attempt: the result is confirmed; the task is not acknowledged.
        EndTold = "worker.end_told",
        /// A finished task was delivered again: the worker has asked for its result; the task is not acknowledged.
        RepeatAsked = "worker.repeat_asked",
        /// Dead-lettering: the submitter's result is confirmed; the message is not in `pool.dead` yet.
        DeadTold = "worker.dead_told",
        /// Dead-lettering: the message is in `pool.dead`.
        DeadLettered = "worker.dead_lettered",
    }
    /// The dispatcher's points.
    DISPATCHER {
        /// Intake: the task message is in the history.
        TaskKept = "dispatcher.task_kept",
        /// Intake: `submitted` was accepted.
        Submitted = "dispatcher.submitted",
        /// Intake: the message is in its queue.
        Queued = "dispatcher.queued",
        /// Intake: `published` is in the log; the submitter has no answer yet.
        Published = "dispatcher.published",
        /// A result was delivered.
        ResultTaken = "dispatcher.result_taken",
        /// `finished` was accepted.
        OutcomeWritten = "dispatcher.outcome_written",
        /// The result is in the history. It may be on the reply queue.
        ResultKept = "dispatcher.result_kept",
        /// The result is on the reply queue, if there is one. It may be in the history.
        ResultReplied = "dispatcher.result_replied",
        /// The result is in the history and on the reply queue, and not acknowledged.
        ResultDelivered = "dispatcher.result_delivered",
        /// The acknowledgement of a result is written.
        ResultAcked = "dispatcher.result_acked",
        /// A worker has asked again for the result of a finished task.
        RepeatTaken = "dispatcher.repeat_taken",
        /// The next attempt at a task is due; its message is in `pool.retries`.
        RetryDue = "dispatcher.retry_due",
        /// The task is in its queue again; `published` is not in the log.
        RetryIssued = "dispatcher.retry_issued",
        /// Only the acknowledgement of the message in `pool.retries` is missing.
        RetryLogged = "dispatcher.retry_logged",
        /// A message without a route was delivered.
        UnroutableTaken = "dispatcher.unroutable_taken",
        /// That message was published to its route or rejected, and is not acknowledged.
        UnroutableHandled = "dispatcher.unroutable_handled",
        /// A message in a queue that is no longer in use was delivered.
        RetiredTaken = "dispatcher.retired_taken",
        /// `reissued` is in the log; the new message is not published. Dead letters pass here too.
        RetiredReissued = "dispatcher.retired_reissued",
        /// The new message is in its queue; `published` is not in the log. Dead letters pass here too.
        RetiredSentOn = "dispatcher.retired_sent_on",
        /// Only the acknowledgement of the old message is missing.
        RetiredLogged = "dispatcher.retired_logged",
        /// Publishing a lost task again: `reissued` is in the log; the message is not published.
        RepairReissued = "dispatcher.repair_reissued",
        /// Publishing a lost task again: the message is in its queue; `published` is not in the log.
        RepairPublished = "dispatcher.repair_published",
        /// The result of a task whose deadline has passed is in `results`.
        Expired = "dispatcher.expired",
        /// A result that its reply queue refuses is in `pool.dead`, and not acknowledged.
        GaveUp = "dispatcher.gave_up",
        /// A message that the broker dead-lettered is published again, and still in `pool.dead`.
        RescueIssued = "dispatcher.rescue_issued",
        /// The operator's action on a dead letter is done; the letter is still in `pool.dead`.
        DeadRetried = "dispatcher.dead_retried",
        /// The dispatcher is about to append snapshots of open tasks.
        Restating = "dispatcher.restating",
        /// Some snapshots are in the log; others may be missing.
        Restated = "dispatcher.restated",
        /// `configured` is in the log; the bindings are still the old ones.
        Configured = "dispatcher.configured",
        /// Old bindings are gone; new ones do not exist yet.
        RoutesUnbound = "dispatcher.routes_unbound",
        /// The bindings are those of the file; the lock on them is still held.
        RoutesBound = "dispatcher.routes_bound",
    }
}

#[cfg(all(feature = "faults", debug_assertions))]
pub use armed::point;

/// Does nothing in this build.
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
    pub(super) struct InjectedFault {
        pub(super) point: Point,
        pub(super) act: Act,
        /// The visit of the point at which the fault happens; 1 is the first.
        pub(super) at: u32,
        reached: AtomicU32,
    }

    static FAULTS: LazyLock<Vec<InjectedFault>> = LazyLock::new(|| {
        let text = std::env::var("POOL_FAULT").unwrap_or_default();
        parse(&text).unwrap_or_else(|problem| {
            // A test with a misspelt point must not pass.
            eprintln!("POOL_FAULT: {problem}");
            std::process::exit(2);
        })
    });

    /// Injects the faults that `POOL_FAULT` names for this point.
    pub fn point(point: Point) {
        for fault in FAULTS.iter().filter(|fault| fault.point == point) {
            if fault.reached.fetch_add(1, Ordering::Relaxed) + 1 == fault.at {
                tracing::warn!(point = point.name(), act = ?fault.act, "a fault is injected");
                perform(fault.act);
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the fault is a blocked thread")]
    fn perform(act: Act) {
        // A signal to the own process does not fail.
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

    pub(super) fn parse(text: &str) -> Result<Vec<InjectedFault>, String> {
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(parse_one)
            .collect()
    }

    fn parse_one(text: &str) -> Result<InjectedFault, String> {
        let (name, what) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not <point>=<fault>"))?;
        let mut known = Point::WORKER.iter().chain(Point::DISPATCHER);
        let point = *known
            .find(|point| point.name() == name)
            .ok_or_else(|| format!("there is no point {name:?}"))?;
        let (act, at) = what.split_once('@').unwrap_or((what, "1"));
        let at = at.parse().map_err(|_| format!("{at:?} is not a number"))?;
        let act = match act.split_once(':') {
            None if act == "kill" => Act::Kill,
            None if act == "stop" => Act::Stop,
            None if act == "panic" => Act::Panic,
            Some(("block", seconds)) => Act::Block(Duration::from_secs(
                seconds
                    .parse()
                    .map_err(|_| format!("{seconds:?} is not a number of seconds"))?,
            )),
            Some(_) | None => {
                return Err(format!(
                    "{act:?} is neither kill, stop, panic nor block:<seconds>"
                ));
            }
        };
        Ok(InjectedFault {
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
