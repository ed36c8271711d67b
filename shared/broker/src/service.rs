//! Runs the services of a process under their names. A service runs as long as the process.
//!
//! If a service returned or panicked early and the process went on, tasks would wait for it unnoticed. So the process ends
//! with the service, and its supervisor starts another one.

use std::any::Any;
use std::collections::HashMap;

use futures_util::future::BoxFuture;
use tokio::task::{Id, JoinError, JoinSet};

/// The name of the service and its future. The caller runs it and learns of its end.
pub type Service = (&'static str, BoxFuture<'static, ()>);

/// The running services, by name. Dropping this value aborts them.
#[derive(Debug)]
pub struct Services {
    /// `dispatcher` or `worker`.
    process: &'static str,
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

/// A service that has ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service {service} has ended: {how}; start the {process} again")]
pub struct EndedService {
    process: &'static str,
    /// Its name.
    pub service: &'static str,
    /// How it has ended.
    pub how: ServiceEnd,
}

/// How a service has ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceEnd {
    /// Its future has ended.
    #[error("it returned")]
    Returned,
    /// With the message of the panic.
    #[error("it panicked: {0}")]
    Panicked(String),
}

impl Services {
    /// No services yet. `process` is `dispatcher` or `worker`.
    pub fn new(process: &'static str) -> Self {
        Self {
            process,
            running: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// Runs one service.
    pub fn start(
        &mut self,
        name: &'static str,
        service: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.running.spawn(service).id();
        self.names.insert(id, name);
    }

    /// Runs all of them.
    pub fn start_all(&mut self, services: impl IntoIterator<Item = Service>) {
        for (name, service) in services {
            self.start(name, service);
        }
    }

    /// Waits until a service ends. Cancel safe.
    pub async fn first_end(&mut self) -> EndedService {
        match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => self.ended(id, ServiceEnd::Returned),
            Some(Err(error)) => self.ended(error.id(), ServiceEnd::of(error)),
            None => std::future::pending().await,
        }
    }

    /// Waits until this service has ended.
    pub async fn end_of(&mut self, service: &str) {
        while self.names.values().any(|name| *name == service) {
            let ended = self.first_end().await;
            if ended.service != service {
                ended.log_end();
            }
        }
    }

    fn ended(&mut self, id: Id, how: ServiceEnd) -> EndedService {
        EndedService {
            process: self.process,
            service: self.names.remove(&id).unwrap_or("unknown"),
            how,
        }
    }
}

impl EndedService {
    /// Writes the log line.
    pub fn log_end(&self) {
        let Self {
            process,
            service,
            how,
        } = self;
        tracing::error!(service, %how, "a service has ended; the {process} ends; its supervisor starts another one");
    }
}

impl ServiceEnd {
    fn of(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => Self::Panicked(text_of(panic.as_ref())),
            // Only dropping `Services` aborts a service.
            Err(_) => Self::Returned,
        }
    }
}
/// The message of the panic.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_returns_or_panics_is_named() {
        let mut services = Services::new("test");
        services.start("steady", std::future::pending());
        services.start("short", async {});
        let expected = EndedService {
            process: "test",
            service: "short",
            how: ServiceEnd::Returned,
        };
        assert_eq!(services.first_end().await, expected, "it returned");
        services.start("broken", async { panic!("of {}", "glass") });
        let expected = EndedService {
            process: "test",
            service: "broken",
            how: ServiceEnd::Panicked("of glass".to_owned()),
        };
        assert_eq!(services.first_end().await, expected, "it panicked");
    }

    #[tokio::test]
    async fn the_end_of_one_that_has_ended_is_not_waited_for() {
        let mut services = Services::new("test");
        services.start("steady", std::future::pending());
        services.start("short", async {});
        services.end_of("short").await;
        services.end_of("short").await;
        services.end_of("never started").await;
    }
}
