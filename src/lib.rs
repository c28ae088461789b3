//! An embedded, single-node, durable log: Kafka's log, producers and consumer groups as a library
//! inside your process.
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
pub use consumer::{Batch, Consumer, ConsumerBuilder, Iter, Reader, ReaderBuilder, Start};
pub use error::{DecodeError, Error, ErrorKind, Result, SendError};
pub use log::{Damage, Gap, GapReason, RecoveryReport, SegmentInfo, Stats, VerifyReport};
pub use offset::Offset;
pub use options::{
    Acks, DEFAULT_FLUSH_INTERVAL, DEFAULT_MAX_RECORD_BYTES, DEFAULT_SEGMENT_AGE,
    DEFAULT_SEGMENT_BYTES, FlushPolicy, Fsync, LogOptions, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES,
    OnDamage, ReadMode, WriteMode,
};
pub use producer::{Producer, ProducerBuilder, Receipt};
pub use record::{AsRecord, Header, Headers, HeadersIter, Record, RecordRef, Timestamp};
