//! The pool's money by the event log, added up by the test itself. From the fold it takes only
//! whether an event was accepted.

use std::collections::BTreeMap;

use pool_core::money::MicroUsd;
use pool_core::time::Timestamp;

use super::event_log::Entry;

/// The money spent and reserved at one place in the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) at: Timestamp,
    pub(crate) spent: MicroUsd,
    /// The reservations by attempt. One that is never settled stays, so that it counts as spent.
    pub(crate) open: BTreeMap<String, MicroUsd>,
}

impl Ledger {
    pub(crate) fn reserved(&self) -> MicroUsd {
        self.open.values().copied().sum()
    }

    /// The sum that the pool promises to keep below the limit.
    pub(crate) fn total(&self) -> MicroUsd {
        self.spent + self.reserved()
    }

    /// The state after each event about money.
    pub(crate) fn history(entries: &[Entry]) -> Vec<Self> {
        let mut now = Self::default();
        let mut history = Vec::new();
        for entry in entries {
            let before = (now.spent, now.open.len());
            now.take(entry);
            if (now.spent, now.open.len()) != before {
                history.push(Self {
                    at: entry.at,
                    ..now.clone()
                });
            }
        }
        history
    }

    /// The state at the end of these events.
    pub(crate) fn after(entries: &[Entry]) -> Self {
        Self::history(entries).pop().unwrap_or_default()
    }

    fn take(&mut self, entry: &Entry) {
        let attempt = entry.text("attempt");
        if entry.is("reserved") {
            self.open
                .insert(attempt.to_owned(), entry.amount("amount_usd"));
        } else if (entry.is("settled") || entry.is("finished"))
            && self.open.remove(attempt).is_some()
        {
            self.spent += entry.amount("cost_usd");
        }
    }
}
