//! The soak: a pool under load whose workers, dispatchers and broker are killed again and again,
//! and books that must balance in the end.
//!
//! [`plan`] decides which process is killed when (pure, by a seed), [`kinds`] what is submitted and
//! how it may end (pure), [`crew`] runs the processes, [`load`] submits.

pub mod crew;
pub mod kinds;
pub mod load;
pub mod plan;
