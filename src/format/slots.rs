//! Two slots in one file, written in turn and in place, so that one of them is whole at any
//! moment. `meta`, `checkpoint` and the groups' files are such files. The layout is in the
//! [text](super).

use super::{
    checksum::Seed,
    wire::{Reader, Writer, narrow, widen},
};
use crate::error::DecodeError;

/// Each slot has a page of its own: writing one can't tear the other.
pub(crate) const SLOT_LEN: usize = 4096;
/// Length of such a file.
pub(crate) const FILE_LEN: usize = 2 * SLOT_LEN;
const MAGIC_LEN: usize = 8;
/// Magic and checksum, which the checksum does not cover.
const UNCOVERED: usize = MAGIC_LEN + 4;
pub(crate) const HEADER_LEN: usize = UNCOVERED + 2 + 2 + 8 + 4;
/// What a device writes as a whole or not at all.
pub(crate) const SECTOR: usize = 512;
/// Longest payload.
pub(crate) const PAYLOAD_MAX: usize = SLOT_LEN - HEADER_LEN;

const _: () = assert!(HEADER_LEN == 28);

/// What kind of file the slots are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotKind {
    pub(crate) magic: [u8; MAGIC_LEN],
    pub(crate) version: u16,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    First,
    Second,
}

impl Slot {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    pub(crate) fn position(self) -> usize {
        match self {
            Self::First => 0,
            Self::Second => SLOT_LEN,
        }
    }
}

impl SlotKind {
    fn seed(self, slot: Slot) -> Seed {
        Seed::of(u64::from_le_bytes(self.magic)).at(narrow(slot.position()))
    }

    /// The bytes of a slot; `None` if the payload is longer than [`PAYLOAD_MAX`].
    pub(crate) fn encode(self, slot: Slot, generation: u64, payload: &[u8]) -> Option<Vec<u8>> {
        if payload.len() > PAYLOAD_MAX {
            return None;
        }
        let mut bytes = vec![0; HEADER_LEN + payload.len()];
        let (uncovered, covered) = bytes.split_at_mut(UNCOVERED);
        let mut writer = Writer::new(covered);
        writer.u16(self.version);
        writer.u16(0);
        writer.u64(generation);
        writer.u32(narrow(payload.len()));
        writer.bytes(payload);
        let checksum = self.seed(slot).checksum(covered);
        let mut writer = Writer::new(uncovered);
        writer.bytes(&self.magic);
        writer.u32(checksum);
        Some(bytes)
    }

    /// Reads one slot from the bytes of the file: its generation and its payload.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Blank`] if it was never written; what is wrong with it else.
    pub(crate) fn decode(self, file: &[u8], slot: Slot) -> Result<(u64, &[u8]), DecodeError> {
        let from = slot.position();
        let bytes = file.get(from..).unwrap_or_default();
        let bytes = bytes.get(..SLOT_LEN).unwrap_or(bytes);
        let mut reader = Reader::new(bytes);
        let magic = reader.array()?;
        let checksum = reader.u32()?;
        let covered = reader.rest();
        let version = reader.u16()?;
        let reserved = reader.u16()?;
        let generation = reader.u64()?;
        let len = widen(reader.u32()?);
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(DecodeError::Blank);
        }
        if magic != self.magic {
            return Err(DecodeError::Magic);
        }
        // Before the checksum: where a newer format keeps that is not for us to know.
        if version > self.version {
            return Err(DecodeError::Version {
                found: version.into(),
                supported: self.version.into(),
            });
        }
        let payload = reader.bytes(len)?;
        let covered_len = HEADER_LEN - UNCOVERED + len;
        let covered = covered.get(..covered_len).unwrap_or_default();
        if self.seed(slot).checksum(covered) != checksum {
            return Err(DecodeError::Checksum);
        }
        if version != self.version || reserved != 0 {
            return Err(DecodeError::Field {
                field: "slot version",
            });
        }
        Ok((generation, payload))
    }

    /// Reads both slots and picks the newer one.
    ///
    /// # Errors
    ///
    /// What is wrong with the first slot, if neither is whole; [`DecodeError::Version`] and
    /// [`DecodeError::Magic`] only where both slots agree on them.
    pub(crate) fn pick(self, file: &[u8]) -> Result<Picked<'_>, DecodeError> {
        let first = self.decode(file, Slot::First);
        let second = self.decode(file, Slot::Second);
        let state = |slot: &Result<(u64, &[u8]), DecodeError>| slot.err();
        let damaged = [state(&first), state(&second)];
        let (slot, (generation, payload)) = match (first, second) {
            (Ok(a), Ok(b)) if b.0 > a.0 => (Slot::Second, b),
            (Ok(a), _) => (Slot::First, a),
            (Err(_), Ok(b)) => (Slot::Second, b),
            (Err(a), Err(b)) if a == b => return Err(a),
            (Err(DecodeError::Version { .. } | DecodeError::Magic), Err(b)) => return Err(b),
            (Err(a), Err(_)) => return Err(a),
        };
        Ok(Picked {
            slot,
            generation,
            payload,
            damaged,
        })
    }
}

/// The newer slot of a file, and what is wrong with either.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked<'a> {
    pub(crate) slot: Slot,
    pub(crate) generation: u64,
    pub(crate) payload: &'a [u8],
    pub(crate) damaged: [Option<DecodeError>; 2],
}

impl Picked<'_> {
    /// The damaged slot, if the other one had to stand in. (A blank slot is no damage: a new
    /// file's second slot waits for its first use.)
    pub(crate) fn fallback(&self) -> Option<(u64, DecodeError)> {
        [Slot::First, Slot::Second]
            .into_iter()
            .zip(self.damaged)
            .find_map(|(slot, damage)| Some((slot.position() as u64, damage?)))
    }
}
