//! What a buffered producer's callback is told, and what the producer counts.

use std::{fmt, sync::Arc};

use crate::{error::Error, offset::Offset, record::RecordRef};

/// What became of a record, as [`on_completion`](super::ProducerBuilder::on_completion) is told.
#[derive(Debug)]
pub struct Delivery<'a> {
    record: RecordRef<'a>,
    result: Result<Offset, &'a Error>,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(record: RecordRef<'a>, result: Result<Offset, &'a Error>) -> Self {
        Self { record, result }
    }

    /// The record's offset, if it was acknowledged at its level; else why it was not.
    ///
    /// # Errors
    ///
    /// [`DeliveryTimeout`](crate::ErrorKind::DeliveryTimeout), or what no other try can cure:
    /// [`StorageFull`](crate::ErrorKind::StorageFull) and [`Closed`](crate::ErrorKind::Closed)
    /// where the producer or the log is being closed, [`Io`](crate::ErrorKind::Io): it is not in
    /// the log. [`SyncFailed`](crate::ErrorKind::SyncFailed): only opening the log again tells
    /// whether it is.
    pub fn result(&self) -> Result<Offset, &'a Error> {
        self.result
    }

    /// The record, also of one that failed, so that it can be put elsewhere.
    pub fn record(&self) -> RecordRef<'a> {
        self.record
    }
}

/// Called for each record.
#[derive(Clone)]
pub(super) struct Callback(pub(super) Arc<dyn Fn(&Delivery<'_>) + Send + Sync>);

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// Numbers of a buffered producer and its clones, as of the call.
///
/// Each record that was sent is acknowledged or failed in the end, and never both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerStats {
    /// Records that were taken. (What was handed back by the send is not among them.)
    pub records_sent: u64,
    /// Records that reached their level.
    pub records_acknowledged: u64,
    /// Records that did not and will not.
    pub records_failed: u64,
    /// Times that an append was tried again.
    #[doc(alias = "record-retry-total")]
    pub retries: u64,
    /// Times that the callback panicked.
    pub callback_panics: u64,
    /// Memory of records that are not done, in bytes; at most
    /// [`buffer_bytes`](super::ProducerBuilder::buffer_bytes).
    pub buffered_bytes: u64,
    /// The most that there ever was of it.
    pub buffered_bytes_peak: u64,
}
