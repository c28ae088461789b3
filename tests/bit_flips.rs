//! One flipped bit at a time, in every file of a small log that was closed in order: it is
//! reported, or it touches nothing. It takes no other record than those of the frame that it hits,
//! and no wrong byte is served.
#![cfg(feature = "testing")]

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use duralog::{
    Damage, GapReason, Log, Losses, Offset, ReadMode, ReadOnlyLog, Reader, Record, Start,
    Timestamp, testing,
};
use tempfile::TempDir;

#[path = "bit_flips/memory.rs"]
mod memory;

use memory::MemoryHost;

/// Of the flips that are opened for writing, one in this many is tried.
const SAMPLE: u64 = 16;
/// Chooses which; another value may be given in the environment.
const SEED: (&str, u64) = ("BIT_FLIPS_SEED", 1);

/// The smallest there are.
const SEGMENT_BYTES: u64 = duralog::MIN_SEGMENT_BYTES;
/// Groups, and what they have committed.
const GROUPS: [(&str, u64); 2] = [("audit", 3), ("billing", 11)];

#[test]
fn a_flipped_bit_is_reported_and_takes_only_the_records_of_its_frame() {
    let original = Original::make();
    let counts = original.for_each_flip(
        |_, _| true,
        || {
            let dir = Path::new("/log");
            let host = Arc::new(MemoryHost::new(dir, &original.files));
            let original = &original;
            move |flip: &Flip| {
                let path = dir.join(&flip.file);
                let before = original.files[&flip.file][flip.byte];
                host.put(&path, flip.byte, before ^ 1 << flip.bit);
                let look = testing::open_read_only(Arc::<MemoryHost>::clone(&host), dir).unwrap();
                original.check_read_only(&look, flip, &path);
                host.put(&path, flip.byte, before);
            }
        },
    );
    println!("read-only: {counts:?}");
    assert_eq!(counts.values().sum::<u64>(), original.bits());
    assert_eq!(counts.len(), 3, "each kind of byte was hit");
}

#[test]
fn a_log_with_a_flipped_bit_opens_for_writing_and_goes_on() {
    let original = Original::make();
    let seed = seed();
    println!("to repeat: {}={seed}", SEED.0);
    let chosen = |index: u64, flip: &Flip| {
        // Of the many bits that nothing uses, a few do.
        let rarity = if flip.hits == Hit::Unused { 32 } else { 1 };
        scatter(index ^ seed << 32).is_multiple_of(SAMPLE * rarity)
    };
    let counts = original.for_each_flip(chosen, || {
        let dir = scratch();
        let original = &original;
        move |flip: &Flip| {
            original.lay_out(dir.path());
            let mut bytes = original.files[&flip.file].clone();
            bytes[flip.byte] ^= 1 << flip.bit;
            fs::write(dir.path().join(&flip.file), bytes).unwrap();
            original.check_writing(dir.path(), flip);
        }
    });
    println!("for writing: {counts:?}");
    assert_eq!(counts.len(), 3, "each kind of byte was hit");
}

#[test]
fn a_segment_that_lost_both_copies_of_its_header_is_one_gap() {
    let original = Original::make();
    for file in original.files.keys().filter(|path| is_segment(path)) {
        let dir = scratch();
        original.lay_out(dir.path());
        let mut bytes = original.files[file].clone();
        bytes[SEGMENT_HEADER - 1] ^= 1;
        bytes[SECTOR + SEGMENT_HEADER - 1] ^= 1;
        fs::write(dir.path().join(file), bytes).unwrap();

        let mut inside = original.frames.iter().filter(|frame| frame.file == *file);
        let start = inside.next().unwrap().offsets.start;
        let end = inside.next_back().unwrap().offsets.end;
        let missing = vec![Offset::new(start)..Offset::new(end)];
        let expected = (original.without(&missing), missing);

        let look = Log::open_read_only(dir.path()).unwrap();
        assert_eq!(look.verify().unwrap().damage.len(), 1);
        check_reading(look.reader().build().unwrap(), &expected);
        let log = Log::open(dir.path()).unwrap();
        check_reading(log.reader().build().unwrap(), &expected);
    }
}

fn seed() -> u64 {
    std::env::var(SEED.0).map_or(SEED.1, |seed| seed.parse().unwrap())
}

/// Spreads numbers over 64 bits (the finalizer of `SplitMix64`).
fn scatter(number: u64) -> u64 {
    let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// What a bit belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hit {
    /// Nothing, by the text of the format.
    Unused,
    /// A slot, a header or a footer: no record.
    Beside,
    /// The frame of this number.
    Frame(usize),
}

