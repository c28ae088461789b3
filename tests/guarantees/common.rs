//! Cases, crashes, and ways to look at what a crash left.

use std::{
    collections::HashSet,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    Acks, Batch, Consumer, GapReason, Log, LogOptions, Producer, Record, WriteMode,
    testing::sim::{Call, Choices, Disk, Machine, Random},
};

use crate::sim::{
    PATH,
    examine::look,
    oracle::{Crash, Oracle},
    world::{Point, World, options},
};

/// Offsets reserved ahead.
pub const RESERVED: u64 = 1 << 20;
pub const ENOSPC: i32 = 28;
pub const EIO: i32 = 5;
/// Where the frames of a segment start, and the bytes of a frame before its body.
pub const FRAMES_START: usize = 1024;
pub const FRAME_HEADER: usize = 24;

/// What a test runs with.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub mode: WriteMode,
    pub seed: u64,
}

/// Runs a test in both write modes, with each of the seeds. What fails says which it was.
pub fn in_both_modes(seeds: Range<u64>, test: impl Fn(Case)) {
    for mode in [WriteMode::Mapped, WriteMode::Buffered] {
        in_mode(mode, seeds.clone(), &test);
    }
}

/// Runs a test where commits are written by calls that can fail: a store into mapped memory can't.
pub fn where_commits_are_calls(seeds: Range<u64>, test: impl Fn(Case)) {
    in_mode(WriteMode::Buffered, seeds, test);
}

fn in_mode(mode: WriteMode, seeds: Range<u64>, test: impl Fn(Case)) {
    for seed in seeds {
        let case = Case { mode, seed };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(case))) {
            panic!("{mode:?}, seed {seed}: {}", message(&*panic));
        }
    }
}

/// Puts `what` before the message of a panic.
pub fn told<R>(what: impl std::fmt::Display, body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|panic| resume_unwind(Box::new(format!("{what}: {}", message(&*panic)))))
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned()));
    text.unwrap_or_else(|| "without a message".to_owned())
}

impl Case {
    pub fn options(&self) -> LogOptions {
        options(self.mode)
    }

    /// A new machine.
    pub fn world(&self) -> World {
        World::new(self.seed, self.mode)
    }

    /// A machine that starts with `disk`, and a book with nothing in it.
    pub fn boot(&self, disk: &Disk) -> World {
        self.boot_with(disk, Oracle::default())
    }

    /// A machine that starts with `disk`, and what was promised before.
    pub fn boot_with(&self, disk: &Disk, oracle: Oracle) -> World {
        let machine = Machine::boot(disk.clone(), self.seed ^ 0x5eed);
        machine.switch_never();
        World::on(machine, self.options(), oracle)
    }

    /// Opens the log on `disk`, in a new process.
    pub fn reopen<R>(&self, disk: &Disk, body: impl FnOnce(&World, &Log) -> R) -> R {
        run(&self.boot(disk), |world| {
            let log = world.open();
            body(world, &log)
        })
    }

    /// Opens the log on `disk` and reads it.
    pub fn read(&self, disk: &Disk) -> Seen {
        self.reopen(disk, |_, log| see(log))
    }

    /// Opens the log on `disk` and compares all of it with what was promised.
    pub fn judge(&self, disk: &Disk, crash: Crash, oracle: &Oracle) -> Seen {
        run(&self.boot_with(disk, oracle.clone()), |world| {
            let log = world.open();
            let judged = look(&log, oracle).and_then(|found| oracle.judge(&found, crash));
            assert_eq!(judged, Ok(()), "{:?}", log.recovery());
            see(&log)
        })
    }

    /// What a power cut may leave of `disk`: what is the same for all, and `drawn` more.
    pub fn power_cuts(&self, disk: &Disk, drawn: u64) -> Vec<(String, Disk)> {
        let mut seen = HashSet::new();
        let mut cuts = Vec::new();
        let mut cut = |what: String, mut choices: Choices| {
            let cut = disk.power_cut(&mut choices);
            if seen.insert(cut.fingerprint()) {
                cuts.push((format!("power cut, {what}"), cut));
            }
        };
        cut("nothing more is there".to_owned(), Choices::nothing());
        cut("everything is there".to_owned(), Choices::everything());
        cut("names and no bytes".to_owned(), Choices::names_only());
        cut("bytes and no names".to_owned(), Choices::no_names());
        for number in 0..drawn {
            let drawn = self.seed * 1000 + number;
            cut(format!("Choices::of({drawn})"), Choices::of(drawn));
        }
        cuts
    }

