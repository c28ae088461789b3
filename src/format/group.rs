//! What a group's file holds: its committed offset. The layout is in the [text](super).

use super::{
    slots::SlotKind,
    wire::{Reader, Writer},
};
use crate::{error::DecodeError, offset::Offset};

pub(crate) const KIND: SlotKind = SlotKind {
    magic: *b"dlogGRP\n",
    version: super::FORMAT_VERSION,
};

const LEN: usize = 3 * 8;

/// The content of a group's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// The log that the offset is of.
    pub(crate) log_id: u64,
    /// The next offset to read.
    pub(crate) committed: Offset,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub(crate) commit_time: u64,
}

impl GroupState {
    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut writer = Writer::new(&mut bytes);
        writer.u64(self.log_id);
        writer.u64(self.committed.get());
        writer.u64(self.commit_time);
        bytes
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let state = Self {
            log_id: reader.u64()?,
            committed: Offset::new(reader.u64()?),
            commit_time: reader.u64()?,
        };
        if reader.rest().is_empty() {
            Ok(state)
        } else {
            Err(DecodeError::Length {
                length: payload.len() as u64,
            })
        }
    }
}
