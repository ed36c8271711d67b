//! Code that the tests of Programmer Pool and its trial run share. It stands for the outside world,
//! so nothing here may depend on the dispatcher or the worker.

pub mod bench;
pub mod faults;
pub mod places;
pub mod scripted_llm;
pub mod soak;
