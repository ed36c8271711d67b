//! Breaking things on purpose, and finding out what it cost: a broker that can be killed, stopped and starved
//! ([`node`]), a network that can ([`proxy`]), and the books of what was submitted against what came of it ([`audit`],
//! [`checker`]). The promises and the soak share it.

pub mod audit;
pub mod checker;
pub mod client;
pub mod evidence;
pub mod node;
pub mod proxy;
