//! Tests of everything that runs a program for a task, with real processes and real git.

mod agents;
mod aider;
mod attempts;
mod blocking;
mod check_tree;
mod checks;
mod codex_claude;
mod denials;
mod git_bounds;
mod outage_aider;
mod refusals;
mod repo;
mod rig;
mod run_limits;
mod sandbox;
mod signals;
mod silence;
mod support;
mod workspace;
