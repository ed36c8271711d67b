//! Handing in a batch that may be larger than the queues: first as a whole, so that every mistake is found before anything
//! is taken; when it does not fit, what fits, and the rest as room comes. A batch that is larger than one request may be
//! is handed in by requests.
//!
//! Every task has its id before it is sent, so that sending it twice does it once.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Client, print};
use crate::api::extract::MAX_REQUEST_BYTES;
use crate::api::problem::Problem;
use crate::api::tasks::TaskView;
use crate::cli::client::in_words;
use crate::intake::new_id;
use crate::room::NoRoom;

/// Of the tasks that need the same, so many are offered at a time: the others wait behind them anyway.
const OFFERED: usize = 500;
/// In one request, so that it is always below what a dispatcher takes ([`MAX_REQUEST_BYTES`]).
const MOST_BYTES: usize = MAX_REQUEST_BYTES / 2;
const DEFAULT_WAIT_S: u32 = 2;
/// So often a dispatcher that is gone in the middle of a batch is asked again: for five minutes.
const UNANSWERED: u32 = 150;

/// Between two lines about waiting, where they do not replace each other.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// What was handed in.
pub(super) struct HandedIn {
    /// All of it, in its order.
    pub(super) taken: Vec<TaskView>,
    /// The ids are on stdout already.
    pub(super) printed: bool,
}

