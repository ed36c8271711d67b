//! Submits a batch that may be larger than the queues. The first request holds the whole batch, so
//! that every mistake is found before a task is accepted. If the batch does not fit, the tasks that
//! fit are submitted, and the rest as queues empty. A batch larger than one request is split into
//! requests.
//!
//! Every task has its id before it is sent, so sending it twice submits it once.

use std::collections::HashMap;
use std::time::Duration;

use pool_api::MAX_REQUEST_BYTES;
use pool_api::problem::Problem;
use pool_api::tasks::TaskView;
use pool_core::id::TaskId;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, in_words};
use crate::output::print;
use crate::queue_full::{DEFAULT_WAIT_S, Interrupt, Interrupted, StatusLine, full, stuck};

/// At most this many tasks with the same requirements are offered at a time: the others wait behind
/// them anyway.
const OFFERED: usize = 500;
/// The most bytes in one request: well below what a dispatcher accepts ([`MAX_REQUEST_BYTES`]).
const MOST_BYTES: usize = MAX_REQUEST_BYTES / 2;
/// How often an unreachable dispatcher is retried in the middle of a batch: 150 times, five
/// minutes.
const UNANSWERED: u32 = 150;
/// How long to wait for a queue that no programmer serves: its worker may be restarting.
const STUCK_FOR: Duration = Duration::from_secs(60);

/// Options for submitting a batch.
pub(super) struct UploadOptions {
    /// Print the ids of a batch that is accepted in parts as they are accepted.
    pub(super) print_ids: bool,
    /// The command that submits the rest later, if this one ends early.
    pub(super) go_on: String,
    /// Give up after this long without progress. None: give up when no programmer has taken tasks
    /// from the full queues for [`STUCK_FOR`].
    pub(super) give_up_after: Option<Duration>,
}

/// Why a batch was not submitted in full.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UploadStop {
    Interrupted,
    /// The reason why it did not fit.
    GivenUp(String),
}

/// The outcome.
pub(super) struct UploadOutcome {
    /// The accepted tasks, in the order of the batch.
    pub(super) taken: Vec<TaskView>,
    /// The ids are on stdout already.
    pub(super) printed: bool,
    /// None: the whole batch was accepted.
    pub(super) stop: Option<UploadStop>,
}

/// A batch while it is submitted.
struct Batch<'a> {
    client: &'a Client,
    options: &'a UploadOptions,
    tasks: &'a [Value],
    bodies: Vec<Box<RawValue>>,
    taken: Vec<Option<TaskView>>,
    /// Indexes of the tasks that are not accepted yet.
    open: Vec<usize>,
    status: StatusLine,
    interrupt: Interrupt,
    printed: bool,
    hinted: bool,
    unanswered: u32,
    /// When a task was last accepted.
    since: Instant,
    /// Since when no programmer takes tasks from the full queues.
    stuck_since: Option<Instant>,
}

/// Submits the batch. Ends when all tasks are accepted, at Ctrl-C, or after too long without room.
pub(super) async fn upload(
    client: &Client,
    tasks: &[Value],
    options: &UploadOptions,
) -> anyhow::Result<UploadOutcome> {
    let mut batch = Batch {
        client,
        options,
        tasks,
        bodies: tasks
            .iter()
            .map(serde_json::value::to_raw_value)
            .collect::<Result<_, _>>()?,
        taken: tasks.iter().map(|_| None).collect(),
        open: (0..tasks.len()).collect(),
        status: StatusLine::new(),
        interrupt: Interrupt::listen(),
        printed: false,
        hinted: false,
        unanswered: 0,
        since: Instant::now(),
        stuck_since: None,
    };
    let stop = batch.run().await?;
    Ok(UploadOutcome {
        taken: batch.taken.into_iter().flatten().collect(),
        printed: batch.printed,
        stop,
    })
}

