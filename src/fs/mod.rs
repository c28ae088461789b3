//! The seam: files, mapped memory, clocks and threads behind one interface, [`Host`], and its
//! implementation by the operating system, [`RealHost`]. Every system call and all `unsafe` of
//! this crate are in here; offsets, frames and logs are not.

#![expect(
    clippy::disallowed_methods,
    reason = "the one place that may call std::fs and the clocks"
)]
#![cfg_attr(
    feature = "testing",
    expect(
        clippy::missing_errors_doc,
        reason = "all of them fail as the operating system does"
    )
)]

use std::{
    any::Any,
    ffi::OsString,
    fmt::Debug,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU8},
    task::Waker,
    time::Duration,
};

mod locks;
mod mapping;
mod parking;
mod real;
#[cfg(feature = "testing")]
pub mod sim;
mod sys;
mod waiting;

pub(crate) use locks::{Mutex, MutexGuard, RwLock};
pub use mapping::{MapCells, MapReader, MapWriter, Preparer};
pub use real::RealHost;
pub(crate) use waiting::{Signal, Told, WaitId, WaitList};

/// The machine as the log sees it. One object, so that a whole machine can be simulated.
pub trait Host: FileSystem + Clock + Threads {}

impl<T: FileSystem + Clock + Threads> Host for T {}

/// Directories and what is in them. Paths are whole paths; symbolic links in place of the last
/// component are refused with `ELOOP`.
pub trait FileSystem: Debug + Send + Sync {
    /// Makes a directory and its missing parents (mode 0700), each durably. One that is there may
    /// be from an attempt that was interrupted before its name was durable: then it is now.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// What is in a directory.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>>;
    /// The path from the root: what it means stays when the process changes its directory. An
    /// empty path is an error.
    fn absolute(&self, path: &Path) -> io::Result<PathBuf>;
    /// Renames a file; the new name is durable once its directory is synced. What has the name already is
    /// not replaced: that is `AlreadyExists`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file over the one that has the name, if one does: at any moment the name stands for one
    /// of the two. Which one that is after a power cut is settled once the directory is synced. Who
    /// has the old file open goes on with that.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable once its directory is synced.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Opens a directory, to be synced.
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>>;
    /// Whether files here may be written through a mapping once their blocks are allocated: a
    /// store never needs another block.
    fn is_mapping_safe(&self, path: &Path) -> bool;
    /// Tells this boot of the machine from any other; `None` where the platform can't.
    fn boot_id(&self) -> Option<[u8; 16]>;
    /// Random bytes that no earlier call returned.
    fn random(&self) -> u64;
    /// Bytes that are free, to whoever runs this, on the file system of a path.
    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
    /// Tells the device (the mounted file system) that a path is on from others.
    fn device(&self, _path: &Path) -> io::Result<u64> {
        Ok(0)
    }
}

/// A directory that is open. Held where it is synced often: opening it can fail for want of
/// descriptors, and that must not pass for a failed sync.
pub trait Directory: Debug + Send + Sync {
    /// Makes its entries durable.
    fn sync(&self) -> io::Result<()>;
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read; it must be there.
    Read,
    /// To read and write; it must be there.
    Write,
    /// To read and write; made (mode 0600) if it is not there.
    Create,
    /// To read and write; it must not be there yet.
    CreateNew,
}

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// The file name.
    pub name: OsString,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else.
    Other,
}

/// What a sync has to bring to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// The content, and what is needed to read it.
    Data,
    /// Everything.
    Full,
}

/// An open file. Any thread may call any method at any time.
#[cfg_attr(
    feature = "testing",
    expect(
        clippy::len_without_is_empty,
        reason = "nobody asks whether a file is empty"
    )
)]
pub trait File: Debug + Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads some bytes; 0 at the end of the file.
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes some of the bytes.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize>;
    /// Cuts or extends (with a hole).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Allocates blocks for a range and extends the file over it. On failure the file is as long
    /// as before. `Unsupported` where the file system can't.
    fn allocate(&self, position: u64, len: u64) -> io::Result<()>;
    /// Brings everything written so far, through mappings too, to the device.
    fn sync(&self, kind: SyncKind) -> io::Result<()>;
    /// Has the device begin with what was written, without waiting for it: a later sync takes less
    /// time then. Promises nothing.
    fn begin_writeback(&self) {}
    /// Tries to lock the file for this handle alone; `false` if somebody else has, or if another
    /// file has its name by now (an error, if nothing has). The lock ends
    /// with the last clone of this handle, or the process.
    fn try_lock(&self) -> io::Result<bool>;
    /// Maps `capacity` bytes to append to; the first `published` of them are readable.
    fn map_writer(&self, capacity: usize, published: usize) -> io::Result<MapWriter>;
    /// Maps the first `len` bytes, which have blocks and are not cut as long as the mapping lives, to
    /// be stored into in place.
    fn map_cells(&self, len: usize) -> io::Result<MapCells>;
    /// Maps the first `len` bytes, which nobody writes or cuts any more.
    fn map_reader(&self, len: usize) -> io::Result<MapReader>;
}

/// Time.
pub trait Clock: Debug + Send + Sync {
    /// Milliseconds since the Unix epoch, to within some milliseconds. Called for each append.
    fn wall_millis(&self) -> u64;
    /// Time since some moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// Threads.
pub trait Threads: Debug + Send + Sync {
    /// Starts a thread.
    fn spawn(&self, name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Joiner>>;
    /// Tells this machine from others. Where it is the same, clocks and threads are shared.
    fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
    /// A way for one thread to wait until it is woken.
    fn parker(&self) -> Box<dyn Parker>;
}

/// A thread that was started.
pub trait Joiner: Debug + Send + Sync {
    /// Waits for its end. Does nothing in that thread itself.
    fn join(self: Box<Self>);
}

/// Lets its one thread wait. Being woken before it waits counts.
pub trait Parker: Debug + Send {
    /// Waits until woken, or until [`Clock::monotonic`] reaches `until`.
    fn park(&self, until: Option<Duration>);
    /// What wakes it, from any thread.
    fn waker(&self) -> Waker;
}

/// Calls what may panic without taking this thread with it: other people's code, say.
///
/// # Errors
///
/// What the panic said, which was printed where it began.
pub(crate) fn contain<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let message = panic_message(&*payload).to_owned();
        // The payload may be other people's as well, and panic when it is dropped.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(payload);
        }
        message
    })
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

/// Wakes all of them. One whose waker panics (a future's is its executor's own code) keeps the
/// others from nothing.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        drop(contain(|| waker.wake()));
    }
}

/// Reads until `into` is full or the file ends; returns how much was read.
pub(crate) fn read_full(file: &dyn File, into: &mut [u8], position: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `bytes`. On failure some of them may be written.
pub(crate) fn write_full(file: &dyn File, bytes: &[u8], position: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, position + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
