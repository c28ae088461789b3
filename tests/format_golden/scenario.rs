//! A small log whose every byte is known: ids count up, so does the clock, and no background
//! thread runs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use duralog::{
    Acks, CleanupPolicy, CommitOptions, FlushPolicy, Fsync, Log, LogOptions, Record, Timestamp,
    WriteMode,
    testing::{
        self, Access, Clock, DirEntry, Directory, File, FileSystem, Joiner, Parker, RealHost,
        Threads,
    },
};

/// The boots in which the log is made, and opened again.
pub const BOOTS: [[u8; 16]; 2] = [[0xaa; 16], [0xbb; 16]];
/// The first reading of the clock.
pub const EPOCH: u64 = 1_700_000_000_000;
/// The group, and what it has committed.
pub const GROUP: &str = "billing";
pub const COMMITTED: u64 = 7;
/// What was said with the commit.
pub const METADATA: &[u8] = b"batch 3";
/// Where the log ended when the machine went down, and where it goes on.
pub const LOST_TAIL: [u64; 2] = [9, 1 << 20];

/// The real file system under a clock and a generator that count.
#[derive(Debug)]
struct CountingHost {
    real: RealHost,
    boot_id: [u8; 16],
    random: AtomicU64,
    millis: AtomicU64,
}

impl CountingHost {
    /// The machine's `boot`th boot: its numbers are higher than those of the one before.
    fn new(boot: u64) -> Arc<Self> {
        Arc::new(Self {
            real: RealHost::new(),
            boot_id: BOOTS[usize::try_from(boot).unwrap()],
            random: AtomicU64::new(0x0123_4567_89ab_cd00 + (boot << 4)),
            // A log that is opened again reads the clock once before it appends.
            millis: AtomicU64::new(EPOCH + 1_000_000 * boot - boot),
        })
    }
}

impl FileSystem for CountingHost {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.real.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.real.read_dir(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        self.real.open(path, access)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.rename(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.replace(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.real.remove_file(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        self.real.open_dir(path)
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        self.real.absolute(path)
    }

    fn is_mapping_safe(&self, path: &Path) -> bool {
        self.real.is_mapping_safe(path)
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        Some(self.boot_id)
    }

    fn random(&self) -> u64 {
        self.random.fetch_add(1, Ordering::Relaxed)
    }
}

impl Clock for CountingHost {
    fn wall_millis(&self) -> u64 {
        self.millis.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic()
    }
}

impl Threads for CountingHost {
    /// Starts nothing: the log does all its work in the calls of the test, in one order.
    fn spawn(&self, _: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Joiner>> {
        Ok(Box::new(NoThread))
    }

    fn parker(&self) -> Box<dyn Parker> {
        self.real.parker()
    }
}

#[derive(Debug)]
struct NoThread;

impl Joiner for NoThread {
    fn join(self: Box<Self>) {}
}

/// Options, all of them given, so that all are stored.
pub fn options() -> LogOptions {
    Log::options()
        .segment_bytes(8 << 10)
        .segment_age(Duration::from_secs(3600))
        .max_record_bytes(7001)
        .flush(FlushPolicy::every_messages(1000).or_every(Duration::from_millis(100)))
        .fsync(Fsync::Data)
        .write_mode(WriteMode::Buffered)
}

/// The sends before the machine goes down: each is one frame.
pub fn sends() -> Vec<Vec<Record>> {
    let keyed = Record::new("paid")
        .key("order-17")
        .header("trace", "af31")
        .header("", "")
        .timestamp(Timestamp::from_millis(-1));
    vec![
        vec![Record::new("paid")],
        vec![keyed],
        vec![Record::tombstone("order-17")],
        vec![
            Record::new("first of three"),
            Record::new("").key(""),
            Record::new(vec![b'z'; 200]),
        ],
        vec![Record::new("")],
        // Does not fit behind the others: the log rolls.
        vec![Record::new(vec![b'x'; 7001])],
        vec![Record::new("last before the crash")],
    ]
}

/// How many of the sends are durable before the next one.
pub const SYNCED_SENDS: usize = 4;

/// The one send after it.
pub const AFTERWARDS: &str = "first after the crash";

/// Makes the log at `dir`, by way of a crash image of one in `scratch`.
pub fn make_log(scratch: &Path, dir: &Path) {
    let log = testing::open(CountingHost::new(0), &options(), scratch).unwrap();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for (index, records) in sends().iter().enumerate() {
        if index == SYNCED_SENDS {
            log.sync().unwrap();
        }
        match records.as_slice() {
            [record] => producer.send(record).unwrap().wait().unwrap(),
            _ => producer.send_batch(records).unwrap().wait().unwrap(),
        };
    }
    let mut consumer = log.consumer(GROUP).build().unwrap();
    consumer.poll(Duration::ZERO).unwrap();
    let with = CommitOptions::new().metadata(METADATA);
    consumer
        .commit_offset_with(COMMITTED.into(), &with)
        .unwrap();
    drop(consumer);
    copy_dir(scratch, dir);
    log.close().unwrap();

    let log = testing::open(CountingHost::new(1), &options(), dir).unwrap();
    let [from, to] = LOST_TAIL.map(duralog::Offset::new);
    assert_eq!(log.recovery().lost_tail, Some(from..to));
    let producer = log.producer().build().unwrap();
    producer
        .send(Record::new(AFTERWARDS))
        .unwrap()
        .wait()
        .unwrap();
    drop(producer);
    log.close().unwrap();
}

/// Makes an empty log in the first boot.
#[cfg(feature = "lz4")]
pub fn open_as_made(dir: &Path) -> Log {
    testing::open(CountingHost::new(0), &options(), dir).unwrap()
}

/// Makes an empty log that is compacted, in the first boot.
pub fn open_compacted(dir: &Path) -> Log {
    let options = options()
        .cleanup_policy(CleanupPolicy::Compact)
        .tombstone_retention(Duration::from_secs(60))
        .min_compaction_lag(Duration::ZERO)
        .min_dirty_ratio(0.25)
        .compaction_memory(1 << 20)
        .compaction_rate(1 << 21);
    testing::open(CountingHost::new(0), &options, dir).unwrap()
}

/// Opens a log in the second boot.
pub fn open(dir: &Path) -> Log {
    testing::open(CountingHost::new(1), &Log::options(), dir).unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
