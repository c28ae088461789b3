//! Calls that fail, disks that fill, syncs that lie, bits that flip.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use duralog::{
    Acks, LogOptions, WriteMode,
    testing::sim::{Call, Choices, Disk, Effect, Fault, Machine, Random, SECTOR},
};

use crate::{
    sim::{
        PATH,
        examine::{examine, examine_damaged},
        oracle::{Crash, Oracle},
        world::{World, options, value},
    },
    sweep::message,
    tally::{Kind, Tally},
};

/// A scenario: its name, and what it does.
pub type Scenario = (&'static str, fn(&Bench) -> Result<(), String>);

pub const ALL: &[Scenario] = &[
    ("fails-once", fails_once),
    ("fails-for-ever", fails_for_ever),
    ("short-calls", short_calls),
    ("full-disk", full_disk),
    ("failed-syncs", failed_syncs),
    ("failed-syncs-in-recovery", failed_syncs_in_recovery),
    ("misdirected-writes", misdirected_writes),
    ("misplaced-sectors", misplaced_sectors),
    ("read-errors", read_errors),
    ("flipped-bits", flipped_bits),
    ("lost-files", lost_files),
];

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Calls that return an error when the operating system has one.
const FALLIBLE: &[Call] = &[
    Call::CreateDir,
    Call::ReadDir,
    Call::Open,
    Call::Create,
    Call::Rename,
    Call::Remove,
    Call::OpenDir,
    Call::SyncDir,
    Call::Len,
    Call::Read,
    Call::Write,
    Call::SetLen,
    Call::Allocate,
    Call::Sync,
    Call::Lock,
    Call::Map,
    Call::Spawn,
];

/// Of a frame with one plain record.
const FRAME_HEADER: usize = 24;

/// Bits flipped in each disk.
const FLIPS: usize = 150;

/// Where a scenario is tried.
pub struct Bench<'a> {
    mode: WriteMode,
    seed: u64,
    tally: &'a Tally,
}

pub fn run(name: &str, mode: WriteMode, seed: u64, tally: &Tally) -> Result<(), String> {
    let bench = Bench { mode, seed, tally };
    let scenario = ALL.iter().find(|(known, _)| *known == name);
    let (_, scenario) = scenario.ok_or("there is no such scenario")?;
    scenario(&bench)
}

impl Bench<'_> {
    fn world(&self) -> World {
        World::new(self.seed, self.mode)
    }

    fn options(&self) -> LogOptions {
        options(self.mode)
    }

    fn random(&self) -> Random {
        Random::new(self.seed)
    }

    /// Opens a disk of sound hardware, and what that leaves.
    fn look(&self, disk: &Disk, crash: Crash, oracle: &Oracle) -> Result<(), String> {
        let seed = disk.fingerprint();
        self.tally.is_new(seed);
        let look = || examine(disk, &self.options(), crash, oracle, seed);
        let examined = caught(look)?;
        self.tally.opened(&examined.rows);
        for next in examined.next {
            self.tally.is_new(next.disk.fingerprint());
            let (disk, crash, oracle) = (&next.disk, next.crash, &next.oracle);
            let look = || examine(disk, &self.options(), crash, oracle, seed);
            let examined = caught(look).map_err(|why| format!("{}: {why}", next.what))?;
            self.tally.opened(&examined.rows);
        }
        Ok(())
    }

    /// Opens a disk that lost something; the offsets of the records that are gone.
    fn look_damaged(&self, disk: &Disk, oracle: &Oracle) -> Result<Vec<u64>, String> {
        self.tally.is_new(disk.fingerprint());
        let (rows, lost) = caught(|| examine_damaged(disk, &self.options(), oracle, self.seed))?;
        self.tally.opened(&rows);
        Ok(lost)
    }

    /// Looks at what both kinds of crash leave of a world.
    fn look_after(&self, world: &World) -> Result<(), String> {
        self.tally.ran(world.machine.moments());
        if let [problem, ..] = world.machine.problems().as_slice() {
            return Err(problem.clone());
        }
        let oracle = world.promised();
        self.look(&world.machine.process_crash(), Crash::Process, &oracle)?;
        for mut choices in [Choices::nothing(), Choices::of(self.seed)] {
            let disk = world.machine.power_cut(&mut choices);
            self.look(&disk, Crash::Power, &oracle)?;
        }
        Ok(())
    }
}

fn caught<R>(look: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(look))
        .unwrap_or_else(|panic| Err(format!("panicked: {}", message(&*panic))))
}

