//! An entry of `groups/commits`: a durable commit of a group. The layout is in the [text](super).

use super::{
    checksum::Seed,
    group::GroupState,
    slots::SECTOR,
    wire::{Reader, Writer, narrow},
};
use crate::error::DecodeError;

/// Each entry has a sector of its own: writing one can't tear another.
pub(crate) const ENTRY_LEN: usize = SECTOR;
/// Entries of the file.
pub(crate) const ENTRIES: usize = 2048;
/// Length of the file.
pub(crate) const FILE_LEN: usize = ENTRIES * ENTRY_LEN;

const SEED: Seed = Seed::of(u64::from_le_bytes(*b"dlogCMT\n"));
const VERSION: u16 = super::FORMAT_VERSION;
const CHECKSUM_LEN: usize = 4;
const HEADER_LEN: usize = CHECKSUM_LEN + 2 + 2 + 8;

const _: () = assert!(HEADER_LEN + super::group::PAYLOAD_MAX <= ENTRY_LEN);

/// The bytes of entry `number`; the group's file has, or had, this content in this generation.
pub(crate) fn encode(number: usize, generation: u64, payload: &[u8]) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    let covered = HEADER_LEN - CHECKSUM_LEN + payload.len();
    if let Some((checksum, rest)) = bytes.split_first_chunk_mut::<CHECKSUM_LEN>() {
        let mut writer = Writer::new(rest);
        writer.u16(VERSION);
        writer.u16(u16::try_from(payload.len()).unwrap_or(u16::MAX));
        writer.u64(generation);
        writer.bytes(payload);
        let seed = SEED.at(narrow(number * ENTRY_LEN));
        let covered = rest.get(..covered).unwrap_or_default();
        *checksum = seed.checksum(covered).to_le_bytes();
    }
    bytes
}

/// Decodes entry `number`: the generation, and what the group had committed.
///
/// # Errors
///
/// What is wrong with it. An entry that was never written is `Blank`.
pub(crate) fn decode(number: usize, bytes: &[u8]) -> Result<(u64, GroupState), DecodeError> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Err(DecodeError::Blank);
    }
    let mut reader = Reader::new(bytes);
    let checksum = reader.u32()?;
    let covered = reader.rest();
    let version = reader.u16()?;
    let len = usize::from(reader.u16()?);
    let generation = reader.u64()?;
    let payload = reader.bytes(len)?;
    let covered = covered.get(..HEADER_LEN - CHECKSUM_LEN + len);
    let seed = SEED.at(narrow(number * ENTRY_LEN));
    if seed.checksum(covered.unwrap_or_default()) != checksum {
        return Err(DecodeError::Checksum);
    }
    if version != VERSION {
        return Err(DecodeError::Version {
            found: version.into(),
            supported: VERSION.into(),
        });
    }
    Ok((generation, GroupState::decode(payload)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{format::group::METADATA_MAX, offset::Offset};

    #[test]
    fn an_entry_comes_back_where_it_was_written_and_nowhere_else() {
        let state = GroupState {
            id: 7,
            committed: Offset::new(9),
            metadata: vec![1; METADATA_MAX],
            ..GroupState::default()
        };
        let bytes = encode(5, 3, &state.encode());
        assert_eq!(decode(5, &bytes), Ok((3, state)));
        assert_eq!(decode(6, &bytes), Err(DecodeError::Checksum));
        assert_eq!(decode(5, &[0; ENTRY_LEN]), Err(DecodeError::Blank));
        for bit in (0..8 * 100).step_by(37) {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(5, &flipped).is_err(), "bit {bit}");
        }
    }
}
