//! The machine of the tests: the real one, with a clock that can be advanced, a boot that can end,
//! and calls that fail when told to.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use duralog::testing::{
    Access, Clock, DirEntry, Directory, File, FileSystem, Joiner, MapCells, MapReader, MapWriter,
    Parker, RealHost, SyncKind, Threads,
};

/// A call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Open,
    Read,
    Write,
    /// A write that is done by half, and then fails.
    ShortWrite,
    SetLen,
    Allocate,
    Sync,
    SyncDir,
    OpenDir,
    Rename,
    Remove,
    Lock,
}

/// What is below a directory of this name is on another device.
pub const OTHER_DEVICE: &str = "other-device";

/// In place of an error's number: the call panics.
pub const PANIC: i32 = -1;

/// Which call fails, how often, and how.
#[derive(Debug)]
pub struct Fault {
    op: Op,
    /// The end of the path, or a part of the file name.
    path: String,
    errno: i32,
    skip: AtomicUsize,
    times: AtomicUsize,
    fired: AtomicUsize,
}

impl Fault {
    /// The next such call on a path that contains `path` fails, once.
    pub fn once(op: Op, path: &str, errno: i32) -> Arc<Self> {
        Self::times(op, path, errno, 1)
    }

    /// All such calls fail until the fault is lifted.
    pub fn always(op: Op, path: &str, errno: i32) -> Arc<Self> {
        Self::times(op, path, errno, usize::MAX)
    }

    fn times(op: Op, path: &str, errno: i32, times: usize) -> Arc<Self> {
        Arc::new(Self {
            op,
            path: path.to_owned(),
            errno,
            skip: AtomicUsize::new(0),
            times: AtomicUsize::new(times),
            fired: AtomicUsize::new(0),
        })
    }

    /// Spares the first `calls`.
    pub fn after(self: Arc<Self>, calls: usize) -> Arc<Self> {
        self.skip.store(calls, Ordering::SeqCst);
        self
    }

    /// How often it fired.
    pub fn fired(&self) -> usize {
        self.fired.load(Ordering::SeqCst)
    }

    fn strikes(&self, op: Op, path: &Path) -> Option<io::Error> {
        if self.op != op || !path.to_string_lossy().contains(&self.path) {
            return None;
        }
        let less = |count: usize| count.checked_sub(1);
        if self
            .skip
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
        {
            return None;
        }
        self.times
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .ok()?;
        self.fired.fetch_add(1, Ordering::SeqCst);
        Some(io::Error::from_raw_os_error(self.errno))
    }
}

/// A part of a path, how many calls are spared, and what is to happen before the next.
type Hook = (&'static str, usize, Box<dyn FnOnce() + Send>);

pub struct TestHost {
    real: RealHost,
    /// Milliseconds that the monotonic clock, and the wall clock, are ahead.
    ahead: AtomicU64,
    boot: AtomicU8,
    faults: Arc<Mutex<Vec<Arc<Fault>>>>,
    sleepers: Arc<Mutex<Vec<Waker>>>,
    /// What is to happen before a file is opened.
    before_open: Mutex<Option<Hook>>,
    threads: Arc<AtomicUsize>,
    /// The names of open files, which a rename changes.
    open_files: Mutex<Vec<Weak<Mutex<PathBuf>>>>,
}

impl TestHost {
    pub fn new() -> Arc<Self> {
        Self::in_boot(1)
    }

    pub fn in_boot(boot: u8) -> Arc<Self> {
        Arc::new(Self {
            real: RealHost::new(),
            ahead: AtomicU64::new(0),
            boot: AtomicU8::new(boot),
            faults: Arc::default(),
            sleepers: Arc::default(),
            before_open: Mutex::default(),
            threads: Arc::default(),
            open_files: Mutex::default(),
        })
    }

    pub fn boot(&self) -> u8 {
        self.boot.load(Ordering::SeqCst)
    }

    /// From now on the machine says that it was started again.
    pub fn reboot(&self) {
        self.boot.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.ahead.fetch_add(millis, Ordering::SeqCst);
        for sleeper in self.sleepers.lock().unwrap().iter() {
            sleeper.wake_by_ref();
        }
    }

    pub fn inject(&self, fault: &Arc<Fault>) {
        self.faults.lock().unwrap().push(Arc::clone(fault));
    }

    /// Runs `then` before the call behind the next `spared` ones that opens such a path.
    pub fn before_open(&self, path: &'static str, spared: usize, then: Box<dyn FnOnce() + Send>) {
        *self.before_open.lock().unwrap() = Some((path, spared, then));
    }

    /// Whether what was to happen before a file is opened did.
    pub fn hook_ran(&self) -> bool {
        self.before_open.lock().unwrap().is_none()
    }

    fn run_hook(&self, path: &Path) {
        let mut hook = self.before_open.lock().unwrap();
        let Some((wanted, spared, _)) = &mut *hook else {
            return;
        };
        if !path.to_string_lossy().contains(*wanted) {
            return;
        }
        if *spared > 0 {
            *spared -= 1;
            return;
        }
        let due = hook.take();
        drop(hook);
        if let Some((_, _, then)) = due {
            then();
        }
    }

    pub fn lift_faults(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// How many threads are running that the library started.
    pub fn threads(&self) -> usize {
        self.threads.load(Ordering::SeqCst)
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead.load(Ordering::SeqCst))
    }
}

impl fmt::Debug for TestHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestHost")
            .field("boot", &self.boot)
            .finish_non_exhaustive()
    }
}

