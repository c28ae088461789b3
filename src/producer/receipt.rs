//! What a send returns.

use std::{
    fmt,
    future::Future,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::completion::{Completion, Level, PlaceId};
use crate::{
    error::{Error, Result},
    fs::WaitId,
    handle::LogHandle,
    offset::Offset,
};

/// What became of a send: wait for it, `await` it, or drop it.
///
/// Dropped without a wait, a [`Durable`](crate::Acks::Durable) send is synced in the background
/// all the same, and a buffered one is written; only nobody is told. (A buffered producer's
/// [`flush`](crate::Producer::flush) and its
/// [callback](crate::ProducerBuilder::on_completion) are.)
///
/// As a future it needs no runtime: threads of the log and the producer wake it. They serve others
/// too, so a waker must not block. Dropping it at any moment is safe.
#[derive(Debug)]
#[must_use = "a durable send is durable once its receipt was waited for"]
pub struct Receipt {
    state: State,
    count: u64,
}

#[derive(Debug)]
enum State {
    /// It is written.
    Written {
        /// The log, while durability is waited for.
        log: Option<Arc<LogHandle>>,
        first: Offset,
        place: Option<WaitId>,
    },
    /// It was dropped.
    Dropped(Error),
    /// It is in a batch of a buffered producer.
    Batched {
        completion: Arc<Completion>,
        index: u32,
        level: Level,
        place: Option<PlaceId>,
    },
}

/// Why [`Receipt::wait_timeout`] did not return an offset.
#[derive(Debug)]
pub enum WaitError {
    /// The time is over, and nothing has been decided: the receipt may be waited for again.
    TimedOut(Receipt),
    /// The send failed.
    Failed(Error),
}

impl WaitError {
    /// The receipt, if only the time is over.
    pub fn into_receipt(self) -> Option<Receipt> {
        match self {
            Self::TimedOut(receipt) => Some(receipt),
            Self::Failed(_) => None,
        }
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(_) => f.write_str("not acknowledged yet"),
            Self::Failed(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for WaitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::TimedOut(_) => None,
            Self::Failed(error) => std::error::Error::source(error),
        }
    }
}

impl Receipt {
    pub(super) fn written(log: Option<Arc<LogHandle>>, first: Offset, count: u64) -> Self {
        let place = None;
        let state = State::Written { log, first, place };
        Self { state, count }
    }

    /// Of records that were dropped, for this reason.
    pub(super) fn dropped(error: Error, count: u64) -> Self {
        let state = State::Dropped(error);
        Self { state, count }
    }

    pub(super) fn pending(
        completion: &Arc<Completion>,
        index: u32,
        count: u64,
        level: Level,
    ) -> Self {
        let state = State::Batched {
            completion: Arc::clone(completion),
            index,
            level,
            place: None,
        };
        Self { state, count }
    }

    /// The offset of the (first) record, once it is written; `None` while it is in the memory of a
    /// buffered producer, and if it could not be written.
    pub fn offset(&self) -> Option<Offset> {
        match &self.state {
            State::Written { first, .. } => Some(*first),
            State::Dropped(_) => None,
            State::Batched {
                completion, index, ..
            } => Some(completion.first()?.advance((*index).into())),
        }
    }

    /// The offsets of all records of the send, once they are written.
    pub fn offsets(&self) -> Option<Range<Offset>> {
        let first = self.offset()?;
        Some(first..first.advance(self.count))
    }

    /// Waits until the ack level of the send is reached; returns the offset of the (first)
    /// record. For [`Acks::Durable`](crate::Acks::Durable) this syncs, together with all others
    /// who wait at that moment; for the other levels it returns at once. The send of a buffered
    /// producer is waited for until it is written (also with [`Acks::None`](crate::Acks::None):
    /// there is no offset before), and for `Durable` on the device; that it is waited for does not
    /// cut its linger short.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::SyncFailed`](crate::ErrorKind::SyncFailed): only opening the log again tells
    /// whether the record survived. [`ErrorKind::Dropped`](crate::ErrorKind::Dropped) if the log is
    /// full and [drops what is newest](crate::WhenFull::DropNewest). Of a buffered producer also those of
    /// [`Delivery::result`](crate::Delivery::result).
    pub fn wait(mut self) -> Result<Offset> {
        let end = self.offsets().map(|offsets| offsets.end);
        match &mut self.state {
            State::Written { log, first, .. } => {
                if let (Some(log), Some(end)) = (log.take(), end) {
                    log.sync_until(end)?;
                }
                Ok(*first)
            }
            State::Dropped(error) => Err(error.clone()),
            State::Batched {
                completion,
                index,
                level,
                ..
            } => {
                let first = completion.wait(*level, None)?;
                // Without a moment to wait until, the wait ends with a result.
                Ok(first.unwrap_or_default().advance((*index).into()))
            }
        }
    }

    /// [`wait`](Receipt::wait), for so long at most. It does not sync itself, which could take
    /// longer: it asks the log's own thread to.
    ///
    /// ```
    /// use std::time::Duration;
    /// use duralog::{Log, Record, WaitError};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let log = Log::open(dir.path())?;
    /// let producer = log.producer().build()?;
    /// let mut receipt = producer.send(Record::new("paid"))?;
    /// let offset = loop {
    ///     match receipt.wait_timeout(Duration::from_millis(100)) {
    ///         Ok(offset) => break offset,
    ///         Err(WaitError::TimedOut(again)) => receipt = again, // tell the user, say
    ///         Err(WaitError::Failed(error)) => return Err(error.into()),
    ///     }
    /// };
    /// assert_eq!(offset, 0);
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WaitError::TimedOut`] hands the receipt back; [`WaitError::Failed`] is what `wait` would
    /// return.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<Offset, WaitError> {
        let waited = match &mut self.state {
            State::Written { log, first, place } => {
                let end = first.advance(self.count);
                let waited = log.as_ref().map(|log| wait_durable(log, end, timeout));
                let waited = waited.unwrap_or(Ok(true));
                *place = None;
                if !matches!(waited, Ok(false)) {
                    *log = None;
                }
                waited.map(|done| done.then_some(*first))
            }
            State::Dropped(error) => Err(error.clone()),
            State::Batched {
                completion,
                index,
                level,
                ..
            } => {
                let first = completion.wait_for(*level, timeout);
                first.map(|first| Some(first?.advance((*index).into())))
            }
        };
        match waited {
            Ok(Some(first)) => Ok(first),
            Ok(None) => Err(WaitError::TimedOut(self)),
            Err(error) => Err(WaitError::Failed(error)),
        }
    }
}

/// Whether everything below `end` is durable within `timeout`.
fn wait_durable(log: &LogHandle, end: Offset, timeout: Duration) -> Result<bool> {
    let host = &log.site.host;
    let until = host.monotonic().checked_add(timeout);
    let parker = host.parker();
    let mut place = None;
    loop {
        if log.poll_durable(end, &parker.waker(), &mut place)? {
            return Ok(true);
        }
        parker.park(until);
        if until.is_some_and(|until| host.monotonic() >= until) {
            if let Some(place) = place.take() {
                log.forget_waiter(&place);
            }
            return Ok(log.durable() >= end);
        }
    }
}

impl Future for Receipt {
    type Output = Result<Offset>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = context.waker();
        let count = self.count;
        match &mut self.state {
            State::Written { log, first, place } => {
                let end = first.advance(count);
                let polled = match log {
                    None => Ok(true),
                    Some(log) => log.poll_durable(end, waker, place),
                };
                if matches!(polled, Ok(false)) {
                    return Poll::Pending;
                }
                *log = None;
                Poll::Ready(polled.map(|_| *first))
            }
            State::Dropped(error) => Poll::Ready(Err(error.clone())),
            State::Batched {
                completion,
                index,
                level,
                place,
            } => match completion.poll(*level, waker, place) {
                None => Poll::Pending,
                Some(polled) => Poll::Ready(polled.map(|first| first.advance((*index).into()))),
            },
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        match &mut self.state {
            State::Written { log, first, place } => {
                let Some(log) = log.take() else { return };
                if let Some(place) = place.take() {
                    log.forget_waiter(&place);
                }
                if log.durable() < first.advance(self.count) {
                    log.request_sync();
                }
            }
            State::Dropped(_) => {}
            State::Batched {
                completion, place, ..
            } => completion.forget(place.take()),
        }
    }
}
