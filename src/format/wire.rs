//! Bounds-checked little-endian reading and writing.

use crate::error::DecodeError;

/// Longest varint: a `u64` in groups of 7 bits.
const VARINT_MAX: usize = 10;

/// Reads from the front of a slice; never past its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated {
                needed: len,
                found: self.rest.len(),
            })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated {
                needed: N,
                found: self.rest.len(),
            })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// An unsigned LEB128 number. A longer form than needed is refused: one number, one form.
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let impossible = DecodeError::Field { field: "varint" };
        let mut value = 0_u64;
        for group in 0..VARINT_MAX {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * group;
            if shift == 63 && bits > 1 {
                return Err(impossible);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && group > 0 {
                    Err(impossible)
                } else {
                    Ok(value)
                };
            }
        }
        Err(impossible)
    }

    /// A varint that counts bytes that follow, and those bytes.
    pub(crate) fn counted(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.varint()?;
        let len = usize::try_from(length).map_err(|_| DecodeError::Length { length })?;
        self.bytes(len)
    }
}

/// Writes to the front of a slice. Whoever makes one has measured what will be written; bytes
/// that do not fit are dropped and show as [`overflowed`](Writer::overflowed).
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    rest: &'a mut [u8],
    overflowed: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self {
            rest: bytes,
            overflowed: false,
        }
    }

    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Whether every byte of the slice is written.
    pub(crate) fn is_full(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        match std::mem::take(&mut self.rest).split_at_mut_checked(bytes.len()) {
            Some((here, rest)) => {
                here.copy_from_slice(bytes);
                self.rest = rest;
            }
            None => self.overflowed = true,
        }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.u8(low_byte(value) | 0x80);
            value >>= 7;
        }
        self.u8(low_byte(value));
    }

    pub(crate) fn counted(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes(bytes);
    }
}

/// Length of `value` as a varint.
pub(crate) const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Length of `bytes` behind a varint that counts them.
pub(crate) fn counted_len(bytes: &[u8]) -> usize {
    varint_len(bytes.len() as u64) + bytes.len()
}

const fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// A length or position within a segment as the format stores it. Segments end below 4 GiB, so
/// nothing is cut off.
pub(crate) fn narrow(value: usize) -> u32 {
    debug_assert!(
        u32::try_from(value).is_ok(),
        "{value} is no position within a segment"
    );
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A stored length as one in memory. Machines with less than 32 bits of address are not supported.
pub(crate) const fn widen(value: u32) -> usize {
    const { assert!(usize::BITS >= 32) };
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_have_the_measured_length() {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for value in edges.chain([u64::MAX]) {
            let mut bytes = [0; VARINT_MAX];
            let mut writer = Writer::new(&mut bytes);
            writer.varint(value);
            assert!(!writer.overflowed());
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint(), Ok(value));
            assert_eq!(
                VARINT_MAX - reader.rest().len(),
                varint_len(value),
                "{value}"
            );
        }
    }

    #[test]
    fn a_varint_longer_than_needed_is_refused() {
        assert!(Reader::new(&[0x80, 0x00]).varint().is_err());
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
    }

    #[test]
    fn a_count_beyond_the_slice_is_refused_without_reading() {
        let found = Reader::new(&[200, 1, 7]).counted();
        assert_eq!(
            found,
            Err(DecodeError::Truncated {
                needed: 200,
                found: 1
            })
        );
    }

    #[test]
    fn writing_past_the_end_is_seen() {
        let mut bytes = [0; 3];
        let mut writer = Writer::new(&mut bytes);
        writer.u32(7);
        assert!(writer.overflowed());
    }
}
