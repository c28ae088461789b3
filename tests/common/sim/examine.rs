//! Opens what a crash left, and looks whether anything that was promised is missing.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use duralog::{
    Acks, Log, LogOptions, Offset, Record, Start,
    testing::sim::{Choices, Disk, Machine},
};

use super::{
    PATH,
    oracle::{Crash, Found, Oracle, sequence_of},
    world::{World, text_of, value},
};

/// The name of a producer, with which the values that it sends begin.
pub const NAMED: &str = "named";

/// What an opening left to be looked at in turn.
#[derive(Debug)]
pub struct Next {
    pub what: &'static str,
    pub disk: Disk,
    pub crash: Crash,
    pub oracle: Oracle,
}

/// What an examination showed.
#[derive(Debug, Default)]
pub struct Examined {
    /// Rows of the recovery table.
    pub rows: String,
    pub next: Vec<Next>,
}

/// Everything that the log serves, and what opening it said.
pub fn look(log: &Log, oracle: &Oracle) -> Result<Found, String> {
    let report = log.recovery();
    let mut found = Found {
        start: log.log_start_offset().get(),
        end: log.log_end_offset().get(),
        durable: log.durable_offset().get(),
        damage: report
            .damage
            .iter()
            .map(|damage| damage.from.get()..damage.to.get())
            .collect(),
        lost_tail: report
            .lost_tail
            .as_ref()
            .map(|lost| lost.start.get()..lost.end.get()),
        clean: report.clean,
        ..Found::default()
    };
    let mut reader = log
        .reader()
        .start(Start::Earliest)
        .build()
        .map_err(|error| format!("no reader: {error}"))?;
    loop {
        let batch = reader
            .poll(Duration::ZERO)
            .map_err(|error| format!("a reader fails: {error}"))?;
        if batch.is_empty() && batch.gaps().is_empty() {
            break;
        }
        found.gaps.extend_from_slice(batch.gaps());
        for record in &batch {
            let value = String::from_utf8_lossy(text_of(&record)).into_owned();
            let offset = record.offset().map_or(u64::MAX, Offset::get);
            found.records.push((offset, value));
        }
    }
    seek(log, &found)?;
    for group in oracle.group_names() {
        let consumer = log
            .consumer(group)
            .start(Start::Latest)
            .build()
            .map_err(|error| format!("no consumer of {group}: {error}"))?;
        let committed = consumer.committed().get();
        found.groups.insert(group.to_owned(), committed);
    }
    Ok(found)
}

/// Some records are found where they are by seeking, too.
fn seek(log: &Log, found: &Found) -> Result<(), String> {
    for (offset, value) in found.records.iter().rev().step_by(5) {
        let start = Start::At(Offset::new(*offset));
        let mut reader = log
            .reader()
            .start(start)
            .build()
            .map_err(|error| format!("no reader at {offset}: {error}"))?;
        let batch = reader
            .poll(Duration::ZERO)
            .map_err(|error| format!("a reader at {offset} fails: {error}"))?;
        let first = batch.iter().next().map(|record| text_of(&record));
        if first != Some(value.as_bytes()) {
            return Err(format!("at {offset} another record is found"));
        }
    }
    Ok(())
}

/// Opens the log on `disk`, compares it with what the oracle knows, and appends to it.
pub fn examine(
    disk: &Disk,
    options: &LogOptions,
    crash: Crash,
    oracle: &Oracle,
    seed: u64,
) -> Result<Examined, String> {
    let machine = Machine::boot(disk.clone(), seed);
    machine.switch_never();
    let world = World::on(machine, options.clone(), oracle.clone());
    let examined = world.machine.run(|| run(&world, crash, oracle, seed));
    match world.machine.problems().as_slice() {
        [] => examined,
        problems => Err(problems.join("; ")),
    }
}