/// Uses a log though calls may fail. Whoever is refused goes on.
fn stumble(world: &World) {
    let Ok(log) = world.try_open() else {
        return;
    };
    let group = log.consumer("billing").build();
    if let Ok(producer) = log.producer().build() {
        for number in 0..14 {
            let acks = if number % 4 == 0 {
                Acks::Durable
            } else {
                Acks::Written
            };
            world.send(&producer, acks, &[value("stumble", number, 900)]);
            if number % 5 == 4 {
                world.machine.sleep(Duration::from_millis(700));
            }
            world.look(&log);
        }
        world.send(
            &producer,
            Acks::Written,
            &[value("pair", 0, 900), value("pair", 1, 900)],
        );
    }
    if let Ok(mut consumer) = group {
        drop(consumer.poll(Duration::ZERO).map(drop));
        drop(consumer.commit());
    }
    world.sync(&log);
    if log.stats().latched {
        world.oracle(Oracle::doubts);
    }
    world.close(log);
}

/// Each call in turn fails, until a run is over before it comes to that call.
fn each_call(
    bench: &Bench,
    call: Call,
    fault: impl Fn(usize) -> Arc<Fault>,
    kind: Kind,
) -> Result<(), String> {
    for number in 0.. {
        let world = bench.world();
        let fault = fault(number);
        world.machine.inject(&fault);
        world.machine.run(|| stumble(&world));
        if fault.fired() == 0 {
            break;
        }
        bench.tally.happened(kind, fault.fired());
        bench
            .look_after(&world)
            .map_err(|why| format!("{call:?} number {number} went wrong: {why}"))?;
    }
    Ok(())
}

fn fails_once(bench: &Bench) -> Result<(), String> {
    FALLIBLE.iter().try_for_each(|&call| {
        let fault = |number| Fault::once(call, "", Effect::Fail(EIO)).after(number);
        each_call(bench, call, fault, Kind::FailsOnce)
    })
}

fn fails_for_ever(bench: &Bench) -> Result<(), String> {
    FALLIBLE.iter().try_for_each(|&call| {
        let fault = |number| Fault::always(call, "", Effect::Fail(ENOSPC)).after(3 * number);
        each_call(bench, call, fault, Kind::FailsForEver)
    })
}

fn short_calls(bench: &Bench) -> Result<(), String> {
    let once = |number| Fault::once(Call::Write, "", Effect::Short).after(number);
    each_call(bench, Call::Write, once, Kind::ShortWrite)?;
    let always = |number| Fault::always(Call::Write, "", Effect::Short).after(3 * number);
    each_call(bench, Call::Write, always, Kind::ShortWrite)?;
    let reads = |number| Fault::always(Call::Read, "", Effect::Short).after(5 * number);
    each_call(bench, Call::Read, reads, Kind::ShortRead)
}

/// The disk is full after so many pages, and is freed again.
fn full_disk(bench: &Bench) -> Result<(), String> {
    for pages in 0..24 {
        let world = bench.world();
        world.machine.set_free(Some(4096 * pages));
        let refused = world.machine.run(|| {
            stumble(&world);
            let refused = world.promised().refused_count();
            world.machine.set_free(None);
            // What was refused then is taken now.
            let log = world.open();
            let producer = log.producer().build().unwrap();
            let sent = world.send(&producer, Acks::Durable, &[value("freed", 0, 900)]);
            assert!(sent.is_some(), "there is room again");
            drop(producer);
            world.close(log);
            refused
        });
        bench
            .tally
            .happened(Kind::FullDisk, usize::from(refused > 0));
        bench
            .look_after(&world)
            .map_err(|why| format!("with {pages} pages: {why}"))?;
    }
    Ok(())
}

/// A sync fails, and the page cache lies from then on; sometimes it forgets.
fn failed_syncs(bench: &Bench) -> Result<(), String> {
    for (call, name) in [(Call::Synced, ""), (Call::DirSynced, "")] {
        for number in 0.. {
            let world = bench.world();
            let fault = Fault::once(call, name, Effect::FailedSync).after(number);
            world.machine.inject(&fault);
            world.machine.run(|| stumble(&world));
            if fault.fired() == 0 {
                break;
            }
            bench.tally.happened(Kind::FailedSync, 1);
            let at = |why| format!("{call:?} number {number} failed: {why}");
            bench.look_after(&world).map_err(at)?;
            let mut forgotten = world.machine.process_crash();
            bench
                .tally
                .happened(Kind::CacheDropped, forgotten.drop_cache());
            let mut oracle = world.promised();
            oracle.doubts();
            bench
                .look(&forgotten, Crash::Process, &oracle)
                .map_err(at)?;
        }
    }
    Ok(())
}