    /// Looks at each of the power cuts.
    pub fn each_power_cut(&self, disk: &Disk, drawn: u64, look: impl Fn(&Disk)) {
        for (what, cut) in self.power_cuts(disk, drawn) {
            told(what, || look(&cut));
        }
    }

    /// Runs a workload and returns the moments at which something was different from before.
    pub fn watch(&self, workload: impl FnOnce(&World)) -> Vec<Point> {
        let world = self.world();
        let points = world.watch();
        run(&world, workload);
        taken(&points)
    }

    /// Some of them, in order.
    pub fn some<T>(&self, of: Vec<T>, count: usize) -> Vec<T> {
        let mut random = Random::new(self.seed);
        let mut left = of.len();
        let mut wanted = count;
        of.into_iter()
            .filter(|_| {
                let take = random.below(left) < wanted;
                left -= 1;
                wanted -= usize::from(take);
                take
            })
            .collect()
    }
}

/// Runs `body` on the machine. Afterwards no thread may have panicked, or waited for ever.
pub fn run<R>(world: &World, body: impl FnOnce(&World) -> R) -> R {
    let result = world.machine.run(|| body(world));
    assert_eq!(world.machine.problems(), [""; 0]);
    result
}

/// Everything that a log serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub records: Vec<(u64, String)>,
    pub gaps: Vec<(u64, u64, GapReason)>,
    pub end: u64,
    pub durable: u64,
}

impl Seen {
    /// Takes in a batch.
    pub fn add(&mut self, batch: &Batch<'_>) {
        let gap = |gap: &duralog::Gap| (gap.from.get(), gap.to.get(), gap.reason);
        self.gaps.extend(batch.gaps().iter().map(gap));
        for record in batch {
            let value = String::from_utf8_lossy(record.value().unwrap_or_default());
            let offset = record.offset().unwrap().get();
            self.records.push((offset, value.into_owned()));
        }
    }

    /// All of these are there, where they say.
    pub fn assert_has<'a>(&self, records: impl IntoIterator<Item = &'a (u64, String)>) {
        for record in records {
            assert!(
                self.records.contains(record),
                "{record:?} is lost; there are {:?} and {:?}",
                self.offsets(),
                self.gaps
            );
        }
    }

    pub fn offsets(&self) -> Vec<u64> {
        self.records.iter().map(|(offset, _)| *offset).collect()
    }

    /// Records and gaps together are all offsets, once each.
    pub fn assert_covers(&self, offsets: Range<u64>) {
        let records = self.records.iter().map(|(at, _)| (*at, at + 1));
        let gaps = self.gaps.iter().map(|(from, to, _)| (*from, *to));
        let mut ranges: Vec<_> = records.chain(gaps).collect();
        ranges.sort_unstable();
        let mut end = offsets.start;
        for (from, to) in ranges {
            assert_eq!(from, end, "nothing was said of the offsets between");
            end = to;
        }
        assert_eq!(end, offsets.end, "{:?} and {:?}", self.offsets(), self.gaps);
    }
}

/// Reads a log from its start.
pub fn see(log: &Log) -> Seen {
    let mut reader = log.reader().build().unwrap();
    let mut seen = Seen {
        end: log.log_end_offset().get(),
        durable: log.durable_offset().get(),
        ..Seen::default()
    };
    loop {
        let batch = reader.poll(Duration::ZERO).unwrap();
        if batch.is_empty() && batch.gaps().is_empty() {
            return seen;
        }
        seen.add(&batch);
    }
}

/// Polls a consumer until nothing more comes.
pub fn drain(consumer: &mut Consumer) -> Seen {
    let mut seen = Seen::default();
    loop {
        let batch = consumer.poll(Duration::ZERO).unwrap();
        if batch.is_empty() && batch.gaps().is_empty() {
            return seen;
        }
        seen.add(&batch);
    }
}

/// A producer whose sends are only written.
pub fn written(log: &Log) -> Producer {
    log.producer().acks(Acks::Written).build().unwrap()
}

/// Sends a value and waits for its acks; where it is, and what.
pub fn send(producer: &Producer, value: impl Into<String>) -> (u64, String) {
    let value = value.into();
    let receipt = producer.send(Record::new(value.as_str())).unwrap();
    (receipt.wait().unwrap().get(), value)
}

