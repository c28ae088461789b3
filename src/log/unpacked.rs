//! What a cursor decompressed for the records that it delivers.

use std::ops::Range;

use crate::{
    error::DecodeError,
    format::{
        body::Records,
        compressed::{Memory, Packed},
        frame::{self, Frame},
        wire::narrow,
    },
    offset::Offset,
    options::Compression,
};

/// The records of compressed frames, one behind the other, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    memory: Memory,
    frames: Vec<Range<usize>>,
}

/// Why the records of a frame that verified are not to be had.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    /// This build can't decompress them.
    Unsupported(Compression),
    /// What was compressed contradicts the format.
    Damaged,
}

impl From<DecodeError> for Refusal {
    fn from(_: DecodeError) -> Self {
        Self::Damaged
    }
}

impl Unpacked {
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.memory.trim();
    }

    /// Decompresses the frame that these bytes are, which verified before; returns its number.
    ///
    /// # Errors
    ///
    /// Nothing is added then.
    pub(super) fn add(&mut self, frame: &[u8]) -> Result<u32, Refusal> {
        let frame = frame::trusted(frame).ok_or(Refusal::Damaged)?;
        let packed = Packed::of(&frame)?;
        let codec = packed.codec();
        if !codec.is_available() {
            return Err(Refusal::Unsupported(codec));
        }
        let start = self.frames.last().map_or(0, |last| last.end);
        let range = packed.unpack(&mut self.memory, start)?;
        let number = narrow(self.frames.len());
        self.frames.push(range);
        Ok(number)
    }

    /// The records of the frame that was added as this number.
    pub(super) fn records<'a>(
        &'a self,
        number: u32,
        frame: &Frame<'a>,
        first: Offset,
        count: u32,
    ) -> Option<Records<'a>> {
        let range = self.frames.get(usize::try_from(number).ok()?)?.clone();
        let bytes = self.memory.get(range);
        Some(Records::unpacked(bytes, frame, first, count))
    }
}
