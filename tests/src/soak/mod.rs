//! The soak: a pool under load whose workers, dispatchers and broker are killed all the time, and books that must
//! balance in the end.
//!
//! [`plan`] decides what is broken when (pure, by a seed), [`kinds`] what is submitted and how it may end (pure); [`crew`]
//! runs the processes, [`load`] submits.

pub mod crew;
pub mod kinds;
pub mod load;
pub mod plan;
