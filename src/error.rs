//! What can go wrong, by kind.

use std::{fmt, io, path::Path, path::PathBuf, sync::Arc, time::Duration};

use crate::offset::Offset;

/// The result of most calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. One machine word; [`kind`](Error::kind) tells the case. What the operating
/// system said is in [`source`](std::error::Error::source), not in the message.
///
/// A clone is the same error once more: what fails a batch of records is told to each of them.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Arc<ErrorKind>);

/// The cases of [`Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused an operation.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The disk, a quota or a file size limit is exhausted. Nothing was changed; the call works
    /// again once there is space, without a reopen.
    #[error("no space left to {operation} {}", path.display())]
    StorageFull {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A limit of the log is reached, and nothing more may be deleted. Nothing was changed; the
    /// call works again once something is.
    #[error(
        "the log is full: {limit} is {bytes}{}",
        held_by.as_ref().map(|group| format!(", and group {group} holds it back")).unwrap_or_default()
    )]
    LogFull {
        /// The option that sets the limit: `max_bytes` or `min_free_bytes`.
        limit: &'static str,
        /// What it is set to.
        bytes: u64,
        /// The group that is farthest behind, if groups hold anything back.
        held_by: Option<String>,
    },
    /// The record, or the batch, was dropped: the log is full, and drops what is newest
    /// ([`WhenFull::DropNewest`](crate::WhenFull::DropNewest)).
    #[error("dropped, as the log is full")]
    Dropped {
        /// Why it is.
        source: Error,
    },
    /// Another writer, of this or another process, has the log open.
    #[error("{} is open in another writer", path.display())]
    Locked {
        /// The directory of the log.
        path: PathBuf,
    },
    /// Another consumer, of this or another process, holds the group.
    #[error("group {group} has a live consumer already")]
    GroupInUse {
        /// The name of the group.
        group: String,
    },
    /// There is no group of this name.
    #[error("there is no group {group}")]
    GroupNotFound {
        /// The name of the group.
        group: String,
    },
    /// A commit below the committed offset, which would have records processed again that are
    /// done. [`Consumer::rewind`](crate::Consumer::rewind) does that.
    #[error("group {group} has committed {committed}, and {requested} is below; rewind to go back")]
    CommitBehind {
        /// The name of the group.
        group: String,
        /// The offset asked for.
        requested: Offset,
        /// The committed offset.
        committed: Offset,
    },
    /// A commit above a record that was [failed](crate::Batch::fail). It is refused until
    /// [`Consumer::seek_to_committed`](crate::Consumer::seek_to_committed).
    #[error(
        "the record at {offset} failed: seek to the committed offset before committing beyond it"
    )]
    RecordFailed {
        /// The first record that failed.
        offset: Offset,
    },
    /// The function given to [`Consumer::process`](crate::Consumer::process) failed as often as the
    /// [`RetryPolicy`](crate::RetryPolicy) lets it, and there is no log for dead letters. Nothing is
    /// committed beyond the record: it comes again.
    #[error("the record at {offset} could not be processed in {attempts} attempts: {reason}")]
    ProcessingFailed {
        /// The record's offset.
        offset: Offset,
        /// How often it was tried.
        attempts: u32,
        /// What the function said last; `panicked: ` and what the panic said, if it did.
        reason: String,
    },
    /// A record could not be processed, and its dead letter could not be written. Nothing is
    /// committed beyond the record: it comes again.
    #[error("the dead letter of the record at {offset} could not be written ({reason})")]
    DeadLetterFailed {
        /// The record's offset.
        offset: Offset,
        /// Why it could not be processed.
        reason: String,
        /// Why its dead letter could not be written.
        source: Error,
    },
    /// The directory (or a file in it) is not one of ours.
    #[error("{} is not a log: {reason}", path.display())]
    NotALog {
        /// What was looked at.
        path: PathBuf,
        /// What gave it away.
        reason: &'static str,
    },
    /// There is no log at this path, and opening it read-only does not create one.
    #[error("there is no log at {}", path.display())]
    NotFound {
        /// The directory that was looked for.
        path: PathBuf,
    },
    /// A newer release wrote this, in a format that this one does not know.
    #[error("{} has format version {found}; this release reads up to {supported}", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this release reads.
        supported: u32,
    },
    /// A symbolic link stands where a file of the log belongs. It is not followed.
    #[error("{} is a symbolic link; a log's own files must not be", path.display())]
    SymbolicLink {
        /// The link.
        path: PathBuf,
    },
    /// Stored bytes contradict the format or their checksum, and nothing stands in for them.
    #[error("{} is corrupt at byte {position}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The byte at which the contradiction was found.
        position: u64,
        /// The first offset that is not readable, where one is known.
        offset: Option<Offset>,
        /// The contradiction.
        source: DecodeError,
    },
    /// The next records are compressed with what this build lacks the cargo feature for. They are
    /// intact as far as their checksum tells. Nothing is skipped: who does not need them can seek
    /// to `to`.
    #[error(
        "offsets {from} to {to} are compressed with {codec} ({} at byte {position}); \
         reading them needs the feature `{codec}` of duralog",
        path.display()
    )]
    CompressionUnsupported {
        /// The name of the compression, and of the feature.
        codec: &'static str,
        /// The file.
        path: PathBuf,
        /// The byte at which their frame begins.
        position: u64,
        /// The first offset of the frame.
        from: Offset,
        /// The first offset behind it.
        to: Offset,
    },
    /// The log has damage and was opened with [`OnDamage::Refuse`](crate::OnDamage::Refuse).
    /// Nothing was changed.
    #[error("{} is damaged: offsets {from} to {to} are not readable; further places: {more}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first offset lost.
        from: Offset,
        /// The first offset readable again.
        to: Offset,
        /// Further damaged places.
        more: usize,
    },
    /// An option is out of its range, or contradicts another.
    #[error("option {name}: {reason}")]
    InvalidOption {
        /// The option, as its setter is called.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A name (of a group, say) that is not 1 to 200 of `[A-Za-z0-9._-]` without a leading dot, or
    /// that differs from one in use only in case.
    #[error("invalid name {name:?}: {reason}")]
    InvalidName {
        /// The name, cut to 200 characters.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A record or a batch is larger than the log takes.
    #[error("{what} of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// `"a record"`, `"a batch"` or `"the metadata of a commit"`.
        what: &'static str,
        /// Its size, as it would be stored.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A batch without records.
    #[error("a batch needs at least one record")]
    EmptyBatch,
    /// A record without a key, for a log that is compacted: that keeps the last record of each key.
    /// Nothing was appended.
    #[error("record {index} (from 0) of those sent has no key, and {} is compacted", path.display())]
    NoKey {
        /// The directory of the log.
        path: PathBuf,
        /// Which of the records that were sent together, counted from 0.
        index: usize,
    },
    /// The log's [`CleanupPolicy`](crate::CleanupPolicy) does not compact it.
    #[error("{} is not compacted, by its cleanup policy", path.display())]
    NotCompacted {
        /// The directory of the log.
        path: PathBuf,
    },
    /// The producer's name was opened again: only the newest one sends. Nothing was appended.
    #[error("producer {name} was opened again, which fences this one")]
    Fenced {
        /// The name.
        name: String,
    },
    /// A sequence that does not follow the one before. Nothing was appended.
    #[error("producer {name} is to send sequence {expected} next, not {found}")]
    OutOfSequence {
        /// The producer's name.
        name: String,
        /// The sequence that comes next.
        expected: u64,
        /// The one that was given.
        found: u64,
    },
    /// A sequence was given to a producer without a name, or asked of one.
    #[error("the producer has no name, so it has no sequences")]
    NoName,
    /// The log has as many named producers as it takes.
    #[error("the log has {limit} named producers already, which is as many as it takes")]
    TooManyProducers {
        /// How many that is.
        limit: usize,
    },
    /// A device sync failed, now or earlier. What was not durable by then may or may not be: the
    /// log takes no more writes, and only reopening it shows what survived. It is never retried,
    /// because a second sync returns success while the data is gone
    /// (["Can Applications Recover from fsync Failures?", ATC 2020](https://www.usenix.org/conference/atc20/presentation/rebello)).
    #[error("a sync of {} failed; reopen the log to learn what survived", path.display())]
    SyncFailed {
        /// The file whose sync failed first.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The log was opened with [`Fsync::Off`](crate::Fsync::Off), so nothing in it is durable.
    #[error("durability was asked for, but the log was opened with Fsync::Off")]
    DurabilityOff,
    /// An offset outside the log.
    #[error("offset {requested} is outside the log's {start} to {end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        requested: Offset,
        /// The log start offset.
        start: Offset,
        /// The log end offset.
        end: Offset,
    },
    /// A buffered producer had no room for a record, and none came within
    /// [`max_block`](crate::ProducerBuilder::max_block). Nothing was taken; the call works again
    /// once records that are on their way are done.
    #[error("no room within {waited:?}: records on their way fill the producer's {limit} bytes")]
    BufferFull {
        /// How long the call waited.
        waited: Duration,
        /// [`ProducerBuilder::buffer_bytes`](crate::ProducerBuilder::buffer_bytes).
        limit: usize,
    },
    /// Appending was tried again and again, and
    /// [`delivery_timeout`](crate::ProducerBuilder::delivery_timeout) is over. Nothing was
    /// appended.
    #[error("not written within {after:?}")]
    DeliveryTimeout {
        /// The delivery timeout.
        after: Duration,
        /// Why the last try failed.
        source: Error,
    },
    /// Records that a producer had taken did not reach the level that was asked for. Each was told
    /// its own error: in its receipt, and to the callback.
    #[error("{records} records were not acknowledged")]
    NotAcknowledged {
        /// How many.
        records: u64,
        /// Why the first of them was not.
        source: Error,
    },
    /// A producer's callback called what waits for that callback to return.
    #[error("a producer's callback must not wait for its own producer")]
    CalledBack,
    /// The log, or the producer, was closed.
    #[error("the log, or the producer, is closed")]
    Closed,
}

/// What contradicts the format. Carries no path: whoever knows it adds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than the structure needs.
    #[error("needs {needed} bytes, found {found}")]
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes there.
        found: usize,
    },
    /// The bytes do not start as the structure does.
    #[error("unknown magic number")]
    Magic,
    /// The checksum does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// A length that cannot be right.
    #[error("impossible length {length}")]
    Length {
        /// The length found.
        length: u64,
    },
    /// A field holds a value that the format does not have.
    #[error("impossible {field}")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// A newer format.
    #[error("format version {found}")]
    Version {
        /// The version found.
        found: u32,
        /// The newest that this release reads here.
        supported: u32,
    },
    /// Records are missing between what is there.
    #[error("records are missing")]
    Missing,
    /// Nothing was ever written here.
    #[error("nothing was written here")]
    Blank,
}

