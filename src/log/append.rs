//! The append path: under one short lock, encode the frame into prepared memory, checksum it,
//! publish the new end. Everything slow (allocating, rolling, reserving offsets) is done ahead by
//! the maintenance thread; where that has not kept up, here.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

use super::{
    Shared, Site,
    checkpointer::RESERVED_AHEAD,
    full::{Patience, Waiter},
    producers::Producers,
    segments::{Segment, segment_path},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        body::FrameBody,
        file_name,
        frame::{self, Stamp},
        segment::{FOOTER_LEN, Footer, SegmentHeader},
    },
    fs::{Access, File, MutexGuard, WaitId, WaitList, wake_all},
    offset::Offset,
    options::{ReadMode, WriteMode},
    segment::{self, FRAMES_START, SegmentWriter, Slack},
};

/// Room that an append prepares itself when the maintenance thread has not kept ahead: enough to
/// be worth the system calls, little enough not to hold up others for long.
pub(super) const LATE_ROOM: usize = 256 << 10;

/// What the append lock guards.
#[derive(Debug)]
pub(crate) struct Appender {
    pub(crate) writer: SegmentWriter,
    /// The log end offset.
    pub(crate) next: Offset,
    /// The append time of the last frame: it never goes back.
    pub(crate) last_time: u64,
    pub(super) producers: Producers,
    /// Rolled segments that are not synced yet, oldest first.
    pub(crate) unsynced: Vec<Arc<Segment>>,
    /// A segment's name is not durable yet.
    pub(crate) directory_dirty: bool,
    /// Readers that wait for records. They register and look again at the end under this lock, so
    /// no wake-up is lost.
    readers: WaitList<()>,
    /// The maintenance thread sleeps until it is woken.
    pub(crate) maintenance_sleeps: bool,
    pub(crate) appended_records: u64,
    pub(crate) appended_bytes: u64,
    pub(crate) late_preparations: u64,
    /// So much had been appended at this moment of the log's clock, at the latest.
    pub(super) seen: (u64, u64),
}

/// Why a frame was not appended yet.
pub(super) enum Obstacle {
    Room(usize),
    Roll,
    Offsets(Offset),
}

impl Appender {
    pub(crate) fn new(writer: SegmentWriter, next: Offset, last_time: u64) -> Self {
        Self {
            writer,
            next,
            last_time,
            producers: Producers::default(),
            unsynced: Vec::new(),
            directory_dirty: true,
            readers: WaitList::new(),
            maintenance_sleeps: false,
            appended_records: 0,
            appended_bytes: 0,
            late_preparations: 0,
            seen: (0, 0),
        }
    }

    /// What stands in the way of a frame of `len` bytes with `count` records.
    #[inline]
    pub(super) fn obstacle(&self, len: usize, count: u64, reserved: Offset) -> Option<Obstacle> {
        match self.writer.slack(len) {
            Slack::Fits => {}
            Slack::Prepare(end) => return Some(Obstacle::Room(end)),
            Slack::Full => return Some(Obstacle::Roll),
        }
        let end = self.next.advance(count);
        if end > reserved {
            return Some(Obstacle::Offsets(end));
        }
        // Offsets within a segment are 32 bits wide.
        if end.since(self.writer.header.base) > u64::from(u32::MAX) {
            return Some(Obstacle::Roll);
        }
        None
    }

    /// Writes a frame for which there is room; returns its first offset.
    ///
    /// # Errors
    ///
    /// `StorageFull`, `Io`. The log is as before.
    #[inline]
    pub(super) fn write_frame(&mut self, log: &Shared, body: &impl FrameBody) -> Result<Offset> {
        let len = frame::frame_len(body);
        let first = self.next;
        let stamp = Stamp {
            relative_offset: saturate(first.since(self.writer.header.base)),
            durable_distance: saturate(first.since(log.durable())),
            append_time: log.site.host.wall_millis().max(self.last_time),
        };
        self.writer
            .append(body, len, stamp)
            .map_err(|error| log.append_error(self, error))?;
        self.next = first.advance(body.count());
        self.last_time = stamp.append_time;
        self.appended_records += body.count();
        self.appended_bytes += len as u64;
        Ok(first)
    }
}