fn strike(faults: &Mutex<Vec<Arc<Fault>>>, op: Op, path: &Path) -> io::Result<()> {
    let faults = faults.lock().unwrap().clone();
    match faults.iter().find_map(|fault| fault.strikes(op, path)) {
        Some(error) => {
            assert_ne!(error.raw_os_error(), Some(PANIC), "told to panic");
            Err(error)
        }
        None => Ok(()),
    }
}

impl TestHost {
    /// Open files have their new name from now on.
    fn renamed(&self, from: &Path, to: &Path) {
        let open = self.open_files.lock().unwrap();
        for path in open.iter().filter_map(Weak::upgrade) {
            let mut path = path.lock().unwrap();
            if *path == from {
                *path = to.to_path_buf();
            }
        }
    }
}

impl FileSystem for TestHost {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.real.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.real.read_dir(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        self.run_hook(path);
        strike(&self.faults, Op::Open, path)?;
        let file = self.real.open(path, access)?;
        let path = Arc::new(Mutex::new(path.to_path_buf()));
        self.open_files.lock().unwrap().push(Arc::downgrade(&path));
        Ok(Arc::new(TestFile {
            file,
            path,
            faults: Arc::clone(&self.faults),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        strike(&self.faults, Op::Rename, to)?;
        self.real.rename(from, to)?;
        self.renamed(from, to);
        Ok(())
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        strike(&self.faults, Op::Rename, to)?;
        self.real.replace(from, to)?;
        self.renamed(from, to);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        strike(&self.faults, Op::Remove, path)?;
        self.real.remove_file(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        strike(&self.faults, Op::OpenDir, path)?;
        let (directory, path) = (self.real.open_dir(path)?, path.to_path_buf());
        let faults = Arc::clone(&self.faults);
        Ok(Arc::new(TestDirectory {
            directory,
            path,
            faults,
        }))
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        self.real.absolute(path)
    }

    fn is_mapping_safe(&self, path: &Path) -> bool {
        self.real.is_mapping_safe(path)
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        Some([self.boot(); 16])
    }

    fn random(&self) -> u64 {
        self.real.random()
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        Ok(u64::from(path.to_string_lossy().contains(OTHER_DEVICE)))
    }
}

/// A thread that runs.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn one_more(threads: &Arc<AtomicUsize>) -> Self {
        threads.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(threads))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Clock for TestHost {
    fn wall_millis(&self) -> u64 {
        self.real.wall_millis() + self.ahead.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic() + self.ahead()
    }
}

impl Threads for TestHost {
    fn spawn(&self, name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Joiner>> {
        let running = Running::one_more(&self.threads);
        let body = move || {
            run();
            drop(running);
        };
        self.real.spawn(name, Box::new(body))
    }

    fn parker(&self) -> Box<dyn Parker> {
        let parker = self.real.parker();
        self.sleepers.lock().unwrap().push(parker.waker());
        Box::new(TestParker {
            parker,
            ahead: self.ahead(),
        })
    }
}

/// Waits by the advanced clock: whoever advances it wakes all who wait.
#[derive(Debug)]
struct TestParker {
    parker: Box<dyn Parker>,
    /// At least this far the clock is ahead. Later advances wake the sleeper in any case, and the
    /// library looks at the clock again.
    ahead: Duration,
}

impl Parker for TestParker {
    fn park(&self, until: Option<Duration>) {
        self.parker
            .park(until.map(|until| until.saturating_sub(self.ahead)));
    }

    fn waker(&self) -> Waker {
        self.parker.waker()
    }
}

#[derive(Debug)]
struct TestDirectory {
    directory: Arc<dyn Directory>,
    path: PathBuf,
    faults: Arc<Mutex<Vec<Arc<Fault>>>>,
}

impl Directory for TestDirectory {
    fn sync(&self) -> io::Result<()> {
        strike(&self.faults, Op::SyncDir, &self.path)?;
        self.directory.sync()
    }
}

#[derive(Debug)]
struct TestFile {
    file: Arc<dyn File>,
    path: Arc<Mutex<PathBuf>>,
    faults: Arc<Mutex<Vec<Arc<Fault>>>>,
}

impl TestFile {
    fn strike(&self, op: Op) -> io::Result<()> {
        strike(&self.faults, op, &self.path.lock().unwrap())
    }
}

impl File for TestFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        self.strike(Op::Read)?;
        self.file.read_at(into, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.strike(Op::Write)?;
        if let Err(error) = self.strike(Op::ShortWrite) {
            let half = &bytes[..bytes.len() / 2];
            assert_eq!(self.file.write_at(half, position)?, half.len());
            return Err(error);
        }
        self.file.write_at(bytes, position)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.strike(Op::SetLen)?;
        self.file.set_len(len)
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.strike(Op::Allocate)?;
        self.file.allocate(position, len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.strike(Op::Sync)?;
        self.file.sync(kind)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.strike(Op::Lock)?;
        self.file.try_lock()
    }

    fn map_writer(&self, capacity: usize, published: usize) -> io::Result<MapWriter> {
        self.file.map_writer(capacity, published)
    }

    fn map_cells(&self, len: usize) -> io::Result<MapCells> {
        self.file.map_cells(len)
    }

    fn map_reader(&self, len: usize) -> io::Result<MapReader> {
        self.file.map_reader(len)
    }
}
