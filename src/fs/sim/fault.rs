//! Calls of a simulated machine that go wrong.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Something that the library does to the machine. Each is a moment at which it may crash. All but
/// those of a copy into a mapping, and waiting, may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Call {
    /// Making a directory.
    CreateDir,
    /// Listing a directory.
    ReadDir,
    /// Opening a file that is there.
    Open,
    /// Making a file.
    Create,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Opening a directory.
    OpenDir,
    /// Beginning to sync a directory.
    SyncDir,
    /// The end of that.
    DirSynced,
    /// Asking for a length.
    Len,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Half of a write of several sectors is done.
    HalfWritten,
    /// Cutting or extending.
    SetLen,
    /// Allocating blocks.
    Allocate,
    /// Beginning to sync a file.
    Sync,
    /// The end of that.
    Synced,
    /// Locking.
    Lock,
    /// Mapping.
    Map,
    /// Before something is copied into a mapping.
    BeforeCopy,
    /// Half of it is copied.
    HalfCopied,
    /// It is copied, and not published.
    Copied,
    /// It is published.
    Published,
    /// The first word of a piece that is copied in place is stored: zero before the rest of it is
    /// copied, what it is to be behind that.
    Stored,
    /// Starting a thread.
    Spawn,
    /// Waiting.
    Park,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Effect {
    /// It does nothing and returns this error of the operating system.
    Fail(i32),
    /// A read or a write does part of it and says so.
    Short,
    /// A sync fails. From then on the page cache takes for written what was to be synced: it is
    /// read as written until the cache forgets it, and the next sync returns success. (Of a
    /// directory only the first holds: its changes stay pending.) It happens at [`Call::Synced`]
    /// and [`Call::DirSynced`].
    FailedSync,
    /// A sync succeeds, but the device wrote one sector over another one of the file. It happens
    /// at [`Call::Synced`].
    Misdirect,
}

/// Which call goes wrong, how often, and how.
#[derive(Debug)]
pub struct Fault {
    call: Call,
    path: String,
    effect: Effect,
    spared: AtomicUsize,
    times: AtomicUsize,
    fired: AtomicUsize,
}

impl Fault {
    /// The next such call on a path that contains `path`, once.
    pub fn once(call: Call, path: &str, effect: Effect) -> Arc<Self> {
        Self::times(call, path, effect, 1)
    }

    /// All such calls until the faults are lifted.
    pub fn always(call: Call, path: &str, effect: Effect) -> Arc<Self> {
        Self::times(call, path, effect, usize::MAX)
    }

    fn times(call: Call, path: &str, effect: Effect, times: usize) -> Arc<Self> {
        Arc::new(Self {
            call,
            path: path.to_owned(),
            effect,
            spared: AtomicUsize::new(0),
            times: AtomicUsize::new(times),
            fired: AtomicUsize::new(0),
        })
    }

    /// Spares the first `calls`.
    #[must_use]
    pub fn after(self: Arc<Self>, calls: usize) -> Arc<Self> {
        self.spared.store(calls, Ordering::Relaxed);
        self
    }

    /// How often it happened.
    pub fn fired(&self) -> usize {
        self.fired.load(Ordering::Relaxed)
    }

    /// Whether it happens to this call.
    fn strikes(&self, call: Call, path: &Path) -> bool {
        let take = |count: &AtomicUsize| {
            let less = |count: usize| count.checked_sub(1);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        };
        self.call == call
            && path.to_string_lossy().contains(&self.path)
            && take(&self.spared).is_err()
            && take(&self.times).is_ok()
    }
}

/// The faults of a machine.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Arc<Fault>>);

impl Faults {
    pub(super) fn add(&mut self, fault: Arc<Fault>) {
        self.0.push(fault);
    }

    pub(super) fn lift(&mut self) {
        self.0.clear();
    }

    /// What happens to a call, if it is not only an error.
    ///
    /// # Errors
    ///
    /// The error that it is to return.
    pub(super) fn strike(&self, call: Call, path: &Path) -> io::Result<Option<Struck>> {
        let Some(fault) = self.0.iter().find(|fault| fault.strikes(call, path)) else {
            return Ok(None);
        };
        let struck = Struck(Arc::clone(fault));
        match fault.effect {
            Effect::Fail(number) => {
                struck.happened();
                Err(io::Error::from_raw_os_error(number))
            }
            _ => Ok(Some(struck)),
        }
    }
}

/// A fault that is to happen to the call under way.
#[derive(Debug)]
pub(super) struct Struck(Arc<Fault>);

impl Struck {
    pub(super) fn is(&self, effect: Effect) -> bool {
        self.0.effect == effect
    }

    /// It made a difference.
    pub(super) fn happened(&self) {
        self.0.fired.fetch_add(1, Ordering::Relaxed);
    }
}