impl Shared {
    /// Appends a frame; returns its first offset. It is in the page cache then.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `StorageFull`, `Io`, `SyncFailed`, `Closed`. The log is as before.
    #[inline]
    pub(crate) fn append(&self, body: &impl FrameBody, waiter: Waiter) -> Result<Offset> {
        let (len, count) = (frame::frame_len(body), body.count());
        let mut patience = Patience::new(waiter, false);
        loop {
            let mut appender = self.clear_way(self.append.lock(), len, count, &mut patience)?;
            match appender.write_frame(self, body) {
                Ok(first) => {
                    self.publish(appender)?;
                    return Ok(first);
                }
                Err(error) => drop(self.handle_full(appender, error, &mut patience, count)?),
            }
        }
    }

    /// Makes sure that a frame of `len` bytes with `count` records can be written. The lock may
    /// have been let go meanwhile.
    #[inline]
    fn clear_way<'a>(
        &'a self,
        mut appender: MutexGuard<'a, Appender>,
        len: usize,
        count: u64,
        patience: &mut Patience,
    ) -> Result<MutexGuard<'a, Appender>> {
        loop {
            self.check_writable()?;
            let obstacle = appender.obstacle(len, count, self.checkpoint.reserved());
            let Some(obstacle) = obstacle else {
                return Ok(appender);
            };
            appender = self.overcome(appender, &obstacle, patience, count)?;
        }
    }

    /// Shows what was written to all who read, and lets go of the lock.
    #[inline]
    pub(super) fn publish(&self, appender: MutexGuard<'_, Appender>) -> Result<()> {
        let end = appender.next;
        // Release: whoever sees the end finds the frames below it published.
        self.end.store(end.get(), Ordering::Release);
        self.finish(appender);
        self.flush_by_count(end)
    }

    /// Lets go of the append lock and wakes whoever has to know.
    #[inline]
    fn finish(&self, mut appender: MutexGuard<'_, Appender>) {
        if appender.readers.is_empty() && !appender.maintenance_sleeps {
            return;
        }
        let readers = appender.readers.take_all();
        let wake_maintenance = std::mem::take(&mut appender.maintenance_sleeps);
        drop(appender);
        wake_all(readers);
        if wake_maintenance {
            self.maintenance.wake_ahead();
        }
    }

    /// Syncs if the flush policy counts records and the count is reached.
    #[inline]
    fn flush_by_count(&self, end: Offset) -> Result<()> {
        match self.site.config.flush.messages {
            Some(messages) if end.since(self.durable()) >= messages => self.sync_until(end),
            _ => Ok(()),
        }
    }

    #[cold]
    fn append_error(&self, appender: &Appender, error: io::Error) -> Error {
        let path = segment_path(&self.site.dir, appender.writer.header.base);
        Error::io("append to", &path, error)
    }

    /// Does what the maintenance thread should have done ahead.
    #[cold]
    pub(super) fn overcome<'a>(
        &'a self,
        mut appender: MutexGuard<'a, Appender>,
        obstacle: &Obstacle,
        patience: &mut Patience,
        count: u64,
    ) -> Result<MutexGuard<'a, Appender>> {
        patience.see(self.counters.room_made());
        let done = match *obstacle {
            Obstacle::Room(end) => {
                appender.late_preparations += 1;
                self.late_room(&appender, end)
            }
            Obstacle::Roll => {
                let checked = self.check_roll(&appender);
                checked.and_then(|()| self.roll(&mut appender))
            }
            Obstacle::Offsets(end) => {
                appender.late_preparations += 1;
                // Waits for the device, so not under the append lock.
                drop(appender);
                self.reserve(end, RESERVED_AHEAD)?;
                return Ok(self.append.lock());
            }
        };
        match done {
            Ok(()) => Ok(appender),
            Err(error) => self.handle_full(appender, error, patience, count),
        }
    }

    fn late_room(&self, appender: &Appender, end: usize) -> Result<()> {
        self.check_free(LATE_ROOM)?;
        let room = appender.writer.room();
        room.extend(end, end + LATE_ROOM)
            .map_err(|error| self.append_error(appender, error))
    }

    /// After a failure for want of room: does what the options say. The lock is let go of
    /// meanwhile.
    #[cold]
    pub(super) fn handle_full<'a>(
        &'a self,
        appender: MutexGuard<'a, Appender>,
        error: Error,
        patience: &mut Patience,
        count: u64,
    ) -> Result<MutexGuard<'a, Appender>> {
        drop(appender);
        self.make_way(error, patience, count)?;
        Ok(self.append.lock())
    }

    /// Makes the prepared segment the active one.
    ///
    /// # Errors
    ///
    /// `StorageFull`, `Io`: the log is as before.
    pub(crate) fn roll(&self, appender: &mut Appender) -> Result<()> {
        let base = appender.next;
        let prepared = self.prepared.lock().take();
        let mut next = if let Some(prepared) = prepared {
            prepared
        } else {
            appender.late_preparations += 1;
            PreparedSegment::create(&self.site)?
        };
        let path = segment_path(&self.site.dir, base);
        if let Err(error) = next.begin(base, base, &self.site) {
            next.discard(&self.site);
            return Err(Error::io("roll to", &path, error));
        }
        let writer = std::mem::replace(&mut appender.writer, next.writer);
        let segment = Segment::active(path, &appender.writer, self.copies());
        if let Some(rolled) = self.segments.last() {
            let footer = Footer {
                end: base,
                last_time: appender.last_time,
            };
            rolled.set_rolled(Arc::clone(writer.file()), writer.position(), footer);
            rolled.set_newest(self.newest(appender));
            appender.unsynced.push(rolled);
        }
        self.segments.push(segment);
        appender.directory_dirty = true;
        self.maintenance.wake_clean();
        Ok(())
    }

    /// Whether there is a record at or above `offset`; else `waker` is called when there may be, and
    /// when the log is latched or closed.
    ///
    /// # Errors
    ///
    /// `SyncFailed`, `Closed`.
    pub(super) fn poll_records(
        &self,
        offset: Offset,
        waker: &Waker,
        place: &mut Option<WaitId>,
    ) -> Result<bool> {
        let waker = waker.clone();
        let mut appender = self.append.lock();
        self.check_open()?;
        self.latch.check()?;
        if appender.next > offset {
            return Ok(true);
        }
        let unused = appender.readers.add(place, waker, ());
        drop(appender);
        drop(unused);
        Ok(false)
    }

    /// Whoever is at `place` waits no longer.
    pub(super) fn forget_reader(&self, place: &WaitId) {
        let unused = self.append.lock().readers.remove(place);
        drop(unused);
    }

    /// Wakes all who wait for records, so that they see the latch or the end of the log.
    pub(crate) fn wake_readers(&self) {
        let readers = self.append.lock().readers.take_all();
        wake_all(readers);
    }

    /// Whether records are read by copying, even where they could be borrowed.
    pub(crate) fn copies(&self) -> bool {
        self.read_mode == ReadMode::Copied
    }

    #[inline]
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.latch.is_set() {
            self.latch.check()?;
        }
        self.check_open()
    }
}

