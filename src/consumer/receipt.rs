//! What an asynchronous commit returns.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{error::Result, group::Pending, handle::LogHandle};

/// What becomes of a [`Consumer::commit_async`](crate::Consumer::commit_async): wait for it,
/// `await` it, or drop it.
///
/// Dropped without a wait, a durable commit is made durable in the background all the same; only
/// nobody is told.
///
/// As a future it needs no runtime: a thread of the log wakes it. That one serves others too, so a
/// waker must not block. Dropping it at any moment is safe.
#[derive(Debug)]
#[must_use = "a durable commit is durable once its receipt was waited for"]
pub struct CommitReceipt {
    /// The commit, while it is not known to be durable.
    pending: Option<(Arc<LogHandle>, Arc<Pending>)>,
    place: Option<u64>,
}

impl CommitReceipt {
    /// There is nothing to wait for.
    pub(super) fn done() -> Self {
        Self {
            pending: None,
            place: None,
        }
    }

    pub(super) fn pending(log: &Arc<LogHandle>, pending: Arc<Pending>) -> Self {
        Self {
            pending: Some((Arc::clone(log), pending)),
            place: None,
        }
    }

    /// Waits until the commit survives what it is to survive. For a durable one this syncs,
    /// together with all others who wait at that moment, of whatever group.
    ///
    /// # Errors
    ///
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed): whether the commit survives a power cut is not
    /// known. [`Io`](crate::ErrorKind::Io).
    pub fn wait(mut self) -> Result<()> {
        match self.pending.take() {
            None => Ok(()),
            Some((log, pending)) => log.wait_for_commit(&pending),
        }
    }
}

impl Future for CommitReceipt {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { pending, place } = &mut *self;
        let Some((log, commit)) = pending else {
            return Poll::Ready(Ok(()));
        };
        match log.poll_commit(commit, context.waker(), place) {
            None => Poll::Pending,
            Some(outcome) => {
                *pending = None;
                Poll::Ready(outcome)
            }
        }
    }
}

impl Drop for CommitReceipt {
    fn drop(&mut self) {
        if let Some((log, pending)) = self.pending.take() {
            log.forget_commit(self.place.take());
            if pending.outcome().is_none() {
                log.request_commits();
            }
        }
    }
}
