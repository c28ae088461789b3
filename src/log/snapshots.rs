//! Keeps what is known of named producers beyond the records that say it: snapshots, so that
//! opening a log reads no more than what was appended since the last one, and so that nothing is
//! forgotten with records that are deleted.
//!
//! A snapshot holds nothing that is not durable: its content is taken first, and stored once the
//! log's end at that moment is durable. Two files are written in turn.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    Shared, Site,
    cursor::{Cursor, Limits},
    names::Names,
    report::Damage,
    source::Source,
};
use crate::{
    error::{DecodeError, Error, Result},
    format::{
        checkpoint::ProducersMark,
        file_name, frame,
        producers::{FILE_MAX, Snapshot},
    },
    fs::{self, Access, Host, Mutex, SyncKind},
    offset::Offset,
    slot_file::{SlotFile, sync_dir, sync_failed},
};

/// So many producers are looked at for one taking of the append lock.
const SLICE: usize = 64;
/// How much is read at once of what no snapshot has.
const READ_RECORDS: usize = 4096;
const READ_BYTES: usize = 1 << 20;

/// The snapshot that is stored, and those to come.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// There may be frames of named producers. Without any, nothing here costs anything.
    named: AtomicBool,
    /// Of the one that is stored.
    generation: AtomicU64,
    /// One after the other takes and stores them.
    storing: Mutex<()>,
    next: Mutex<Next>,
    /// What readers have asked for.
    pub(super) names: Names,
}

#[derive(Debug, Default)]
struct Next {
    /// Bytes that were read when the log was opened, as no snapshot had them.
    read: u64,
    /// Bytes appended when the last one was taken.
    taken_at: u64,
    /// Taken, and stored as soon as it may be.
    waiting: Option<Waiting>,
    /// All frames below are in the one that is stored, and in the one before.
    stored: [Offset; 2],
}

#[derive(Debug)]
struct Waiting {
    snapshot: Snapshot,
    /// Once all below is durable.
    needs: Offset,
}

/// What was found when the log was opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// There may be any.
    named: bool,
    pub(super) snapshot: Snapshot,
    /// From here on frames are read.
    pub(super) from: Offset,
    pub(super) damage: Option<Damage>,
}

fn path_of(dir: &Path, generation: u64) -> PathBuf {
    dir.join(file_name::producers(generation))
}

/// Reads the snapshot that counts, and finds out from where on frames have to be read.
///
/// # Errors
///
/// `UnsupportedVersion`, `Io`.
pub(super) fn find(host: &dyn Host, dir: &Path, log_id: u64, mark: ProducersMark) -> Result<Found> {
    if !mark.named {
        return Ok(Found::default());
    }
    let mut newest: Option<Snapshot> = None;
    for generation in 0..2 {
        if let Ok(found) = read(host, &path_of(dir, generation), log_id)? {
            let is_newer = |than: &Snapshot| than.generation < found.generation;
            if newest.as_ref().is_none_or(is_newer) {
                newest = Some(found);
            }
        }
    }
    let snapshot = newest.unwrap_or_default();
    if snapshot.generation >= mark.generation {
        let from = mark.from.max(snapshot.upto);
        return Ok(Found {
            named: true,
            snapshot,
            from,
            damage: None,
        });
    }
    let path = path_of(dir, mark.generation);
    let why = read(host, &path, log_id)?
        .err()
        .unwrap_or(DecodeError::Missing);
    Ok(Found {
        named: true,
        from: snapshot.upto,
        snapshot,
        damage: Some(Damage {
            path,
            position: 0,
            from: Offset::ZERO,
            to: Offset::ZERO,
            reason: format!("what is known of named producers is damaged ({why})"),
        }),
    })
}