/// A bit of a file.
#[derive(Clone, Debug)]
struct Flip {
    file: PathBuf,
    byte: usize,
    bit: u32,
    hits: Hit,
}

/// A frame of records.
#[derive(Clone, Debug)]
struct Frame {
    file: PathBuf,
    bytes: Range<usize>,
    offsets: Range<u64>,
}

/// A record as it is read.
type Found = (Offset, Timestamp, Record);
/// How many flips there were of each kind.
type Counts = BTreeMap<&'static str, u64>;
/// Offsets that are missing because of damage.
type Missing = Vec<Range<Offset>>;

/// A log that was closed in order.
struct Original {
    files: BTreeMap<PathBuf, Vec<u8>>,
    frames: Vec<Frame>,
    records: Vec<Found>,
}

/// What is sent, each element as one frame; three segments in all.
fn sends() -> Vec<Vec<Record>> {
    let plain = |n: u32| vec![Record::new(format!("plain record {n}"))];
    let keyed = |n: u32| vec![Record::new(format!("keyed {n}")).key(format!("key {n}"))];
    let traced = |n: u32| {
        let record = Record::new("traced").header("trace", n.to_le_bytes());
        vec![
            record
                .header("empty", "")
                .timestamp(Timestamp::from_millis(n.into())),
        ]
    };
    let batch = |n: u32| [plain(n), keyed(n), traced(n), plain(n + 1)].concat();
    let tombstone = |n: u32| vec![Record::tombstone(format!("key {n}"))];
    let segment = |n: u32| {
        vec![
            plain(n),
            keyed(n),
            traced(n),
            batch(n),
            tombstone(n),
            vec![Record::new("")],
        ]
    };
    // Does not fit behind two of those, and leaves room for one.
    let large = vec![vec![Record::new(vec![b'x'; 6500])]];
    [
        segment(0),
        segment(100),
        large,
        segment(200),
        segment(300),
        segment(400),
    ]
    .concat()
}

impl Original {
    fn make() -> Self {
        let dir = scratch();
        let log = Log::options()
            .segment_bytes(SEGMENT_BYTES)
            .open(&dir)
            .unwrap();
        let producer = log.producer().build().unwrap();
        for records in sends() {
            match records.as_slice() {
                [record] => producer.send(record).unwrap().wait().unwrap(),
                _ => producer.send_batch(&records).unwrap().wait().unwrap(),
            };
        }
        for (name, committed) in GROUPS {
            let mut consumer = log.consumer(name).build().unwrap();
            consumer.poll(Duration::ZERO).unwrap();
            consumer.commit_offset(committed.into()).unwrap();
        }
        let (records, missing) = read_all(log.reader().build().unwrap());
        assert_eq!(missing, []);
        drop(producer);
        log.close().unwrap();

        let sent = sends().concat();
        assert!(records.iter().map(|found| &found.2).eq(&sent));
        let mut files = BTreeMap::new();
        collect(dir.path(), Path::new(""), &mut files);
        let frames = frames(&files);
        assert_eq!(frames.len(), sends().len());
        assert_eq!(files.keys().filter(|path| is_segment(path)).count(), 3);
        Self {
            files,
            frames,
            records,
        }
    }

    fn bits(&self) -> u64 {
        self.files
            .values()
            .map(|bytes| 8 * bytes.len() as u64)
            .sum()
    }

    /// Writes the log into a directory that is empty or held an opened copy of it.
    fn lay_out(&self, dir: &Path) {
        fs::create_dir_all(dir.join("groups")).unwrap();
        let mut there = BTreeMap::new();
        collect(dir, Path::new(""), &mut there);
        for stray in there.keys().filter(|path| !self.files.contains_key(*path)) {
            fs::remove_file(dir.join(stray)).unwrap();
        }
        for (path, bytes) in &self.files {
            fs::write(dir.join(path), bytes).unwrap();
        }
    }

