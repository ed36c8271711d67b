//! Every metric of the pool, declared once: the constant by which code sets it, what `/metrics` says of it and its row in
//! docs/reference/metrics.md are all made from here. Labels are bounded: programmers, LLMs, routes and words of the code, never a
//! task.

use std::time::Duration;

use metrics::{Label, Unit};

/// Upper bounds of all histograms, in seconds: from an append to the log to a task that takes an hour.
pub(super) const BUCKETS: [f64; 15] = [
    0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Which processes have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Dispatcher,
    Worker,
    Both,
}

/// What several processes that have it amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Across {
    /// Each counts its own: add them up.
    Sum,
    /// Each says the same about the whole pool: take the largest.
    Max,
    /// Each says what it has seen: take the smallest.
    Min,
    /// It is about this process alone.
    Each,
}

/// One metric, for people.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub unit: Unit,
    pub at: At,
    pub across: Across,
    pub help: &'static str,
}

/// Grows by one for each thing that happens.
#[derive(Debug, Clone, Copy)]
pub struct Counter<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
}

/// How something is now.
#[derive(Debug, Clone, Copy)]
pub struct Gauge<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
}

/// How long something took, each time.
#[derive(Debug, Clone, Copy)]
pub struct Histogram<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
}

impl<const N: usize> Counter<N> {
    /// The values are those of its labels, in their order. Adding 0 makes it appear.
    pub fn add(self, values: [&str; N], count: u64) {
        metrics::counter!(self.name, labels(self.labels, values)).increment(count);
    }
}

impl<const N: usize> Gauge<N> {
    pub fn set(self, values: [&str; N], value: f64) {
        metrics::gauge!(self.name, labels(self.labels, values)).set(value);
    }

    /// 1 or 0.
    pub fn set_flag(self, values: [&str; N], is: bool) {
        self.set(values, f64::from(u8::from(is)));
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "metrics are floats, and nobody counts that far"
    )]
    pub fn set_count(self, values: [&str; N], count: usize) {
        self.set(values, count as f64);
    }
}

impl<const N: usize> Histogram<N> {
    pub fn record(self, values: [&str; N], took: Duration) {
        metrics::histogram!(self.name, labels(self.labels, values)).record(took);
    }
}

fn labels<const N: usize>(names: [&'static str; N], values: [&str; N]) -> Vec<Label> {
    names
        .into_iter()
        .zip(values)
        .map(|(name, value)| Label::new(name, value.to_owned()))
        .collect()
}

impl Row {
    /// Tells the recorder that is installed what this metric means.
    pub(super) fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.unit, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.unit, self.help),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.unit, self.help),
        }
    }
}

/// Declares constants and the list of all in one.
macro_rules! catalog {
    ($($constant:ident: $kind:ident = $name:literal [$($label:literal),*] $unit:ident, $at:ident, $across:ident, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: $kind<{ <[&str]>::len(&[$($label),*]) }> =
                $kind { name: $name, labels: [$($label),*] };
        )*
        /// In the order of the documentation.
        pub const ALL: &[Row] = &[$(Row {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            unit: Unit::$unit,
            at: At::$at,
            across: Across::$across,
            help: $help,
        }),*];
    };
}