fn read(host: &dyn Host, path: &Path, log_id: u64) -> Result<Result<Snapshot, DecodeError>> {
    let io = |error| Error::io("read", path, error);
    let file = match host.open(path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Err(DecodeError::Missing));
        }
        Err(error) => return Err(io(error)),
    };
    let length = file.len().map_err(io)?;
    if length > FILE_MAX {
        return Ok(Err(DecodeError::Length { length }));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let len = fs::read_full(&*file, &mut bytes, 0).map_err(io)?;
    bytes.truncate(len);
    match Snapshot::decode(&bytes, log_id) {
        Err(error @ DecodeError::Version { .. }) => Err(Error::decode(path, 0, error)),
        decoded => Ok(decoded),
    }
}

/// Writes a snapshot in place of the one before the last.
///
/// # Errors
///
/// `Io`, `StorageFull`, `SyncFailed`.
fn write(site: &Site, snapshot: &Snapshot, kind: Option<SyncKind>) -> Result<()> {
    let path = path_of(&site.dir, snapshot.generation);
    let io = |error| Error::io("write", &path, error);
    let file = site.host.open(&path, Access::Create).map_err(io)?;
    let bytes = snapshot.encode(site.log_id);
    fs::write_full(&*file, &bytes, 0).map_err(io)?;
    file.set_len(bytes.len() as u64).map_err(io)?;
    let Some(kind) = kind else { return Ok(()) };
    file.sync(kind).map_err(|error| sync_failed(&path, error))?;
    // It may be new.
    sync_dir(&*site.host, &site.dir)
}

impl Shared {
    /// Learns what is known of named producers: from the snapshot, and from the frames behind it.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`.
    pub(super) fn load_producers(self: &Arc<Self>, found: &Found) -> Result<()> {
        if !found.named {
            return Ok(());
        }
        self.snapshots.named.store(true, Ordering::Release);
        let end = self.end();
        let generation = found.snapshot.generation;
        self.snapshots
            .generation
            .store(generation, Ordering::Release);
        self.snapshots.next.lock().stored = [found.snapshot.upto, Offset::ZERO];
        self.append.lock().producers.restore(&found.snapshot, end);
        let mut cursor = Cursor::new(Arc::clone(self) as Arc<dyn Source>, found.from);
        let limits = Limits {
            records: READ_RECORDS,
            bytes: READ_BYTES,
            end,
            unpack: false,
        };
        loop {
            let before = cursor.position();
            cursor.advance(limits)?;
            let bytes: usize = cursor.spans().iter().map(|span| span.len).sum();
            self.snapshots.next.lock().read += bytes as u64;
            let mut appender = self.append.lock();
            for span in cursor.spans() {
                let frame = frame::trusted(cursor.bytes(span));
                if let Some(sender) = frame.and_then(|frame| frame.sender) {
                    appender
                        .producers
                        .replay(&sender, span.first, span.offsets.into());
                }
            }
            if cursor.position() == before {
                return Ok(());
            }
        }
    }

    /// What a checkpoint says of named producers. To be asked before the durable point that the
    /// checkpoint is to have.
    pub(super) fn producers_mark(&self) -> ProducersMark {
        if !self.snapshots.named.load(Ordering::Acquire) {
            return ProducersMark::default();
        }
        // In this order: each is at most as far as the next one.
        let durable = self.syncer.mark().offset;
        let unsaved = self.append.lock().producers.unsaved_from;
        ProducersMark {
            named: true,
            generation: self.snapshots.generation.load(Ordering::Acquire),
            from: unsaved.map_or(durable, |unsaved| unsaved.min(durable)),
        }
    }