    /// Calls a check with each flip that is chosen, in some threads that make a check each; counts
    /// the flips by kind.
    fn for_each_flip<C: FnMut(&Flip)>(
        &self,
        chosen: impl Fn(u64, &Flip) -> bool + Sync,
        make_check: impl Fn() -> C + Sync,
    ) -> Counts {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let work = |worker: usize| {
            let mut check = make_check();
            let mut counts = Counts::new();
            for (index, flip) in self.flips().enumerate().skip(worker).step_by(workers) {
                if chosen(index as u64, &flip) {
                    let blame = Blame(&flip);
                    check(&flip);
                    drop(blame);
                    *counts.entry(flip.hits.name()).or_default() += 1;
                }
            }
            counts
        };
        thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (0..workers)
                .map(|worker| scope.spawn(move || work(worker)))
                .collect();
            let mut all = Counts::new();
            for thread in threads {
                for (kind, count) in thread.join().expect("a check failed, see above") {
                    *all.entry(kind).or_default() += count;
                }
            }
            all
        })
    }

    /// Every bit of every file.
    fn flips(&self) -> impl Iterator<Item = Flip> {
        self.files.iter().flat_map(move |(file, bytes)| {
            let places = (0..bytes.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
            places.map(move |(byte, bit)| Flip {
                file: file.clone(),
                byte,
                bit,
                hits: self.hit(file, byte),
            })
        })
    }

    fn hit(&self, file: &Path, byte: usize) -> Hit {
        let in_frame = |frame: &Frame| frame.file == file && frame.bytes.contains(&byte);
        match self.frames.iter().position(in_frame) {
            Some(frame) => Hit::Frame(frame),
            None if is_used(file, &self.files[file], byte) => Hit::Beside,
            None => Hit::Unused,
        }
    }

    /// What must be read of the log, and what must be missing.
    fn expected(&self, flip: &Flip) -> (Vec<Found>, Missing) {
        let missing = self.lost(flip);
        (self.without(&missing), missing)
    }

    fn without(&self, missing: &Missing) -> Vec<Found> {
        let readable = |found: &&Found| !missing.iter().any(|range| range.contains(&found.0));
        self.records.iter().filter(readable).cloned().collect()
    }

    fn lost(&self, flip: &Flip) -> Missing {
        match flip.hits {
            Hit::Unused | Hit::Beside => Vec::new(),
            Hit::Frame(number) => {
                let Range { start, end } = self.frames[number].offsets;
                vec![Offset::new(start)..Offset::new(end)]
            }
        }
    }

    fn end(&self) -> Offset {
        Offset::new(self.records.len() as u64)
    }
}

impl Hit {
    fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Beside => "beside the records",
            Self::Frame(_) => "in a frame",
        }
    }
}

/// Says which flip it was if a check fails.
struct Blame<'a>(&'a Flip);

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("it failed with {:?}", self.0);
        }
    }
}

/// A directory for many small files, in memory where there is such a place.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        TempDir::new_in(memory).unwrap()
    } else {
        TempDir::new().unwrap()
    }
}

fn collect(root: &Path, under: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(root.join(under)).unwrap() {
        let path = under.join(entry.unwrap().file_name());
        if root.join(&path).is_dir() {
            collect(root, &path, files);
        } else {
            let bytes = fs::read(root.join(&path)).unwrap();
            files.insert(path, bytes);
        }
    }
}

// --- From the text of the format alone: which bytes say something. ---

const SECTOR: usize = 512;
const SEGMENT_HEADER: usize = 56;
const FRAMES_START: usize = 2 * SECTOR;
const PAGE: usize = 4096;
const SLOT_HEADER: usize = 28;

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

fn is_used(file: &Path, bytes: &[u8], byte: usize) -> bool {
    if is_segment(file) {
        return byte >= FRAMES_START || byte % SECTOR < SEGMENT_HEADER;
    }
    if file
        .extension()
        .is_some_and(|extension| extension == "index")
    {
        return true;
    }
    let page = byte / PAGE * PAGE;
    let length = number(&bytes[page + 24..page + SLOT_HEADER]);
    if byte % PAGE < SLOT_HEADER + length {
        return true;
    }
    // That the second slot of a group's page is empty is said by its first word.
    let is_group = file.extension().is_some_and(|ending| ending == "offset");
    is_group && (SECTOR..SECTOR + 8).contains(&(byte % PAGE))
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |n, &byte| n << 8 | usize::from(byte))
}

