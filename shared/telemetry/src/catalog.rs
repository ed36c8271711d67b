//! Every metric of the pool, declared once. The constant by which code sets it, its help text in `/metrics` and its row in
//! docs/reference/metrics.md all come from here. The values of labels are bounded: programmers, LLMs, routes and words of the code,
//! never task ids.

use std::time::Duration;

use metrics::{Label, Unit};

/// The upper bounds of all histograms, in seconds: from an append to the log up to a task of one hour.
pub(super) const BUCKETS: [f64; 15] = [
    0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from the start of the process.
    Counter,
    /// A value of now.
    Gauge,
    /// A distribution of durations.
    Histogram,
}

/// The programs that have a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// Only dispatchers.
    Dispatcher,
    /// Only workers.
    Worker,
    /// Dispatchers and workers.
    Both,
}

/// How to combine a metric of several processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Across {
    /// Each process counts its own events: add them up.
    Sum,
    /// Each process reports the whole pool: take the largest.
    Max,
    /// Each process reports what it has seen: take the smallest.
    Min,
    /// The metric is about one process alone.
    Each,
}

/// One metric in the documentation.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// `pool_…`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The unit of its value.
    pub unit: Unit,
    /// The programs that have it.
    pub at: Programs,
    /// How to combine it over processes.
    pub across: Across,
    /// The meaning of the value.
    pub help: &'static str,
}

/// A metric that counts events.
#[derive(Debug, Clone, Copy)]
pub struct Counter<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
}

/// A metric for a value of now.
#[derive(Debug, Clone, Copy)]
pub struct Gauge<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
}

/// A metric for durations.
#[derive(Debug, Clone, Copy)]
pub struct Histogram<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
}

impl<const N: usize> Counter<N> {
    /// Adds `count`. `values` are the values of its labels, in their order. Adding 0 creates the time series.
    pub fn add(self, values: [&str; N], count: u64) {
        metrics::counter!(self.name, labels(self.labels, values)).increment(count);
    }
}

impl<const N: usize> Gauge<N> {
    /// Sets the value. `values` are the values of its labels, in their order.
    pub fn set(self, values: [&str; N], value: f64) {
        metrics::gauge!(self.name, labels(self.labels, values)).set(value);
    }

    /// Sets 1 or 0.
    pub fn set_flag(self, values: [&str; N], is: bool) {
        self.set(values, f64::from(u8::from(is)));
    }

    /// Sets a whole number.
    #[expect(
        clippy::cast_precision_loss,
        reason = "metrics are floats, and counts stay far below 2^53"
    )]
    pub fn set_count(self, values: [&str; N], count: usize) {
        self.set(values, count as f64);
    }
}

impl<const N: usize> Histogram<N> {
    /// Records one duration. `values` are the values of its labels, in their order.
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
    /// Registers help text and unit with the installed recorder.
    pub(super) fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.unit, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.unit, self.help),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.unit, self.help),
        }
    }
}