catalog! {
    PROGRAMMERS: Gauge = "pool_programmers" ["state"] Count, Dispatcher, Max,
        "programmers of the pool file by state: `idle`, `busy`, `shut`, `down`";
    PROGRAMMERS_ON_BACKUP: Gauge = "pool_programmers_on_backup" [] Count, Dispatcher, Max,
        "programmers whose calls do not go to their primary LLM now";
    HEARTBEAT_AGE: Gauge = "pool_programmer_heartbeat_age_seconds" ["programmer"] Seconds, Dispatcher, Min,
        "since the last heartbeat of this programmer; if there was none, since the dispatcher listens";
    GATE: Gauge = "pool_programmer_gate" ["programmer", "state"] Count, Worker, Max,
        "1 for the state that the programmer's gate is in: `consuming`, `busy`, or why it is shut (`breaker`, `budget`, `paused`, …)";

    TASKS_OPEN: Gauge = "pool_tasks_open" [] Count, Dispatcher, Max, "tasks without an outcome";
    TASKS_WAITING: Gauge = "pool_tasks_waiting" ["route"] Count, Dispatcher, Max,
        "tasks of this route that nobody works on, of those that the log knows";
    TASKS_RUNNING: Gauge = "pool_tasks_running" ["route"] Count, Dispatcher, Max,
        "tasks of this route that somebody works on";
    OLDEST_WAITING: Gauge = "pool_tasks_oldest_waiting_seconds" ["route"] Seconds, Dispatcher, Max,
        "for how long the oldest task of this route that nobody works on has waited since it was submitted; 0 for none";
    TASKS_SUBMITTED: Counter = "pool_tasks_submitted_total" ["route"] Count, Dispatcher, Sum,
        "tasks that this dispatcher has taken in";
    TASKS_FINISHED: Counter = "pool_tasks_finished_total" ["outcome", "llm"] Count, Both, Sum,
        "tasks whose outcome this process has written into the log; `llm` is whose answer it was, or empty";
    TASK_QUEUE: Histogram = "pool_task_queue_seconds" ["route"] Seconds, Both, Sum,
        "of finished tasks: from being submitted to the start of the attempt that ended them";
    TASK_RUN: Histogram = "pool_task_run_seconds" ["outcome"] Seconds, Both, Sum,
        "of finished tasks: from the start of the attempt that ended them to the outcome";
    ATTEMPTS_RETRIED: Counter = "pool_attempts_retried_total" ["error"] Count, Worker, Sum,
        "attempts that broke and are made again, by what broke";
    ATTEMPTS_RELEASED: Counter = "pool_attempts_released_total" ["reason"] Count, Worker, Sum,
        "attempts that gave their task back to its queue: `no_llm`, or `stopped` by a drain, the end of the worker, or a connection that broke";
    AGENT_RUNS: Counter = "pool_agent_runs_total" ["programmer", "outcome"] Count, Worker, Sum,
        "runs of agents by what came of them: `passed`, `check_failed`, `no_llm_left`, or a kind of error";
    AGENT_RUN: Histogram = "pool_agent_run_seconds" ["programmer"] Seconds, Worker, Sum,
        "how long runs of agents took, with judgement and checks";
    QUEUE_MESSAGES: Gauge = "pool_queue_messages" ["queue"] Count, Dispatcher, Max,
        "messages that wait in the queue of a route (also those of tasks that were cancelled), in `pool.dead`, `pool.unroutable` or `results`; NaN while the broker does not say";

    LLM_CALLS: Counter = "pool_llm_calls_total" ["llm", "class"] Count, Worker, Sum,
        "calls that ended, by how (`ok`, `rate_limited`, `timeout`, …)";
    LLM_CALL: Histogram = "pool_llm_call_seconds" ["llm"] Seconds, Worker, Sum, "how long calls took";
    LLM_TOKENS: Counter = "pool_llm_tokens_total" ["llm", "kind"] Count, Worker, Sum,
        "tokens: `input`, `cached_input`, `output`";
    LLM_COST: Counter = "pool_llm_cost_micro_usd_total" ["llm"] Count, Worker, Sum,
        "what calls have cost, in millionths of a dollar";
    LLM_FAILOVERS: Counter = "pool_llm_failovers_total" ["llm", "reason"] Count, Worker, Sum,
        "calls that left this LLM for the next one";
    LLM_SKIPS: Counter = "pool_llm_skips_total" ["llm", "reason"] Count, Worker, Sum,
        "LLMs that were not asked: `breaker`, `budget`";
    LLM_CALLS_WITHOUT_LLM: Counter = "pool_llm_calls_without_llm_total" [] Count, Worker, Sum,
        "calls for which no LLM was left";
    LLM_USAGE_NOT_BELIEVED: Counter = "pool_llm_usage_not_believed_total" ["llm"] Count, Worker, Sum,
        "calls and probes whose provider reported more tokens than they can have used";
    BREAKER_STATE: Gauge = "pool_breaker_state" ["llm", "scope"] Count, Both, Max,
        "0 closed, 1 half-open, 2 open; only of LLMs that have failed";

    BUDGET_SPENT: Gauge = "pool_budget_spent_usd" [] Count, Both, Max, "spent today, in dollars";
    BUDGET_RESERVED: Gauge = "pool_budget_reserved_usd" [] Count, Both, Max, "what running tasks may still spend, in dollars";
    BUDGET_LIMIT: Gauge = "pool_budget_limit_usd" [] Count, Both, Max,
        "the limit of today, in dollars; missing when spending is not limited";
    BUDGET_THRESHOLD: Gauge = "pool_budget_threshold_usd" [] Count, Both, Max,
        "`cost_optimization.alert_threshold_usd`; missing when spending is not limited";

    LOG_FRESH: Gauge = "pool_log_fresh" [] Count, Both, Each,
        "1 while this process knows the event log up to its end; while it does not, its programmers take no tasks";
    LOG_SILENCE: Gauge = "pool_log_silence_seconds" [] Seconds, Both, Each,
        "since this process has read something in the event log; somebody writes at least every `events.tick_s`";
    LOG_APPEND: Histogram = "pool_log_append_seconds" [] Seconds, Both, Sum,
        "from handing an event to the log to reading it back: how far this process is behind";
    CLOCK_OFFSET: Gauge = "pool_clock_offset_seconds" [] Seconds, Both, Each,
        "how far this machine's clock is ahead of the other processes' clocks; missing while nobody else is heard";
    BROKER_CONNECTED: Gauge = "pool_broker_connected" ["purpose"] Count, Both, Each, "1 while there is a connection";
    BROKER_BLOCKED: Gauge = "pool_broker_blocked" ["purpose"] Count, Both, Each,
        "1 while the broker takes no messages (memory or disk alarm)";
    BROKER_RECONNECTS: Counter = "pool_broker_reconnects_total" ["purpose"] Count, Both, Sum,
        "connections that came back";
    BROKER_CONSUMER_TIMEOUTS: Counter = "pool_broker_consumer_timeouts_total" ["purpose"] Count, Both, Sum,
        "tasks that the broker took from a programmer at work, because its `consumer_timeout` is too short";
    PROCESS_INFO: Gauge = "pool_process_info" ["program", "version"] Count, Both, Each, "always 1: which program this is";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_say_what_is_counted_and_in_what() {
        let names: BTreeSet<&str> = ALL.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ALL.len(), "each once");
        for row in ALL {
            assert!(row.name.starts_with("pool_"), "{}: of the pool", row.name);
            assert_eq!(
                row.name.ends_with("_total"),
                row.kind == Kind::Counter,
                "{}: counters are totals",
                row.name
            );
            let timed = row.name.ends_with("_seconds");
            assert_eq!(
                timed,
                row.unit == Unit::Seconds,
                "{}: times are in seconds, and say so",
                row.name
            );
            assert!(
                row.kind != Kind::Histogram || timed,
                "{}: the bounds of histograms are seconds",
                row.name
            );
            assert!(
                row.kind == Kind::Gauge || row.across == Across::Sum,
                "{}: each counts its own",
                row.name
            );
        }
    }

    /// What a query calls the metrics of this row.
    fn series(row: &Row) -> Vec<String> {
        match row.kind {
            Kind::Counter | Kind::Gauge => vec![row.name.to_owned()],
            Kind::Histogram => ["_bucket", "_sum", "_count"]
                .map(|part| format!("{}{part}", row.name))
                .into(),
        }
    }

    #[test]
    fn alerts_and_dashboards_name_metrics_that_there_are() {
        let known: BTreeSet<String> = ALL.iter().flat_map(series).collect();
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config");
        for file in ["prometheus/alerts.yml", "grafana/programmer-pool.json"] {
            let text = std::fs::read_to_string(format!("{config}/{file}")).expect(file);
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let named: BTreeSet<&str> = words.filter(|word| word.starts_with("pool_")).collect();
            assert!(
                named.len() > 5,
                "{file} is about metrics of the pool: {named:?}"
            );
            for name in named {
                assert!(known.contains(name), "{file}: no process has {name}");
            }
        }
    }
}
