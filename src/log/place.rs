//! A place within a segment, and the frame that stands there.

use std::{io, ops::Range};

use super::{
    cursor::Span,
    segments::Spot,
    unpacked::{Refusal, Unpacked},
};
use crate::{
    error::{DecodeError, Error, ErrorKind, Result},
    format::{
        body::{self, Contents},
        frame::{self, HEADER_LEN},
        wire::{narrow, widen},
    },
    offset::Offset,
    options::Compression,
    segment::{Buffer, FRAMES_START, FrameAt, View},
};

/// A place within a segment.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) spot: Spot,
    pub(super) view: View,
    /// Where the next frame stands.
    pub(super) at: usize,
    /// The offset that should stand there.
    pub(super) expected: Offset,
}

impl Place {
    pub(super) fn new(spot: Spot, view: View) -> Self {
        let (at, expected) = (FRAMES_START, spot.base);
        Self {
            spot,
            view,
            at,
            expected,
        }
    }

    /// Moved to where the index says that a frame at or before `offset` stands, if it does.
    pub(super) fn nearer(mut self, offset: Offset, buffer: &mut Buffer) -> Result<Self> {
        buffer.clear();
        let base = self.spot.base;
        let index = self.spot.index.take();
        let Some(entry) = index.and_then(|index| index.by_offset(offset, base)) else {
            return Ok(self);
        };
        self.at = widen(entry.position);
        self.expected = base.advance(entry.relative_offset.into());
        let found = self.frame(buffer).map_err(|error| self.io(error))?;
        let stands = found.is_ok_and(|frame| frame.first == self.expected);
        if !stands {
            buffer.clear();
            (self.at, self.expected) = (FRAMES_START, base);
        }
        Ok(self)
    }

    /// Takes the frame at the place, and goes on behind it, if it is a plain one that is mapped and
    /// has a wanted offset: the usual case, which is worth a short way.
    #[inline]
    pub(super) fn plain(&mut self, wanted: Range<Offset>) -> Option<Span> {
        if !wanted.contains(&self.expected) {
            return None;
        }
        let bytes = self.view.in_memory(self.at)?;
        let (len, relative) = frame::decode_plain(bytes, self.view.shape.seed.at(narrow(self.at)))?;
        if self.view.shape.base.advance(relative.into()) != self.expected {
            return None;
        }
        let span = Span::of_plain(self.at, len, self.expected);
        self.at += len;
        self.expected = self.expected.next();
        Some(span)
    }

    /// The frame at the place, verified.
    #[inline]
    pub(super) fn frame(&self, buffer: &mut Buffer) -> io::Result<Result<FrameAt, DecodeError>> {
        let position = self.at;
        let mut bytes = self.view.read(position, HEADER_LEN, buffer)?;
        if let Some(seen) = frame::glimpse(bytes).filter(|seen| seen.len > bytes.len()) {
            bytes = self.view.read(position, seen.len, buffer)?;
        }
        let seed = self.view.shape.seed.at(narrow(position));
        Ok(frame::decode(bytes, seed).and_then(|frame| {
            let first = self
                .view
                .shape
                .base
                .advance(frame.stamp.relative_offset.into());
            let skips = first > self.expected && self.view.shape.compacted.is_some();
            if first != self.expected && !skips {
                return Err(DecodeError::Missing);
            }
            let contents = if frame.is_footer() {
                Contents::default()
            } else {
                body::check(&frame)?
            };
            Ok(FrameAt {
                position,
                len: frame.len(),
                first,
                count: contents.count,
                offsets: contents.offsets,
                append_time: frame.stamp.append_time,
                durable: Offset::ZERO,
                unpacked: contents.unpacked,
            })
        }))
    }

    /// The end of the segment, if all of its frames are read: what is missing before it was removed.
    pub(super) fn end_of_compacted(&self) -> Option<Offset> {
        let compacted = self.view.shape.compacted.as_ref()?;
        (self.at >= widen(compacted.frames_end)).then_some(compacted.end)
    }

    /// Goes on behind the frame at the place.
    #[inline]
    pub(super) fn pass(&mut self, frame: &FrameAt) {
        self.at += frame.len;
        self.expected = frame.end();
    }

    /// Whether the frame at the place, which was read just now, has a record at `from` or behind.
    #[inline]
    pub(super) fn reaches(&self, frame: &FrameAt, from: Offset, buffer: &Buffer) -> bool {
        if frame.count == frame.offsets || from <= frame.first {
            return frame.end() > from;
        }
        let range = frame.position..frame.position + frame.len;
        let sparse = frame::trusted(self.view.again(range, buffer)).and_then(|frame| frame.sparse);
        let number = u32::try_from(from.since(frame.first)).unwrap_or(u32::MAX);
        sparse.is_some_and(|sparse| sparse.next(number).is_some())
    }

    /// Decompresses the frame at the place, which was read just now.
    pub(super) fn unpack(
        &self,
        frame: &FrameAt,
        buffer: &Buffer,
        into: &mut Unpacked,
    ) -> Result<u32, Refusal> {
        let range = frame.position..frame.position + frame.len;
        into.add(self.view.again(range, buffer))
    }

    #[cold]
    pub(super) fn unsupported(&self, frame: &FrameAt, codec: Compression) -> Error {
        ErrorKind::CompressionUnsupported {
            codec: codec.name(),
            path: self.spot.path.clone(),
            position: frame.position as u64,
            from: frame.first,
            to: frame.end(),
        }
        .into()
    }

    #[cold]
    pub(super) fn io(&self, error: io::Error) -> Error {
        Error::io("read", &self.spot.path, error)
    }
}