    /// Notes, durably, that from now on there may be frames of named producers.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`, `SyncFailed`.
    pub(super) fn note_named(&self) -> Result<()> {
        // Whoever comes second waits until it is durable.
        let _guard = self.snapshots.next.lock();
        if self.snapshots.named.load(Ordering::Acquire) {
            return Ok(());
        }
        let from = self.syncer.mark().offset;
        self.write_checkpoint(SlotFile::write_both, |content| {
            content.producers.named = true;
            content.producers.from = from;
        })?;
        self.snapshots.named.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes a snapshot if much was appended since the last one, and stores one that was taken if
    /// that may be done by now.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`: it is tried again. `SyncFailed`.
    pub(super) fn snapshot_if_due(&self) -> Result<()> {
        if !self.snapshots.named.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = self.snapshots.storing.lock();
        let every = self.site.config.segment_bytes as u64 / 2;
        let appender = self.append.lock();
        let (bytes, is_new) = (
            appender.appended_bytes,
            appender.producers.unsaved_from.is_some(),
        );
        drop(appender);
        let is_waiting = {
            let next = self.snapshots.next.lock();
            let due = next.read + bytes.saturating_sub(next.taken_at) >= every;
            if next.waiting.is_none() && !(due && is_new) {
                return Ok(());
            }
            next.waiting.is_some()
        };
        if !is_waiting {
            self.take_snapshot();
        }
        self.store_snapshot()
    }

    /// At the end: everything is durable, and nothing comes any more.
    ///
    /// # Errors
    ///
    /// As [`snapshot_if_due`](Self::snapshot_if_due).
    pub(super) fn last_snapshot(&self) -> Result<()> {
        if self.append.lock().producers.unsaved_from.is_none() {
            return Ok(());
        }
        let _one = self.snapshots.storing.lock();
        self.take_snapshot();
        self.store_snapshot()
    }

    /// Makes sure that what frames below `offset` say of producers is known without them: also if
    /// one of the two files gets lost.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`, `SyncFailed`.
    pub(super) fn snapshot_beyond(&self, offset: Offset) -> Result<()> {
        let _one = self.snapshots.storing.lock();
        for _ in 0..2 {
            if self
                .snapshots
                .next
                .lock()
                .stored
                .iter()
                .all(|upto| *upto >= offset)
            {
                break;
            }
            self.take_snapshot();
            if self.sync_kind().is_some() {
                self.sync_until(self.end())?;
            }
            self.store_snapshot()?;
        }
        Ok(())
    }

    fn take_snapshot(&self) {
        let mut appender = self.append.lock();
        let upto = appender.next;
        appender.producers.newer_from = None;
        let (bytes, count) = (appender.appended_bytes, appender.producers.len());
        drop(appender);
        let mut snapshot = Snapshot {
            upto,
            ..Snapshot::default()
        };
        for start in (0..count).step_by(SLICE) {
            let appender = self.append.lock();
            let slots = start..count.min(start + SLICE);
            let known = slots.filter_map(|slot| appender.producers.known(slot));
            snapshot.producers.extend(known);
        }
        let needs = self.append.lock().next;
        snapshot.generation = self.snapshots.generation.load(Ordering::Acquire) + 1;
        let mut next = self.snapshots.next.lock();
        next.read = 0;
        next.taken_at = bytes;
        next.waiting = Some(Waiting { snapshot, needs });
    }

    fn store_snapshot(&self) -> Result<()> {
        let kind = self.sync_kind();
        // Where nothing is ever durable, nothing is waited for.
        let durable = kind.map_or(Offset::MAX, |_| self.durable());
        let mut next = self.snapshots.next.lock();
        let Some(waiting) = next.waiting.take_if(|waiting| waiting.needs <= durable) else {
            return Ok(());
        };
        let written = write(&self.site, &waiting.snapshot, self.sync_kind());
        let written = self.latch_on_failure(written);
        if let Err(error) = written {
            next.waiting = Some(waiting);
            return Err(error);
        }
        let [last, _] = next.stored;
        next.stored = [waiting.snapshot.upto, last];
        drop(next);
        // In this order: see `producers_mark`.
        let generation = waiting.snapshot.generation;
        self.snapshots
            .generation
            .store(generation, Ordering::Release);
        let producers = &mut self.append.lock().producers;
        producers.unsaved_from = producers.newer_from;
        Ok(())
    }
}