/// Distances in frame headers stop at the largest number, which says "or more".
#[inline]
fn saturate(distance: u64) -> u32 {
    u32::try_from(distance).unwrap_or(u32::MAX)
}

/// A segment made ahead, which is to become the active one.
#[derive(Debug)]
pub(crate) struct PreparedSegment {
    path: PathBuf,
    pub(crate) writer: SegmentWriter,
}

impl PreparedSegment {
    /// Makes one with room for its header. Its name and content are not durable.
    ///
    /// # Errors
    ///
    /// `StorageFull`, `Io`; nothing is left behind then.
    pub(crate) fn create(site: &Site) -> Result<Self> {
        let id = site.host.random();
        let path = site.dir.join(file_name::prepared(id));
        let file = site
            .host
            .open(&path, Access::CreateNew)
            .map_err(|error| Error::io("create", &path, error))?;
        let header = SegmentHeader {
            log_id: site.log_id,
            id,
            base: Offset::MAX,
            previous_end: Offset::MAX,
            created: 0,
            compacted: None,
        };
        match open_writer(&file, header, 0, site) {
            Ok(writer) => Ok(Self { path, writer }),
            Err(error) => {
                drop(site.host.remove_file(&path));
                Err(Error::io("prepare", &path, error))
            }
        }
    }