/// When all tasks are taken. With `print_ids` those of a batch that is taken in parts are printed as they are taken: who
/// does not want to wait for the rest knows then what is there.
pub(super) async fn hand_in(client: &Client, mut tasks: Vec<Value>, print_ids: bool) -> anyhow::Result<HandedIn> {
    give_ids(&mut tasks);
    let bodies = tasks.iter().map(serde_json::value::to_raw_value).collect::<Result<Vec<_>, _>>()?;
    let mut taken: Vec<Option<TaskView>> = tasks.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..tasks.len()).collect();
    let mut offer = open.clone();
    let shown = Shown::new(print_ids);
    let (mut unanswered, mut printed) = (0, false);
    while !open.is_empty() {
        offer.truncate(in_one_request(offer.iter().map(|&index| bodies[index].get().len())));
        let body = serde_json::to_vec(&offer.iter().map(|&index| &bodies[index]).collect::<Vec<_>>())?;
        let answer = client.try_post::<Vec<TaskView>>("/tasks", body).await;
        let begun = open.len() < tasks.len();
        let answer = match answer {
            Ok(answer) => answer,
            // The ids are made here, so what was taken and not answered is not taken twice.
            Err(error) if begun && unanswered < UNANSWERED => {
                unanswered += 1;
                shown.say(format!("{error:#}; trying again, {} still to hand in", open.len()));
                tokio::time::sleep(Duration::from_secs(DEFAULT_WAIT_S.into())).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        unanswered = 0;
        match answer {
            Ok(views) => {
                if print_ids && offer.len() < tasks.len() {
                    shown.print_ids(&views);
                    printed = true;
                }
                for (&index, view) in offer.iter().zip(views) {
                    taken[index] = Some(view);
                }
                open.retain(|&index| taken[index].is_none());
                offer = next_offer(&tasks, &open);
            }
            Err(problem) => {
                let fits = fitting(&problem, &offer);
                if fits.is_empty() {
                    wait(&problem, open.len(), &shown).await?;
                    offer = next_offer(&tasks, &open);
                } else {
                    offer = fits;
                }
            }
        }
    }
    Ok(HandedIn { taken: taken.into_iter().flatten().collect(), printed })
}

/// How many of tasks with these sizes, one after the other, one request may hold; at least one.
fn in_one_request(sizes: impl Iterator<Item = usize>) -> usize {
    let with_comma = |sum: &mut usize, size: usize| {
        *sum += size + 1;
        Some(*sum)
    };
    sizes.scan(0, with_comma).take_while(|sum| *sum < MOST_BYTES).count().max(1)
}

/// Those of the offer that would be taken now.
fn fitting(problem: &Problem, offer: &[usize]) -> Vec<usize> {
    let fits = problem.no_room.as_ref().map_or(&[][..], |no_room| &no_room.fits);
    fits.iter().filter_map(|&place| offer.get(place).copied()).collect()
}

/// Until it is worth trying again. What time does not cure is an error.
async fn wait(problem: &Problem, open: usize, shown: &Shown) -> anyhow::Result<()> {
    let passes = problem.retry_after_s.is_some() || problem.no_room.is_some();
    if !passes {
        return Err(in_words(problem));
    }
    let words = match &problem.no_room {
        Some(no_room) => {
            shown.hint();
            format!("{}; {open} still to hand in", full(no_room))
        }
        None => format!("{}; waiting, {open} still to hand in", problem.detail),
    };
    shown.say(words);
    tokio::time::sleep(Duration::from_secs(problem.retry_after_s.unwrap_or(DEFAULT_WAIT_S).into())).await;
    Ok(())
}

/// One line that changes on a terminal, and now and then a line elsewhere.
struct Shown {
    bar: ProgressBar,
    said: Cell<Option<Instant>>,
    hinted: Cell<bool>,
    print_ids: bool,
}

impl Shown {
    fn new(print_ids: bool) -> Self {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        Self { bar, said: Cell::new(None), hinted: Cell::new(false), print_ids }
    }

    fn say(&self, words: String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(words);
            self.bar.tick();
        } else if self.said.get().is_none_or(|said| said.elapsed() >= SAY_EVERY) && self.bar.message() != words {
            eprintln!("{words}");
            self.said.set(Some(Instant::now()));
            self.bar.set_message(words);
        }
    }

    /// Once.
    fn hint(&self) {
        if self.hinted.replace(true) {
            return;
        }
        let taken = if self.print_ids { "what is printed is taken" } else { "what is taken goes on" };
        self.bar.suspend(|| {
            eprintln!("the queues are full: the rest is handed in as tasks finish; Ctrl-C ends it, {taken}");
        });
    }

    fn print_ids(&self, taken: &[TaskView]) {
        let ids: String = taken.iter().map(|task| format!("{}\n", task.id)).collect();
        self.bar.suspend(|| print(&ids));
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn full(no_room: &NoRoom) -> String {
    let routes = no_room.full.iter().map(|route| format!("{} waiting for `{}`", route.waiting, route.route));
    format!("the queue is full: {}", routes.collect::<Vec<_>>().join(", "))
}

/// The first of each kind: those that need the same wait in the same queue.
fn next_offer(tasks: &[Value], open: &[usize]) -> Vec<usize> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let first = |index: &&usize| {
        let needs = tasks[**index].get("capabilities").map(Value::to_string).unwrap_or_default();
        let count = counts.entry(needs).or_default();
        *count += 1;
        *count <= OFFERED
    };
    open.iter().filter(first).copied().collect()
}

fn give_ids(tasks: &mut [Value]) {
    for task in tasks.iter_mut().filter_map(Value::as_object_mut) {
        task.entry("id").or_insert_with(|| json!(new_id()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    #[test]
    fn every_task_has_an_id_before_it_is_sent() {
        let mut tasks = [json!({"id": "mine"}), json!({"instruction": "x"})];
        give_ids(&mut tasks);
        assert_eq!(tasks[0]["id"], "mine", "its own");
        assert!(tasks[1]["id"].as_str().is_some_and(|id| id.starts_with("t-")), "{}", tasks[1]);
    }

    #[test]
    fn of_each_kind_some_are_offered_so_that_a_full_queue_does_not_hold_up_another() {
        let fast = json!({"capabilities": ["fast"]});
        let mut tasks = vec![fast; OFFERED + 5];
        tasks.push(json!({"capabilities": ["premium"]}));
        let open: Vec<usize> = (0..tasks.len()).collect();
        let offer = next_offer(&tasks, &open);
        assert_eq!(offer.len(), OFFERED + 1, "the first fast ones and the premium one");
        assert_eq!(offer.last(), Some(&(OFFERED + 5)), "the premium one");
    }

    #[test]
    fn a_request_holds_what_a_dispatcher_takes_and_at_least_one_task() {
        const MIB: usize = 1024 * 1024;
        assert_eq!(in_one_request([10, 20, 30].into_iter()), 3, "all");
        assert_eq!(in_one_request(std::iter::repeat_n(MIB, 100)), 31, "32 MiB, with the commas");
        assert_eq!(in_one_request([100 * MIB, 1].into_iter()), 1, "the dispatcher says that it is too large");
    }

    #[test]
    fn places_of_an_answer_are_places_of_the_offer() {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "full");
        assert!(fitting(&problem, &[4, 7, 9]).is_empty(), "it does not say");
        let problem = Problem { no_room: Some(Box::new(NoRoom { full: vec![], fits: vec![0, 2] })), ..problem };
        assert_eq!(fitting(&problem, &[4, 7, 9]), [4, 9], "the first and the third");
    }
}
