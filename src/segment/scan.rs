//! Walks the frames of a segment and says what is there. Changes nothing.
//!
//! Behind bytes that do not verify it looks for the next frame that does, byte by byte. (The
//! length that the damaged frame declares is not used: if that is the bit that flipped, it may
//! lead to a later frame and past intact ones.) A frame is believed only if its checksum, which
//! knows the segment and the position, matches, and if its offset lies between the last good one
//! and the next segment's first. So neither a stale frame nor one inside a payload is taken.

use std::{io, num::NonZeroU32};

use super::FRAMES_START;
use crate::{
    error::DecodeError,
    format::{
        body::{self, Contents},
        checksum::Seed,
        frame::{self, Frame, HEADER_LEN},
        segment::{Compacted, Footer, SegmentHeader},
        wire::{narrow, widen},
    },
    offset::Offset,
};

/// What is scanned: bytes by position.
pub(crate) trait Bytes {
    /// The position behind the last byte.
    fn end(&self) -> usize;
    /// The bytes from `position` on: `want` of them or more, fewer only where they end.
    fn at(&mut self, position: usize, want: usize) -> io::Result<&[u8]>;
}

impl Bytes for &[u8] {
    fn end(&self) -> usize {
        self.len()
    }

    fn at(&mut self, position: usize, _want: usize) -> io::Result<&[u8]> {
        Ok(self.get(position..).unwrap_or_default())
    }
}

/// How many bytes of candidates are checksummed while looking for the frame behind damage, per
/// byte of the segment. Real data has next to no false candidates; this bounds what bytes that
/// were made to have many can cost.
const CANDIDATE_FACTOR: usize = 8;
/// Bytes looked at in one go.
const STRIDE: usize = 64 << 10;

/// A frame that verified, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameAt {
    pub(crate) position: usize,
    pub(crate) len: usize,
    pub(crate) first: Offset,
    /// How many records it has.
    pub(crate) count: u32,
    /// How many offsets: more than records if some were removed.
    pub(crate) offsets: u32,
    pub(crate) append_time: u64,
    /// Everything below was durable when the frame was written.
    pub(crate) durable: Offset,
    /// Bytes of its records once they are decompressed, if they are compressed.
    pub(crate) unpacked: Option<NonZeroU32>,
}

impl FrameAt {
    pub(crate) fn end(&self) -> Offset {
        self.first.advance(self.offsets.into())
    }
}

/// Bytes or offsets between intact frames that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) position: usize,
    /// Where the next intact frame stands.
    pub(crate) resume: usize,
    pub(crate) from: Offset,
    /// The first offset of the next intact frame.
    pub(crate) to: Offset,
    pub(crate) why: DecodeError,
}

/// Where the frames end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) position: usize,
    pub(crate) offset: Offset,
    /// Why the bytes there are no frame; `None` if nothing but zeros follows.
    pub(crate) why: Option<DecodeError>,
}

/// One step of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Frame(FrameAt),
    Footer(Footer, FrameAt),
    Hole(Hole),
    Stop(Stop),
}

/// What tells the frames of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) seed: Seed,
    pub(crate) base: Offset,
    /// Then offsets may be missing between its frames.
    pub(crate) compacted: Option<Compacted>,
}

impl From<&SegmentHeader> for Shape {
    fn from(header: &SegmentHeader) -> Self {
        Self {
            seed: header.seed(),
            base: header.base,
            compacted: header.compacted,
        }
    }
}

/// A walk over a segment's frames.
#[derive(Clone, Debug)]
pub(crate) struct Scanner {
    seed: Seed,
    base: Offset,
    /// No record of this segment has this offset or a higher one.
    limit: Offset,
    compacted: Option<Compacted>,
    position: usize,
    expected: Offset,
    candidate_bytes: usize,
}

impl Scanner {
    /// A walk from `position`, where the frame with the offset `expected` should stand, or one
    /// behind it if the segment was compacted.
    pub(crate) fn new(shape: Shape, limit: Offset, position: usize, expected: Offset) -> Self {
        let Shape {
            seed,
            base,
            compacted,
        } = shape;
        Self {
            seed,
            base,
            limit,
            compacted,
            position,
            expected,
            candidate_bytes: 0,
        }
    }