fn run(world: &World, crash: Crash, oracle: &Oracle, seed: u64) -> Result<Examined, String> {
    if seed.is_multiple_of(8) {
        look_only(world)?;
    }
    let log = world
        .try_open()
        .map_err(|error| format!("it does not open: {error}"))?;
    let rows = duralog::testing::recovery_rows(&log);
    let start = log.log_start_offset().get();
    nothing_is_below(world, start)?;
    let found = look(&log, oracle)?;
    oracle
        .judge(&found, crash)
        .map_err(|broken| format!("{broken}\n{:?}", log.recovery()))?;
    kept_in_quarantine(world, &log)?;
    remembers_its_producer(&log, &found, oracle)?;
    let served = oracle.after(&found);
    let mut next = vec![Next {
        what: "the power is cut once it is served",
        disk: world.machine.power_cut(&mut Choices::nothing()),
        crash: Crash::Power,
        oracle: served.clone(),
    }];
    world.oracle(|oracle| *oracle = served);
    append(world, &log, &found, oracle, crash)?;
    next.push(Next {
        what: "the power is cut after more was appended",
        disk: world.machine.power_cut(&mut Choices::of(seed)),
        crash: Crash::Power,
        oracle: world.promised(),
    });
    compact(world, &log)?;
    if !world.close(log) {
        return Err("it does not close".to_owned());
    }
    next.push(Next {
        what: "the power is cut once it is closed",
        disk: world.machine.power_cut(&mut Choices::nothing()),
        crash: Crash::Power,
        oracle: world.promised(),
    });
    Ok(Examined { rows, next })
}

/// What a compaction leaves is what it may leave.
fn compact(world: &World, log: &Log) -> Result<(), String> {
    if !world.oracle(|oracle| oracle.is_keyed()) {
        return Ok(());
    }
    world.sync(log);
    world.machine.sleep(Duration::from_millis(200));
    world.compact(log);
    let promised = world.promised();
    let found = look(log, &promised)?;
    // All is durable, so that nothing less will do; what was lost before it was opened is told.
    promised
        .judge(&found, Crash::Power)
        .map_err(|broken| format!("compacted after the crash: {broken}"))
}

/// A named producer whose records are there has come as far as the last of them: they were sent in
/// order, and have their sequences in them. Where some may be gone, it has come that far at least.
fn remembers_its_producer(log: &Log, found: &Found, oracle: &Oracle) -> Result<(), String> {
    let there = found
        .records
        .iter()
        .filter_map(|(_, value)| sequence_of(value));
    let Some(last) = there.max().max(oracle.sequence(found)) else {
        return Ok(());
    };
    let producer = log.producer().name(NAMED).build();
    let producer = producer.map_err(|error| format!("no producer {NAMED}: {error}"))?;
    let known = producer
        .last_sequence()
        .map_err(|error| error.to_string())?;
    if known != Some(last) && !(oracle.is_keyed() && known > Some(last)) {
        return Err(format!(
            "the producer has sent up to {last}, and the log knows of {known:?}"
        ));
    }
    let again = producer.send_sequenced(last, Record::new("again").key("again"));
    let again = again.map_err(|error| format!("no duplicate is dropped: {}", error.error()))?;
    let end = log.log_end_offset().get();
    if again.is_duplicate() && end == found.end {
        Ok(())
    } else {
        Err(format!("{last} is taken again, at {end}"))
    }
}

/// Opening the log finishes what deletions had begun: no file is left whose records are all below
/// the log start.
fn nothing_is_below(world: &World, start: u64) -> Result<(), String> {
    let base = |path: &PathBuf, suffix: &str| -> Option<u64> {
        let name = path.strip_prefix(PATH).ok()?.to_str()?;
        name.strip_suffix(suffix)?.parse().ok()
    };
    let files = world.machine.process_crash().files();
    let bases = |suffix: &str| -> BTreeSet<u64> {
        files.iter().filter_map(|path| base(path, suffix)).collect()
    };
    let (segments, indexes) = (bases(".log"), bases(".index"));
    let first = segments.first().copied();
    let is_left = segments.iter().nth(1).is_some_and(|next| *next <= start)
        || indexes.first().copied() < first && !indexes.is_empty();
    if is_left {
        return Err(format!(
            "the log starts at {start}, and there are segments {segments:?}, indexes {indexes:?}"
        ));
    }
    Ok(())
}

