//! What `meta` holds: the log's identity and its stored options. The layout is in the
//! [text](super).

use std::time::Duration;

mod compaction;
mod keeping;

use super::{slots::SlotKind, wire::Reader};
use crate::{
    error::DecodeError,
    options::{
        FlushPolicy, Fsync, GroupRetention, Retention, StoredCompaction, WhenFull, WriteMode,
    },
};

pub(crate) const KIND: SlotKind = SlotKind {
    magic: *b"dlogMET\n",
    version: super::FORMAT_VERSION,
    paired: false,
};

const SEGMENT_BYTES: u8 = 1;
const SEGMENT_AGE: u8 = 2;
const MAX_RECORD_BYTES: u8 = 3;
const FLUSH: u8 = 4;
const FSYNC: u8 = 5;
const WRITE_MODE: u8 = 6;

/// Options as they are stored; `None` where never given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredOptions {
    pub(crate) segment_bytes: Option<u64>,
    pub(crate) segment_age: Option<Duration>,
    pub(crate) max_record_bytes: Option<u64>,
    pub(crate) flush: Option<FlushPolicy>,
    pub(crate) fsync: Option<Fsync>,
    pub(crate) write_mode: Option<WriteMode>,
    pub(crate) compaction: StoredCompaction,
    pub(crate) retention: Option<Retention>,
    pub(crate) groups: Option<GroupRetention>,
    /// Names of groups that do not count.
    pub(crate) excluded: Option<Vec<String>>,
    pub(crate) stale_after: Option<Duration>,
    pub(crate) when_full: Option<WhenFull>,
    pub(crate) min_free: Option<u64>,
}

impl StoredOptions {
    /// These, where given, else `older`.
    pub(crate) fn over(self, older: Self) -> Self {
        Self {
            segment_bytes: self.segment_bytes.or(older.segment_bytes),
            segment_age: self.segment_age.or(older.segment_age),
            max_record_bytes: self.max_record_bytes.or(older.max_record_bytes),
            flush: self.flush.or(older.flush),
            fsync: self.fsync.or(older.fsync),
            write_mode: self.write_mode.or(older.write_mode),
            compaction: self.compaction.over(older.compaction),
            retention: self.retention.or(older.retention),
            groups: self.groups.or(older.groups),
            excluded: self.excluded.or(older.excluded),
            stale_after: self.stale_after.or(older.stale_after),
            when_full: self.when_full.or(older.when_full),
            min_free: self.min_free.or(older.min_free),
        }
    }
}

/// The content of `meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Random, never changed.
    pub(crate) id: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) created: u64,
    pub(crate) options: StoredOptions,
}