    /// A walk over a whole segment.
    pub(crate) fn whole(shape: Shape, limit: Offset) -> Self {
        Self::new(shape, limit, FRAMES_START, shape.base)
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn expected(&self) -> Offset {
        self.expected
    }

    /// The next thing that is there. After [`Found::Stop`] it says the same again, unless bytes
    /// were added.
    ///
    /// # Errors
    ///
    /// Only what reading the bytes returns.
    pub(crate) fn step(&mut self, bytes: &mut impl Bytes) -> io::Result<Found> {
        if let Some(compacted) = &self.compacted
            && self.position == widen(compacted.frames_end)
        {
            // What was behind the last frame was removed.
            self.expected = self.expected.max(compacted.end);
        }
        let why = match self.frame_at(bytes, self.position)? {
            Ok(at) if at.first > self.expected && self.compacted.is_none() => {
                return Ok(self.skip(at.first, self.position, DecodeError::Missing));
            }
            Ok(at) => {
                self.position += at.len();
                return Ok(match at {
                    Valid::Records(frame) => {
                        self.expected = frame.end();
                        Found::Frame(frame)
                    }
                    Valid::Footer(footer, frame) => Found::Footer(footer, frame),
                });
            }
            Err(why) => why,
        };
        if let DecodeError::Version { .. } = why {
            // Intact, but not for this release to read: no damage.
            let (position, offset) = (self.position, self.expected);
            return Ok(Found::Stop(Stop {
                position,
                offset,
                why: Some(why),
            }));
        }
        let blank = matches!(why, DecodeError::Blank | DecodeError::Truncated { .. })
            && is_zero_from(bytes, self.position)?;
        if blank {
            let (position, offset) = (self.position, self.expected);
            return Ok(Found::Stop(Stop {
                position,
                offset,
                why: None,
            }));
        }
        if let Some((resume, to)) = self.find_next(bytes)? {
            return Ok(self.skip(to, resume, why));
        }
        let (position, offset) = (self.position, self.expected);
        Ok(Found::Stop(Stop {
            position,
            offset,
            why: Some(why),
        }))
    }

    /// Reports the offsets up to `to` as missing, and goes on at `resume`.
    fn skip(&mut self, to: Offset, resume: usize, why: DecodeError) -> Found {
        let hole = Hole {
            position: self.position,
            resume,
            from: self.expected,
            to,
            why,
        };
        self.position = resume;
        self.expected = to;
        Found::Hole(hole)
    }

    /// The first valid frame behind the current position.
    fn find_next(&mut self, bytes: &mut impl Bytes) -> io::Result<Option<(usize, Offset)>> {
        let end = bytes.end();
        let mut position = self.position + 1;
        while position + HEADER_LEN <= end {
            let window = bytes.at(position, STRIDE)?;
            let in_window = window.len().min(STRIDE).saturating_sub(HEADER_LEN - 1);
            let candidate = window
                .windows(HEADER_LEN)
                .take(in_window)
                .position(|header| {
                    frame::glimpse(header).is_some_and(|seen| {
                        seen.len <= end - position
                            && self.base.advance(seen.relative_offset.into()) >= self.expected
                    })
                });
            let Some(ahead) = candidate else {
                position += in_window.max(1);
                continue;
            };
            position += ahead;
            if let Ok(at) = self.frame_at(bytes, position)? {
                return Ok(Some((position, at.first)));
            }
            position += 1;
        }
        Ok(None)
    }

    /// The frame at `position`, if it is valid there.
    fn frame_at(
        &mut self,
        bytes: &mut impl Bytes,
        position: usize,
    ) -> io::Result<Result<Valid, DecodeError>> {
        let left = bytes.end().saturating_sub(position);
        let mut here = bytes.at(position, HEADER_LEN)?;
        if let Some(seen) = frame::glimpse(here) {
            if seen.len > left {
                let truncated = DecodeError::Truncated {
                    needed: seen.len,
                    found: left,
                };
                return Ok(Err(truncated));
            }
            if position > self.position {
                // A candidate behind damage.
                self.candidate_bytes += seen.len;
                if self.candidate_bytes / CANDIDATE_FACTOR > bytes.end() {
                    return Ok(Err(DecodeError::Checksum));
                }
            }
            here = bytes.at(position, seen.len)?;
        }
        Ok(frame::decode(here, self.seed.at(narrow(position)))
            .and_then(|frame| self.accept(&frame, position)))
    }

    /// Checks a frame that verified against its neighbours, and its body.
    fn accept(&self, frame: &Frame<'_>, position: usize) -> Result<Valid, DecodeError> {
        let first = self.base.advance(frame.stamp.relative_offset.into());
        let mut at = FrameAt {
            position,
            len: frame.len(),
            first,
            count: 0,
            offsets: 0,
            append_time: frame.stamp.append_time,
            durable: Offset::new(first.since(Offset::new(frame.stamp.durable_distance.into()))),
            unpacked: None,
        };
        if first < self.expected {
            return Err(DecodeError::Field { field: "offset" });
        }
        if frame.is_footer() {
            return Ok(Valid::Footer(Footer::decode(frame)?, at));
        }
        Contents {
            count: at.count,
            offsets: at.offsets,
            unpacked: at.unpacked,
        } = body::check(frame)?;
        if at.end() > self.limit {
            return Err(DecodeError::Field { field: "offset" });
        }
        Ok(Valid::Records(at))
    }
}

/// A frame that verified and fits its place.
enum Valid {
    Records(FrameAt),
    Footer(Footer, FrameAt),
}

impl std::ops::Deref for Valid {
    type Target = FrameAt;

    fn deref(&self) -> &FrameAt {
        match self {
            Self::Records(at) | Self::Footer(_, at) => at,
        }
    }
}

impl Valid {
    fn len(&self) -> usize {
        self.len
    }
}

/// Whether all bytes from `position` on are zeros.
fn is_zero_from(bytes: &mut impl Bytes, position: usize) -> io::Result<bool> {
    Ok(last_nonzero(bytes, position)?.is_none())
}

/// The position behind the last byte from `position` on that is not zero; `None` if all are.
pub(crate) fn last_nonzero(bytes: &mut impl Bytes, position: usize) -> io::Result<Option<usize>> {
    let end = bytes.end();
    let mut at = position;
    let mut last = None;
    while at < end {
        let window = bytes.at(at, STRIDE)?;
        let window = window.get(..STRIDE).unwrap_or(window);
        if window.is_empty() {
            break;
        }
        if let Some(found) = window.iter().rposition(|&byte| byte != 0) {
            last = Some(at + found + 1);
        }
        at += window.len();
    }
    Ok(last)
}
