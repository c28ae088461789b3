//! What opening, reading and counting tell the user.

use std::{fmt, ops::Range, path::PathBuf, time::Duration};

use super::plan::Rows;
use crate::offset::Offset;

/// Records that are not there, met by a reader or a consumer: `from` (included) to `to`
/// (excluded).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The first offset missing.
    pub from: Offset,
    /// The first offset that is there again (or will be).
    pub to: Offset,
    /// Why.
    pub reason: GapReason,
}

/// Why records are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapReason {
    /// They were deleted because they were old, or many.
    Retention,
    /// They made room for newer ones on a full log.
    DropOldest,
    /// They were durable, and no longer verify. The damaged bytes are still in the log.
    Damage,
    /// A power cut, or a failed sync, may have taken what was not durable. Offsets went on behind
    /// the reservation, so that none is used twice: at most this many records were lost, maybe
    /// none.
    LostTail,
    /// They are in the log, and the group skipped them: its committed offset was of no use, and it
    /// goes on [behind the last record](crate::OffsetReset::Latest).
    OffsetReset,
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retention => "retention",
            Self::DropOldest => "drop_oldest",
            Self::Damage => "damage",
            Self::LostTail => "lost_tail",
            Self::OffsetReset => "offset_reset",
        })
    }
}

/// A damaged place: records that were durable and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in the file it begins.
    pub position: u64,
    /// The first offset lost.
    pub from: Offset,
    /// The first offset readable again. Equal to `from` where no record is lost: a copy of a
    /// header, a footer or one of two slots is damaged, and its twin stands in.
    pub to: Offset,
    /// What was found.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            position,
            from,
            to,
            reason,
        } = self;
        write!(f, "{} at byte {position}: {reason}", path.display())?;
        if from == to {
            f.write_str(", no record lost")
        } else {
            write!(f, ", offsets {from} to {to} lost")
        }
    }
}

/// What opening a log found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The log was made by this opening.
    pub created: bool,
    /// The log had been closed in order, so that nothing was recovered.
    pub clean: bool,
    /// The machine has not been started again since the log was last open: only the process ended.
    pub same_boot: bool,
    /// Bytes read and verified because they were not known to be durable.
    pub scanned_bytes: u64,
    /// Frames among them that verified.
    pub scanned_frames: u64,
    /// Bytes, not counting zeros that were allocated ahead, that were cut from the tail, because
    /// they were not durable and do not verify, or stand behind such bytes.
    pub cut_bytes: u64,
    /// Where those bytes were put.
    pub quarantined: Vec<PathBuf>,
    /// Damage below the durable offset. It stays in place; everything else is served.
    pub damage: Vec<Damage>,
    /// Offsets that were skipped, because records with them may have been lost: where the log
    /// ended, and where it goes on. At most this many records were lost, maybe none.
    pub lost_tail: Option<Range<Offset>>,
    /// Groups whose committed offset was beyond the end of what survived, and that offset. They
    /// go on from there: the gap that follows is told to them.
    pub groups_ahead: Vec<(String, Offset)>,
    /// How long opening took.
    pub elapsed: Duration,
    /// Which rows of the recovery table were met.
    pub(crate) rows: Rows,
}

/// Records that a log has lost, ever, as far as it was met and recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Losses {
    /// [`Stats::lost_to_retention`].
    pub to_retention: u64,
    /// [`Stats::lost_to_drop_oldest`].
    pub to_drop_oldest: u64,
    /// [`Stats::lost_to_damage`].
    pub to_damage: u64,
    /// [`Stats::lost_to_tails`].
    pub to_tails: u64,
}

/// Numbers of a log, as of the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The first offset.
    pub log_start_offset: Offset,
    /// The next offset to be written.
    pub log_end_offset: Offset,
    /// Everything below survives a power cut.
    pub durable_offset: Offset,
    /// Segments, the active one included.
    pub segments: u64,
    /// Records appended since the log was opened.
    pub appended_records: u64,
    /// Bytes appended since the log was opened, with what frames add.
    pub appended_bytes: u64,
    /// Sends since the log was opened that failed.
    pub failed_sends: u64,
    /// Device syncs of segments since the log was opened; each served all who waited.
    pub syncs: u64,
    /// Times the append path had to make room itself since the log was opened, because the
    /// maintenance thread had not yet.
    pub late_preparations: u64,
    /// Sends since the log was opened that a [full](crate::WhenFull) log refused.
    pub rejected_sends: u64,
    /// Sends since the log was opened that waited because the log was full.
    pub blocked_sends: u64,
    /// Records since the log was opened that were dropped as the log was full
    /// ([`WhenFull::DropNewest`](crate::WhenFull::DropNewest)).
    pub dropped_newest: u64,
    /// Records, ever, that were deleted before all groups that there were, but for those that do
    /// not count, had committed them.
    pub lost_to_retention: u64,
    /// Records, ever, that were deleted on a full log to make room
    /// ([`WhenFull::DropOldest`](crate::WhenFull::DropOldest)), whoever had read them.
    pub lost_to_drop_oldest: u64,
    /// Records lost to damage, ever, as far as it was met. (At most: what is damaged of a compacted
    /// segment counts with the offsets that were removed there.)
    pub lost_to_damage: u64,
    /// Offsets skipped after power cuts, ever: at most this many records were lost.
    pub lost_to_tails: u64,
    /// Whether a sync failed, so that the log takes no more writes.
    pub latched: bool,
    /// Consumers of this process that hold a batch for longer than their
    /// [`max_poll_interval`](crate::ConsumerBuilder::max_poll_interval) by now.
    pub overdue_consumers: u64,
    /// Batches since the log was opened that a consumer of this process held for longer.
    pub overdue_batches: u64,
}

/// What a compaction found and did. It is about the segments that are sealed, and older than
/// [`LogOptions::min_compaction_lag`](crate::LogOptions::min_compaction_lag); of these it looks
/// through those that may hold something that is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Segments that were looked through, those that were skipped included.
    pub segments: u64,
    /// How often a segment was replaced by one with fewer records: with several passes, one may be
    /// more than once.
    pub replaced: u64,
    /// Segments that were left as they are, because they could not be read.
    pub skipped: Vec<SkippedSegment>,
    /// Records in the segments that were looked through and could be read, before and after.
    pub records_before: u64,
    /// Those left.
    pub records_after: u64,
    /// Tombstones among those that are gone.
    pub tombstones_removed: u64,
    /// Bytes of the files of all the segments it was about, before and after.
    pub bytes_before: u64,
    /// Those left.
    pub bytes_after: u64,
    /// How often keys were learned and segments looked through; once, if all keys fit the memory.
    /// With more keys it is once for each part of them that fits, and the number of records does not
    /// matter. (One, too, where there was nothing to look through.)
    pub passes: u64,
    /// The most memory that keys took, in bytes; at most
    /// [`LogOptions::compaction_memory`](crate::LogOptions::compaction_memory), unless a single key
    /// is larger. Beside it, there is memory for about twice the largest batch.
    pub peak_memory: u64,
    /// Everything below is compacted, but for what was skipped.
    pub clean_below: Offset,
    /// How long it took.
    pub elapsed: Duration,
}

/// A segment that compaction left as it is, because it could not be read. What others hold is
/// compacted as far as that is safe: nothing goes because of what this one may hold, and tombstones
/// behind it stay.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedSegment {
    /// Its first offset.
    pub base_offset: Offset,
    /// Its file.
    pub path: PathBuf,
    /// Why it could not be read.
    pub reason: String,
}

impl fmt::Display for SkippedSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is skipped: {}", self.path.display(), self.reason)
    }
}
