//! Durable commits that are made at the same time share a sync: they are written to one file,
//! `commits`, beside the groups' own files.
//!
//! A commit is first written to its group's file, and never read from here while the machine is up.
//! After a power cut, what is here and newer is put into the groups' files when the log is opened
//! ([`settle`]), before anything else is done with them. The file is a ring: before an entry that is
//! the last durable word of its group is written over, the group's file is synced.
//!
//! A commit that is alone is not written here: its group's file is synced.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use super::{
    GroupSite,
    pending::{Pending, Queue, Turn},
    shared::GroupShared,
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        commits::{self, ENTRIES, ENTRY_LEN, FILE_LEN},
        file_name,
        group::{GroupState, KIND},
    },
    fs::{self, Access, File, Host, Mutex, SyncKind},
    offset::Offset,
    slot_file::{self, SlotFile},
};

/// The ring is entered half by half: what is in a half is made superfluous at once.
const HALF: usize = ENTRIES / 2;

/// The journal of a log that is open for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    host: Arc<dyn Host>,
    groups: PathBuf,
    sync: Option<SyncKind>,
    queue: Queue,
    /// Durable commits under way.
    busy: AtomicUsize,
    /// The groups that have a consumer here, by id.
    held: Mutex<HashMap<u64, Arc<GroupShared>>>,
    /// The leader's.
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// `None` before the first use.
    file: Option<Arc<dyn File>>,
    next: usize,
    /// Of each group, where its last entry is.
    last: HashMap<u64, (usize, Arc<GroupShared>)>,
    /// Something failed: groups' files are synced instead.
    out_of_use: bool,
}