impl Error {
    /// Which case this is.
    pub fn kind(&self) -> &ErrorKind {
        &self.0
    }

    /// Whether stored bytes are damaged.
    pub fn is_corruption(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Corrupt { .. } | ErrorKind::Damaged { .. }
        )
    }

    /// Whether a sync failed, so that the log takes no more writes until it is reopened.
    pub fn is_latched(&self) -> bool {
        matches!(self.kind(), ErrorKind::SyncFailed { .. })
    }

    /// Whether space ran out: the same call works again once there is some.
    pub fn is_storage_full(&self) -> bool {
        matches!(self.kind(), ErrorKind::StorageFull { .. })
    }

    /// Whether a buffered producer had no room for a record.
    pub fn is_buffer_full(&self) -> bool {
        matches!(self.kind(), ErrorKind::BufferFull { .. })
    }

    /// Whether the same call may work if it is made once more, soon: space ran out, or a signal
    /// came in between. Nothing was changed by it.
    pub(crate) fn is_transient(&self) -> bool {
        match self.kind() {
            ErrorKind::StorageFull { .. } | ErrorKind::LogFull { .. } => true,
            ErrorKind::Io { source, .. } => source.kind() == io::ErrorKind::Interrupted,
            _ => false,
        }
    }

    /// Whether a file was not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self.kind(), ErrorKind::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the log takes no more records for want of room, by one of its limits or on the disk.
    pub fn is_full(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::LogFull { .. } | ErrorKind::StorageFull { .. }
        )
    }

    /// Whether another writer has the log open.
    pub fn is_locked(&self) -> bool {
        matches!(self.kind(), ErrorKind::Locked { .. })
    }

    /// Whether a file does not start as one of ours does.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Corrupt {
                source: DecodeError::Magic,
                ..
            }
        )
    }

    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        if is_full(&source) {
            return ErrorKind::StorageFull {
                operation,
                path,
                source,
            }
            .into();
        }
        if source.raw_os_error() == Some(libc::ELOOP) {
            return ErrorKind::SymbolicLink { path }.into();
        }
        ErrorKind::Io {
            operation,
            path,
            source,
        }
        .into()
    }

    pub(crate) fn option(name: &'static str, reason: impl Into<String>) -> Self {
        ErrorKind::InvalidOption {
            name,
            reason: reason.into(),
        }
        .into()
    }

    /// Puts a path to what a decoder found at `position`.
    pub(crate) fn decode(path: &Path, position: u64, source: DecodeError) -> Self {
        let path = path.to_path_buf();
        match source {
            DecodeError::Version { found, supported } => ErrorKind::UnsupportedVersion {
                path,
                found,
                supported,
            },
            source => ErrorKind::Corrupt {
                path,
                position,
                offset: None,
                source,
            },
        }
        .into()
    }
}

/// Whether the operating system ran out of space, quota or permitted file size.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self(Arc::new(kind))
    }
}

/// A send that failed: nothing was appended, and what was to be sent is handed back.
pub struct SendError<R> {
    record: R,
    error: Error,
}

impl<R> SendError<R> {
    pub(crate) fn new(record: R, error: Error) -> Self {
        Self { record, error }
    }

    /// Why it failed.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// What was to be sent.
    pub fn record(&self) -> &R {
        &self.record
    }

    /// What was to be sent, by value.
    pub fn into_record(self) -> R {
        self.record
    }

    /// Both.
    pub fn into_parts(self) -> (R, Error) {
        (self.record, self.error)
    }
}

impl<R> fmt::Debug for SendError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<R> fmt::Display for SendError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<R> std::error::Error for SendError<R> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl<R> From<SendError<R>> for Error {
    fn from(failed: SendError<R>) -> Self {
        failed.error
    }
}