impl Meta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.id.to_le_bytes(), self.created.to_le_bytes()].concat();
        let mut put_bytes = |tag: u8, value: &[u8]| {
            bytes.push(tag);
            bytes.extend(u8::try_from(value.len()));
            bytes.extend(value);
        };
        let mut put = |tag: u8, numbers: &[u64]| {
            let value: Vec<_> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            put_bytes(tag, &value);
        };
        let options = &self.options;
        if let Some(value) = options.segment_bytes {
            put(SEGMENT_BYTES, &[value]);
        }
        if let Some(age) = options.segment_age {
            put(SEGMENT_AGE, &[millis(age)]);
        }
        if let Some(value) = options.max_record_bytes {
            put(MAX_RECORD_BYTES, &[value]);
        }
        if let Some(policy) = options.flush {
            let interval = policy.interval.map_or(0, millis);
            put(FLUSH, &[policy.messages.unwrap_or(0), interval]);
        }
        if let Some(fsync) = options.fsync {
            let number = match fsync {
                Fsync::Data => 1,
                Fsync::Full => 2,
                Fsync::Off => 3,
            };
            put(FSYNC, &[number]);
        }
        if let Some(mode) = options.write_mode {
            let number = match mode {
                WriteMode::Auto => 1,
                WriteMode::Mapped => 2,
                WriteMode::Buffered => 3,
            };
            put(WRITE_MODE, &[number]);
        }
        keeping::encode(options, &mut put_bytes);
        compaction::encode(&options.compaction, put_bytes);
        bytes
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let (id, created) = (reader.u64()?, reader.u64()?);
        let mut options = StoredOptions::default();
        while !reader.rest().is_empty() {
            let tag = reader.u8()?;
            let len = reader.u8()?;
            let mut value = Reader::new(reader.bytes(len.into())?);
            match tag {
                SEGMENT_BYTES => options.segment_bytes = Some(value.u64()?),
                SEGMENT_AGE => options.segment_age = Some(Duration::from_millis(value.u64()?)),
                MAX_RECORD_BYTES => options.max_record_bytes = Some(value.u64()?),
                FLUSH => {
                    let messages = Some(value.u64()?).filter(|&number| number > 0);
                    let interval = Some(value.u64()?).filter(|&number| number > 0);
                    let interval = interval.map(Duration::from_millis);
                    options.flush = Some(FlushPolicy { messages, interval });
                }
                FSYNC => {
                    options.fsync = Some(match value.u64()? {
                        1 => Fsync::Data,
                        2 => Fsync::Full,
                        3 => Fsync::Off,
                        _ => {
                            return Err(DecodeError::Field {
                                field: "fsync option",
                            });
                        }
                    });
                }
                WRITE_MODE => {
                    options.write_mode = Some(match value.u64()? {
                        1 => WriteMode::Auto,
                        2 => WriteMode::Mapped,
                        3 => WriteMode::Buffered,
                        _ => {
                            return Err(DecodeError::Field {
                                field: "write mode option",
                            });
                        }
                    });
                }
                _ if compaction::decode(tag, &mut value, &mut options.compaction)? => {}
                _ => keeping::decode(tag, &mut value, &mut options)?,
            }
            if !value.rest().is_empty() {
                return Err(DecodeError::Length { length: len.into() });
            }
        }
        Ok(Self {
            id,
            created,
            options,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{CleanupPolicy, Ratio};

    #[test]
    fn every_option_comes_back() {
        let options = StoredOptions {
            segment_bytes: Some(1 << 20),
            segment_age: Some(Duration::from_secs(60)),
            max_record_bytes: Some(1000),
            flush: Some(FlushPolicy::every_messages(5).or_every(Duration::from_millis(7))),
            fsync: Some(Fsync::Full),
            write_mode: Some(WriteMode::Buffered),
            compaction: StoredCompaction {
                cleanup_policy: Some(CleanupPolicy::CompactAndDelete),
                tombstone_retention: Some(Duration::from_secs(8)),
                min_compaction_lag: Some(Duration::from_millis(9)),
                min_dirty_ratio: Some(Ratio(10)),
                compaction_memory: Some(11 << 20),
                compaction_rate: Some(12 << 20),
            },
            retention: Some(
                Retention::new()
                    .max_age(Duration::from_secs(9))
                    .max_bytes(1 << 30),
            ),
            groups: Some(GroupRetention::KeepUnconsumed),
            excluded: Some(vec!["audit".to_owned(), "x".repeat(200)]),
            stale_after: Some(Duration::from_secs(3600)),
            when_full: Some(WhenFull::Block(Duration::from_millis(1500))),
            min_free: Some(1 << 20),
        };
        let none_excluded = StoredOptions {
            excluded: Some(Vec::new()),
            ..StoredOptions::default()
        };
        for options in [options, none_excluded, StoredOptions::default()] {
            let meta = Meta {
                id: 3,
                created: 4,
                options,
            };
            assert_eq!(Meta::decode(&meta.encode()), Ok(meta));
        }
    }

    #[test]
    fn an_option_that_is_not_known_is_refused() {
        let mut bytes = Meta {
            id: 3,
            created: 4,
            options: StoredOptions::default(),
        }
        .encode();
        bytes.extend([99, 1, 0]);
        assert!(Meta::decode(&bytes).is_err());
    }
}
