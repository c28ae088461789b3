//! What is appended: a length, a checksum over what follows it, and the values.

use std::hint::black_box;

pub const CHECKSUM_LEN: usize = 4;
const LENGTH_LEN: usize = 4;
pub const FRAME_HEADER_LEN: usize = CHECKSUM_LEN + LENGTH_LEN;
/// Bytes in front of each value of a frame that has several.
const VALUE_HEADER_LEN: usize = 2;

/// A frame to be written again and again.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    pub value: &'a [u8],
    pub values: usize,
}

impl Frame<'_> {
    pub fn len(&self) -> usize {
        let values = match self.values {
            1 => self.value.len(),
            values => values * (VALUE_HEADER_LEN + self.value.len()),
        };
        FRAME_HEADER_LEN + values
    }

    /// Fills `into`, which is as long as this frame.
    pub fn write(&self, into: &mut [u8]) {
        let length = u32::try_from(into.len()).expect("a frame is smaller than 4 GiB");
        let (checksum, covered) = into.split_at_mut(CHECKSUM_LEN);
        let (header, values) = covered.split_at_mut(LENGTH_LEN);
        header.copy_from_slice(&length.to_le_bytes());
        if self.values == 1 {
            values.copy_from_slice(black_box(self.value));
        } else {
            self.write_values(values);
        }
        checksum.copy_from_slice(&crc32fast::hash(covered).to_le_bytes());
    }

    fn write_values(&self, into: &mut [u8]) {
        for into in into.chunks_exact_mut(VALUE_HEADER_LEN + self.value.len()) {
            let value = black_box(self.value);
            let length = u16::try_from(value.len()).expect("a value in a batch is small");
            let (header, body) = into.split_at_mut(VALUE_HEADER_LEN);
            header.copy_from_slice(&length.to_le_bytes());
            body.copy_from_slice(value);
        }
    }
}
