//! Deleting: carries out what [`retention`](super::retention) decided, and what the user asks for.
//!
//! In this order: what is known of named producers beyond the records that go, and then the new log
//! start, are durable before the first file goes. Files go from the oldest on, a few at a time, and
//! then the directory is synced. Wherever this is interrupted, opening the log finishes it: what is
//! below the log start is removed. Nobody holds the append lock meanwhile.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Shared,
    checkpointer::add_range,
    clean::CleanPace,
    report::GapReason,
    retention::SegmentFacts,
    segments::{Segment, segment_path},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        checkpoint::{Checkpoint, DROPPED_MAX},
        file_name,
    },
    fs::Host,
    offset::Offset,
    slot_file::{SlotFile, sync_failed},
};

/// Files of so many segments are removed before others have a turn.
const AT_ONCE: usize = 16;

/// Segments that are in the log no more, while their files are.
#[derive(Debug, Default)]
pub(super) struct Doomed(VecDeque<Arc<Segment>>);

impl Doomed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is to be deleted, and how that counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deletion {
    /// The new log start.
    pub(super) start: Offset,
    /// Records among it that groups had not committed.
    pub(super) lost: u64,
    /// Records that make room on a full log: if any, they are all there are.
    pub(super) dropped: u64,
}

impl Shared {
    /// Moves the log start, and takes the segments below out of the log. Their files are left to
    /// [`remove_files`](Self::remove_files).
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`: nothing is deleted. `SyncFailed`.
    pub(super) fn delete(&self, pace: &mut CleanPace, deletion: Deletion) -> Result<()> {
        let Deletion {
            start,
            lost,
            dropped,
        } = deletion;
        let before = self.log_start();
        if start <= before {
            return Ok(());
        }
        if self.sync_kind().is_some() {
            // A log that starts behind its durable end would have lost what is between.
            self.sync_until(start)?;
            self.sync_name(start)?;
        }
        self.keep_producers(start)?;
        // No compacted segment takes the place of one that goes.
        let _files = self.cleaner.files.lock();
        let gone = self.segments.below(start);
        self.write_checkpoint(SlotFile::write_both, |content| {
            content.log_start = start;
            let losses = &mut content.losses;
            losses.retention = losses.retention.saturating_add(lost);
            losses.drop_oldest = losses.drop_oldest.saturating_add(dropped);
            if dropped > 0 {
                add_range(&mut content.dropped, before, start, DROPPED_MAX);
            }
        })?;
        // In this order: whoever does not find a segment any more finds the reason.
        self.log_start.store(start.get(), Ordering::Release);
        self.take_out(&gone, start);
        if self.sync_kind().is_none() {
            // Else what is durable is taken out by whoever synced it, who counts on the rest.
            let mut appender = self.append.lock();
            appender.unsynced.retain(|segment| segment.base >= start);
        }
        self.counters.note_room();
        pace.doomed.0.extend(gone);
        Ok(())
    }

    /// Makes the name of the segment durable with which the log will start: without it recovery
    /// can't tell that those before it, of which some may be left, end below the log start.
    fn sync_name(&self, start: Offset) -> Result<()> {
        if self.durable() > start {
            // It came with what stands in the segment.
            return Ok(());
        }
        self.sync_directory()
    }

    /// Takes segments out of the log. Nobody seals one of them from then on: the index that is made
    /// for it would be left behind.
    fn take_out(&self, gone: &[Arc<Segment>], start: Offset) {
        let _sealing = self.maintenance.sealing.lock();
        self.segments.remove(gone);
        let mut sealable = self.maintenance.sealable.lock();
        sealable.retain(|segment| segment.base >= start);
    }

    /// Makes sure that what the records below say of named producers is known without them.
    fn keep_producers(&self, start: Offset) -> Result<()> {
        if self.append.lock().producers.len() == 0 {
            return Ok(());
        }
        self.snapshot_beyond(start)
    }

    /// Removes some of the files of deleted segments; whether none are left.
    ///
    /// # Errors
    ///
    /// `Io`: it is tried again. `SyncFailed`.
    pub(super) fn remove_files(&self, pace: &mut CleanPace) -> Result<bool> {
        let host = &*self.site.host;
        let mut removed = 0;
        let mut result = Ok(());
        while removed < AT_ONCE
            && let Some(segment) = pace.doomed.0.front()
        {
            result = remove_segment(host, &segment.path, &segment.index_path());
            if result.is_err() {
                break;
            }
            // What is mapped of it, and its handles, go with this.
            pace.doomed.0.pop_front();
            removed += 1;
        }
        if removed > 0 {
            self.sync_directory()?;
        }
        result.map(|()| pace.doomed.is_empty())
    }

    /// Removes all of them.
    ///
    /// # Errors
    ///
    /// As [`remove_files`](Self::remove_files).
    pub(super) fn remove_all_files(&self, pace: &mut CleanPace) -> Result<()> {
        while !pace.doomed.is_empty() {
            self.latch.check()?;
            self.remove_files(pace)?;
        }
        Ok(())
    }

    /// Deletes all records below `offset`; returns the log start offset.
    ///
    /// # Errors
    ///
    /// `OffsetOutOfRange`, `Closed`, `Io`, `StorageFull`, `SyncFailed`.
    pub(crate) fn delete_records_before(&self, offset: Offset) -> Result<Offset> {
        let mut pace = self.maintenance.clean_pace.lock();
        self.check_writable()?;
        let (start, end) = (self.log_start(), self.end());
        if offset > end {
            return Err(ErrorKind::OffsetOutOfRange {
                requested: offset,
                start,
                end,
            }
            .into());
        }
        if offset > start {
            if offset == end {
                self.roll_at(end)?;
            }
            let groups = self.look_at_groups(&mut pace)?.groups;
            let lowest = groups.iter().map(|group| group.floor).min();
            let facts = self.segment_facts();
            let lost = lowest.map_or(0, |floor| records(&facts, floor.max(start), offset));
            let deletion = Deletion {
                start: offset,
                lost,
                dropped: 0,
            };
            self.delete(&mut pace, deletion)?;
        }
        self.remove_all_files(&mut pace)?;
        Ok(self.log_start())
    }

    /// Rolls the active segment if it has records and the log ends at `end`, so that it can be
    /// deleted as a whole.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`.
    pub(super) fn roll_at(&self, end: Offset) -> Result<()> {
        let mut appender = self.append.lock();
        if appender.next == end && appender.writer.has_frames() {
            self.roll(&mut appender)?;
        }
        Ok(())
    }
}

