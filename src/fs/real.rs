//! The machine that the process runs on.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use memmap2::MmapOptions;

use super::{
    Access, Clock, DirEntry, Directory, EntryKind, File, FileSystem, Joiner, MapCells, MapReader,
    MapWriter, Parker, SyncKind, Threads, parking, sys,
};

/// Files are readable by their owner alone.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// When the clock was zero.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The operating system.
#[derive(Debug)]
pub struct RealHost {
    random: AtomicU64,
}

impl RealHost {
    /// A handle to it.
    pub fn new() -> Self {
        Self {
            random: AtomicU64::new(0),
        }
    }
}

impl Default for RealHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FileSystem for RealHost {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
            return match self.open_dir(parent) {
                // Whoever may not list the parent has not made this.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                opened => opened?.sync(),
            };
        }
        self.create_dir_all(parent)?;
        match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::metadata(path)?.is_dir() {
                    return Err(error);
                }
            }
            made => made?,
        }
        self.open_dir(parent)?.sync()
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let len = match entry.metadata() {
                Ok(found) => found.len(),
                // It went away between the two calls.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            entries.push(DirEntry {
                name: entry.file_name(),
                len,
                kind: entry_kind(kind),
            });
        }
        Ok(entries)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options
            .read(true)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        match access {
            Access::Read => {}
            Access::Write => {
                options.write(true);
            }
            Access::Create => {
                options.write(true).create(true);
            }
            Access::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let (path, locked) = (path.to_path_buf(), AtomicBool::new(false));
        Ok(Arc::new(OsFile { file, path, locked }))
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        std::path::absolute(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        sys::rename_new(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(path)?;
        Ok(Arc::new(OsDirectory(file)))
    }

    fn is_mapping_safe(&self, path: &Path) -> bool {
        sys::overwrites_in_place(path)
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        let text = fs::read_to_string(BOOT_ID).ok()?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        Some(u128::from_str_radix(&digits, 16).ok()?.to_le_bytes())
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        fs2::available_space(path)
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        fs::metadata(path).map(|found| found.dev())
    }

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher, RandomState};

        // The standard library's hasher keys are from the operating system's generator.
        RandomState::new().hash_one(self.random.fetch_add(1, Ordering::Relaxed))
    }
}

fn entry_kind(kind: fs::FileType) -> EntryKind {
    if kind.is_file() {
        EntryKind::File
    } else if kind.is_dir() {
        EntryKind::Directory
    } else if kind.is_symlink() {
        EntryKind::Link
    } else {
        debug_assert!(
            kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device()
        );
        EntryKind::Other
    }
}

impl Clock for RealHost {
    fn wall_millis(&self) -> u64 {
        sys::wall_millis()
    }

    fn monotonic(&self) -> Duration {
        START.elapsed()
    }
}

impl Threads for RealHost {
    fn spawn(&self, name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Joiner>> {
        parking::spawn(name, run)
    }

    fn identity(&self) -> usize {
        std::ptr::from_ref(&START).addr()
    }

    fn parker(&self) -> Box<dyn Parker> {
        Box::new(parking::OsParker::new(*START))
    }
}

#[derive(Debug)]
struct OsDirectory(fs::File);

impl Directory for OsDirectory {
    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[derive(Debug)]
struct OsFile {
    file: fs::File,
    path: PathBuf,
    locked: AtomicBool,
}

impl Drop for OsFile {
    /// Closing would unlock too, but not while a child process that is just being started still
    /// has a copy of the descriptor.
    fn drop(&mut self) {
        if *self.locked.get_mut() {
            drop(fs2::FileExt::unlock(&self.file));
        }
    }
}

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(into, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.file.write_at(bytes, position)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        let before = self.len()?;
        sys::allocate(&self.file, position, len).inspect_err(|_| {
            // ext4 leaves the file extended by what it could allocate. If the cut fails too there
            // is no more to do than to report why the allocation did.
            drop(self.set_len(before));
        })
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        match kind {
            SyncKind::Data if cfg!(target_os = "linux") => self.file.sync_data(),
            // The standard library calls F_FULLFSYNC on macOS.
            SyncKind::Data | SyncKind::Full => self.file.sync_all(),
        }
    }

    fn begin_writeback(&self) {
        sys::begin_writeback(&self.file);
    }

    fn try_lock(&self) -> io::Result<bool> {
        match fs2::FileExt::try_lock_exclusive(&self.file) {
            Ok(()) => self.locked.store(true, Ordering::Relaxed),
            Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        // Somebody may have replaced the file between our open and our lock: then the lock that
        // others see is not this one.
        let held = self.file.metadata()?;
        let named = fs::symlink_metadata(&self.path)?;
        Ok((held.dev(), held.ino()) == (named.dev(), named.ino()))
    }

    fn map_writer(&self, capacity: usize, published: usize) -> io::Result<MapWriter> {
        let memory = MmapOptions::new().len(capacity).map_raw(&self.file)?;
        Ok(MapWriter::new(memory, published))
    }

    fn map_cells(&self, len: usize) -> io::Result<MapCells> {
        let memory = MmapOptions::new().len(len).map_raw(&self.file)?;
        Ok(MapCells::new(memory))
    }

    fn map_reader(&self, len: usize) -> io::Result<MapReader> {
        let memory = MmapOptions::new().len(len).map_raw_read_only(&self.file)?;
        Ok(MapReader::new(memory, len))
    }
}
