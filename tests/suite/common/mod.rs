//! What the tests share: a machine that fails when told to, crash images, and short ways to write
//! and read.

pub mod host;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use duralog::{
    Acks, FlushPolicy, Gap, Log, LogOptions, MIN_SEGMENT_BYTES, Offset, Reader, Record, Start,
    WriteMode,
};
pub use host::{Fault, OTHER_DEVICE, Op, PANIC, TestHost};
use tempfile::TempDir;

/// Both ways to write: every behaviour is the same in both.
pub const MODES: [WriteMode; 2] = [WriteMode::Mapped, WriteMode::Buffered];

/// A directory, a machine, and options under which nothing happens by itself.
#[derive(Debug)]
pub struct Scenario {
    dir: TempDir,
    pub host: Arc<TestHost>,
    pub options: LogOptions,
}

impl Scenario {
    /// Small segments, and no flush but those a test asks for.
    pub fn new(mode: WriteMode) -> Self {
        let options = Log::options()
            .segment_bytes(MIN_SEGMENT_BYTES)
            .flush(FlushPolicy::never())
            .write_mode(mode);
        Self {
            dir: tempfile::tempdir().unwrap(),
            host: TestHost::new(),
            options,
        }
    }

    /// Where the log is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn open(&self) -> Log {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> duralog::Result<Log> {
        duralog::testing::open(self.host.clone(), &self.options, self.path())
    }

    /// What a process that dies now leaves: the files as the page cache has them.
    pub fn crash_image(&self) -> Self {
        let image = Self {
            dir: tempfile::tempdir().unwrap(),
            host: TestHost::in_boot(self.host.boot()),
            options: self.options.clone(),
        };
        copy_dir(&self.path(), &image.path());
        image
    }

    /// The same after a restart of the machine that lost nothing.
    pub fn rebooted_image(&self) -> Self {
        let image = self.crash_image();
        image.host.reboot();
        image
    }

    /// The segment files, in order.
    pub fn segments(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        paths.sort();
        paths
    }

    pub fn last_segment(&self) -> PathBuf {
        self.segments().pop().expect("the log has a segment")
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            let copied = fs::copy(entry.path(), target);
            // What is to take another one's place may have done so since.
            let has_moved = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
            let is_to_move = entry.path().extension().is_some_and(|e| e == "cleaned");
            assert!(!copied.is_err_and(|error| !(is_to_move && has_moved(&error))));
        }
    }
}

/// Sends `values` one by one, written but not synced.
pub fn write(log: &Log, values: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Vec<Offset> {
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let send = |value: Vec<u8>| producer.send(Record::new(value)).unwrap().offset().unwrap();
    values.into_iter().map(|value| send(value.into())).collect()
}

/// Values `from..to` as text of one length.
pub fn numbered(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| format!("record number {number:06}"))
}

/// Everything that a reader from `from` on is given without waiting: offsets with values, and gaps.
pub fn read_from(reader: &mut Reader) -> (Vec<(u64, String)>, Vec<Gap>) {
    let mut records = Vec::new();
    let mut gaps = Vec::new();
    loop {
        let batch = reader.poll(Duration::ZERO).unwrap();
        if batch.is_empty() && batch.gaps().is_empty() {
            return (records, gaps);
        }
        gaps.extend_from_slice(batch.gaps());
        for record in &batch {
            let value = String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned();
            records.push((record.offset().unwrap().get(), value));
        }
    }
}

/// Everything there is in the log.
pub fn read_all(log: &Log) -> (Vec<(u64, String)>, Vec<Gap>) {
    read_from(&mut log.reader().start(Start::Earliest).build().unwrap())
}

/// Asserts that the log holds exactly these records, and no gap.
#[track_caller]
pub fn assert_records<S: AsRef<str>>(log: &Log, first: u64, values: impl IntoIterator<Item = S>) {
    let (records, gaps) = read_all(log);
    let expected: Vec<_> = (first..)
        .zip(values)
        .map(|(offset, value)| (offset, value.as_ref().to_owned()))
        .collect();
    assert_eq!(gaps, [], "gaps in {records:?}");
    assert_eq!(records, expected);
}

/// Waits, without a bound on how long a slow machine may take, for something another thread does.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < patience, "still not: {what}");
        std::thread::yield_now();
    }
}

/// Changes bytes of a file that must be long enough.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    let before = bytes.clone();
    change(&mut bytes);
    assert_ne!(bytes, before, "the edit changes {}", path.display());
    fs::write(path, bytes).unwrap();
}

/// Where `needle` stands in the file, which holds it exactly once.
pub fn position_of(path: &Path, needle: &[u8]) -> usize {
    let bytes = fs::read(path).unwrap();
    let mut found = bytes
        .windows(needle.len())
        .enumerate()
        .filter(|(_, bytes)| *bytes == needle);
    let (position, _) = found.next().expect("the bytes are in the file");
    assert!(found.next().is_none(), "the bytes are in the file once");
    position
}