/// The frames of records, in order: each says at byte 4 how long it is.
fn frames(files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<Frame> {
    const FOOTER: usize = 1 << 5;
    let mut counts = sends().into_iter().map(|records| records.len() as u64);
    let mut next = 0;
    let mut frames = Vec::new();
    for (path, bytes) in files.iter().filter(|(path, _)| is_segment(path)) {
        let mut start = FRAMES_START;
        while start < bytes.len() {
            let end = start + number(&bytes[start + 4..start + 8]);
            if number(&bytes[start + 22..start + 24]) & FOOTER == 0 {
                let first = next;
                next += counts.next().unwrap();
                frames.push(Frame {
                    file: path.clone(),
                    bytes: start..end,
                    offsets: first..next,
                });
            }
            start = end;
        }
        assert_eq!(start, bytes.len());
    }
    frames
}

// --- The checks. ---

/// Reads to the end; what was read, and the gaps that were met.
fn read_all(mut reader: Reader) -> (Vec<Found>, Missing) {
    let mut records = Vec::new();
    let mut missing: Missing = Vec::new();
    loop {
        let batch = reader.poll(Duration::ZERO).unwrap();
        if batch.is_empty() && batch.gaps().is_empty() {
            return (records, missing);
        }
        for gap in batch.gaps() {
            assert_eq!(gap.reason, GapReason::Damage);
            missing.push(gap.from..gap.to);
        }
        records.extend(batch.iter().map(|record| {
            let offset = record.offset().unwrap();
            (offset, record.append_time(), record.to_record())
        }));
    }
}

/// Reads to the end, and compares. (Whole records would make messages of many pages.)
fn check_reading(reader: Reader, expected: &(Vec<Found>, Missing)) {
    let (records, missing) = read_all(reader);
    assert_eq!(missing, expected.1);
    let offsets = |records: &[Found]| records.iter().map(|found| found.0).collect::<Vec<_>>();
    assert_eq!(offsets(&records), offsets(&expected.0));
    for (found, expected) in records.iter().zip(&expected.0) {
        assert!(found == expected, "wrong bytes at offset {}", found.0);
    }
}

impl Original {
    fn check_read_only(&self, look: &ReadOnlyLog, flip: &Flip, path: &Path) {
        let report = look.verify().unwrap();
        self.check_reported(flip, path, &report.damage);
        assert_eq!(report.log_start_offset, 0);
        assert_eq!(report.log_end_offset, self.end());
        assert_eq!(report.durable_offset, self.end());
        assert_eq!(report.unproven_bytes, 0);
        check_reading(look.reader().build().unwrap(), &self.expected(flip));
        assert!(look.is_closed().unwrap());
        assert_eq!(look.losses().unwrap(), Losses::default());
        assert_eq!(look.options().segment_bytes, SEGMENT_BYTES);
        let groups = look.groups().unwrap();
        let groups = groups
            .iter()
            .map(|group| (group.name.as_str(), *group.committed.as_ref().unwrap()));
        assert!(groups.eq(GROUPS.map(|(name, committed)| (name, Offset::new(committed)))));
    }

    /// The one damage there must be, if the bit is of a structure.
    fn check_reported(&self, flip: &Flip, path: &Path, damage: &[Damage]) {
        match (flip.hits, damage) {
            (Hit::Unused, []) => {}
            (Hit::Beside, [damage]) => {
                assert_eq!(damage.path, path);
                assert_eq!(damage.from, damage.to);
            }
            (Hit::Frame(number), [damage]) => {
                assert_eq!(damage.path, path);
                assert_eq!(vec![damage.from..damage.to], self.lost(flip));
                let position = self.frames[number].bytes.start;
                assert_eq!(damage.position, position as u64);
            }
            (_, damage) => panic!("reported: {damage:?}"),
        }
    }

    fn check_writing(&self, dir: &Path, flip: &Flip) {
        let read_mode = if flip.byte.is_multiple_of(2) {
            ReadMode::Mapped
        } else {
            ReadMode::Copied
        };
        let log = Log::options().read_mode(read_mode).open(dir).unwrap();
        let report = log.recovery();
        assert_eq!(report.cut_bytes, 0);
        assert_eq!(report.lost_tail, None);
        assert_eq!(report.quarantined, [] as [PathBuf; 0]);
        for damage in &report.damage {
            self.check_reported(flip, &dir.join(&flip.file), std::slice::from_ref(damage));
        }
        let expected = self.expected(flip);
        check_reading(log.reader().build().unwrap(), &expected);
        let producer = log.producer().build().unwrap();
        let offset = producer.send(Record::new("new")).unwrap().wait().unwrap();
        assert_eq!(offset, self.end());
        for (group, committed) in GROUPS {
            assert_eq!(log.consumer(group).build().unwrap().committed(), committed);
        }
        drop(producer);
        log.close().unwrap();
        self.check_reopened(dir, &expected.1);
    }

    /// What was lost is told again, and counted once; what was appended is there.
    fn check_reopened(&self, dir: &Path, missing: &Missing) {
        let look = Log::open_read_only(dir).unwrap();
        let lost = missing.iter().map(|range| range.end.since(range.start));
        let losses = look.losses().unwrap();
        assert_eq!((losses.to_damage, losses.to_tails), (lost.sum(), 0));
        let (records, still_missing) = read_all(look.reader().build().unwrap());
        assert_eq!(still_missing, *missing);
        assert_eq!(records.last().unwrap().2, Record::new("new"));
        let reader = look.reader().start(Start::At(self.end()));
        assert_eq!(read_all(reader.build().unwrap()).0.len(), 1);
    }
}