/// The same while a log is recovered; then the cache forgets, and it is opened again.
fn failed_syncs_in_recovery(bench: &Bench) -> Result<(), String> {
    let world = bench.world();
    let points = world.watch();
    world.machine.run(|| stumble(&world));
    let points = std::mem::take(&mut *points.lock().unwrap());
    for point in points.iter().step_by(7) {
        for number in 0.. {
            let machine = Machine::boot(point.disk.clone(), bench.seed);
            let again = World::on(machine, bench.options(), point.oracle.clone());
            let fault = Fault::once(Call::Synced, "", Effect::FailedSync).after(number);
            again.machine.inject(&fault);
            let opened = again.machine.run(|| again.try_open().map(drop));
            if fault.fired() == 0 {
                break;
            }
            bench.tally.happened(Kind::FailedSync, 1);
            let mut oracle = point.oracle.clone();
            oracle.doubts();
            let at = |why| {
                format!(
                    "opened at moment {} ({opened:?}), sync {number} failing: {why}",
                    point.number
                )
            };
            let mut disk = again.machine.process_crash();
            bench.look(&disk, Crash::Process, &oracle).map_err(at)?;
            bench.tally.happened(Kind::CacheDropped, disk.drop_cache());
            bench.look(&disk, Crash::Process, &oracle).map_err(at)?;
            let cut = again.machine.power_cut(&mut Choices::nothing());
            bench.look(&cut, Crash::Power, &oracle).map_err(at)?;
        }
    }
    Ok(())
}

/// The device writes a sector to the wrong place.
fn misdirected_writes(bench: &Bench) -> Result<(), String> {
    for number in 0.. {
        let world = bench.world();
        let fault = Fault::once(Call::Synced, "", Effect::Misdirect).after(number);
        let syncs = Fault::once(Call::Synced, "", Effect::Fail(EIO)).after(number);
        world.machine.inject(&fault);
        world.machine.run(|| stumble(&world));
        // Where there was no other sector to write over, nothing happened.
        if fault.fired() == 0 {
            let world = bench.world();
            world.machine.inject(&syncs);
            world.machine.run(|| stumble(&world));
            if syncs.fired() == 0 {
                break;
            }
            continue;
        }
        bench.tally.happened(Kind::MisdirectedWrite, 1);
        let disk = world.machine.power_cut(&mut Choices::everything());
        bench
            .look_damaged(&disk, &world.promised())
            .map_err(|why| format!("sync number {number} was misdirected: {why}"))?;
    }
    Ok(())
}

/// Any sector of a segment stands over any other one, where each holds one frame: that frame alone
/// is lost, and none is believed at the wrong place.
fn misplaced_sectors(bench: &Bench) -> Result<(), String> {
    const SECTORS: usize = 12;
    let world = bench.world();
    world.machine.run(|| {
        let log = world.open();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        for number in 0..SECTORS {
            let value = value("sector", number, SECTOR - FRAME_HEADER);
            world.send(&producer, Acks::Written, &[value]);
        }
        drop(producer);
        world.close(log);
    });
    let closed = world.machine.power_cut(&mut Choices::nothing());
    let segment = Path::new(PATH).join(format!("{:020}.log", 0));
    let bytes = closed.read(&segment).ok_or("there is no segment")?;
    let sector = |index| &bytes[SECTOR * (2 + index)..SECTOR * (3 + index)];
    for (from, to) in (0..SECTORS).flat_map(|from| (0..SECTORS).map(move |to| (from, to))) {
        let mut disk = closed.clone();
        assert!(disk.write(&segment, SECTOR * (2 + to), sector(from)));
        let lost = bench
            .look_damaged(&disk, &world.promised())
            .map_err(|why| format!("sector {from} over sector {to}: {why}"))?;
        let expected: Vec<_> = (from != to).then_some(to as u64).into_iter().collect();
        if lost != expected {
            return Err(format!("sector {from} over sector {to} took {lost:?}"));
        }
        bench.tally.happened(Kind::MisdirectedWrite, expected.len());
    }
    Ok(())
}

