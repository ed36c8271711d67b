//! The answer of `GET /programmer_pool/status`. Only this file knows the names of its fields.

use pool_core::money::MicroUsd;
use pool_core::time::Timestamp;
use serde_json::Value;

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct PoolStatus(pub(crate) Value);

/// A breaker that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenBreaker {
    pub(crate) reason: String,
    pub(crate) until: Timestamp,
}

impl PoolStatus {
    pub(crate) fn programmers(&self) -> &[Value] {
        self.0["programmers"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    pub(crate) fn programmer(&self, id: &str) -> &Value {
        let found = self
            .programmers()
            .iter()
            .find(|programmer| programmer["id"] == id);
        found.unwrap_or_else(|| panic!("no programmer {id} in the status: {:#}", self.0))
    }

    /// The number of idle and busy programmers.
    pub(crate) fn available(&self) -> Option<u64> {
        self.0["available"].as_u64()
    }

    /// Whether this programmer takes no task, for this reason.
    pub(crate) fn is_shut_for(&self, id: &str, reason: &str) -> bool {
        let programmer = self.programmer(id);
        programmer["state"] == "shut"
            && programmer["reason"]
                .as_str()
                .is_some_and(|text| text.starts_with(reason))
    }

    /// Whether no programmer takes tasks, each for this reason.
    pub(crate) fn all_are_shut_for(&self, reason: &str) -> bool {
        let shut = |one: &Value| {
            one["id"]
                .as_str()
                .is_some_and(|id| self.is_shut_for(id, reason))
        };
        !self.programmers().is_empty() && self.programmers().iter().all(shut)
    }

    pub(crate) fn circuit_is_open(&self, id: &str) -> bool {
        self.programmer(id)["circuit_open"] == true
    }

    /// The breaker of an LLM, unless it is closed.
    pub(crate) fn open_breaker(&self, llm: &str) -> Option<OpenBreaker> {
        let breakers = self.0["breakers"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let open = breakers
            .iter()
            .find(|breaker| breaker["llm"] == llm && breaker["state"] != "closed")?;
        let until = serde_json::from_value(open["until"].clone())
            .unwrap_or_else(|error| panic!("{open}: {error}"));
        Some(OpenBreaker {
            reason: open["reason"].as_str().unwrap_or_default().to_owned(),
            until,
        })
    }

    /// The money that counts as spent today.
    pub(crate) fn spent(&self) -> MicroUsd {
        self.budget("spent_usd")
    }

    /// Today's limit.
    pub(crate) fn limit(&self) -> MicroUsd {
        self.budget("max_daily_spend_usd")
    }

    fn budget(&self, field: &str) -> MicroUsd {
        let amount = serde_json::from_value(self.0["budget"][field].clone());
        amount.unwrap_or_else(|error| panic!("{field} of {}: {error}", self.0["budget"]))
    }
}
