//! A small log of known content, as bytes.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use duralog::{Acks, Log, Record, Timestamp};

/// Files by path, from the log's directory.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Where frames start in a segment.
const FRAMES_START: usize = 1024;

/// A log as it lies in a directory.
#[derive(Debug)]
pub struct Specimen {
    /// Closed in order, or as a killed process leaves it.
    pub closed: bool,
    pub files: Files,
    /// The records, by offset.
    pub records: Vec<Record>,
    pub frames: Vec<Frame>,
}

/// A frame of records.
#[derive(Debug)]
pub struct Frame {
    pub file: PathBuf,
    pub bytes: Range<usize>,
    pub offsets: Range<u64>,
}

/// Closed in order: three segments, two groups.
pub static CLOSED: LazyLock<Specimen> = LazyLock::new(|| make(true));

/// The same log as a killed process leaves it.
pub static CRASHED: LazyLock<Specimen> = LazyLock::new(|| make(false));

/// What is sent; each element is a frame.
fn sends() -> Vec<Vec<Record>> {
    let keyed = Record::new("keyed")
        .key("key")
        .header("trace", "af31")
        .timestamp(Timestamp::from_millis(-7));
    let some = [
        vec![Record::new("plain")],
        vec![keyed],
        vec![Record::tombstone("key")],
        vec![
            Record::new("one"),
            Record::new("").key(""),
            Record::new("three"),
        ],
    ];
    // Does not fit behind the others, and leaves no room for them.
    let large = [vec![Record::new(vec![b'x'; 7000])]];
    [&some[..], &large, &some].concat()
}

fn make(close: bool) -> Specimen {
    let dir = crate::scratch();
    let log = Log::options()
        .segment_bytes(8 << 10)
        .open(&dir)
        .expect("a log is made");
    let producer = log
        .producer()
        .acks(Acks::Written)
        .build()
        .expect("it is open");
    let sends = sends();
    for (index, records) in sends.iter().enumerate() {
        if index == sends.len() - 1 {
            log.sync().expect("it syncs");
        }
        // A batch of one has the general form, not the plain one.
        match records.as_slice() {
            [record] => producer.send(record).expect("it fits").wait(),
            _ => producer.send_batch(records).expect("it fits").wait(),
        }
        .expect("it is written");
    }
    for (group, committed) in [("audit", 2), ("billing", 9)] {
        let mut consumer = log.consumer(group).build().expect("a group is made");
        consumer.poll(Duration::ZERO).expect("records are there");
        consumer
            .commit_offset(committed.into())
            .expect("they were polled");
    }
    drop(producer);
    let mut files = Files::new();
    if close {
        log.close().expect("it closes");
        collect(dir.path(), Path::new(""), &mut files);
    } else {
        collect(dir.path(), Path::new(""), &mut files);
    }
    let frames = frames(&files, &sends);
    assert_eq!(frames.len(), sends.len());
    Specimen {
        closed: close,
        files,
        records: sends.concat(),
        frames,
    }
}

fn collect(root: &Path, under: &Path, files: &mut Files) {
    for entry in fs::read_dir(root.join(under)).expect("it is a directory") {
        let path = under.join(entry.expect("it is listed").file_name());
        if root.join(&path).is_dir() {
            collect(root, &path, files);
        } else {
            let bytes = fs::read(root.join(&path)).expect("it is readable");
            files.insert(path, bytes);
        }
    }
}

fn frames(files: &Files, sends: &[Vec<Record>]) -> Vec<Frame> {
    let mut counts = sends.iter().map(|records| records.len() as u64);
    let mut next = 0;
    let mut frames = Vec::new();
    for (path, bytes) in files.iter().filter(|(path, _)| is_segment(path)) {
        let mut start = FRAMES_START;
        while let Some(header) = bytes.get(start..start + 24) {
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            let is_footer = header[22] & 1 << 5 != 0;
            if length == 0 || is_footer {
                break;
            }
            let (first, end) = (next, start + length as usize);
            next += counts.next().expect("no more frames than sends");
            frames.push(Frame {
                file: path.clone(),
                bytes: start..end,
                offsets: first..next,
            });
            start = end;
        }
    }
    frames
}

pub fn is_segment(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.len() == 24 && name.ends_with(".log")
}

/// Writes files into a directory.
pub fn lay_out(files: &Files, dir: &Path) {
    fs::create_dir_all(dir.join("groups")).expect("a directory is made");
    for (path, bytes) in files {
        fs::write(dir.join(path), bytes).expect("a file is written");
    }
}

/// The identity of the closed specimen, as its `meta` has it.
pub fn log_id() -> u64 {
    let meta = &CLOSED.files[Path::new("meta")];
    u64::from_le_bytes(meta[28..36].try_into().unwrap())
}