/// A durable commit is under way until this is dropped.
pub(crate) struct Busy<'a> {
    journal: &'a Journal,
    /// Others were under way when it began.
    pub(crate) shares: bool,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.journal.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Journal {
    pub(crate) fn new(host: &Arc<dyn Host>, dir: &Path, sync: Option<SyncKind>) -> Self {
        Self {
            host: Arc::clone(host),
            groups: dir.join(file_name::GROUPS),
            sync,
            queue: Queue::default(),
            busy: AtomicUsize::new(0),
            held: Mutex::default(),
            ring: Mutex::default(),
        }
    }

    /// Begins a durable commit.
    pub(crate) fn enter(&self) -> Busy<'_> {
        let shares = self.busy.fetch_add(1, Ordering::Relaxed) > 0;
        Busy {
            journal: self,
            shares,
        }
    }

    /// Hands in a commit; whoever waits for it, or [`step`](Self::step), makes it durable.
    pub(crate) fn submit(&self, pending: &Arc<Pending>) {
        self.queue.push(Arc::clone(pending));
    }

    /// Waits until a commit that was submitted is durable, and leads if nobody does.
    /// `make_durable` does so with the records below an offset.
    ///
    /// # Errors
    ///
    /// `SyncFailed`, `Io`, `StorageFull`; what `make_durable` returns.
    pub(crate) fn wait(
        &self,
        pending: &Pending,
        make_durable: impl Fn(Offset) -> Result<()>,
    ) -> Result<()> {
        let parker = self.host.parker();
        loop {
            match self.queue.turn(pending, true, &parker.waker()) {
                Turn::Done(outcome) => return outcome,
                Turn::Lead(batch) => self.lead(&batch, &make_durable),
                Turn::Wait(_) => parker.park(None),
            }
        }
    }

    /// For a future: what came of a commit, if it is decided; else `waker` is called when it is.
    /// Somebody else has to lead.
    pub(crate) fn poll(
        &self,
        pending: &Pending,
        waker: &Waker,
        place: &mut Option<u64>,
    ) -> Option<Result<()>> {
        self.forget(place.take());
        match self.queue.turn(pending, false, waker) {
            Turn::Done(outcome) => Some(outcome),
            Turn::Wait(id) => {
                *place = Some(id);
                None
            }
            Turn::Lead(_) => None,
        }
    }

    /// A future that is dropped waits no longer.
    pub(crate) fn forget(&self, place: Option<u64>) {
        if let Some(id) = place {
            self.queue.forget(id);
        }
    }

    /// Makes durable what was submitted, unless somebody is about to.
    pub(crate) fn step(&self, make_durable: impl Fn(Offset) -> Result<()>) {
        if let Some(batch) = self.queue.lead_all() {
            self.lead(&batch, &make_durable);
        }
    }

    fn lead(&self, batch: &[Arc<Pending>], make_durable: &impl Fn(Offset) -> Result<()>) {
        let leader = Leader {
            queue: &self.queue,
            batch,
        };
        let needs = batch.iter().map(|pending| pending.needs).max();
        // A group must not be ahead of its log after a power cut.
        if let Err(error) = make_durable(needs.unwrap_or_default()) {
            // That is the log's failure: a group may commit again what is durable.
            let failed = Err(error);
            for pending in batch {
                pending.fail_without_latch(&failed);
            }
        } else {
            let mut ring = self.ring.lock();
            if !self.write_shared(&mut ring, batch) {
                self.sync_each(batch);
            }
        }
        drop(leader);
    }

    /// Writes the commits to the ring and syncs that; `false` if nothing was decided.
    fn write_shared(&self, ring: &mut Ring, batch: &[Arc<Pending>]) -> bool {
        let Some(kind) = self.sync else { return false };
        if batch.len() < 2 || ring.out_of_use {
            return false;
        }
        let written = self.open(ring, kind).and_then(|file| {
            for pending in batch {
                ring.make_place(kind)?;
                ring.put(&*file, pending)
                    .map_err(|error| Error::io("write", &self.path(), error))?;
            }
            Ok(file)
        });
        let Ok(file) = written else {
            // A full disk, say. The groups' own files need no room.
            ring.out_of_use = true;
            return false;
        };
        let synced = file
            .sync(kind)
            .map_err(|error| slot_file::sync_failed(&self.path(), error));
        ring.out_of_use = synced.is_err();
        for pending in batch {
            pending.decide(&synced);
        }
        true
    }

    /// Syncs the groups' own files.
    fn sync_each(&self, batch: &[Arc<Pending>]) {
        for pending in batch {
            let synced = match self.sync {
                None => Err(ErrorKind::DurabilityOff.into()),
                Some(kind) => pending.group.sync(kind).map(drop),
            };
            pending.decide(&synced);
        }
    }

    fn path(&self) -> PathBuf {
        self.groups.join(file_name::COMMITS)
    }

    /// The file, made and filled if need be, durably.
    fn open(&self, ring: &mut Ring, kind: SyncKind) -> Result<Arc<dyn File>> {
        if let Some(file) = &ring.file {
            return Ok(Arc::clone(file));
        }
        let path = self.path();
        let io = |error| Error::io("make", &path, error);
        let file = self.host.open(&path, Access::Create).map_err(io)?;
        if file.len().map_err(io)? < FILE_LEN as u64 {
            allocate(&*file).map_err(io)?;
        }
        file.sync(kind)
            .map_err(|error| slot_file::sync_failed(&path, error))?;
        slot_file::sync_dir(&*self.host, &self.groups)?;
        ring.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// A group has a consumer here from now on.
    pub(crate) fn join(&self, group: &Arc<GroupShared>) {
        self.held.lock().insert(group.id, Arc::clone(group));
    }

    /// The group of this id, if it has a consumer here.
    pub(crate) fn held(&self, id: u64) -> Option<Arc<GroupShared>> {
        self.held.lock().get(&id).cloned()
    }

    /// A group's consumer is gone. If its file says everything durably, it need not be synced from
    /// here any more.
    pub(crate) fn leave(&self, group: &GroupShared, is_durable: bool) {
        self.held.lock().remove(&group.id);
        if is_durable {
            self.ring.lock().last.remove(&group.id);
        }
    }
}

/// Makes the room, so that commits find it on a full disk.
fn allocate(file: &dyn File) -> io::Result<()> {
    const PAGE: usize = 4096;
    match file.allocate(0, FILE_LEN as u64) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            // Page by page: large writes would have each sync write much of the file back.
            (0..FILE_LEN)
                .step_by(PAGE)
                .try_for_each(|position| fs::write_full(file, &[0; PAGE], position as u64))
        }
        allocated => allocated,
    }
}

