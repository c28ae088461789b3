//! Making records durable: one sync for all who wait, led by whoever came first.
//!
//! The leader takes the log's end under the append lock, lets go of it, and syncs every segment
//! that has unsynced frames, oldest first, and the directory if an entry in it is new. Then the
//! durable offset moves to that end, everyone below it is woken, and one of those above it to
//! lead next. Leadership is given up by a guard, so that an error or a panic blocks nobody.
//!
//! A sync that fails is final: it sets the latch before anyone is woken, and nothing is synced
//! after that.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

use super::{Shared, segments::Segment};
use crate::{
    error::{Error, ErrorKind, Result},
    format::checkpoint::Mark,
    fs::{File, Mutex, SyncKind, WaitId, WaitList, wake_all},
    offset::Offset,
    options::Fsync,
};

/// Less than this is left mapped while it is synced.
const RELEASE_MIN: usize = 256 << 10;

/// The first sync that failed.
#[derive(Debug, Default)]
pub(crate) struct Latch(OnceLock<(PathBuf, Arc<std::io::Error>)>);

impl Latch {
    pub(crate) fn set(&self, path: &Path, error: Arc<std::io::Error>) -> Error {
        self.0.get_or_init(|| (path.to_path_buf(), error));
        self.check()
            .err()
            .unwrap_or_else(|| ErrorKind::Closed.into())
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// # Errors
    ///
    /// `SyncFailed` once a sync has failed.
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some((path, source)) => {
                let (path, source) = (path.clone(), Arc::clone(source));
                Err(ErrorKind::SyncFailed { path, source }.into())
            }
        }
    }
}

/// Who leads, and who waits.
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    state: Mutex<State>,
    durable: AtomicU64,
    /// Where the durable offset stands in the files.
    mark: Mutex<Mark>,
    syncs: AtomicU64,
    /// Somebody waits who can't sync by itself (a future, or a receipt nobody looks at).
    pub(super) requested: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    leading: bool,
    waiters: WaitList<Waiter>,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    until: Offset,
    role: Role,
}

/// What a waiter does for the sync it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A thread that can lead it.
    Leads,
    /// A future: the maintenance thread is asked to lead it.
    Asks,
    /// A reader that only wants to know: it takes what the flush policy brings.
    Watches,
}

/// What the leader syncs.
struct Target {
    files: Vec<(PathBuf, Arc<dyn File>)>,
    rolled: Vec<Arc<Segment>>,
    directory: bool,
    mark: Mark,
}

impl Syncer {
    pub(crate) fn new(mark: Mark) -> Self {
        let durable = AtomicU64::new(mark.offset.get());
        Self {
            durable,
            mark: Mutex::new(mark),
            ..Self::default()
        }
    }

