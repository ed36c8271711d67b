//! Reads the pool file. `raw` is the file as people write it; [`Pool`] is what the rest of the code sees. [`load()`] turns one
//! into the other and reports all mistakes together.

mod agent;
mod broker;
mod catalogue;
mod checks;
mod cost;
mod defaults;
mod dispatcher;
mod env;
mod events;
mod failover;
mod llms;
mod load;
mod load_balancing;
mod mistake;
mod patch;
mod paths;
mod position;
mod prices;
mod programmers;
mod providers;
mod raw;
mod relations;
mod sandbox;
mod schema;
mod wording;
mod workspace;

#[cfg(test)]
mod tests;

use pool_core::pool::{
    Acceptance, Agent, AgentKind, BreakerConfig, BreakerScope, Broker, ClientCertificate,
    CostOptimization, DispatcherConfig, Events, Failover, FailureCondition, JobLimits, LastEvent,
    LlmSettings, LoadBalancing, OutputLimitField, Patch, Pool, Price, Programmer, Protocol,
    Provider, Sandbox, SandboxLevel, SandboxNetwork, Secret, Strategy, Workspace,
};

pub use self::catalogue::Catalogue;
pub use self::env::Env;
pub use self::load::{load, parse};
pub use self::mistake::{Mistake, Mistakes};
pub use self::schema::{schema, schema_named, schema_text};
pub use self::wording::did_you_mean;
