//! An embedded, single-node, durable log: Kafka's log, producers and consumer groups as a library
//! inside your process.
//!
//! Messages get lost: by a producer that does not wait, a page cache that was never flushed, an
//! offset committed before the work was done, a disk that filled, one flipped bit. Here each of
//! these is either survived or reported, and each promise says what it survives.
//!
//! # A tour
//!
//! * [`Log`] is a directory of append-only segments. [`Log::open`] opens or makes it, and recovers
//!   it after a crash; [`Log::recovery`] tells what that found. [`LogOptions`] are stored in it.
//! * [`Producer`] appends [`Record`]s: one by one, as an atomic batch, or
//!   [gathered](ProducerBuilder) by a thread of its own. [`Acks`] chooses what a send survives: the
//!   end of the process, or a power cut. [`Receipt`] is what one waits for, as a thread or as a
//!   future of any runtime. One with a [name](ProducerBuilder::name) appends each record once, however
//!   often it is sent, also after a restart.
//! * [`Compression`] is chosen for each producer ([`ProducerBuilder::compression`]) and needs a cargo
//!   feature: `lz4`. Readers read what they find.
//! * [`Consumer`] reads on behalf of a group and commits what was processed.
//!   [`Consumer::process`] is the short way: a function for each record, retries, dead letters.
//!   [`Consumer::poll`] and [`Consumer::next`] lend batches; a [`ParallelConsumer`] hands records to
//!   any number of threads. A [`Reader`] reads without a group. All are told about every [`Gap`].
//! * [`CleanupPolicy`] says what becomes of old records. [`Retention`] deletes them by age and size,
//!   whether or not groups have read them: [`GroupRetention`]; [`Log::plan_retention`] says what would
//!   go, [`WhenFull`] what becomes of a log where nothing may. A log that is compacted keeps the last
//!   record of each key: in the background, and by [`Log::compact`].
//! * [`ReadOnlyLog`] looks at a log, also while another process writes it: reads, verifies, lists.
//!
//! ```
//! use std::time::Duration;
//! use duralog::{Acks, FlushPolicy, Log, Record};
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("orders");
//! let log = Log::options()
//!     .segment_bytes(64 << 20)
//!     .flush(FlushPolicy::every_messages(1_000).or_every(Duration::from_millis(100)))
//!     .open(&path)?;
//!
//! let producer = log.producer().acks(Acks::Durable).build()?;
//! let receipt = producer.send(Record::new("paid").key("order-17").header("trace", "af31"))?;
//! let offset = receipt.wait()?; // on the device now
//!
//! let mut billing = log.consumer("billing").build()?;
//! let batch = billing.poll(Duration::from_secs(1))?;
//! for gap in batch.gaps() {
//!     eprintln!("records {} to {} are gone: {}", gap.from, gap.to, gap.reason);
//! }
//! for record in &batch {
//!     assert_eq!((record.offset(), record.value()), (Some(offset), Some(&b"paid"[..])));
//! }
//! billing.commit()?; // after processing: a crash before it repeats work, and loses none
//! # drop(billing);
//! # log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What survives what
//!
//! | | end of the process | power cut |
//! |---|---|---|
//! | [`Acks::Written`], the default of commits | yes | what was synced since: see [`FlushPolicy`] |
//! | [`Acks::Durable`], once waited for | yes | yes |
//!
//! Offsets are never used twice, also not after a power cut that took records: the log goes on at
//! an offset that was reserved, and consumers are told the gap. Bytes that were durable and no
//! longer verify are damage: they are kept, reported, and read around. A sync that fails is final.
//!
//! # Threads
//!
//! Two background threads, `duralog-ahead` and `duralog-settle`, serve all logs of a file system,
//! however many are open, and a third one, `duralog-clean`, those that let go of old records; they
//! end with the last log. A producer that lingers has one of its own, and a [`ReadOnlyLog`] has one
//! while [`Consumer::next`] waits there.
//!
//! # Limits
//!
//! One writer at a time ([`ErrorKind::Locked`]). A record is at most 16 MiB by default, and never
//! more than a segment. Unix only; appends go through a mapping on ext4, XFS and tmpfs under
//! Linux, and through `pwrite` elsewhere. A device that lies about flushes cannot be helped, and
//! rot in what was synced last, with nothing written after it, looks like a torn tail.

#![warn(missing_docs)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods
)]

#[cfg(not(unix))]
compile_error!("duralog needs a Unix: it writes at positions and locks files as those do");

mod api;
mod backoff;
mod consumer;
mod error;
mod format;
mod fs;
mod group;
mod handle;
mod log;
mod offset;
mod options;
mod producer;
mod record;
mod segment;
mod slot_file;
#[cfg(feature = "testing")]
pub mod testing;

pub use api::{GroupInfo, Log, OptionsInfo, ReadOnlyLog};
pub use consumer::{
    Batch, CommitOptions, CommitReceipt, Consumer, ConsumerBuilder, ConsumerHandle,
    DEFAULT_MAX_POLL_INTERVAL, DeadLetter, FrameInfo, FrameProducer, InFlight, Iter,
    MAX_COMMIT_METADATA, NextBatch, OffsetReset, ParallelConsumer, Processed, Reader,
    ReaderBuilder, Replayed, Reset, ResetReason, RetryPolicy, SequenceCheck, SequenceFinding,
    SequenceKind, SequenceTotals, Start, dead_letter_headers,
};
pub use error::{DecodeError, Error, ErrorKind, Result, SendError};
pub use format::group::GroupLosses;
pub use log::{
    CompactionReport, ConsumerInfo, Damage, DeletedSegment, Gap, GapReason, HeldBack, Lag, Losses,
    RecoveryReport, RetentionLoss, RetentionReason, RetentionReport, SegmentInfo, SkippedSegment,
    Stats, VerifyReport,
};
pub use offset::Offset;
pub use options::{
    Acks, CleanupPolicy, Compression, DEFAULT_COMPACTION_MEMORY, DEFAULT_COMPACTION_RATE,
    DEFAULT_FLUSH_INTERVAL, DEFAULT_MAX_RECORD_BYTES, DEFAULT_MIN_DIRTY_RATIO, DEFAULT_SEGMENT_AGE,
    DEFAULT_SEGMENT_BYTES, DEFAULT_TOMBSTONE_RETENTION, Durability, FlushPolicy, Fsync,
    GroupRetention, LogOptions, MAX_COMPACTION_MEMORY, MAX_SEGMENT_BYTES, MIN_COMPACTION_MEMORY,
    MIN_SEGMENT_BYTES, OnDamage, ReadMode, Retention, RetentionWarning, WhenFull, WriteMode,
};
pub use producer::{
    DEFAULT_BATCH_BYTES, DEFAULT_BUFFER_BYTES, DEFAULT_DELIVERY_TIMEOUT, DEFAULT_MAX_BLOCK,
    DEFAULT_RETRY_BACKOFF, DEFAULT_RETRY_BACKOFF_MAX, Delivery, Producer, ProducerBuilder,
    ProducerStats, Receipt, SequencedReceipt, WaitError,
};
pub use record::{AsRecord, Headers, HeadersIter, Record, RecordRef, Timestamp};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