    #[inline]
    pub(crate) fn durable(&self) -> Offset {
        Offset::new(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn mark(&self) -> Mark {
        *self.mark.lock()
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// How this log syncs; `None` if it does not.
    pub(crate) fn sync_kind(&self) -> Option<SyncKind> {
        sync_kind(self.site.config.fsync)
    }

    /// Waits until everything below `until` is durable, syncing if nobody else does.
    ///
    /// # Errors
    ///
    /// `SyncFailed`, `DurabilityOff`.
    pub(crate) fn sync_until(&self, until: Offset) -> Result<()> {
        let kind = self.sync_kind().ok_or(ErrorKind::DurabilityOff)?;
        while self.syncer.durable() < until {
            let parker = {
                let mut state = self.syncer.state.lock();
                if self.syncer.durable() >= until {
                    break;
                }
                self.latch.check()?;
                if state.leading {
                    let (parker, role) = (self.site.host.parker(), Role::Leads);
                    // Whoever wakes it has taken it off the list.
                    drop(
                        state
                            .waiters
                            .add(&mut None, parker.waker(), Waiter { until, role }),
                    );
                    Some(parker)
                } else {
                    state.leading = true;
                    None
                }
            };
            match parker {
                Some(parker) => parker.park(None),
                None => Leader { shared: self }.lead(kind)?,
            }
        }
        Ok(())
    }

    /// For a future: whether everything below `until` is durable; else `waker` is called when it
    /// is, or when the log is latched or closed, and the maintenance thread is asked to sync.
    ///
    /// # Errors
    ///
    /// `SyncFailed`, `Closed`.
    pub(crate) fn poll_durable(
        &self,
        until: Offset,
        waker: &Waker,
        place: &mut Option<WaitId>,
    ) -> Result<bool> {
        let role = Role::Asks;
        let check = || self.latch.check();
        let is_durable = self.poll_waiter(Waiter { until, role }, check, waker, place)?;
        if !is_durable {
            self.request_sync();
        }
        Ok(is_durable)
    }

    /// For a reader: the same, without asking for a sync.
    ///
    /// # Errors
    ///
    /// `SyncFailed`, `Closed`.
    pub(super) fn watch_durable(
        &self,
        until: Offset,
        waker: &Waker,
        place: &mut Option<WaitId>,
    ) -> Result<bool> {
        let role = Role::Watches;
        let check = || self.latch.check();
        self.poll_waiter(Waiter { until, role }, check, waker, place)
    }

    /// Has `waker` called when the log is latched or closed.
    ///
    /// # Errors
    ///
    /// `Closed`; `SyncFailed` if offsets below `below` may not be acted on.
    pub(super) fn watch_end(
        &self,
        below: Offset,
        waker: &Waker,
        place: &mut Option<WaitId>,
    ) -> Result<()> {
        let (until, role) = (Offset::MAX, Role::Watches);
        let check = || self.check_below(below);
        self.poll_waiter(Waiter { until, role }, check, waker, place)
            .map(drop)
    }

    /// Whether offsets below `below` may be acted on.
    ///
    /// # Errors
    ///
    /// `Closed`; `SyncFailed` if the log is latched and they are not all durable.
    pub(super) fn check_below(&self, below: Offset) -> Result<()> {
        self.check_open()?;
        if below > self.durable() {
            self.latch.check()
        } else {
            Ok(())
        }
    }

    /// Whether everything is durable that is waited for; else, unless there is a reason not to
    /// wait, `waker` is called when it is, or when the log is latched or closed.
    fn poll_waiter(
        &self,
        waiter: Waiter,
        check: impl FnOnce() -> Result<()>,
        waker: &Waker,
        place: &mut Option<WaitId>,
    ) -> Result<bool> {
        let waker = waker.clone();
        let mut state = self.syncer.state.lock();
        if self.syncer.durable() >= waiter.until {
            return Ok(true);
        }
        check()?;
        self.check_open()?;
        let unused = state.waiters.add(place, waker, waiter);
        drop(state);
        drop(unused);
        Ok(false)
    }

    /// Whoever is at `place` waits no longer.
    pub(crate) fn forget_waiter(&self, place: &WaitId) {
        let unused = self.syncer.state.lock().waiters.remove(place);
        drop(unused);
    }

    /// Asks the maintenance thread to sync soon.
    pub(crate) fn request_sync(&self) {
        if !self.syncer.requested.swap(true, Ordering::AcqRel) {
            self.maintenance.wake_settle();
        }
    }

    /// Wakes whoever waits for durability, so that they see the latch or the end of the log.
    pub(crate) fn wake_all_waiters(&self) {
        let waiters = self.syncer.state.lock().waiters.take_all();
        wake_all(waiters);
    }

    /// Latches the log: a sync of `path` failed.
    pub(crate) fn latch_log(&self, path: &Path, error: Arc<std::io::Error>) -> Error {
        let error = self.latch.set(path, error);
        self.wake_all_waiters();
        self.wake_readers();
        error
    }

    /// Latches the log if `result` is a failed sync.
    pub(crate) fn latch_on_failure<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| {
            if let ErrorKind::SyncFailed { path, source } = error.kind() {
                self.latch_log(path, Arc::clone(source));
            }
        })
    }
}

pub(crate) fn sync_kind(fsync: Fsync) -> Option<SyncKind> {
    match fsync {
        Fsync::Data => Some(SyncKind::Data),
        Fsync::Full => Some(SyncKind::Full),
        Fsync::Off => None,
    }
}

/// Leadership of a sync; given up when dropped.
struct Leader<'a> {
    shared: &'a Shared,
}

