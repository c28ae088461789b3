//! Dead letters: records that could not be processed, in another log.

use std::{fmt, path::Path};

use crate::{
    error::Result,
    offset::Offset,
    record::{Record, RecordRef, Timestamp},
};

/// Headers that a dead letter has beside those of its record. Numbers are decimal.
pub mod dead_letter_headers {
    /// The id of the log that the record is from, as 16 hexadecimal digits.
    pub const SOURCE_LOG: &str = "duralog.dead-letter.source-log";
    /// The directory of that log.
    pub const SOURCE_PATH: &str = "duralog.dead-letter.source-path";
    /// The record's offset there.
    pub const OFFSET: &str = "duralog.dead-letter.source-offset";
    /// The group that could not process it.
    pub const GROUP: &str = "duralog.dead-letter.group";
    /// Why the last attempt failed; at most 4096 bytes of it.
    pub const ERROR: &str = "duralog.dead-letter.error";
    /// How often it was tried.
    pub const ATTEMPTS: &str = "duralog.dead-letter.attempts";
    /// When it failed first, in milliseconds since the Unix epoch.
    pub const FIRST_FAILURE: &str = "duralog.dead-letter.first-failure";
    /// On a record that was [sent back](crate::Consumer::replay): the group it failed in, a colon,
    /// and the offset that it had. Other groups may pass it by.
    pub const REPLAY_OF: &str = "duralog.replay-of";
}

use dead_letter_headers as headers;

/// All that are added, in this order, behind the record's own.
const ADDED: [&str; 7] = [
    headers::SOURCE_LOG,
    headers::SOURCE_PATH,
    headers::OFFSET,
    headers::GROUP,
    headers::ERROR,
    headers::ATTEMPTS,
    headers::FIRST_FAILURE,
];

/// Longest error text in a dead letter, in bytes.
const ERROR_MAX: usize = 4096;

/// A log that takes records durably.
pub(crate) trait Outlet: fmt::Debug + Send {
    /// The log's id.
    fn log_id(&self) -> u64;
    /// Appends a record, and waits until it is durable.
    ///
    /// # Errors
    ///
    /// Those of a durable send.
    fn send(&self, record: &Record) -> Result<Offset>;
    /// Appends a record, which [`sync`](Self::sync) makes durable.
    ///
    /// # Errors
    ///
    /// Those of a send.
    fn hand_in(&self, record: &Record) -> Result<()>;
    /// Makes durable what was handed in.
    ///
    /// # Errors
    ///
    /// Those of a sync.
    fn sync(&self) -> Result<()>;
}

/// Where a record is from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) log_id: u64,
    pub(super) path: &'a Path,
    pub(super) offset: Offset,
    pub(super) group: &'a str,
}

/// What is known of a record that could not be processed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) attempts: u32,
    pub(super) reason: String,
    /// In milliseconds since the Unix epoch.
    pub(super) began: u64,
}

/// The dead letter of a record.
pub(super) fn dead_letter(
    record: &RecordRef<'_>,
    origin: &Origin<'_>,
    failure: &Failure,
) -> Record {
    let reason = cut(&failure.reason, ERROR_MAX);
    let mut letter = record.to_record();
    if record.own_timestamp().is_none() {
        // Else it would be told the time of its own append.
        letter = letter.timestamp(record.append_time());
    }
    letter
        .header(headers::SOURCE_LOG, format!("{:016x}", origin.log_id))
        .header(
            headers::SOURCE_PATH,
            origin.path.as_os_str().as_encoded_bytes(),
        )
        .header(headers::OFFSET, origin.offset.to_string())
        .header(headers::GROUP, origin.group)
        .header(headers::ERROR, reason)
        .header(headers::ATTEMPTS, failure.attempts.to_string())
        .header(headers::FIRST_FAILURE, failure.began.to_string())
}

/// At most `max` bytes of a text.
fn cut(text: &str, max: usize) -> &str {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= max).last().unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// A record of a dead-letter log: what could not be processed, and why.
///
/// ```
/// use duralog::{DeadLetter, Log, Record, RetryPolicy};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path().join("orders"))?;
/// let dead = Log::open(dir.path().join("dead"))?;
/// log.producer().build()?.send(Record::new("not a number").header("trace", "af31"))?.wait()?;
///
/// let builder = log.consumer("billing").dead_letters(&dead).retry(RetryPolicy::new().attempts(1));
/// builder.build()?.process_pending(|record| {
///     let text = std::str::from_utf8(record.value().unwrap_or_default()).map_err(|e| e.to_string())?;
///     text.parse::<u64>().map(drop).map_err(|e| e.to_string())
/// })?;
///
/// let mut reader = dead.reader().build()?;
/// let batch = reader.try_poll()?;
/// let record = batch.iter().next().unwrap();
/// let letter = DeadLetter::of(&record).unwrap();
/// assert_eq!((letter.group(), letter.offset(), letter.attempts()), ("billing", 0.into(), 1));
/// assert_eq!(letter.error(), "invalid digit found in string");
/// assert_eq!(letter.record().as_ref().headers().find("trace"), Some(&b"af31"[..]));
/// # drop(reader);
/// # log.close()?;
/// # dead.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter<'a> {
    record: RecordRef<'a>,
    source_log: u64,
    source_path: &'a [u8],
    offset: Offset,
    group: &'a str,
    error: &'a str,
    attempts: u32,
    first_failure: Timestamp,
}

impl<'a> DeadLetter<'a> {
    /// The dead letter that a record is; `None` if it does not end with the headers that each has.
    pub fn of(record: &RecordRef<'a>) -> Option<Self> {
        let own = record.headers().len().checked_sub(ADDED.len())?;
        let mut added = [&b""[..]; ADDED.len()];
        let found = record.headers().iter().skip(own);
        for ((name, value), (expected, place)) in found.zip(ADDED.iter().zip(&mut added)) {
            if name != *expected {
                return None;
            }
            *place = value;
        }
        let text = |value| std::str::from_utf8(value).ok();
        let [log, path, offset, group, error, attempts, first_failure] = added;
        Some(Self {
            record: *record,
            source_log: u64::from_str_radix(text(log)?, 16).ok()?,
            source_path: path,
            offset: Offset::new(text(offset)?.parse().ok()?),
            group: text(group)?,
            error: text(error)?,
            attempts: text(attempts)?.parse().ok()?,
            first_failure: Timestamp::from_millis(text(first_failure)?.parse().ok()?),
        })
    }

    /// The id of the log that the record is from.
    pub fn source_log(&self) -> u64 {
        self.source_log
    }

    /// The directory of that log, as the operating system knows it.
    pub fn source_path(&self) -> &'a [u8] {
        self.source_path
    }

    /// The record's offset there.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The group that could not process it.
    pub fn group(&self) -> &'a str {
        self.group
    }

    /// Why the last attempt failed.
    pub fn error(&self) -> &'a str {
        self.error
    }

    /// How often it was tried.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When it failed first.
    pub fn first_failure(&self) -> Timestamp {
        self.first_failure
    }

    /// The record as it was, without what was added to its headers. One that had no time of its own
    /// has that of its append now.
    pub fn record(&self) -> Record {
        let own = self.record.headers().len().saturating_sub(ADDED.len());
        self.record.to_record().first_headers(own)
    }
}
