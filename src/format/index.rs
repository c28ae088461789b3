//! A sealed segment's index. The layout is in the [text](super).

use super::{
    checksum::Seed,
    wire::{Reader, Writer, narrow},
};
use crate::{error::DecodeError, offset::Offset};

const MAGIC: [u8; 8] = *b"dlogIDX\n";
const VERSION: u16 = super::FORMAT_VERSION;
/// Before the entries.
pub(crate) const HEADER_LEN: usize = 8 + CHECKSUM_LEN + 2 + 2 + 8 + 8 + 4 + 4;
const CHECKSUM_LEN: usize = 4;
/// Where what the checksum covers begins.
const COVERED: usize = 8 + CHECKSUM_LEN;
/// Of each entry.
pub(crate) const ENTRY_LEN: usize = 4 + 4 + 8;

const _: () = assert!(HEADER_LEN == 40);

/// A frame of the segment: where it stands, its first offset, its append time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The first offset less the segment's base.
    pub(crate) relative_offset: u32,
    pub(crate) position: u32,
    pub(crate) append_time: u64,
}

/// The file of the segment with this id and base.
pub(crate) fn encode(segment_id: u64, base: Offset, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN + entries.len() * ENTRY_LEN];
    let mut writer = Writer::new(&mut bytes);
    writer.bytes(&MAGIC);
    writer.u32(0);
    writer.u16(VERSION);
    writer.u16(0);
    writer.u64(segment_id);
    writer.u64(base.get());
    writer.u32(narrow(entries.len()));
    writer.u32(0);
    for entry in entries {
        writer.u32(entry.relative_offset);
        writer.u32(entry.position);
        writer.u64(entry.append_time);
    }
    let checksum = checksum_of(&bytes, segment_id);
    if let Some(place) = bytes.get_mut(COVERED - CHECKSUM_LEN..COVERED) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}

fn checksum_of(bytes: &[u8], segment_id: u64) -> u32 {
    let covered = bytes.get(COVERED..).unwrap_or_default();
    Seed::of(u64::from_le_bytes(MAGIC) ^ segment_id)
        .at(0)
        .checksum(covered)
}

/// Looks at the header of a file: how many entries there are. The checksum is not looked at, as
/// nothing is believed that the segment does not confirm.
///
/// # Errors
///
/// What is wrong, if it is not the index of this segment.
pub(crate) fn decode_header(
    bytes: &[u8],
    segment_id: u64,
    base: Offset,
) -> Result<usize, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.array()? != MAGIC {
        return Err(DecodeError::Magic);
    }
    reader.u32()?;
    let version = reader.u16()?;
    if version > VERSION {
        return Err(DecodeError::Version {
            found: version.into(),
            supported: VERSION.into(),
        });
    }
    reader.u16()?;
    if (reader.u64()?, reader.u64()?) != (segment_id, base.get()) {
        return Err(DecodeError::Field { field: "segment" });
    }
    let count = super::wire::widen(reader.u32()?);
    let needed = HEADER_LEN + count.saturating_mul(ENTRY_LEN);
    if needed == bytes.len() {
        Ok(count)
    } else {
        let found = bytes.len();
        Err(DecodeError::Truncated { needed, found })
    }
}

/// Checks a whole file.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn verify(bytes: &[u8], segment_id: u64, base: Offset) -> Result<(), DecodeError> {
    decode_header(bytes, segment_id, base)?;
    let stored = bytes
        .get(COVERED - CHECKSUM_LEN..COVERED)
        .unwrap_or_default();
    if stored == checksum_of(bytes, segment_id).to_le_bytes() {
        Ok(())
    } else {
        Err(DecodeError::Checksum)
    }
}

/// The entry with this number of a file whose header was decoded.
pub(crate) fn entry(bytes: &[u8], number: usize) -> Option<Entry> {
    let start = HEADER_LEN + number * ENTRY_LEN;
    let mut reader = Reader::new(bytes.get(start..start + ENTRY_LEN)?);
    Some(Entry {
        relative_offset: reader.u32().ok()?,
        position: reader.u32().ok()?,
        append_time: reader.u64().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: u32) -> Vec<Entry> {
        let entry = |number| Entry {
            relative_offset: number * 10,
            position: number * 1000,
            append_time: u64::from(number) << 33,
        };
        (1..=count).map(entry).collect()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for count in [0, 1, 100] {
            let entries = entries(count);
            let bytes = encode(7, Offset::new(42), &entries);
            assert_eq!(verify(&bytes, 7, Offset::new(42)), Ok(()));
            let count = decode_header(&bytes, 7, Offset::new(42)).unwrap();
            let decoded: Vec<_> = (0..count).filter_map(|n| entry(&bytes, n)).collect();
            assert_eq!(decoded, entries);
            assert_eq!(entry(&bytes, count), None);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_and_segment_is_noticed() {
        let bytes = encode(7, Offset::new(42), &entries(5));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&flipped, 7, Offset::new(42)).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode_header(&bytes[..len], 7, Offset::new(42)).is_err());
        }
        assert!(decode_header(&bytes, 8, Offset::new(42)).is_err());
        assert!(decode_header(&bytes, 7, Offset::new(43)).is_err());
    }
}