    /// Gives it its place in the log: header and name. Neither is durable yet.
    ///
    /// # Errors
    ///
    /// What the operating system says; it is of no more use then.
    pub(crate) fn begin(
        &mut self,
        base: Offset,
        previous_end: Offset,
        site: &Site,
    ) -> io::Result<()> {
        // Not when it was prepared, which may have been long ago: so this also tells by when the
        // segment before had all its records.
        let created = site.host.wall_millis();
        self.writer.begin(base, previous_end, created)?;
        site.host.rename(&self.path, &segment_path(&site.dir, base))
    }

    /// Removes it. Best effort: opening the log removes what is left.
    pub(crate) fn discard(self, site: &Site) {
        drop(site.host.remove_file(&self.path));
    }
}

/// A writer over `file`, whose frames end at `position`, with room for the header at least.
///
/// # Errors
///
/// What the operating system says.
pub(crate) fn open_writer(
    file: &Arc<dyn File>,
    header: SegmentHeader,
    position: usize,
    site: &Site,
) -> io::Result<SegmentWriter> {
    let capacity = site.config.segment_bytes.max(position + FOOTER_LEN);
    let limit = segment::frames_limit(capacity);
    let open = |mapped| {
        let file = Arc::clone(file);
        let writer = SegmentWriter::new(file, header, mapped, position, limit, capacity)?;
        writer.room().extend(FRAMES_START, FRAMES_START)?;
        Ok::<_, io::Error>(writer)
    };
    let mapped = site.is_mapped();
    match open(mapped) {
        // The file system can't allocate ahead: a mapping would be sparse, so do without one.
        Err(error)
            if mapped
                && error.kind() == io::ErrorKind::Unsupported
                && site.config.write_mode == WriteMode::Auto =>
        {
            site.mapped.store(false, Ordering::Relaxed);
            open(false)
        }
        opened => opened,
    }
}

/// The counters that a log keeps beside the append lock.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) failed_sends: AtomicU64,
    /// Sends that a full log refused, records that it dropped, and sends that it made wait.
    pub(super) rejected_sends: AtomicU64,
    pub(super) dropped_newest: AtomicU64,
    pub(super) blocked_sends: AtomicU64,
    /// How often something was deleted, or a shorter segment took another one's place.
    room_made: AtomicU64,
    pub(crate) closed: AtomicBool,
}

impl Counters {
    /// How often room was made so far.
    #[inline]
    pub(super) fn room_made(&self) -> u64 {
        self.room_made.load(Ordering::Acquire)
    }

    /// Some was made: whoever was full may try again.
    pub(super) fn note_room(&self) {
        self.room_made.fetch_add(1, Ordering::AcqRel);
    }
}

impl Shared {
    /// # Errors
    ///
    /// `Closed`.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.counters.closed.load(Ordering::Acquire) {
            return Err(ErrorKind::Closed.into());
        }
        Ok(())
    }
}
