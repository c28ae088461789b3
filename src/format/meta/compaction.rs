//! The options of compaction.

use std::time::Duration;

use super::millis;
use crate::{
    error::DecodeError,
    format::wire::Reader,
    options::{CleanupPolicy, Ratio, StoredCompaction},
};

const CLEANUP_POLICY: u8 = 32;
const TOMBSTONE_RETENTION: u8 = 33;
const MIN_COMPACTION_LAG: u8 = 34;
const MIN_DIRTY_RATIO: u8 = 35;
const COMPACTION_MEMORY: u8 = 36;
const COMPACTION_RATE: u8 = 37;

/// Puts those that are given, each as a tag and its value.
pub(super) fn encode(options: &StoredCompaction, mut put: impl FnMut(u8, &[u8])) {
    let mut put = |tag: u8, number: u64| put(tag, &number.to_le_bytes());
    if let Some(policy) = options.cleanup_policy {
        let number = match policy {
            CleanupPolicy::Delete => 1,
            CleanupPolicy::Compact => 2,
            CleanupPolicy::CompactAndDelete => 3,
        };
        put(CLEANUP_POLICY, number);
    }
    let numbers = [
        (TOMBSTONE_RETENTION, options.tombstone_retention.map(millis)),
        (MIN_COMPACTION_LAG, options.min_compaction_lag.map(millis)),
        (
            MIN_DIRTY_RATIO,
            options.min_dirty_ratio.map(|ratio| ratio.0),
        ),
        (COMPACTION_MEMORY, options.compaction_memory),
        (COMPACTION_RATE, options.compaction_rate),
    ];
    for (tag, number) in numbers {
        if let Some(number) = number {
            put(tag, number);
        }
    }
}

/// Takes in an option with this tag; whether it is one of compaction.
///
/// # Errors
///
/// A value that the format does not have.
pub(super) fn decode(
    tag: u8,
    value: &mut Reader<'_>,
    options: &mut StoredCompaction,
) -> Result<bool, DecodeError> {
    match tag {
        CLEANUP_POLICY => {
            options.cleanup_policy = Some(match value.u64()? {
                1 => CleanupPolicy::Delete,
                2 => CleanupPolicy::Compact,
                3 => CleanupPolicy::CompactAndDelete,
                _ => {
                    return Err(DecodeError::Field {
                        field: "cleanup policy option",
                    });
                }
            });
        }
        TOMBSTONE_RETENTION => {
            options.tombstone_retention = Some(Duration::from_millis(value.u64()?));
        }
        MIN_COMPACTION_LAG => {
            options.min_compaction_lag = Some(Duration::from_millis(value.u64()?));
        }
        MIN_DIRTY_RATIO => options.min_dirty_ratio = Some(Ratio(value.u64()?)),
        COMPACTION_MEMORY => options.compaction_memory = Some(value.u64()?),
        COMPACTION_RATE => options.compaction_rate = Some(value.u64()?),
        _ => return Ok(false),
    }
    Ok(true)
}
