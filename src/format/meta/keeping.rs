//! The options that say what is kept.

use std::time::Duration;

use super::{StoredOptions, millis};
use crate::{
    error::DecodeError,
    format::wire::Reader,
    options::{GroupRetention, Retention, WhenFull},
};

const RETENTION: u8 = 7;
const GROUP_RETENTION: u8 = 8;
const EXCLUDED_GROUP: u8 = 9;
const STALE_AFTER: u8 = 10;
const WHEN_FULL: u8 = 11;
const MIN_FREE: u8 = 12;

/// Puts those that are given, each as a tag and its value.
pub(super) fn encode(options: &StoredOptions, mut put: impl FnMut(u8, &[u8])) {
    let mut numbers = |tag: u8, numbers: &[u64]| {
        let bytes: Vec<_> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        put(tag, &bytes);
    };
    if let Some(limits) = options.retention {
        let age = limits.age.map_or(0, millis);
        let (bytes, segments) = (limits.bytes, limits.segments);
        numbers(RETENTION, &[age, bytes.unwrap_or(0), segments.unwrap_or(0)]);
    }
    if let Some(groups) = options.groups {
        let number = match groups {
            GroupRetention::Drop => 1,
            GroupRetention::KeepUnconsumed => 2,
        };
        numbers(GROUP_RETENTION, &[number]);
    }
    if let Some(age) = options.stale_after {
        numbers(STALE_AFTER, &[millis(age)]);
    }
    if let Some(when_full) = options.when_full {
        let (number, timeout) = match when_full {
            WhenFull::Reject => (1, 0),
            WhenFull::Block(timeout) => (2, millis(timeout)),
            WhenFull::DropNewest => (3, 0),
            WhenFull::DropOldest => (4, 0),
        };
        numbers(WHEN_FULL, &[number, timeout]);
    }
    if let Some(bytes) = options.min_free {
        numbers(MIN_FREE, &[bytes]);
    }
    match options.excluded.as_deref() {
        None => {}
        // A name is never empty: this is that no group is excluded.
        Some([]) => put(EXCLUDED_GROUP, &[]),
        Some(names) => {
            for name in names {
                put(EXCLUDED_GROUP, name.as_bytes());
            }
        }
    }
}

/// Takes in an option with this tag.
///
/// # Errors
///
/// A tag or a value that the format does not have.
pub(super) fn decode(
    tag: u8,
    value: &mut Reader<'_>,
    options: &mut StoredOptions,
) -> Result<(), DecodeError> {
    let field = |field| Err(DecodeError::Field { field });
    match tag {
        RETENTION => {
            let mut limit = || value.u64().map(|number| Some(number).filter(|&n| n > 0));
            options.retention = Some(Retention {
                age: limit()?.map(Duration::from_millis),
                bytes: limit()?,
                segments: limit()?,
            });
        }
        GROUP_RETENTION => {
            options.groups = Some(match value.u64()? {
                1 => GroupRetention::Drop,
                2 => GroupRetention::KeepUnconsumed,
                _ => return field("group retention option"),
            });
        }
        EXCLUDED_GROUP => {
            let names = options.excluded.get_or_insert_default();
            let name = std::str::from_utf8(value.bytes(value.rest().len())?);
            match name {
                Err(_) => return field("excluded group option"),
                Ok("") => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        STALE_AFTER => options.stale_after = Some(Duration::from_millis(value.u64()?)),
        WHEN_FULL => {
            let (number, timeout) = (value.u64()?, Duration::from_millis(value.u64()?));
            options.when_full = Some(match number {
                1 => WhenFull::Reject,
                2 => WhenFull::Block(timeout),
                3 => WhenFull::DropNewest,
                4 => WhenFull::DropOldest,
                _ => return field("full log option"),
            });
        }
        MIN_FREE => options.min_free = Some(value.u64()?),
        _ => return field("option"),
    }
    Ok(())
}
