//! Bodies whose records are compressed. The layout is in the [text](super).

use std::{num::NonZeroU32, ops::Range};

use super::{
    body::{Contents, FrameBody, check_records, read_count},
    frame::{self, Frame},
    largest_body, lz4,
    wire::{Reader, Writer, varint_len, widen},
};
use crate::{
    error::DecodeError,
    options::{Compression, MAX_SEGMENT_BYTES},
};

/// Fewer bytes than these are not worth a try.
const WORTH_A_TRY: usize = 128;
/// The largest body there can be, in any log.
const LARGEST: u64 = largest_body(MAX_SEGMENT_BYTES);

// Lengths of records are kept in 32 bits.
const _: () = assert!(LARGEST <= u32::MAX as u64);

/// The body of a frame with compressed records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    codec: Compression,
    count: u32,
    unpacked: NonZeroU32,
    block: &'a [u8],
}

impl<'a> Packed<'a> {
    /// The body of a frame that verified and says that it is compressed.
    ///
    /// # Errors
    ///
    /// What contradicts the format, as far as can be told without decompressing.
    pub(crate) fn of(frame: &Frame<'a>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame.body);
        let mut counts = reader;
        counts.varint()?;
        let length = counts.varint()?;
        let block = counts.rest();
        let most = LARGEST.min(lz4::MOST_EXPANDED.saturating_mul(block.len() as u64));
        let unpacked = u32::try_from(length)
            .ok()
            .filter(|_| length <= most)
            .and_then(NonZeroU32::new)
            .ok_or(DecodeError::Length { length })?;
        Ok(Self {
            codec: frame.compression(),
            // A record takes a byte at least.
            count: read_count(&mut reader, length)?,
            unpacked,
            block,
        })
    }

    pub(crate) fn codec(&self) -> Compression {
        self.codec
    }

    pub(crate) fn contents(&self) -> Contents {
        Contents {
            count: self.count,
            offsets: self.count,
            unpacked: Some(self.unpacked),
        }
    }

    /// Decompresses the records into `memory` behind `start`, and checks them. Returns where they
    /// are.
    ///
    /// # Errors
    ///
    /// What contradicts the format; always if the codec is not
    /// [available](Compression::is_available).
    pub(crate) fn unpack(
        &self,
        memory: &mut Memory,
        start: usize,
    ) -> Result<Range<usize>, DecodeError> {
        let range = start..start.saturating_add(widen(self.unpacked.get()));
        let records = memory.slice(range.clone());
        let written = match self.codec {
            Compression::None => None,
            Compression::Lz4 => lz4::decompress(self.block, records),
        };
        if written != Some(records.len()) {
            return Err(DecodeError::Field {
                field: "compressed block",
            });
        }
        check_records(Reader::new(records), self.count)?;
        Ok(range)
    }
}

/// Compressed records, ready to be appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompressedBody<'a> {
    attributes: u16,
    count: u64,
    unpacked: u64,
    block: &'a [u8],
}

/// Compresses `count` records as a body has them behind their number. Returns `None` if that makes
/// no body shorter than `otherwise`, the one that they have uncompressed.
pub(crate) fn compress<'m>(
    records: &[u8],
    count: u64,
    codec: Compression,
    otherwise: usize,
    memory: &'m mut Memory,
) -> Option<CompressedBody<'m>> {
    if records.len() < WORTH_A_TRY {
        return None;
    }
    let (attributes, block) = match codec {
        Compression::None => return None,
        Compression::Lz4 => {
            let room = memory.slice(0..lz4::room_for(records.len()));
            let len = lz4::compress(records, room)?;
            (frame::LZ4, memory.get(0..len))
        }
    };
    let body = CompressedBody {
        attributes,
        count,
        unpacked: records.len() as u64,
        block,
    };
    (body.len() < otherwise).then_some(body)
}

impl FrameBody for CompressedBody<'_> {
    fn attributes(&self) -> u16 {
        self.attributes
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn len(&self) -> usize {
        varint_len(self.count) + varint_len(self.unpacked) + self.block.len()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.varint(self.count);
        writer.varint(self.unpacked);
        writer.bytes(self.block);
    }
}

/// Memory that is used again and again, and only grows.
#[derive(Debug, Default)]
pub(crate) struct Memory(Vec<u8>);

/// More memory than this is not kept for the next time.
const KEPT: usize = 4 << 20;

impl Memory {
    /// Bytes to be written; they hold anything.
    pub(crate) fn slice(&mut self, range: Range<usize>) -> &mut [u8] {
        if self.0.len() < range.end {
            self.0.resize(range.end, 0);
        }
        self.0.get_mut(range).unwrap_or_default()
    }

    pub(crate) fn get(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    /// Gives back what is more than a usual amount.
    pub(crate) fn trim(&mut self) {
        if self.0.len() > KEPT {
            *self = Self::default();
        }
    }
}
