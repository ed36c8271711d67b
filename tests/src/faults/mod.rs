//! Injects faults and finds out what they cost. [`node`] is a broker that can be killed, stopped and
//! starved, [`proxy`] a network that can be broken. [`audit`] and [`checker`] compare what was
//! submitted with what became of it. The promises and the soak share them.

pub mod audit;
pub mod checker;
pub mod client;
pub mod evidence;
pub mod node;
pub mod proxy;
