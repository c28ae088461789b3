//! Which records of a frame are left, once some were removed. The layout is in the [text](super).

use super::{
    body::FrameBody,
    frame::SPARSE,
    wire::{Reader, Writer, varint_len, widen},
};
use crate::error::DecodeError;

/// Which of a frame's records are left: at least one is, and at least one is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sparse<'a> {
    /// How many offsets the frame has.
    offsets: u32,
    /// How many records are left.
    left: u32,
    bits: &'a [u8],
}

impl<'a> Sparse<'a> {
    /// Reads it from the front of a frame's content, and leaves `reader` behind it.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = reader.varint()?;
        let offsets = u32::try_from(length).map_err(|_| DecodeError::Length { length })?;
        let bits = reader.bytes(widen(offsets.div_ceil(8)))?;
        let left = bits.iter().map(|byte| byte.count_ones()).sum();
        let behind_last = (8 - offsets % 8) % 8;
        let is_trimmed = bits
            .last()
            .is_none_or(|last| last.leading_zeros() >= behind_last);
        if is_trimmed && (1..offsets).contains(&left) {
            return Ok(Self {
                offsets,
                left,
                bits,
            });
        }
        let field = "sparse records";
        Err(DecodeError::Field { field })
    }

    pub(crate) fn offsets(&self) -> u32 {
        self.offsets
    }

    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// Whether the record with this number, counted from the frame's first, is left.
    pub(crate) fn has(&self, number: u32) -> bool {
        let byte = self.bits.get(widen(number / 8));
        byte.is_some_and(|byte| byte & (1 << (number % 8)) != 0)
    }

    /// The first record from this number on that is left.
    pub(crate) fn next(&self, from: u32) -> Option<u32> {
        (from..self.offsets).find(|&number| self.has(number))
    }

    /// How many records are left from this number on.
    pub(crate) fn left_from(&self, from: u32) -> u32 {
        let left = (from..self.offsets).filter(|&number| self.has(number));
        u32::try_from(left.count()).unwrap_or(u32::MAX)
    }

    /// Bytes that it takes.
    pub(crate) fn len(&self) -> usize {
        varint_len(self.offsets.into()) + self.bits.len()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.varint(self.offsets.into());
        writer.bytes(self.bits);
    }
}

/// Notes which records of a frame are left.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    offsets: u32,
    left: u32,
    bits: Vec<u8>,
}

impl Marks {
    /// Begins anew, for a frame that has this many offsets: none is left so far.
    pub(crate) fn reset(&mut self, offsets: u32) {
        self.offsets = offsets;
        self.left = 0;
        self.bits.clear();
        self.bits.resize(widen(offsets.div_ceil(8)), 0);
    }

    /// The record with this number is left. Each is told once.
    pub(crate) fn keep(&mut self, number: u32) {
        if let Some(byte) = self.bits.get_mut(widen(number / 8)) {
            *byte |= 1 << (number % 8);
            self.left += 1;
        }
    }

    /// How many are left.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// What a frame says of it; `None` if all are left, or none is.
    pub(crate) fn sparse(&self) -> Option<Sparse<'_>> {
        (1..self.offsets).contains(&self.left).then(|| Sparse {
            offsets: self.offsets,
            left: self.left,
            bits: &self.bits,
        })
    }
}

/// The body of a frame from which records were removed.
#[derive(Debug)]
pub(crate) struct SparseBody<'a, B> {
    pub(crate) sparse: Option<Sparse<'a>>,
    pub(crate) body: &'a B,
}

impl<B: FrameBody> FrameBody for SparseBody<'_, B> {
    fn attributes(&self) -> u16 {
        self.body.attributes() | if self.sparse.is_some() { SPARSE } else { 0 }
    }

    fn count(&self) -> u64 {
        let offsets = self.sparse.map(|sparse| sparse.offsets.into());
        offsets.unwrap_or_else(|| self.body.count())
    }

    fn len(&self) -> usize {
        self.sparse.map_or(0, |sparse| sparse.len()) + self.body.len()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        if let Some(sparse) = &self.sparse {
            sparse.write(writer);
        }
        self.body.write(writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(sparse: &Sparse<'_>) -> Vec<u8> {
        let mut bytes = vec![0; sparse.len()];
        sparse.write(&mut Writer::new(&mut bytes));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Sparse<'_>, DecodeError> {
        Sparse::read(&mut Reader::new(bytes))
    }

    #[test]
    fn what_is_left_is_told_again() {
        for offsets in [2, 7, 8, 9, 300] {
            let mut marks = Marks::default();
            marks.reset(offsets);
            let kept: Vec<_> = (0..offsets).filter(|n| n % 3 == 1).collect();
            for number in &kept {
                marks.keep(*number);
            }
            let sparse = marks.sparse().unwrap();
            let bytes = encoded(&sparse);
            let again = read(&bytes).unwrap();
            assert_eq!(again, sparse);
            let mut left = Vec::new();
            while let Some(number) = again.next(left.last().map_or(0, |last| last + 1)) {
                left.push(number);
            }
            assert_eq!(left, kept);
            assert_eq!(again.left_from(2), again.left() - 1);
        }
    }

    #[test]
    fn a_frame_of_which_all_or_nothing_is_left_is_not_sparse() {
        let mut marks = Marks::default();
        marks.reset(9);
        assert_eq!(marks.sparse(), None);
        for number in 0..9 {
            marks.keep(number);
        }
        assert_eq!(marks.sparse(), None);
    }

    #[test]
    fn each_state_has_one_form() {
        for (what, bytes) in [
            ("no offsets", &[0][..]),
            ("nothing left", &[9, 0, 0]),
            ("nothing removed", &[9, 255, 1]),
            ("bits behind the last", &[9, 1, 2]),
            ("too short", &[9, 1]),
        ] {
            assert!(read(bytes).is_err(), "{what}");
        }
        assert!(read(&[9, 1, 1]).is_ok());
    }
}
