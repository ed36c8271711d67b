//! Open tasks, said again: the log forgets what is older than its retention, an open task must not be among it.
//!
//! To who has read the task from its beginning a statement tells nothing. Who came later, when its first events were gone
//! already, learns from it what it lacks.

use super::tasks::{Owner, TaskState};
use crate::event::{Account, OpenOwner, OpenTask, Spent};
use crate::id::AttemptId;
use crate::result::Usage;
use crate::time::Timestamp;

impl TaskState {
    /// What is to be said about an open task.
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

    /// Takes over what the statement knows and this state does not. What is known here is younger.
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
            // An older version knows only the sum.
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
        // It may have been released, or its attempt made again, between the writing of the statement and its place.
        self.owner
            .take_if(|owner| self.past.contains(&owner.attempt));
        // An attempt that was released since the statement was written is in both of its counts once.
        let starts = (self.attempts + self.releases).max(said.attempts + said.releases);
        self.releases = self.releases.max(said.releases);
        self.attempts = starts - self.releases;
        self.hand_backs = self.hand_backs.max(said.hand_backs);
    }
}
