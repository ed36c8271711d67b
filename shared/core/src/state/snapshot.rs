//! Snapshots of open tasks, appended before their first events fall out of the log's retention.
//!
//! A process that has read a task from the beginning learns nothing from a snapshot. A process that started later, when
//! the first events were gone, takes the missing values from it.

use crate::id::AttemptId;
use crate::task_state::{Account, OpenPhase, Spent, TaskState};
use crate::time::Timestamp;

impl TaskState {
    /// Takes the values of the snapshot that this state lacks. Values that this state has are newer and stay.
    pub(super) fn learn(&mut self, snapshot: &TaskState, now: Timestamp) {
        self.stated_at = now;
        self.submitted_at = self.submitted_at.or(snapshot.submitted_at);
        self.deadline = self.deadline.or(snapshot.deadline);
        if self.body_hash.is_none() {
            self.body_hash.clone_from(&snapshot.body_hash);
        }
        if self.route.is_empty() {
            self.route.clone_from(&snapshot.route);
        }
        self.lost.extend(snapshot.lost.difference(&self.past));
        self.past.extend(&snapshot.past);
        self.learn_usage(snapshot);
        self.learn_phase(snapshot);
        // An attempt that was released after the snapshot was made is one of the snapshot's attempts and one of the releases here.
        let starts = (self.attempts + self.releases).max(snapshot.attempts + snapshot.releases);
        self.releases = self.releases.max(snapshot.releases);
        self.attempts = starts - self.releases;
        self.hand_backs = self.hand_backs.max(snapshot.hand_backs);
        self.sandbox_hand_backs = self.sandbox_hand_backs.max(snapshot.sandbox_hand_backs);
    }

    fn learn_usage(&mut self, snapshot: &TaskState) {
        for (attempt, account) in &snapshot.used {
            if !self.used.contains_key(attempt) {
                self.uses(*attempt, account.clone());
            }
        }
        if self.used.is_empty() && snapshot.spent != Spent::default() {
            // A snapshot of an older version has only the sum.
            let account = Account {
                spent: snapshot.spent.clone(),
                so_far: false,
            };
            self.uses(AttemptId::from_u128(0), account);
        }
    }

    fn learn_phase(&mut self, snapshot: &TaskState) {
        let mut phase = OpenPhase::from(std::mem::take(&mut self.phase));
        let other = OpenPhase::from(snapshot.phase.clone());
        if snapshot.generation > self.generation {
            self.generation = snapshot.generation;
            phase.published = false;
            phase.retry = other.retry;
        }
        phase.published |= other.published && snapshot.generation == self.generation;
        if snapshot.fence > self.fence {
            self.fence = snapshot.fence;
            phase.owner = other.owner;
        }
        // The owner may have released the task, or its attempt may have ended, after the snapshot was made.
        phase
            .owner
            .take_if(|owner| self.past.contains(&owner.attempt));
        self.phase = phase.into();
    }
}
