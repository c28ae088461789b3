//! What a send returns.

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{error::Result, handle::LogHandle, log::WaiterId, offset::Offset};

/// What became of a send: wait for it, `await` it, or drop it.
///
/// Dropped without a wait, a [`Durable`](crate::Acks::Durable) send is synced in the background
/// all the same; only nobody is told.
///
/// As a future it needs no runtime: the log's own thread syncs and wakes it. Dropping it at any
/// moment is safe.
#[derive(Debug)]
#[must_use = "a durable send is durable once its receipt was waited for"]
pub struct Receipt {
    /// The log, while durability is waited for.
    log: Option<Arc<LogHandle>>,
    first: Offset,
    count: u64,
    place: Option<WaiterId>,
}

impl Receipt {
    pub(crate) fn new(log: Option<Arc<LogHandle>>, first: Offset, count: u64) -> Self {
        Self {
            log,
            first,
            count,
            place: None,
        }
    }

    /// The offset of the (first) record, once it is written.
    pub fn offset(&self) -> Option<Offset> {
        Some(self.first)
    }

    /// The offsets of all records of the send, once they are written.
    pub fn offsets(&self) -> Option<Range<Offset>> {
        Some(self.first..self.end())
    }

    /// Waits until the ack level of the send is reached; returns the offset of the (first)
    /// record. For [`Acks::Durable`](crate::Acks::Durable) this syncs, together with all others
    /// who wait at that moment; for the other levels it returns at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::SyncFailed`](crate::ErrorKind::SyncFailed): only opening the log again tells
    /// whether the record survived.
    pub fn wait(mut self) -> Result<Offset> {
        if let Some(log) = self.log.take() {
            log.sync_until(self.end())?;
        }
        Ok(self.first)
    }

    fn end(&self) -> Offset {
        self.first.advance(self.count)
    }
}

impl Future for Receipt {
    type Output = Result<Offset>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let end = self.end();
        let this = &mut *self;
        let Some(log) = &this.log else {
            return Poll::Ready(Ok(this.first));
        };
        match log.poll_durable(end, context.waker(), &mut this.place) {
            Ok(false) => Poll::Pending,
            Ok(true) => {
                this.log = None;
                Poll::Ready(Ok(this.first))
            }
            Err(error) => {
                this.log = None;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let Some(log) = self.log.take() else { return };
        if let Some(place) = self.place.take() {
            log.forget_waiter(place);
        }
        if log.durable() < self.end() {
            log.request_sync();
        }
    }
}
