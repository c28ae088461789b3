//! One segment: writing it, reading it, scanning it. Knows files and frames; knows no locks, no
//! policies and no other segment.

mod file_bytes;
mod index;
mod prepare;
mod scan;
mod survey;
mod view;
mod writer;

pub(crate) use file_bytes::FileBytes;
pub(crate) use index::{Index, IndexEntries, LiveIndex, build_index};
pub(crate) use scan::{Bytes, Found, FrameAt, Scanner, Shape, last_nonzero};
pub(crate) use survey::Survey;
pub(crate) use view::{Buffer, End, View};
pub(crate) use writer::{SegmentWriter, Slack};

use crate::format::segment::{FOOTER_LEN, HEADER_LEN};

/// Where the first frame of every segment stands.
pub(crate) const FRAMES_START: usize = HEADER_LEN;

/// Where frames must end, so that the footer still fits.
pub(crate) const fn frames_limit(segment_bytes: usize) -> usize {
    segment_bytes.saturating_sub(FOOTER_LEN)
}
