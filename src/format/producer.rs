//! What a frame says of the named producer that sent it. The layout is in the [text](super).

use super::{
    body::FrameBody,
    frame::PRODUCER,
    wire::{Reader, Writer},
};
use crate::error::DecodeError;

/// Without the name.
const FIXED_LEN: usize = 4 + 4 + 8 + 1;

const _: () = assert!(FIXED_LEN == 17);

/// Who sent a frame, and the sequence of its first record; the others follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender<'a> {
    /// Stands for the name in this log.
    pub(crate) id: u32,
    /// How often the name was opened.
    pub(crate) epoch: u32,
    pub(crate) sequence: u64,
    /// The name, in the first frame of the producer in each segment; else empty.
    pub(crate) name: &'a str,
}

impl<'a> Sender<'a> {
    pub(crate) fn len(&self) -> usize {
        FIXED_LEN + self.name.len()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u32(self.id);
        writer.u32(self.epoch);
        writer.u64(self.sequence);
        writer.u8(u8::try_from(self.name.len()).unwrap_or(0));
        writer.bytes(self.name.as_bytes());
    }

    /// Reads it from the front of a frame's content, and leaves `reader` behind it.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (id, epoch, sequence) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let len = reader.u8()?;
        let name = reader.bytes(len.into())?;
        let field = "producer name";
        Ok(Self {
            id,
            epoch,
            sequence,
            name: std::str::from_utf8(name).map_err(|_| DecodeError::Field { field })?,
        })
    }
}

/// The body of a frame that a named producer sends.
#[derive(Debug)]
pub(crate) struct SentBody<'a, B> {
    pub(crate) sender: Sender<'a>,
    pub(crate) body: &'a B,
}

impl<B: FrameBody> FrameBody for SentBody<'_, B> {
    fn attributes(&self) -> u16 {
        self.body.attributes() | PRODUCER
    }

    fn count(&self) -> u64 {
        self.body.count()
    }

    fn len(&self) -> usize {
        self.sender.len() + self.body.len()
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        self.sender.write(writer);
        self.body.write(writer);
    }
}

/// Bytes that a frame takes at most for a producer of this name.
pub(crate) const fn longest(name: &str) -> usize {
    FIXED_LEN + name.len()
}
