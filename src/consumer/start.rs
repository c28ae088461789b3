//! Where reading starts, and where it goes on when that can't be told.

use std::sync::Arc;

use crate::{
    error::{Error, ErrorKind, Result},
    log::{Source, offset_for_time},
    offset::Offset,
    record::Timestamp,
};

/// Where reading starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Start {
    /// At the first record there is. The default: nothing is skipped unsaid.
    #[default]
    Earliest,
    /// Behind the last record there is: only what is appended from then on.
    Latest,
    /// At this offset: from the log start offset to the log end offset, else it is refused.
    At(Offset),
    /// At the first record that was appended at this time or later: see
    /// [`Log::offset_for_timestamp`](crate::Log::offset_for_timestamp).
    Time(Timestamp),
}

impl Start {
    /// The offset this is in a log.
    pub(crate) fn resolve(self, source: &Arc<dyn Source>, end: Offset) -> Result<Offset> {
        match self {
            Self::Earliest => Ok(source.start()),
            Self::Latest => Ok(end),
            Self::At(offset) => check_offset(offset, source.start(), end),
            Self::Time(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(0);
                offset_for_time(source, millis)
            }
        }
    }
}

pub(crate) fn check_offset(requested: Offset, start: Offset, end: Offset) -> Result<Offset> {
    if (start..=end).contains(&requested) {
        return Ok(requested);
    }
    Err(ErrorKind::OffsetOutOfRange {
        requested,
        start,
        end,
    }
    .into())
}

/// What a group does whose committed offset is of no use: retention has passed it, it lies beyond
/// the end of the log, or its file is damaged in both slots. Each case is reported: the first by
/// [`Batch::gaps`](crate::Batch::gaps), the others by [`Batch::reset`](crate::Batch::reset).
///
/// (Where a *new* group begins is [`Start`]; in Kafka both are one setting, whose default skips
/// records.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[doc(alias = "auto.offset.reset")]
pub enum OffsetReset {
    /// It goes on at the first record there is. The default: work is repeated, none is skipped.
    /// Where retention took records, they are told as a gap.
    #[default]
    Earliest,
    /// It goes on behind the last record there is. What is skipped thereby is told as a gap, with
    /// [`GapReason::OffsetReset`](crate::GapReason::OffsetReset) for what is still in the log.
    Latest,
    /// It does not go on: `build`, or the poll that finds it, fails until somebody seeks.
    Error,
}

/// A group went on elsewhere than at its committed offset, by [`OffsetReset`], and not because
/// retention has passed that.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reset {
    /// Why.
    pub reason: ResetReason,
    /// Where it went on.
    pub to: Offset,
}

/// Why a committed offset was of no use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ResetReason {
    /// It lay beyond the end of the log.
    AheadOfEnd {
        /// The committed offset.
        committed: Offset,
    },
    /// Both slots of the group's file were damaged. The bytes are kept in the log's directory
    /// `quarantine`.
    Damaged {
        /// What was found.
        error: Error,
    },
}

impl OffsetReset {
    /// Where to go on in a log from `start` to `end`; `otherwise` with [`OffsetReset::Error`].
    pub(crate) fn apply(
        self,
        start: Offset,
        end: Offset,
        otherwise: impl FnOnce() -> Error,
    ) -> Result<Offset> {
        match self {
            Self::Earliest => Ok(start),
            Self::Latest => Ok(end),
            Self::Error => Err(otherwise()),
        }
    }
}