impl Batch<'_> {
    async fn run(&mut self) -> anyhow::Result<Option<UploadStop>> {
        let mut offer = self.open.clone();
        while !self.open.is_empty() {
            offer.truncate(in_one_request(
                offer.iter().map(|&index| self.bodies[index].get().len()),
            ));
            let body: Vec<&RawValue> = offer.iter().map(|&index| &*self.bodies[index]).collect();
            let request = self.client.try_post::<Vec<TaskView>>("/tasks", &body);
            let answer = match self.interrupt.answer(request).await {
                Ok(answer) => answer,
                Err(Interrupted) => return Ok(Some(UploadStop::Interrupted)),
            };
            let stop = match answer {
                Ok(Ok(views)) => {
                    self.take(&offer, views);
                    offer = next_offer(self.tasks, &self.open);
                    None
                }
                Ok(Err(problem)) => match fitting(&problem, &offer) {
                    fits if fits.is_empty() => {
                        let stop = self.wait(&problem).await?;
                        offer = next_offer(self.tasks, &self.open);
                        stop
                    }
                    fits => {
                        offer = fits;
                        None
                    }
                },
                Err(error) => self.ask_again(error).await?,
            };
            if stop.is_some() {
                return Ok(stop);
            }
        }
        Ok(None)
    }

    fn take(&mut self, offer: &[usize], views: Vec<TaskView>) {
        if self.options.print_ids && offer.len() < self.tasks.len() {
            let ids: String = views.iter().map(|task| format!("{}\n", task.id)).collect();
            self.status.beside(|| {
                print(&ids);
            });
            self.printed = true;
        }
        for (&index, view) in offer.iter().zip(views) {
            self.taken[index] = Some(view);
        }
        self.open.retain(|&index| self.taken[index].is_none());
        (self.unanswered, self.since, self.stuck_since) = (0, Instant::now(), None);
    }

    /// The dispatcher does not answer. The ids are made here, so tasks that were accepted without
    /// an answer are not accepted twice.
    async fn ask_again(&mut self, error: anyhow::Error) -> anyhow::Result<Option<UploadStop>> {
        if self.open.len() == self.tasks.len() || self.unanswered >= UNANSWERED {
            return Err(error);
        }
        self.unanswered += 1;
        self.status.say(format!(
            "{error:#}; trying again, {} still to submit",
            self.open.len()
        ));
        Ok(self
            .interrupt
            .sleep(DEFAULT_WAIT_S)
            .await
            .err()
            .map(|Interrupted| UploadStop::Interrupted))
    }

    /// Waits until it is worth trying again. A problem that time does not cure is an error.
    async fn wait(&mut self, problem: &Problem) -> anyhow::Result<Option<UploadStop>> {
        if problem.retry_after_s.is_none() && problem.no_room.is_none() {
            return Err(in_words(problem));
        }
        self.unanswered = 0;
        let open = self.open.len();
        let words = match &problem.no_room {
            Some(no_room) => {
                self.hint();
                let why = stuck(self.client, no_room).await;
                self.stuck_since = why
                    .as_ref()
                    .map(|_| self.stuck_since.unwrap_or_else(Instant::now));
                let why = why.map_or(String::new(), |why| format!("; {why}"));
                format!("{}; {open} still to submit{why}", full(no_room))
            }
            None => format!("{}; waiting, {open} still to submit", problem.detail),
        };
        self.status.say(words.clone());
        let too_long = match self.options.give_up_after {
            Some(limit) => self.since.elapsed() >= limit,
            None => self
                .stuck_since
                .is_some_and(|since| since.elapsed() >= STUCK_FOR),
        };
        if too_long {
            return Ok(Some(UploadStop::GivenUp(words)));
        }
        let seconds = problem.retry_after_s.unwrap_or(DEFAULT_WAIT_S);
        Ok(self
            .interrupt
            .sleep(seconds)
            .await
            .err()
            .map(|Interrupted| UploadStop::Interrupted))
    }

    /// Prints once how to continue after Ctrl-C.
    fn hint(&mut self) {
        if std::mem::replace(&mut self.hinted, true) {
            return;
        }
        let taken = if self.options.print_ids {
            "the tasks printed so far are submitted"
        } else {
            "the tasks submitted so far continue"
        };
        let go_on = &self.options.go_on;
        self.status.beside(|| {
            eprintln!(
                "the queues are full: the rest is submitted as tasks finish. After Ctrl-C, {taken}; to submit the \
                 rest later, run:\n  {go_on}"
            );
        });
    }
}

