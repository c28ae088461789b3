//! Keeps the checkpoint: written after syncs, off the append path.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Shared, delete::why_gone, report::GapReason};
use crate::{
    error::Result,
    format::checkpoint::{Checkpoint, Cleaned, LossTotals, Mark, RANGES_MAX},
    fs::{Mutex, SyncKind},
    offset::Offset,
    slot_file::SlotFile,
};

/// Offsets reserved ahead, in one durable step. A power cut skips at most about this many.
pub(crate) const RESERVED_AHEAD: u64 = 1 << 20;

/// The checkpoint, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    inner: Mutex<Inner>,
    /// The reservation that is durable.
    reserved: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    file: SlotFile,
    content: Checkpoint,
    /// Something changed that no write has stored.
    dirty: bool,
}

impl Checkpointer {
    /// Takes over the checkpoint. No offset may be used before it is written.
    pub(crate) fn new(file: SlotFile, content: Checkpoint) -> Self {
        let inner = Inner {
            file,
            content,
            dirty: true,
        };
        Self {
            inner: Mutex::new(inner),
            reserved: AtomicU64::new(0),
        }
    }

    /// No record may get this offset or a higher one.
    #[inline]
    pub(crate) fn reserved(&self) -> Offset {
        Offset::new(self.reserved.load(Ordering::Acquire))
    }

    /// Records lost so far.
    pub(crate) fn losses(&self) -> LossTotals {
        self.inner.lock().content.losses
    }

    /// Why a record below the log start is gone, and up to where others are for the same reason.
    pub(super) fn why_gone(&self, offset: Offset) -> (GapReason, Offset) {
        why_gone(&self.inner.lock().content, offset)
    }

    /// How far the log is compacted, as it is stored.
    pub(crate) fn cleaned(&self) -> Cleaned {
        self.inner.lock().content.cleaned.unwrap_or_default()
    }

    /// Whether there is something that the file does not have yet.
    pub(crate) fn is_stale(&self, mark: Mark) -> bool {
        let inner = self.inner.lock();
        inner.dirty || inner.content.durable != mark
    }

    /// Counts a gap, once however often it is met. The count is stored with the next write.
    pub(crate) fn count_loss(&self, from: Offset, to: Offset, reason: GapReason) {
        // The others are counted where they happen.
        if reason != GapReason::Damage {
            return;
        }
        let mut inner = self.inner.lock();
        let added = add_range(&mut inner.content.damage, from, to, RANGES_MAX);
        let total = &mut inner.content.losses.damage;
        *total = total.saturating_add(added);
        inner.dirty |= added > 0;
    }
}

/// Adds `from..to` to ordered ranges that do not overlap; returns how many offsets are new. With
/// `most` ranges the two nearest are joined, so that an offset between may go uncounted
/// but none is counted twice.
pub(super) fn add_range(
    ranges: &mut Vec<(Offset, Offset)>,
    from: Offset,
    to: Offset,
    most: usize,
) -> u64 {
    let covered: u64 = ranges
        .iter()
        .map(|&(a, b)| b.min(to).since(a.max(from)))
        .sum();
    let added = to.since(from).saturating_sub(covered);
    if added == 0 {
        return 0;
    }
    let touching = |&(a, b): &(Offset, Offset)| a <= to && from <= b;
    let start = ranges
        .iter()
        .filter(|range| touching(range))
        .map(|range| range.0)
        .min();
    let end = ranges
        .iter()
        .filter(|range| touching(range))
        .map(|range| range.1)
        .max();
    ranges.retain(|range| !touching(range));
    let joined = (
        start.map_or(from, |a| a.min(from)),
        end.map_or(to, |b| b.max(to)),
    );
    let place = ranges.partition_point(|range| range.0 < joined.0);
    ranges.insert(place, joined);
    if ranges.len() > most {
        join_nearest(ranges);
    }
    added
}

fn join_nearest(ranges: &mut Vec<(Offset, Offset)>) {
    let pairs = ranges.iter().zip(ranges.iter().skip(1));
    let nearest = pairs
        .enumerate()
        .min_by_key(|(_, (a, b))| b.0.since(a.1))
        .map(|(at, _)| at);
    if let Some(at) = nearest {
        let next = ranges.remove(at + 1);
        if let Some(range) = ranges.get_mut(at) {
            range.1 = next.1;
        }
    }
}

