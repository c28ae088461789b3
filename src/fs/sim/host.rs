//! The seam, as a simulated machine implements it.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    task::{Wake, Waker},
    time::Duration,
};

use super::{
    Call, Effect, Machine,
    file::SimFile,
    machine::{Inner, State},
    storage::{Kind, Listed, NodeId},
};
use crate::fs::{
    Access, Clock, DirEntry, Directory, EntryKind, File, FileSystem, Joiner, Parker, Threads,
};

/// Of the errors that have no `io::ErrorKind` yet.
fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// So often others may have a turn while a directory is listed, at most.
const LONG_LISTING: usize = 30;

impl FileSystem for Machine {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let found = self.inner.state().storage.find(path);
        if let Ok(node) = found {
            let kind = self.inner.state().storage.kind(node);
            return match (kind, path.parent()) {
                (Kind::File, _) => Err(io::ErrorKind::AlreadyExists.into()),
                (Kind::Directory, None) => Ok(()),
                (Kind::Directory, Some(parent)) => self.open_dir(parent)?.sync(),
            };
        }
        let parent = path.parent().ok_or(io::ErrorKind::NotFound)?;
        self.create_dir_all(parent)?;
        let make = |state: &mut State, _| match state.storage.make(path, Kind::Directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        self.inner.call(Call::CreateDir, |_| path.into(), make)?;
        self.open_dir(parent)?.sync()
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let entry = |(name, kind, len)| DirEntry {
            name,
            len: len as u64,
            kind: match kind {
                Kind::File => EntryKind::File,
                Kind::Directory => EntryKind::Directory,
            },
        };
        let list = |state: &mut State, _| state.storage.list(path);
        let before = self.inner.call(Call::ReadDir, |_| path.into(), list)?;
        // Now and then it takes long.
        let is_long = self.inner.state().random.chance(64);
        (0..if is_long { LONG_LISTING } else { 1 }).for_each(|_| self.inner.pass());
        let mut state = self.inner.state();
        let now = state.storage.list(path)?;
        let is_in = |entries: &[Listed], name: &OsStr| entries.iter().any(|entry| entry.0 == name);
        let mut entries = Vec::new();
        for found in &now {
            if is_in(&before, &found.0) || state.random.chance(128) {
                entries.push(found.clone());
            }
        }
        for found in before {
            if !is_in(&now, &found.0) && state.random.chance(128) {
                entries.push(found);
            }
        }
        Ok(entries.into_iter().map(entry).collect())
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let exists = self.inner.state().storage.find(path).is_ok();
        let call = match access {
            Access::Read | Access::Write => Call::Open,
            Access::Create if exists => Call::Open,
            Access::Create | Access::CreateNew => Call::Create,
        };
        let open = |state: &mut State, _| {
            let node = match (state.storage.find(path), access) {
                (Ok(_), Access::CreateNew) => {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                (Err(error), Access::Create | Access::CreateNew)
                    if error.kind() == io::ErrorKind::NotFound =>
                {
                    state.storage.make(path, Kind::File)?
                }
                (found, _) => found?,
            };
            if state.storage.kind(node) == Kind::Directory {
                return Err(not_a_file());
            }
            state.storage.hold(node);
            state.handles += 1;
            Ok((node, state.handles))
        };
        let (node, handle) = self.inner.call(call, |_| path.into(), open)?;
        Ok(Arc::new(SimFile::new(
            Arc::clone(&self.inner),
            node,
            handle,
            path.to_path_buf(),
            access != Access::Read,
        )))
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        if path.as_os_str().is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Path::new("/").join(path))
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.inner.state().storage.free())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = |state: &mut State, _| state.storage.rename(from, to);
        self.inner.call(Call::Rename, |_| to.into(), rename)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let replace = |state: &mut State, _| state.storage.replace(from, to);
        self.inner.call(Call::Rename, |_| to.into(), replace)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let remove = |state: &mut State, _| state.storage.remove(path);
        self.inner.call(Call::Remove, |_| path.into(), remove)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let find = |state: &mut State, _| {
            let node = state.storage.find(path)?;
            match state.storage.kind(node) {
                Kind::Directory => Ok(node),
                Kind::File => Err(io::ErrorKind::NotADirectory.into()),
            }
        };
        let node = self.inner.call(Call::OpenDir, |_| path.into(), find)?;
        Ok(Arc::new(SimDirectory {
            machine: Arc::clone(&self.inner),
            node,
            path: path.to_path_buf(),
        }))
    }

    fn is_mapping_safe(&self, _: &Path) -> bool {
        true
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        Some(u128::from(self.inner.boot()).to_le_bytes())
    }

    fn random(&self) -> u64 {
        self.inner.state().random.number()
    }
}

impl Clock for Machine {
    fn wall_millis(&self) -> u64 {
        self.inner.wall_millis()
    }

    fn monotonic(&self) -> Duration {
        self.inner.now()
    }
}

#[derive(Debug)]
struct SimDirectory {
    machine: Arc<Inner>,
    node: NodeId,
    path: PathBuf,
}

impl Directory for SimDirectory {
    fn sync(&self) -> io::Result<()> {
        let path = || self.path.clone();
        let begin = |state: &mut State, _| Ok(state.storage.now());
        let time = self.machine.call(Call::SyncDir, |_| path(), begin)?;
        self.machine.call(
            Call::DirSynced,
            |_| path(),
            |state, struck| match struck.filter(|struck| struck.is(Effect::FailedSync)) {
                None => {
                    state.storage.sync_dir(self.node, time);
                    Ok(())
                }
                Some(struck) => {
                    struck.happened();
                    Err(io::Error::from_raw_os_error(libc::EIO))
                }
            },
        )
    }
}

impl Threads for Machine {
    fn spawn(&self, name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Joiner>> {
        let thread = self.inner.spawn(name, run)?;
        let machine = Arc::clone(&self.inner);
        Ok(Box::new(SimJoiner { machine, thread }))
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }

    fn parker(&self) -> Box<dyn Parker> {
        let parker = self.inner.state().schedule.add_parker();
        let machine = Arc::clone(&self.inner);
        Box::new(SimParker(Arc::new(WakeUp { machine, parker })))
    }
}

#[derive(Debug)]
struct SimJoiner {
    machine: Arc<Inner>,
    thread: usize,
}

impl Joiner for SimJoiner {
    fn join(self: Box<Self>) {
        self.machine.join(self.thread);
    }
}

#[derive(Debug)]
struct SimParker(Arc<WakeUp>);

#[derive(Debug)]
struct WakeUp {
    machine: Arc<Inner>,
    parker: usize,
}

impl Parker for SimParker {
    fn park(&self, until: Option<Duration>) {
        self.0.machine.park(self.0.parker, until);
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.0))
    }
}

impl Wake for WakeUp {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.machine.wake(self.parker);
    }
}