/// How many records there are from one offset to another.
pub(super) fn records(facts: &[SegmentFacts], from: Offset, to: Offset) -> u64 {
    let overlap = |segment: &SegmentFacts| segment.end.min(to).since(segment.base.max(from));
    facts.iter().map(overlap).sum()
}

/// What is below the log start when a log is opened: a deletion was interrupted.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    pub(super) segments: Vec<Offset>,
    pub(super) indexes: Vec<Offset>,
}

impl Shared {
    /// Removes what an interrupted deletion left. The log start must be durable.
    ///
    /// # Errors
    ///
    /// `Io`, `SyncFailed`.
    pub(super) fn finish_deletion(&self, leftovers: &Leftovers) -> Result<()> {
        let Leftovers { segments, indexes } = leftovers;
        if segments.is_empty() && indexes.is_empty() {
            return Ok(());
        }
        let dir = &self.site.dir;
        let host = &*self.site.host;
        for base in segments.iter().chain(indexes) {
            let index = dir.join(file_name::index(*base));
            remove_segment(host, &segment_path(dir, *base), &index)?;
        }
        if self.sync_kind().is_none() {
            return Ok(());
        }
        let synced = self.site.directory.sync();
        synced.map_err(|error| sync_failed(dir, error))
    }
}

/// Removes the files of a segment, where they are there.
fn remove_segment(host: &dyn Host, path: &Path, index: &Path) -> Result<()> {
    for path in [path, index] {
        match host.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Why the record at `offset`, which is below the log start, is gone, and up to where all others
/// are for the same reason.
pub(super) fn why_gone(checkpoint: &Checkpoint, offset: Offset) -> (GapReason, Offset) {
    let behind = checkpoint.dropped.iter().find(|(_, to)| offset < *to);
    match behind {
        Some(&(from, to)) if from <= offset => (GapReason::DropOldest, to),
        Some(&(from, _)) => (GapReason::Retention, from),
        None => (GapReason::Retention, Offset::MAX),
    }
}
