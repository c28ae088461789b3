//! What `checkpoint` holds: where recovery starts from. The layout is in the [text](super).

use super::{
    slots::{PAYLOAD_MAX, SlotKind},
    wire::{Reader, Writer},
};
use crate::{error::DecodeError, offset::Offset};

pub(crate) const KIND: SlotKind = SlotKind {
    magic: *b"dlogCHK\n",
    version: super::FORMAT_VERSION,
    paired: false,
};

const CLEAN: u8 = 1 << 0;
const UNPROVEN: u8 = 1 << 1;
const NAMED: u8 = 1 << 2;

const FIXED_LEN: usize = 6 * 8 + BOOT_ID_LEN + 1 + 4 * 8 + 2;
const BOOT_ID_LEN: usize = 16;
const RANGE_LEN: usize = 16;
const PRODUCERS_LEN: usize = 2 * 8;
/// How many damaged ranges are remembered one by one.
pub(crate) const RANGES_MAX: usize = 128;

const _: () = assert!(FIXED_LEN + RANGES_MAX * RANGE_LEN + PRODUCERS_LEN <= PAYLOAD_MAX);

/// A position in the log: an offset, and where its frame starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) offset: Offset,
    /// The base offset of the segment.
    pub(crate) segment: Offset,
    pub(crate) position: u64,
    /// The append time of the frame before it.
    pub(crate) time: u64,
}

/// Where to learn of named producers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducersMark {
    /// There may be any.
    pub(crate) named: bool,
    /// The snapshot, or a later one; zero if there was none.
    pub(crate) generation: u64,
    /// From here on frames may be missing in it.
    pub(crate) from: Offset,
}

/// Records lost so far, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LossTotals {
    pub(crate) retention: u64,
    pub(crate) drop_oldest: u64,
    pub(crate) damage: u64,
    pub(crate) lost_tail: u64,
}

/// The content of `checkpoint`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Everything below is durable.
    pub(crate) durable: Mark,
    /// No record has an offset at or above this one.
    pub(crate) reservation: Offset,
    pub(crate) log_start: Offset,
    /// The boot in which this was written; zeros where the platform does not tell.
    pub(crate) boot_id: [u8; BOOT_ID_LEN],
    /// The log was closed in order: `durable` is its end.
    pub(crate) clean: bool,
    /// What is in the page cache may not be what was written (a sync failed, or recovery met
    /// holes): offsets must not go on densely after the next unclean open.
    pub(crate) unproven: bool,
    pub(crate) losses: LossTotals,
    /// Damage that was counted in `losses` already: half-open ranges, in order.
    pub(crate) damage: Vec<(Offset, Offset)>,
    pub(crate) producers: ProducersMark,
}

impl Checkpoint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let damage = self.damage.get(..RANGES_MAX).unwrap_or(&self.damage);
        let producers = if self.producers.named {
            PRODUCERS_LEN
        } else {
            0
        };
        let mut bytes = vec![0; FIXED_LEN + damage.len() * RANGE_LEN + producers];
        let mut writer = Writer::new(&mut bytes);
        writer.u64(self.durable.offset.get());
        writer.u64(self.durable.segment.get());
        writer.u64(self.durable.position);
        writer.u64(self.durable.time);
        writer.u64(self.reservation.get());
        writer.u64(self.log_start.get());
        writer.bytes(&self.boot_id);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let named = flag(self.producers.named, NAMED);
        writer.u8(flag(self.clean, CLEAN) | flag(self.unproven, UNPROVEN) | named);
        writer.u64(self.losses.retention);
        writer.u64(self.losses.drop_oldest);
        writer.u64(self.losses.damage);
        writer.u64(self.losses.lost_tail);
        writer.u16(u16::try_from(damage.len()).unwrap_or(0));
        for (from, to) in damage {
            writer.u64(from.get());
            writer.u64(to.get());
        }
        if self.producers.named {
            writer.u64(self.producers.generation);
            writer.u64(self.producers.from.get());
        }
        bytes
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let durable = Mark {
            offset: Offset::new(reader.u64()?),
            segment: Offset::new(reader.u64()?),
            position: reader.u64()?,
            time: reader.u64()?,
        };
        let reservation = Offset::new(reader.u64()?);
        let log_start = Offset::new(reader.u64()?);
        let boot_id = reader.array()?;
        let flags = reader.u8()?;
        if flags & !(CLEAN | UNPROVEN | NAMED) != 0 {
            return Err(DecodeError::Field {
                field: "checkpoint flags",
            });
        }
        let losses = LossTotals {
            retention: reader.u64()?,
            drop_oldest: reader.u64()?,
            damage: reader.u64()?,
            lost_tail: reader.u64()?,
        };
        let mut damage = Vec::new();
        let mut last = Offset::ZERO;
        for _ in 0..reader.u16()? {
            let (from, to) = (Offset::new(reader.u64()?), Offset::new(reader.u64()?));
            if from < last || to <= from {
                return Err(DecodeError::Field {
                    field: "damaged range",
                });
            }
            last = to;
            damage.push((from, to));
        }
        let mut producers = ProducersMark::default();
        if flags & NAMED != 0 {
            producers = ProducersMark {
                named: true,
                generation: reader.u64()?,
                from: Offset::new(reader.u64()?),
            };
        }
        Ok(Self {
            durable,
            reservation,
            log_start,
            boot_id,
            clean: flags & CLEAN != 0,
            unproven: flags & UNPROVEN != 0,
            losses,
            damage,
            producers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_with_all_its_damage() {
        let checkpoint = Checkpoint {
            durable: Mark {
                offset: Offset::new(9),
                segment: Offset::new(4),
                position: 1500,
                time: 8,
            },
            reservation: Offset::new(1 << 20),
            log_start: Offset::new(2),
            boot_id: [7; 16],
            clean: true,
            unproven: true,
            losses: LossTotals {
                retention: 1,
                drop_oldest: 2,
                damage: 3,
                lost_tail: 4,
            },
            damage: (0..RANGES_MAX as u64)
                .map(|n| (Offset::new(10 * n), Offset::new(10 * n + 3)))
                .collect(),
            producers: ProducersMark {
                named: true,
                generation: 5,
                from: Offset::new(6),
            },
        };
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
    }
}
