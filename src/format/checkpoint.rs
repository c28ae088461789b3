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
const COMPACTED: u8 = 1 << 3;
const DROPPED: u8 = 1 << 4;

const FIXED_LEN: usize = 6 * 8 + BOOT_ID_LEN + 1 + 4 * 8 + 2;
const BOOT_ID_LEN: usize = 16;
const RANGE_LEN: usize = 16;
const PRODUCERS_LEN: usize = 2 * 8;
const CLEANED_LEN: usize = 2 * 8;
/// How many damaged ranges are remembered one by one.
pub(crate) const RANGES_MAX: usize = 128;
/// The same for ranges that were dropped.
pub(crate) const DROPPED_MAX: usize = 64;

const LONGEST: usize =
    FIXED_LEN + RANGES_MAX * RANGE_LEN + PRODUCERS_LEN + CLEANED_LEN + 2 + DROPPED_MAX * RANGE_LEN;
const _: () = assert!(LONGEST <= PAYLOAD_MAX);

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

/// How far the log is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cleaned {
    /// No record below has a later one of the same key below.
    pub(crate) below: Offset,
    /// Except in segments from here on, which could not be read then; the end of all offsets if
    /// there were none.
    pub(crate) redo: Offset,
}

impl Default for Cleaned {
    /// Nothing is compacted.
    fn default() -> Self {
        Self {
            below: Offset::ZERO,
            redo: Offset::MAX,
        }
    }
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
    /// Once it was compacted.
    pub(crate) cleaned: Option<Cleaned>,
    /// What was dropped on a full log: half-open ranges, in order. Everything else that is below
    /// the log start went by retention.
    pub(crate) dropped: Vec<(Offset, Offset)>,
}

impl Checkpoint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let damage = self.damage.get(..RANGES_MAX).unwrap_or(&self.damage);
        let producers = if self.producers.named {
            PRODUCERS_LEN
        } else {
            0
        };
        let cleaned = self.cleaned.map_or(0, |_| CLEANED_LEN);
        let dropped = self.dropped.get(..DROPPED_MAX).unwrap_or(&self.dropped);
        let has_dropped = !dropped.is_empty();
        let dropped_len = if has_dropped {
            2 + dropped.len() * RANGE_LEN
        } else {
            0
        };
        let damage_len = damage.len() * RANGE_LEN;
        let mut bytes = vec![0; FIXED_LEN + damage_len + producers + cleaned + dropped_len];
        let mut writer = Writer::new(&mut bytes);
        writer.u64(self.durable.offset.get());
        writer.u64(self.durable.segment.get());
        writer.u64(self.durable.position);
        writer.u64(self.durable.time);
        writer.u64(self.reservation.get());
        writer.u64(self.log_start.get());
        writer.bytes(&self.boot_id);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.clean, CLEAN)
            | flag(self.unproven, UNPROVEN)
            | flag(self.producers.named, NAMED)
            | flag(self.cleaned.is_some(), COMPACTED)
            | flag(has_dropped, DROPPED);
        writer.u8(flags);
        writer.u64(self.losses.retention);
        writer.u64(self.losses.drop_oldest);
        writer.u64(self.losses.damage);
        writer.u64(self.losses.lost_tail);
        put_ranges(&mut writer, damage);
        if self.producers.named {
            writer.u64(self.producers.generation);
            writer.u64(self.producers.from.get());
        }
        if let Some(cleaned) = &self.cleaned {
            writer.u64(cleaned.below.get());
            writer.u64(cleaned.redo.get());
        }
        if has_dropped {
            put_ranges(&mut writer, dropped);
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
        if flags & !(CLEAN | UNPROVEN | NAMED | COMPACTED | DROPPED) != 0 {
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
        let damage = take_ranges(&mut reader, "damaged range")?;
        let mut producers = ProducersMark::default();
        if flags & NAMED != 0 {
            producers = ProducersMark {
                named: true,
                generation: reader.u64()?,
                from: Offset::new(reader.u64()?),
            };
        }
        let mut cleaned = None;
        if flags & COMPACTED != 0 {
            cleaned = Some(Cleaned {
                below: Offset::new(reader.u64()?),
                redo: Offset::new(reader.u64()?),
            });
        }
        let dropped = if flags & DROPPED == 0 {
            Vec::new()
        } else {
            take_ranges(&mut reader, "dropped range")?
        };
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
            cleaned,
            dropped,
        })
    }
}

fn put_ranges(writer: &mut Writer<'_>, ranges: &[(Offset, Offset)]) {
    writer.u16(u16::try_from(ranges.len()).unwrap_or(0));
    for (from, to) in ranges {
        writer.u64(from.get());
        writer.u64(to.get());
    }
}

fn take_ranges(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<Vec<(Offset, Offset)>, DecodeError> {
    let mut ranges = Vec::new();
    let mut last = Offset::ZERO;
    for _ in 0..reader.u16()? {
        let (from, to) = (Offset::new(reader.u64()?), Offset::new(reader.u64()?));
        if from < last || to <= from {
            return Err(DecodeError::Field { field });
        }
        last = to;
        ranges.push((from, to));
    }
    Ok(ranges)
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
            cleaned: Some(Cleaned {
                below: Offset::new(7),
                redo: Offset::MAX,
            }),
            dropped: (0..DROPPED_MAX as u64)
                .map(|n| (Offset::new(5 * n), Offset::new(5 * n + 2)))
                .collect(),
        };
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
    }
}