/// How many tasks of these sizes, in order, fit into one request; at least one.
fn in_one_request(sizes: impl Iterator<Item = usize>) -> usize {
    let with_comma = |sum: &mut usize, size: usize| {
        *sum += size + 1;
        Some(*sum)
    };
    sizes
        .scan(0, with_comma)
        .take_while(|sum| *sum < MOST_BYTES)
        .count()
        .max(1)
}

/// The offered tasks that the dispatcher would accept now.
fn fitting(problem: &Problem, offer: &[usize]) -> Vec<usize> {
    let fits = problem
        .no_room
        .as_ref()
        .map_or(&[][..], |no_room| &no_room.fits);
    fits.iter()
        .filter_map(|&place| offer.get(place).copied())
        .collect()
}

/// The first tasks of each kind: tasks with the same requirements wait in the same queue.
fn next_offer(tasks: &[Value], open: &[usize]) -> Vec<usize> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let first = |index: &&usize| {
        let needs = tasks[**index]
            .get("capabilities")
            .map(Value::to_string)
            .unwrap_or_default();
        let count = counts.entry(needs).or_default();
        *count += 1;
        *count <= OFFERED
    };
    open.iter().filter(first).copied().collect()
}

/// Gives each task without an id one made of the batch and its index, so the same batch always has
/// the same ids. Returns true if all tasks had ids.
pub(super) fn give_ids(tasks: &mut [Value], batch: &TaskId) -> bool {
    let alone = tasks.len() == 1;
    let mut own = true;
    for (place, task) in tasks.iter_mut().enumerate() {
        let Some(task) = task.as_object_mut() else {
            continue;
        };
        own &= task.contains_key("id");
        let id = || {
            if alone {
                json!(batch)
            } else {
                json!(format!("{batch}-{}", place + 1))
            }
        };
        task.entry("id").or_insert_with(id);
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_api::problem::QueueFull;
    use pool_api::tasks::new_id;

    #[test]
    fn every_task_has_an_id_before_it_is_sent() {
        let mut tasks = [json!({"id": "mine"}), json!({"instruction": "x"})];
        let batch = new_id();
        assert!(!give_ids(&mut tasks, &batch), "not every task had an id");
        assert_eq!(tasks[0]["id"], "mine", "its given id");
        assert!(
            tasks[1]["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("t-")),
            "{}",
            tasks[1]
        );
        let mut again = [json!({"id": "mine"}), json!({"instruction": "x"})];
        give_ids(&mut again, &batch);
        assert_eq!(again, tasks, "the same batch has the same ids");
    }

    #[test]
    fn of_each_kind_some_are_offered_so_that_a_full_queue_does_not_hold_up_another() {
        let fast = json!({"capabilities": ["fast"]});
        let mut tasks = vec![fast; OFFERED + 5];
        tasks.push(json!({"capabilities": ["premium"]}));
        let open: Vec<usize> = (0..tasks.len()).collect();
        let offer = next_offer(&tasks, &open);
        assert_eq!(
            offer.len(),
            OFFERED + 1,
            "the first fast ones and the premium one"
        );
        assert_eq!(offer.last(), Some(&(OFFERED + 5)), "the premium one");
    }

    #[test]
    fn a_request_holds_what_a_dispatcher_takes_and_at_least_one_task() {
        const MIB: usize = 1024 * 1024;
        assert_eq!(in_one_request([10, 20, 30].into_iter()), 3, "all");
        assert_eq!(
            in_one_request(std::iter::repeat_n(MIB, 100)),
            31,
            "32 MiB, including the commas"
        );
        assert_eq!(
            in_one_request([100 * MIB, 1].into_iter()),
            1,
            "the dispatcher rejects it as too large"
        );
    }

    #[test]
    fn places_of_an_answer_are_places_of_the_offer() {
        let problem = json!({"title": "Too Many Requests", "status": 429, "detail": "full"});
        let problem: Problem = serde_json::from_value(problem).expect("a problem");
        assert!(
            fitting(&problem, &[4, 7, 9]).is_empty(),
            "the answer has no places"
        );
        let problem = Problem {
            no_room: Some(Box::new(QueueFull {
                full: vec![],
                fits: vec![0, 2],
            })),
            ..problem
        };
        assert_eq!(
            fitting(&problem, &[4, 7, 9]),
            [4, 9],
            "the first and the third"
        );
    }
}