impl Shared {
    /// Stores what is durable by now, if anything in the checkpoint changed. A failed sync latches
    /// the log.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`, `SyncFailed`.
    pub(crate) fn refresh_checkpoint(&self) -> Result<()> {
        if self.checkpoint.is_stale(self.syncer.mark()) {
            self.write_checkpoint(SlotFile::write, |_| {})
        } else {
            Ok(())
        }
    }

    /// Makes sure that offsets below `until` may be used, and reserves `ahead` more.
    ///
    /// # Errors
    ///
    /// As [`refresh_checkpoint`](Self::refresh_checkpoint).
    pub(crate) fn reserve(&self, until: Offset, ahead: u64) -> Result<()> {
        if self.checkpoint.reserved() >= until.advance(ahead / 2) {
            return Ok(());
        }
        self.reserve_at_once(until.advance(ahead))
    }

    /// Makes sure that offsets below `until` may be used. Both slots say so: if one of them rots,
    /// no offset is used again.
    ///
    /// # Errors
    ///
    /// As [`refresh_checkpoint`](Self::refresh_checkpoint).
    pub(crate) fn reserve_at_once(&self, until: Offset) -> Result<()> {
        self.write_checkpoint(SlotFile::write_both, |content| {
            content.reservation = content.reservation.max(until);
        })
    }

    /// Marks the log as closed in order, in both slots.
    ///
    /// # Errors
    ///
    /// As [`refresh_checkpoint`](Self::refresh_checkpoint).
    pub(crate) fn write_clean_checkpoint(&self) -> Result<()> {
        self.write_checkpoint(SlotFile::write_both, |content| content.clean = true)
    }

    pub(super) fn write_checkpoint(
        &self,
        write: fn(&mut SlotFile, &[u8], Option<SyncKind>) -> Result<()>,
        change: impl FnOnce(&mut Checkpoint),
    ) -> Result<()> {
        let producers = self.producers_mark();
        let mut inner = self.checkpoint.inner.lock();
        self.latch.check()?;
        let mut content = inner.content.clone();
        if producers.named {
            content.producers = producers;
        }
        content.durable = self.syncer.mark();
        change(&mut content);
        // `Fsync::Off` promises nothing after a power cut, and pays nothing.
        let written = write(&mut inner.file, &content.encode(), self.sync_kind());
        self.latch_on_failure(written)?;
        self.checkpoint
            .reserved
            .store(content.reservation.get(), Ordering::Release);
        inner.content = content;
        inner.dirty = false;
        Ok(())
    }

    /// After a failed sync: the next opening must not take the page cache for what was written.
    /// Best effort, as the device has just failed; the log is latched whether or not it works.
    pub(crate) fn note_unproven(&self) {
        let mut inner = self.checkpoint.inner.lock();
        inner.content.unproven = true;
        let payload = inner.content.encode();
        drop(inner.file.write_both(&payload, self.sync_kind()));
    }

    /// Counts a gap that a reader met.
    pub(crate) fn count_loss(&self, from: Offset, to: Offset, reason: GapReason) {
        self.checkpoint.count_loss(from, to, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(numbers: &[(u64, u64)]) -> Vec<(Offset, Offset)> {
        numbers
            .iter()
            .map(|&(a, b)| (Offset::new(a), Offset::new(b)))
            .collect()
    }

    fn add(to: &mut Vec<(Offset, Offset)>, from: u64, until: u64) -> u64 {
        add_range(to, Offset::new(from), Offset::new(until), RANGES_MAX)
    }

    #[test]
    fn an_offset_is_counted_once_however_ranges_overlap() {
        let mut known = Vec::new();
        assert_eq!(add(&mut known, 10, 20), 10);
        assert_eq!(add(&mut known, 10, 20), 0);
        assert_eq!(add(&mut known, 30, 40), 10);
        assert_eq!(add(&mut known, 15, 35), 10);
        assert_eq!(known, ranges(&[(10, 40)]));
        assert_eq!(add(&mut known, 0, 10), 10);
        assert_eq!(known, ranges(&[(0, 40)]));
    }

    #[test]
    fn beyond_the_bound_the_two_nearest_ranges_are_joined() {
        let mut known = Vec::new();
        for n in 0..=RANGES_MAX as u64 {
            assert_eq!(add(&mut known, n * 100, n * 100 + 10), 10);
        }
        assert_eq!(known.len(), RANGES_MAX);
        assert_eq!(known.first(), Some(&(Offset::new(0), Offset::new(110))));
    }
}
