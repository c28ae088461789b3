//! How far behind the end of a log somebody is.

use std::{sync::Arc, time::Duration};

use super::{
    cursor::{Cursor, Limits},
    source::Source,
};
use crate::{error::Result, format::frame, offset::Offset, segment::FRAMES_START};

/// How far behind the end of the log a position is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// Offsets from the position to the end of the log. There are fewer records where offsets are
    /// gaps, and where compaction has removed some.
    pub records: u64,
    /// Bytes that they take in the files, to within a few for each segment.
    pub bytes: u64,
    /// How long ago the first of the records was appended, by the wall clock; `None` if there is
    /// none.
    pub age: Option<Duration>,
}

/// The lag of `position` in a log that ends at `end`.
///
/// # Errors
///
/// What reading returns.
pub(crate) fn lag(source: &Arc<dyn Source>, position: Offset, end: Offset) -> Result<Lag> {
    let mut lag = Lag {
        records: end.since(position),
        ..Lag::default()
    };
    let Some(first) = first_frame(source, position, end)? else {
        return Ok(lag);
    };
    let now = source.host().wall_millis();
    lag.age = Some(Duration::from_millis(now.saturating_sub(first.append_time)));
    let bases = source.bases()?;
    let from = bases.partition_point(|&base| base <= first.offset);
    for (index, &base) in bases.iter().enumerate().skip(from.saturating_sub(1)) {
        let start = if index + 1 == from {
            first.position
        } else {
            FRAMES_START
        };
        let frames_end = source.frames_end(base)?.unwrap_or(0);
        lag.bytes += frames_end.saturating_sub(start as u64);
    }
    Ok(lag)
}

/// A frame that is there.
struct First {
    offset: Offset,
    position: usize,
    append_time: u64,
}

/// The frame of the first record at or behind `position`.
fn first_frame(source: &Arc<dyn Source>, position: Offset, end: Offset) -> Result<Option<First>> {
    let mut cursor = Cursor::new(Arc::clone(source), position);
    let limits = Limits {
        records: 1,
        bytes: 1,
        end,
        unpack: false,
    };
    while cursor.position() < end {
        let before = cursor.position();
        cursor.advance(limits)?;
        if let Some(span) = cursor.spans().first() {
            return Ok(Some(First {
                offset: span.first,
                position: span.position,
                append_time: frame::append_time(cursor.bytes(span)).unwrap_or(0),
            }));
        }
        if cursor.position() == before {
            break;
        }
    }
    Ok(None)
}
