//! Snapshots of open tasks, appended before their first events fall out of the log's retention.
//!
//! A process that has read a task from the beginning learns nothing from a snapshot. A process that started later, when
//! the first events were gone, takes the missing values from it.

use super::tasks::{Owner, TaskState};
use crate::event::{Account, OpenOwner, OpenTask, Spent};
use crate::id::AttemptId;
use crate::result::Usage;
use crate::time::Timestamp;

impl TaskState {
    /// The snapshot of an open task.
    pub fn statement(&self) -> OpenTask {
        OpenTask {
            submitted_ms: self.submitted_at.map(|at| at.0),
            body_hash: self.body_hash.clone(),
            route: self.route.clone(),
            deadline_ms: self.deadline.map(|at| at.0),
            generation: self.generation,
            published: self.published,
            fence: self.fence,
            owner: self.owner.as_ref().map(|owner| OpenOwner {
                attempt: owner.attempt,
                programmer: owner.programmer.clone(),
                token: owner.token,
                since_ms: owner.since.0,
            }),
            attempts: self.attempts,
            releases: self.releases,
            hand_backs: self.hand_backs,
            spent: Spent {
                usage: Usage::default(),
                ..self.spent.clone()
            },
            used: self.used.clone(),
            past: self.past.clone(),
            lost: self.lost.clone(),
            retry: self.retry.clone(),
        }
    }

    /// Takes the values of the snapshot that this state lacks. Values that this state has are newer and stay.
    pub(super) fn learn(&mut self, said: &OpenTask, now: Timestamp) {
        self.stated_at = now;
        self.submitted_at = self.submitted_at.or(said.submitted_ms.map(Timestamp));
        self.deadline = self.deadline.or(said.deadline_ms.map(Timestamp));
        if self.body_hash.is_none() {
            self.body_hash.clone_from(&said.body_hash);
        }
        if self.route.is_empty() {
            self.route.clone_from(&said.route);
        }
        if said.generation > self.generation {
            self.generation = said.generation;
            self.published = false;
            self.retry.clone_from(&said.retry);
        }
        self.lost.extend(said.lost.difference(&self.past));
        self.past.extend(&said.past);
        for (attempt, account) in &said.used {
            if !self.used.contains_key(attempt) {
                self.uses(*attempt, account.clone());
            }
        }
        if self.used.is_empty() && said.spent != Spent::default() {
            // A snapshot of an older version has only the sum.
            self.uses(
                AttemptId::from_u128(0),
                Account {
                    spent: said.spent.clone(),
                    so_far: false,
                },
            );
        }
        self.published |= said.published && said.generation == self.generation;
        if said.fence > self.fence {
            self.fence = said.fence;
            self.owner = said.owner.as_ref().map(|owner| Owner {
                attempt: owner.attempt,
                programmer: owner.programmer.clone(),
                token: owner.token,
                since: Timestamp(owner.since_ms),
            });
        }
        // The owner may have released the task, or its attempt may have ended, after the snapshot was made.
        self.owner
            .take_if(|owner| self.past.contains(&owner.attempt));
        // An attempt that was released after the snapshot was made is one of the snapshot's attempts and one of the releases here.
        let starts = (self.attempts + self.releases).max(said.attempts + said.releases);
        self.releases = self.releases.max(said.releases);
        self.attempts = starts - self.releases;
        self.hand_backs = self.hand_backs.max(said.hand_backs);
    }
}