/// Leadership; given up when dropped, so that a panic leaves nobody waiting.
struct Leader<'a> {
    queue: &'a Queue,
    batch: &'a [Arc<Pending>],
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        for pending in self.batch {
            pending.fail_without_latch(&Err(ErrorKind::Closed.into()));
        }
        self.queue.finish();
    }
}

impl Ring {
    /// Before a half is written over: syncs the files of the groups whose last durable word is in
    /// it.
    fn make_place(&mut self, kind: SyncKind) -> Result<()> {
        if !self.next.is_multiple_of(HALF) {
            return Ok(());
        }
        let half = self.next..self.next + HALF;
        for (number, group) in self.last.values() {
            if half.contains(number) {
                group.sync(kind)?;
            }
        }
        self.last.retain(|_, (number, _)| !half.contains(number));
        Ok(())
    }

    fn put(&mut self, file: &dyn File, pending: &Pending) -> io::Result<()> {
        let bytes = commits::encode(self.next, pending.generation, &pending.payload);
        fs::write_full(file, &bytes, (self.next * ENTRY_LEN) as u64)?;
        let place = (self.next, Arc::clone(&pending.group));
        self.last.insert(pending.group.id, place);
        self.next = (self.next + 1) % ENTRIES;
        Ok(())
    }
}

/// What `commits` says of each group, by the group's id: the newest generation, and its content.
pub(super) type Known = HashMap<u64, (u64, GroupState)>;

/// Reads `commits` of the log in `dir`; empty if there is none. Entries that do not verify are
/// passed over: they were never durable, or their groups' files are newer.
///
/// # Errors
///
/// `Io`.
pub(super) fn read(host: &dyn Host, dir: &Path) -> Result<Known> {
    let path = dir.join(file_name::GROUPS).join(file_name::COMMITS);
    let file = match host.open(&path, Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::new()),
        opened => opened.map_err(|error| Error::io("open", &path, error))?,
    };
    let mut bytes = vec![0; FILE_LEN];
    let len = fs::read_full(&*file, &mut bytes, 0);
    bytes.truncate(len.map_err(|error| Error::io("read", &path, error))?);
    let mut known = Known::new();
    for (number, entry) in bytes.chunks_exact(ENTRY_LEN).enumerate() {
        let Ok((generation, state)) = commits::decode(number, entry) else {
            continue;
        };
        let newest = known.get(&state.id).map_or(0, |(newest, _)| *newest);
        if generation > newest {
            known.insert(state.id, (generation, state));
        }
    }
    Ok(known)
}

/// Puts what `commits` has and the groups' files do not into those, durably. A group that is held
/// by a consumer in another process has it already.
///
/// # Errors
///
/// `Io`, `StorageFull`, `SyncFailed`.
pub(crate) fn settle(site: &GroupSite<'_>) -> Result<()> {
    let known = read(site.host, site.dir)?;
    if known.is_empty() {
        return Ok(());
    }
    for group in super::list(site.host, site.dir)? {
        let Ok(state) = &group.state else { continue };
        if !known.contains_key(&state.id) {
            continue;
        }
        let file = site
            .host
            .open(&group.path, Access::Write)
            .map_err(|error| Error::io("open", &group.path, error))?;
        match file.try_lock() {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => return Err(Error::io("lock", &group.path, error)),
        }
        let (mut file, _) = SlotFile::adopt(file, group.path.clone(), KIND)?;
        bring_up(&mut file, &known, site.sync)?;
    }
    Ok(())
}

/// Brings a group's file up to what is known; returns its content.
///
/// # Errors
///
/// `Corrupt`, `Io`, `StorageFull`, `SyncFailed`.
pub(super) fn bring_up(
    file: &mut SlotFile,
    known: &Known,
    sync: Option<SyncKind>,
) -> Result<GroupState> {
    let state =
        GroupState::decode(file.payload()).map_err(|error| Error::decode(file.path(), 0, error))?;
    match known.get(&state.id) {
        Some((generation, newer)) if *generation > file.generation() => {
            file.raise_generation(*generation);
            file.write(&newer.encode(), sync)?;
            Ok(newer.clone())
        }
        _ => Ok(state),
    }
}