/// A read fails while the log is opened: an error, and nothing is taken for the end of the log.
fn read_errors(bench: &Bench) -> Result<(), String> {
    let world = bench.world();
    let points = world.watch();
    world.machine.run(|| stumble(&world));
    let points = std::mem::take(&mut *points.lock().unwrap());
    for point in points.iter().step_by(23) {
        // Many reads are of the same kind: the first ones are all tried, then some.
        for number in (0..16).chain((16..).step_by(9)) {
            let machine = Machine::boot(point.disk.clone(), bench.seed);
            let again = World::on(machine, bench.options(), point.oracle.clone());
            let fault = Fault::once(Call::Read, "", Effect::Fail(EIO)).after(number);
            again.machine.inject(&fault);
            let opened = again.machine.run(|| again.try_open().map(drop));
            if fault.fired() == 0 {
                break;
            }
            bench.tally.happened(Kind::ReadError, 1);
            let at = |why| format!("moment {}, read {number} ({opened:?}): {why}", point.number);
            let disk = again.machine.process_crash();
            bench
                .look(&disk, Crash::Process, &point.oracle)
                .map_err(at)?;
        }
    }
    Ok(())
}

/// A bit flips in what is synced: of a log that was closed, and of one that was not.
fn flipped_bits(bench: &Bench) -> Result<(), String> {
    let world = bench.world();
    let points = world.watch();
    world.machine.run(|| stumble(&world));
    let mut random = bench.random();
    let closed = world.machine.power_cut(&mut Choices::nothing());
    flip(bench, &closed, &world.promised(), &mut random)?;
    let points = std::mem::take(&mut *points.lock().unwrap());
    for point in points.iter().rev().step_by(29) {
        let disk = point.disk.power_cut(&mut Choices::nothing());
        flip(bench, &disk, &point.oracle, &mut random)?;
    }
    for point in points.iter().step_by(5) {
        let disk = point.disk.power_cut(&mut Choices::nothing());
        rot_slots(bench, &disk, &point.oracle)
            .map_err(|why| format!("moment {}: {why}", point.number))?;
    }
    Ok(())
}

/// Either slot of the checkpoint rots: the other one has to suffice.
fn rot_slots(bench: &Bench, disk: &Disk, oracle: &Oracle) -> Result<(), String> {
    const SLOT: usize = 4096;
    let path = Path::new(PATH).join("checkpoint");
    for byte in [13, 40, SLOT + 13, SLOT + 40] {
        let mut flipped = disk.clone();
        if flipped.flip_bit(&path, byte, 3) {
            bench.tally.happened(Kind::FlippedBit, 1);
            bench
                .look_damaged(&flipped, oracle)
                .map_err(|why| format!("byte {byte} of the checkpoint: {why}"))?;
        }
    }
    Ok(())
}

fn flip(bench: &Bench, disk: &Disk, oracle: &Oracle, random: &mut Random) -> Result<(), String> {
    let files = disk.files();
    for _ in 0..FLIPS {
        let Some(path) = files.get(random.below(files.len())) else {
            return Ok(());
        };
        let len = disk.read(path).map_or(0, |bytes| bytes.len());
        let position = random.below(len);
        let bit = random.pick(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap_or(0);
        let mut flipped = disk.clone();
        if !flipped.flip_bit(path, position, bit) {
            continue;
        }
        bench.tally.happened(Kind::FlippedBit, 1);
        bench
            .look_damaged(&flipped, oracle)
            .map_err(|why| format!("bit {bit} of byte {position} of {}: {why}", path.display()))?;
    }
    Ok(())
}

/// Segments that are gone, or shorter than they were.
fn lost_files(bench: &Bench) -> Result<(), String> {
    let world = bench.world();
    world.machine.run(|| stumble(&world));
    let closed = world.machine.power_cut(&mut Choices::nothing());
    let is_segment = |path: &&std::path::PathBuf| path.extension().is_some_and(|e| e == "log");
    for path in closed.files().iter().filter(is_segment) {
        let mut without = closed.clone();
        assert!(without.remove(path));
        let at = |why| format!("{} lost something: {why}", path.display());
        bench
            .look_damaged(&without, &world.promised())
            .map_err(at)?;
        let len = closed.read(path).map_or(0, |bytes| bytes.len());
        for kept in [0, 512, 1024, len / 2, len.saturating_sub(1)] {
            let mut cut = closed.clone();
            assert!(cut.set_len(path, kept));
            bench.look_damaged(&cut, &world.promised()).map_err(at)?;
            let mut zeroed = closed.clone();
            assert!(zeroed.write(path, kept, &vec![0; len.saturating_sub(kept)]));
            bench.look_damaged(&zeroed, &world.promised()).map_err(at)?;
        }
    }
    Ok(())
}
