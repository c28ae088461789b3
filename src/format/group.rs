//! What a group's file holds: its committed offset, and what was said with the commit. The layout
//! is in the [text](super).

use super::{
    slots::{HEADER_LEN, SECTOR, SlotKind},
    wire::{Reader, Writer},
};
use crate::{error::DecodeError, offset::Offset};

pub(crate) const KIND: SlotKind = SlotKind {
    magic: *b"dlogGRP\n",
    version: super::FORMAT_VERSION,
    paired: true,
};

const FIXED_LEN: usize = 10 * 8;
/// Longest metadata of a commit, in bytes.
pub(crate) const METADATA_MAX: usize = 400;

/// Longest content of a group's file.
pub(crate) const PAYLOAD_MAX: usize = FIXED_LEN + METADATA_MAX;

// A slot is one sector, so a commit that is written beside another one can't tear it.
const _: () = assert!(HEADER_LEN + PAYLOAD_MAX <= SECTOR);

/// Offsets that a group has passed without their records, by reason: the sum of all
/// [gaps](crate::Gap) below its committed offset, each offset once, however often it was told.
/// Stored with each commit, so it survives what the commit does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupLosses {
    /// Deleted because they were old, or many.
    pub retention: u64,
    /// Deleted to make room on a full log.
    pub drop_oldest: u64,
    /// Damaged.
    pub damage: u64,
    /// Skipped after power cuts: at most this many records were lost.
    pub lost_tail: u64,
    /// Skipped by [`OffsetReset::Latest`](crate::OffsetReset::Latest).
    pub offset_reset: u64,
}

impl GroupLosses {
    /// All of them.
    pub fn total(&self) -> u64 {
        [
            self.retention,
            self.drop_oldest,
            self.damage,
            self.lost_tail,
            self.offset_reset,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// These and more.
    pub(crate) fn plus(self, more: Self) -> Self {
        Self {
            retention: self.retention.saturating_add(more.retention),
            drop_oldest: self.drop_oldest.saturating_add(more.drop_oldest),
            damage: self.damage.saturating_add(more.damage),
            lost_tail: self.lost_tail.saturating_add(more.lost_tail),
            offset_reset: self.offset_reset.saturating_add(more.offset_reset),
        }
    }
}

/// The content of a group's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// The log that the offset is of.
    pub(crate) log_id: u64,
    /// Random, new each time a group is made: tells it from one of the same name that is deleted.
    pub(crate) id: u64,
    /// The next offset to read.
    pub(crate) committed: Offset,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub(crate) commit_time: u64,
    /// Losses below are counted.
    pub(crate) counted: Offset,
    pub(crate) losses: GroupLosses,
    /// What the user gave with the commit; at most [`METADATA_MAX`] bytes.
    pub(crate) metadata: Vec<u8>,
}

impl GroupState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes);
        bytes
    }

    /// Puts it into `bytes`, in place of what is there.
    pub(crate) fn encode_into(&self, bytes: &mut Vec<u8>) {
        let metadata = self.metadata.get(..METADATA_MAX).unwrap_or(&self.metadata);
        bytes.clear();
        bytes.resize(FIXED_LEN + metadata.len(), 0);
        let mut writer = Writer::new(bytes);
        writer.u64(self.log_id);
        writer.u64(self.id);
        writer.u64(self.committed.get());
        writer.u64(self.commit_time);
        writer.u64(self.counted.get());
        writer.u64(self.losses.retention);
        writer.u64(self.losses.drop_oldest);
        writer.u64(self.losses.damage);
        writer.u64(self.losses.lost_tail);
        writer.u64(self.losses.offset_reset);
        writer.bytes(metadata);
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let state = Self {
            log_id: reader.u64()?,
            id: reader.u64()?,
            committed: Offset::new(reader.u64()?),
            commit_time: reader.u64()?,
            counted: Offset::new(reader.u64()?),
            losses: GroupLosses {
                retention: reader.u64()?,
                drop_oldest: reader.u64()?,
                damage: reader.u64()?,
                lost_tail: reader.u64()?,
                offset_reset: reader.u64()?,
            },
            metadata: reader.rest().to_vec(),
        };
        if state.metadata.len() > METADATA_MAX {
            return Err(DecodeError::Length {
                length: payload.len() as u64,
            });
        }
        Ok(state)
    }
}