/// The same for a disk that lost something: what is missing is told, what is there is right, and
/// stays so. Returns the rows of the recovery table, and the offsets of the records that are gone.
pub fn examine_damaged(
    disk: &Disk,
    options: &LogOptions,
    oracle: &Oracle,
    seed: u64,
) -> Result<(String, Vec<u64>), String> {
    let machine = Machine::boot(disk.clone(), seed);
    machine.switch_never();
    let world = World::on(machine, options.clone(), oracle.clone());
    let (found, rows) = world.machine.run(|| {
        look_only(&world)?;
        let log = world
            .try_open()
            .map_err(|error| format!("it does not open: {error}"))?;
        let rows = duralog::testing::recovery_rows(&log);
        let found = look(&log, oracle)?;
        oracle
            .judge_damaged(&found)
            .map_err(|broken| format!("{broken}\n{:?}", log.recovery()))?;
        world.oracle(|known| *known = oracle.after(&found));
        append(&world, &log, &found, oracle, Crash::Power)?;
        if world.close(log) {
            Ok((found, rows))
        } else {
            Err("it does not close".to_owned())
        }
    })?;
    let machine = Machine::boot(world.machine.power_cut(&mut Choices::nothing()), seed);
    machine.switch_never();
    let again = World::on(machine, options.clone(), world.promised());
    again.machine.run(|| {
        let log = again.open();
        let later = look(&log, oracle)?;
        again.promised().judge_damaged(&later)?;
        if later.records.starts_with(&found.records) {
            Ok((rows, oracle.missing(&found)))
        } else {
            Err("what was served is gone".to_owned())
        }
    })
}

/// What was taken out of the tail is in the quarantine, and a power cut does not take it.
fn kept_in_quarantine(world: &World, log: &Log) -> Result<(), String> {
    let now = world.machine.process_crash();
    let cut = now.power_cut(&mut Choices::nothing());
    for path in &log.recovery().quarantined {
        let kept = now.read(path);
        if kept.is_none() || kept != cut.read(path) {
            return Err(format!("{} does not survive a power cut", path.display()));
        }
    }
    Ok(())
}

/// A reader that changes nothing gives a verdict, and changes nothing.
fn look_only(world: &World) -> Result<(), String> {
    let before = world.machine.process_crash().fingerprint();
    let machine = Arc::new(world.machine.clone());
    if let Ok(log) = duralog::testing::open_read_only(machine, PATH) {
        log.verify()
            .map_err(|error| format!("it can't be verified: {error}"))?;
    }
    if world.machine.process_crash().fingerprint() != before {
        return Err("reading it changed it".to_owned());
    }
    Ok(())
}

/// Appends as many records as were there, of the same size, so that a frame of the old tail would
/// stand where one is expected.
fn append(
    world: &World,
    log: &Log,
    found: &Found,
    oracle: &Oracle,
    crash: Crash,
) -> Result<(), String> {
    let producer = log
        .producer()
        .acks(Acks::Written)
        .build()
        .map_err(|error| format!("no producer: {error}"))?;
    let len = found.records.last().map_or(60, |(_, value)| value.len());
    for number in 0..3 {
        let writer = format!("after{}", found.end);
        let sent = world.send(&producer, Acks::Written, &[value(&writer, number, len)]);
        let Some(offset) = sent else {
            let is_full = world.oracle(|oracle| oracle.kept().is_refusal(log));
            return is_full.then_some(()).ok_or("it takes no record".to_owned());
        };
        if number == 0 {
            oracle.judge_append(found, offset, crash)?;
        }
    }
    Ok(())
}