/// Sends records of `len` bytes.
pub fn send_many(
    producer: &Producer,
    writer: &str,
    numbers: Range<usize>,
    len: usize,
) -> Vec<(u64, String)> {
    numbers
        .map(|number| send(producer, crate::sim::world::value(writer, number, len)))
        .collect()
}

/// What was noted so far; nothing is left.
pub fn taken<T>(noted: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut noted.lock().unwrap())
}

/// Counts the moments that are wanted.
pub fn count_calls(
    world: &World,
    wanted: impl Fn(Call, &Path) -> bool + Send + 'static,
) -> Arc<Mutex<usize>> {
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    world.machine.observe(move |moment| {
        if wanted(moment.call, moment.path) {
            *counted.lock().unwrap() += 1;
        }
    });
    count
}

pub fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

pub fn in_log(name: &str) -> PathBuf {
    Path::new(PATH).join(name)
}

pub fn segment(base: u64) -> PathBuf {
    in_log(&format!("{base:020}.log"))
}

/// The segments on a disk.
pub fn segments(disk: &Disk) -> Vec<PathBuf> {
    let in_place = |path: &PathBuf| is_segment(path) && path.parent() == Some(Path::new(PATH));
    disk.files().into_iter().filter(in_place).collect()
}

/// Where `value` stands in a file.
pub fn position_of(disk: &Disk, path: &Path, value: &str) -> usize {
    let bytes = disk.read(path).unwrap();
    let found = bytes
        .windows(value.len())
        .position(|w| w == value.as_bytes());
    found.unwrap_or_else(|| panic!("{value:?} is not in {}", path.display()))
}

/// Whether the file's newest checkpoint says that the log was closed in order, and what it
/// reserves; `None` if there is none.
pub fn checkpoint(disk: &Disk) -> Option<(bool, u64)> {
    let bytes = disk.read(&in_log("checkpoint"))?;
    let text = duralog::testing::decode_slots(&bytes, duralog::testing::SlotContent::Checkpoint)?;
    let (_, behind) = text.split_once("reservation: Offset(")?;
    let reservation = behind.split(')').next()?.parse().ok()?;
    Some((text.contains("clean: true"), reservation))
}

/// The file holds a whole footer: the offset that it says is the end, and where it stands.
pub fn footer(bytes: &[u8]) -> Option<(u64, usize)> {
    const LEN: usize = 40;
    const DECLARED: [u8; 4] = [40, 0, 0, 0];
    let (id, _) = duralog::testing::decode_segment_header(bytes)?;
    (FRAMES_START..(bytes.len() + 1).saturating_sub(LEN)).find_map(|position| {
        let here = &bytes[position..position + LEN];
        if here[4..8] != DECLARED || here[22..24] != [0x21, 0] {
            return None;
        }
        let mut sealed = here.to_vec();
        duralog::testing::seal_frame(&mut sealed, id, u32::try_from(position).unwrap());
        let end = u64::from_le_bytes(here[24..32].try_into().unwrap());
        (sealed == here).then_some((end, position))
    })
}

/// How many records the frames at the front of a segment hold, up to `end`.
pub fn records_before(bytes: &[u8], end: usize) -> u64 {
    let Some((id, _)) = duralog::testing::decode_segment_header(bytes) else {
        return 0;
    };
    let (mut position, mut records) = (FRAMES_START, 0);
    while position + FRAME_HEADER <= end {
        let len = u32::from_le_bytes(bytes[position + 4..position + 8].try_into().unwrap());
        let next = position + usize::try_from(len).unwrap();
        let frame = bytes.get(position..next.min(end)).unwrap_or_default();
        let at = u32::try_from(position).unwrap();
        let Some(count) = duralog::testing::decode_frame(frame, id, at) else {
            break;
        };
        records += count as u64;
        position = next;
    }
    records
}

/// The base offsets of the segments whose files have names that end so.
pub fn bases(world: &World, ending: &str) -> Vec<u64> {
    let disk = world.machine.process_crash();
    let files = disk
        .files()
        .into_iter()
        .filter(|path| path.starts_with(in_log("")));
    let mut bases: Vec<_> = files
        .filter_map(|path| {
            path.file_name()?
                .to_str()?
                .strip_suffix(ending)?
                .parse()
                .ok()
        })
        .collect();
    bases.sort_unstable();
    bases
}
