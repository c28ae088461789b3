//! What retention tells the user.

use std::{fmt, time::Duration};

use crate::{offset::Offset, options::RetentionWarning};

/// What retention did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionReport {
    /// The segments that went (or would), the oldest first.
    pub deleted: Vec<DeletedSegment>,
    /// The log start offset afterwards.
    pub log_start_offset: Offset,
    /// Groups that keep from going what the limits say is to go; the first one is the farthest
    /// behind.
    pub held_back: Vec<HeldBack>,
    /// Groups that lost records by it which they had not committed.
    pub losses: Vec<RetentionLoss>,
    /// Groups that are about to, unless they go on.
    pub warnings: Vec<RetentionWarning>,
    /// Groups that do not count, as they have committed nothing for a long time
    /// ([`groups_stale_after`](crate::LogOptions::groups_stale_after)).
    pub stale_groups: Vec<String>,
    /// How far the wall clock was set ahead since the log was opened. It makes nothing older.
    pub clock_ahead: Duration,
    /// How far it was set back. It makes nothing younger.
    pub clock_behind: Duration,
}

impl RetentionReport {
    /// How many records went.
    pub fn records(&self) -> u64 {
        self.deleted.iter().map(|deleted| deleted.records).sum()
    }

    /// How many bytes of segments went.
    pub fn bytes(&self) -> u64 {
        self.deleted.iter().map(|deleted| deleted.bytes).sum()
    }
}

/// A segment that went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeletedSegment {
    /// Its first offset.
    pub base_offset: Offset,
    /// The offset behind its last record.
    pub end_offset: Offset,
    /// How many records went with it: fewer than it had, if some had been deleted before.
    pub records: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Why it went.
    pub reason: RetentionReason,
}

/// Why a segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetentionReason {
    /// [`Retention::max_age`](crate::Retention::max_age).
    Age,
    /// [`Retention::max_bytes`](crate::Retention::max_bytes).
    Bytes,
    /// [`Retention::max_segments`](crate::Retention::max_segments).
    Segments,
    /// [`LogOptions::min_free_bytes`](crate::LogOptions::min_free_bytes), or a disk that is full.
    FreeSpace,
}

impl fmt::Display for RetentionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Age => "age",
            Self::Bytes => "bytes",
            Self::Segments => "segments",
            Self::FreeSpace => "free_space",
        })
    }
}

/// What a group keeps from going.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldBack {
    /// The group.
    pub group: String,
    /// What it has committed durably; the log start offset if that can't be told, as its file is
    /// damaged or could not be synced.
    pub committed: Offset,
    /// So many segments, ...
    pub segments: u64,
    /// ...with so many bytes.
    pub bytes: u64,
}

/// What a group lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionLoss {
    /// The group.
    pub group: String,
    /// So many records that it had not committed.
    pub records: u64,
}
