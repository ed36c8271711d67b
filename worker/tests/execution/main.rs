//! Tests of everything that runs a program for a task, with real processes and real git.

mod agents;
mod aider;
mod alternates;
mod attempts;
mod blocking;
mod check_tree;
mod checks;
mod codex_claude;
mod evidence;
mod false_successes;
mod git_bounds;
mod objects;
mod outage_aider;
mod policy;
mod refusals;
mod repo;
mod rig;
mod run_limits;
mod sandbox;
mod secrets;
mod signals;
mod silence;
mod sources;
mod support;
mod toolchains;
mod workspace;
