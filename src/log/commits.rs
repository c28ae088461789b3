//! Durable commits of groups, as a log that is open for writing makes them.

use std::{sync::Arc, task::Waker};

use super::Shared;
use crate::{error::Result, group::Pending, offset::Offset};

impl Shared {
    /// Waits until a commit is durable, together with others that are made at the same time.
    ///
    /// # Errors
    ///
    /// Those of [`Journal::wait`](crate::group::Journal::wait).
    pub(crate) fn wait_for_commit(&self, pending: &Pending) -> Result<()> {
        self.commits.wait(pending, |below| self.sync_until(below))
    }

    /// For a future: what came of a commit, if it is decided; else `waker` is called when it is,
    /// and the maintenance thread is asked to make it durable.
    pub(crate) fn poll_commit(
        &self,
        pending: &Pending,
        waker: &Waker,
        place: &mut Option<u64>,
    ) -> Option<Result<()>> {
        let outcome = self.commits.poll(pending, waker, place);
        if outcome.is_none() {
            self.request_commits();
        }
        outcome
    }

    /// A future that is dropped waits no longer.
    pub(crate) fn forget_commit(&self, place: Option<u64>) {
        self.commits.forget(place);
    }

    /// Hands in a commit that somebody may wait for later.
    pub(crate) fn submit_commit(&self, pending: &Arc<Pending>) {
        self.commits.submit(pending);
    }

    /// Asks the maintenance thread to make durable what was submitted.
    pub(crate) fn request_commits(&self) {
        self.maintenance.wake_settle();
    }

    /// Makes durable what was submitted and nobody waits for.
    pub(super) fn settle_commits(&self) {
        self.commits.step(|below: Offset| self.sync_until(below));
    }
}
