//! What `meta` holds: the log's identity and its stored options. The layout is in the
//! [text](super).

use std::time::Duration;

use super::{slots::SlotKind, wire::Reader};
use crate::{
    error::DecodeError,
    options::{FlushPolicy, Fsync, WriteMode},
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredOptions {
    pub(crate) segment_bytes: Option<u64>,
    pub(crate) segment_age: Option<Duration>,
    pub(crate) max_record_bytes: Option<u64>,
    pub(crate) flush: Option<FlushPolicy>,
    pub(crate) fsync: Option<Fsync>,
    pub(crate) write_mode: Option<WriteMode>,
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
        }
    }
}

/// The content of `meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        let mut put = |tag: u8, numbers: &[u64]| {
            bytes.push(tag);
            bytes.extend(u8::try_from(8 * numbers.len()));
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
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
                _ => return Err(DecodeError::Field { field: "option" }),
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

    #[test]
    fn every_option_comes_back() {
        let options = StoredOptions {
            segment_bytes: Some(1 << 20),
            segment_age: Some(Duration::from_secs(60)),
            max_record_bytes: Some(1000),
            flush: Some(FlushPolicy::every_messages(5).or_every(Duration::from_millis(7))),
            fsync: Some(Fsync::Full),
            write_mode: Some(WriteMode::Buffered),
        };
        for options in [options, StoredOptions::default()] {
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
