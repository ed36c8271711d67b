//! The promises of Programmer Pool, one file each, tested with a real broker, real git and real
//! processes.
//!
//! All are one binary, so that the tests share one broker. Each test has its own virtual host, pool
//! and directory.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the events that it is about"
)]

mod support;

mod agent_fails;
mod aider_does_tasks;
mod attempt_log;
mod back_pressure;
mod background_pool;
mod bad_input;
mod bad_input_faults;
mod budget_set;
mod budget_wall;
mod cluster;
mod command_line;
mod contract;
mod dashboard;
mod dead_letters;
mod dead_letters_again;
mod examples;
mod faults_broker;
mod faults_dispatcher;
mod faults_named_points;
mod faults_network;
mod faults_worker;
mod full_queue;
mod handed_in_twice;
mod llm_evidence;
mod llm_outage;
mod llm_probes;
mod log_forgets;
mod log_goes_on;
mod metrics;
mod one_task;
mod operator;
mod order;
mod outage_cost;
mod permissions;
mod priority;
mod quickstart;
mod readme;
mod refused_in_an_outage;
mod repair;
mod reply_queues;
mod report;
mod result_fits;
mod rolling_deploy;
mod routing_keys;
mod run_ends;
mod sandbox_told;
mod scripts_help;
mod supervision;
mod task_limits;
mod third_party;
mod throughput_and_fairness;
mod tls;
mod why;
mod worker_dies;
