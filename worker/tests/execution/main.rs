//! Everything that runs a program for a task, with real processes and real git.

mod agents;
mod aider;
mod attempts;
mod checks;
mod codex_claude;
mod outage_aider;
mod repo;
mod sandbox;
mod silence;
mod support;
mod workspace;