impl Leader<'_> {
    fn lead(&self, kind: SyncKind) -> Result<()> {
        let shared = self.shared;
        shared.latch.check()?;
        let target = self.target();
        shared.syncer.syncs.fetch_add(1, Ordering::Relaxed);
        self.release(&target);
        for (path, file) in &target.files {
            file.sync(kind)
                .map_err(|error| shared.fail_sync(path, error))?;
        }
        if target.directory {
            shared
                .site
                .directory
                .sync()
                .map_err(|error| shared.fail_sync(&shared.site.dir, error))?;
        }
        *shared.syncer.mark.lock() = target.mark;
        shared
            .syncer
            .durable
            .store(target.mark.offset.get(), Ordering::Release);
        let mut appender = shared.append.lock();
        let sealable: Vec<_> = appender.unsynced.drain(..target.rolled.len()).collect();
        drop(appender);
        shared.maintenance.add_sealable(sealable);
        // There is something to seal or to record now.
        shared.maintenance.wake_settle_if_resting();
        Ok(())
    }

    /// Takes out of the mappings what is to be written back, where that is so much that it pays.
    fn release(&self, target: &Target) {
        let durable = self.shared.syncer.mark();
        for segment in &target.rolled {
            segment.release(0, usize::MAX);
        }
        let from = if durable.segment == target.mark.segment {
            durable.position
        } else {
            0
        };
        let bytes = |position| usize::try_from(position).unwrap_or(usize::MAX);
        let (from, end) = (bytes(from), bytes(target.mark.position));
        let active = self.shared.segments.last();
        if let Some(active) = active.filter(|active| active.base == target.mark.segment)
            && end.saturating_sub(from) >= RELEASE_MIN
        {
            active.release(from, end);
        }
    }

    /// What there is to sync now. The append lock is held for this alone.
    fn target(&self) -> Target {
        let mut appender = self.shared.append.lock();
        let mut files: Vec<_> = appender
            .unsynced
            .iter()
            .filter_map(|segment| Some((segment.path.clone(), segment.file()?)))
            .collect();
        let base = appender.writer.header.base;
        let active = super::segments::segment_path(&self.shared.site.dir, base);
        files.push((active, Arc::clone(appender.writer.file())));
        Target {
            files,
            rolled: appender.unsynced.clone(),
            directory: std::mem::take(&mut appender.directory_dirty),
            mark: Mark {
                offset: appender.next,
                segment: base,
                position: appender.writer.position() as u64,
                time: appender.last_time,
            },
        }
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let durable = self.shared.syncer.durable();
        let latched = self.shared.latch.is_set();
        let mut state = self.shared.syncer.state.lock();
        state.leading = false;
        let is_over = |waiter: &Waiter| latched || waiter.until <= durable;
        let woken = state.waiters.take_if(is_over);
        // One of those that still wait leads the next sync.
        let next = state
            .waiters
            .take_first(|waiter| waiter.role == Role::Leads);
        let asked = state.waiters.any(|waiter| waiter.role == Role::Asks);
        drop(state);
        if next.is_none() && asked {
            self.shared.request_sync();
        }
        wake_all(woken.into_iter().chain(next));
    }
}

impl Shared {
    /// Makes durable what was created, renamed or removed in the log's directory, where it syncs.
    ///
    /// # Errors
    ///
    /// `SyncFailed`: the log is latched.
    pub(super) fn sync_directory(&self) -> Result<()> {
        if self.sync_kind().is_none() {
            return Ok(());
        }
        let synced = self.site.directory.sync();
        synced.map_err(|error| self.fail_sync(&self.site.dir, error))
    }

    /// Latches the log and notes that in the checkpoint, so that the next opening does not trust
    /// the page cache to hold what was written.
    pub(super) fn fail_sync(&self, path: &Path, error: std::io::Error) -> Error {
        let error = self.latch_log(path, Arc::new(error));
        self.note_unproven();
        error
    }
}