/// Declares the constants and the list of all metrics.
macro_rules! catalog {
    ($($constant:ident: $kind:ident = $name:literal [$($label:literal),*] $unit:ident, $at:ident, $across:ident, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: $kind<{ <[&str]>::len(&[$($label),*]) }> =
                $kind { name: $name, labels: [$($label),*] };
        )*
        /// All metrics, in the order of the documentation.
        pub const ALL: &[Row] = &[$(Row {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            unit: Unit::$unit,
            at: Programs::$at,
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
        "time since the last heartbeat of this programmer; without one, since this dispatcher began to listen";
    GATE: Gauge = "pool_programmer_gate" ["programmer", "state"] Count, Worker, Max,
        "1 for the present state of the programmer's gate: `consuming`, `busy`, or why it is shut (`breaker`, `budget`, `paused`, …)";

    TASKS_OPEN: Gauge = "pool_tasks_open" [] Count, Dispatcher, Max, "tasks without an outcome";
    TASKS_WAITING: Gauge = "pool_tasks_waiting" ["route"] Count, Dispatcher, Max,
        "tasks of this route without a programmer; tasks that came straight over AMQP are not counted before their start";
    TASKS_RUNNING: Gauge = "pool_tasks_running" ["route"] Count, Dispatcher, Max,
        "tasks of this route that a programmer works on";
    OLDEST_WAITING: Gauge = "pool_tasks_oldest_waiting_seconds" ["route"] Seconds, Dispatcher, Max,
        "time since the oldest waiting task of this route was submitted; 0 when none waits";
    TASKS_SUBMITTED: Counter = "pool_tasks_submitted_total" ["route"] Count, Dispatcher, Sum,
        "tasks that this dispatcher has accepted";
    TASKS_FINISHED: Counter = "pool_tasks_finished_total" ["outcome", "llm"] Count, Both, Sum,
        "tasks whose outcome this process has written into the log; `llm` is the LLM of the last answer, or empty";
    TASK_QUEUE: Histogram = "pool_task_queue_seconds" ["route"] Seconds, Both, Sum,
        "of finished tasks: from submission to the start of the last attempt";
    TASK_RUN: Histogram = "pool_task_run_seconds" ["outcome"] Seconds, Both, Sum,
        "of finished tasks: from the start of the last attempt to the outcome";
    ATTEMPTS_RETRIED: Counter = "pool_attempts_retried_total" ["error"] Count, Worker, Sum,
        "failed attempts after which another one was scheduled, by the kind of error";
    ATTEMPTS_RELEASED: Counter = "pool_attempts_released_total" ["reason"] Count, Worker, Sum,
        "attempts that gave their task back to its queue: `no_llm`, `no_sandbox`, or `stopped` by a drain, the end of the worker, or a lost connection";
    AGENT_RUNS: Counter = "pool_agent_runs_total" ["programmer", "outcome"] Count, Worker, Sum,
        "runs of agents by outcome: `passed`, `check_failed`, `no_llm_left`, or a kind of error";
    AGENT_STARTS: Counter = "pool_agent_starts_total" ["start"] Count, Worker, Sum,
        "starts of agents: `warm` by a fork server, `cold` if that was not possible, `usual` if nobody asked for it";
    AGENT_RUN: Histogram = "pool_agent_run_seconds" ["programmer"] Seconds, Worker, Sum,
        "duration of runs of agents, including the acceptance checks";
    QUEUE_MESSAGES: Gauge = "pool_queue_messages" ["queue"] Count, Dispatcher, Max,
        "messages that wait in the queue of a route (including those of cancelled tasks), in `pool.dead`, `pool.unroutable` or `results`; NaN while the broker does not answer";

    SANDBOX_INFO: Gauge = "pool_sandbox_info" ["level", "proc", "limits"] Count, Worker, Each,
        "always 1; the labels name the sandbox of this worker: its level, whose processes agents see (`own`, `shared`), and what holds the limits of a run (`cgroup`, `watched`)";
    SANDBOX_SETUP: Histogram = "pool_sandbox_setup_seconds" [] Seconds, Worker, Sum,
        "time to put an agent or a check behind the kernel layers; nothing with `sandbox.level: off`";
    SANDBOX_REFUSED_CONNECTIONS: Counter = "pool_sandbox_refused_connections_total" ["programmer"] Count, Worker, Sum,
        "connections and questions to name servers of agents and checks that did not leave the sandbox; only `strict` can count them";
    SANDBOX_LIMIT: Counter = "pool_sandbox_limit_total" ["limit"] Count, Worker, Sum,
        "agents and checks that were ended because they used more than a run may: `memory`, `processes`, `disk`";
    SANDBOX_FAILURES: Counter = "pool_sandbox_failures_total" ["cause"] Count, Worker, Sum,
        "agents and checks that did not start because a step of the sandbox failed: `namespaces`, `view`, `landlock`, …";

    TREES: Counter = "pool_trees_total" ["made"] Count, Worker, Sum,
        "trees for agents and checks: `new` by a whole checkout, `again` from a kept tree, of which only the differences were checked out";
    KEPT_TREES: Gauge = "pool_kept_trees" [] Count, Worker, Sum,
        "trees that this worker keeps for later attempts, and that no attempt uses now";
    KEPT_TREES_BYTES: Gauge = "pool_kept_trees_bytes" [] Bytes, Worker, Sum,
        "space on the disk that the kept trees take, at most `workspace.keep_trees_mib`";
    KEPT_TREES_THROWN_AWAY: Counter = "pool_kept_trees_thrown_away_total" ["reason"] Count, Worker, Sum,
        "trees that were not used again: `attempt` if the attempt did not end well, `doubt` if the tree may not be as git made it, `too_many` by the limit";

    LLM_CALLS: Counter = "pool_llm_calls_total" ["llm", "class"] Count, Worker, Sum,
        "calls that ended, by outcome (`ok`, `rate_limited`, `timeout`, …)";
    LLM_CALL: Histogram = "pool_llm_call_seconds" ["llm"] Seconds, Worker, Sum, "duration of calls";
    LLM_TOKENS: Counter = "pool_llm_tokens_total" ["llm", "kind"] Count, Worker, Sum,
        "tokens of calls: `input`, `cached_input`, `output`";
    LLM_COST: Counter = "pool_llm_cost_micro_usd_total" ["llm"] Count, Worker, Sum,
        "cost of calls, in millionths of a dollar";
    LLM_FAILOVERS: Counter = "pool_llm_failovers_total" ["llm", "reason"] Count, Worker, Sum,
        "calls that left this LLM for the next one";
    LLM_SKIPS: Counter = "pool_llm_skips_total" ["llm", "reason"] Count, Worker, Sum,
        "calls that skipped this LLM, by reason: `breaker`, `budget`";
    LLM_CALLS_WITHOUT_LLM: Counter = "pool_llm_calls_without_llm_total" [] Count, Worker, Sum,
        "calls for which no LLM was available";
    LLM_USAGE_NOT_BELIEVED: Counter = "pool_llm_usage_not_believed_total" ["llm"] Count, Worker, Sum,
        "calls and probes for which the provider reported more tokens than they can have used";
    LLM_BILLING_WARNINGS: Counter = "pool_llm_billing_warnings_total" ["llm", "reason"] Count, Worker, Sum,
        "answers whose bill or prompt may not be as expected, by reason: `service_tier`, `provider_cost`, `paid_tools`, `prompt_cut`";
    BREAKER_STATE: Gauge = "pool_breaker_state" ["llm", "scope"] Count, Both, Max,
        "0 closed, 1 half-open, 2 open; only for LLMs that have failed";

    BUDGET_SPENT: Gauge = "pool_budget_spent_usd" [] Count, Both, Max, "spent today, in dollars";
    BUDGET_RESERVED: Gauge = "pool_budget_reserved_usd" [] Count, Both, Max, "money that is set aside for running tasks, in dollars";
    BUDGET_LIMIT: Gauge = "pool_budget_limit_usd" [] Count, Both, Max,
        "today's limit, in dollars; missing when spending is not limited";
    BUDGET_THRESHOLD: Gauge = "pool_budget_threshold_usd" [] Count, Both, Max,
        "`cost_optimization.alert_threshold_usd`; missing when spending is not limited";

    LOG_FRESH: Gauge = "pool_log_fresh" [] Count, Both, Each,
        "1 while this process has read the event log to its end; at 0 its programmers take no tasks";
    LOG_SILENCE: Gauge = "pool_log_silence_seconds" [] Seconds, Both, Each,
        "time since this process read the last event; some process appends one at least every `events.tick_s`";
    LOG_APPEND: Histogram = "pool_log_append_seconds" [] Seconds, Both, Sum,
        "time from appending an event to reading it back, which shows how far this process is behind";
    LOG_READS: Counter = "pool_log_reads_total" ["from"] Count, Both, Sum,
        "readings of the event log: from its `first` message (at the start, or if it is another log than before), or behind the `last` one that the process had read (after a lost connection)";
    CLOCK_OFFSET: Gauge = "pool_clock_offset_seconds" [] Seconds, Both, Each,
        "how far this machine's clock is ahead of the other processes' clocks; missing without heartbeats of other processes";
    BROKER_CONNECTED: Gauge = "pool_broker_connected" ["purpose"] Count, Both, Each, "1 while there is a connection";
    BROKER_BLOCKED: Gauge = "pool_broker_blocked" ["purpose"] Count, Both, Each,
        "1 while the broker takes no messages (memory or disk alarm)";
    BROKER_RECONNECTS: Counter = "pool_broker_reconnects_total" ["purpose"] Count, Both, Sum,
        "connections that were restored after a loss";
    BROKER_CONSUMER_TIMEOUTS: Counter = "pool_broker_consumer_timeouts_total" ["purpose"] Count, Both, Sum,
        "tasks that the broker took from a programmer at work, because its `consumer_timeout` is too short";
    PROCESS_INFO: Gauge = "pool_process_info" ["program", "version"] Count, Both, Each, "always 1; the labels name the program and its version";
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

    /// The names of this row's time series in queries.
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
