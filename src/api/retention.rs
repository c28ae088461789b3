//! Deleting records.

use super::Log;
use crate::{error::Result, log::RetentionReport, offset::Offset, options::Retention};

impl Log {
    /// Deletes now what is to go by the log's own [retention](crate::LogOptions::retention); the
    /// log does so by itself, too, so this is for whoever wants to know that it is done, or what
    /// went.
    ///
    /// ```
    /// use duralog::{Log, Record, Retention};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::options()
    ///     .segment_bytes(8 << 10)
    ///     .retention(Retention::new().max_segments(2))
    ///     .open(dir.path())?;
    /// let producer = log.producer().build()?;
    /// for _ in 0..10 {
    ///     producer.send(Record::new(vec![0; 4 << 10]))?.wait()?;
    /// }
    /// log.enforce_retention()?;
    /// assert!(log.stats().segments <= 2);
    /// assert!(log.log_start_offset().get() > 0);
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Durability
    ///
    /// When this returns, what went is gone: no crash brings it back. Wherever a crash interrupts it,
    /// the next opening finishes what was begun, and no record above the log start is missing.
    ///
    /// # Concurrency
    ///
    /// Readers go on: those in the middle of a deleted segment read it to its end, others are told
    /// a [gap](crate::GapReason::Retention). Appends go on; no lock of theirs is held.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed), [`SyncFailed`](crate::ErrorKind::SyncFailed),
    /// [`Io`](crate::ErrorKind::Io), [`StorageFull`](crate::ErrorKind::StorageFull): as much was
    /// deleted as [`log_start_offset`](Log::log_start_offset) says; files that could not be
    /// removed are removed later: in the background if the log has limits, else with the next
    /// deletion or at the next opening.
    pub fn enforce_retention(&self) -> Result<RetentionReport> {
        self.handle.enforce_retention(None)
    }

    /// What [`enforce_retention`](Log::enforce_retention) would do now, and who holds what back.
    /// Deletes nothing.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed), [`SyncFailed`](crate::ErrorKind::SyncFailed),
    /// [`Io`](crate::ErrorKind::Io).
    pub fn plan_retention(&self) -> Result<RetentionReport> {
        self.handle.plan_retention(None)
    }

    /// Deletes now what is to go by these limits instead of the log's own, which stay as they are.
    /// Bytes and segments count as they are now, the active segment as far as it is filled. Groups
    /// hold back what they do by the log's options.
    ///
    /// # Errors
    ///
    /// As [`enforce_retention`](Log::enforce_retention);
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) for a limit of 0, and for any on a log
    /// that is [only compacted](crate::CleanupPolicy::Compact).
    pub fn enforce_retention_of(&self, limits: Retention) -> Result<RetentionReport> {
        self.handle.enforce_retention(Some(limits))
    }

    /// What [`enforce_retention_of`](Log::enforce_retention_of) would do now.
    ///
    /// # Errors
    ///
    /// As [`plan_retention`](Log::plan_retention);
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) as there.
    pub fn plan_retention_of(&self, limits: Retention) -> Result<RetentionReport> {
        self.handle.plan_retention(Some(limits))
    }

    /// Deletes all records below `offset`, whoever has read them; returns the log start offset,
    /// which is `offset` then, or was higher before. Segments go whose records are all below; in
    /// the middle of a segment only the log start moves. On a compacted log the last record of a
    /// key goes too, if it is below: nothing asks for this but you.
    ///
    /// ```
    /// use duralog::{Log, Offset, Record};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::open(dir.path())?;
    /// let producer = log.producer().build()?;
    /// producer.send_batch([Record::new("a"), Record::new("b"), Record::new("c")])?;
    /// log.delete_records_before(Offset::new(2))?;
    /// assert_eq!(log.log_start_offset(), 2);
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Durability
    ///
    /// What is above is made durable first. When this returns, what is below is gone: no crash
    /// brings it back.
    ///
    /// # Concurrency
    ///
    /// As [`enforce_retention`](Log::enforce_retention).
    ///
    /// # Errors
    ///
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange) behind the log end;
    /// those of [`enforce_retention`](Log::enforce_retention).
    #[doc(alias = "deleteRecords")]
    pub fn delete_records_before(&self, offset: Offset) -> Result<Offset> {
        self.handle.delete_records_before(offset)
    }

    /// The limits of its own retention.
    pub fn retention(&self) -> Retention {
        self.handle.site.config.keeping.limits
    }
}
