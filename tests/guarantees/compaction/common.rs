//! Logs of keys and values, and what is to be left of them.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use duralog::{
    Acks, CleanupPolicy, CompactionReport, GapReason, Log, LogOptions, Producer, Record,
    testing::sim::Machine,
};

use crate::{
    common::Case,
    sim::{
        oracle::Oracle,
        world::{World, value},
    },
};

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A record as it is read: its offset, its key, its value.
pub type Entry = (u64, String, Option<String>);

/// Options of a log that is compacted when it is asked for.
pub fn compacted(case: &Case) -> LogOptions {
    let options = case.options().cleanup_policy(CleanupPolicy::Compact);
    options.clean_in_background(false)
}

/// Of one that is compacted by itself.
pub fn in_background(case: &Case) -> LogOptions {
    compacted(case).clean_in_background(true)
}

/// A new machine for a compacted log.
pub fn world(case: &Case) -> World {
    world_with(case, compacted(case))
}

pub fn world_with(case: &Case, options: LogOptions) -> World {
    World::on(Machine::new(case.seed), options, Oracle::default())
}

pub fn producer(log: &Log) -> Producer {
    log.producer().acks(Acks::Written).build().unwrap()
}

/// A record of a key, with a value that nobody else has; large enough for a dozen to fill a segment.
pub fn record(key: &str, number: usize) -> Record {
    Record::new(text(key, number)).key(key)
}

pub fn text(key: &str, number: usize) -> String {
    value(key, number, 500)
}

/// Sends records of the keys in turn; what was sent.
pub fn put(producer: &Producer, keys: &[&str], numbers: Range<usize>) -> Vec<Entry> {
    numbers
        .map(|number| {
            let key = keys[number % keys.len()];
            let receipt = producer.send(record(key, number)).unwrap();
            let offset = receipt.offset().unwrap().get();
            (offset, key.to_owned(), Some(text(key, number)))
        })
        .collect()
}

/// Sends a tombstone.
pub fn delete(producer: &Producer, key: &str) -> Entry {
    let receipt = producer.send(Record::tombstone(key)).unwrap();
    (receipt.offset().unwrap().get(), key.to_owned(), None)
}

/// Fills segments with records of keys that nobody asks for, so that what is before them is sealed.
pub fn fill(producer: &Producer, name: &str, count: usize) -> Vec<Entry> {
    (0..count)
        .flat_map(|number| put(producer, &[&*format!("{name}{number}")], 0..1))
        .collect()
}

/// Makes everything durable, and waits until full segments are sealed.
pub fn settle(world: &World, log: &Log) {
    log.sync().unwrap();
    world.machine.sleep(Duration::from_secs(1));
}

/// Compacts what there is.
pub fn compact(world: &World, log: &Log) -> CompactionReport {
    settle(world, log);
    log.compact().unwrap()
}

/// All records from `from` on. No gap may be met, but for one that a power cut leaves.
pub fn read_from(log: &Log, from: u64) -> Vec<Entry> {
    try_read_from(log, from).unwrap()
}

/// The same; or the gap that was met.
pub fn try_read_from(log: &Log, from: u64) -> Result<Vec<Entry>, String> {
    let start = duralog::Start::At(duralog::Offset::new(from));
    let reader = log.reader().start(start).build();
    let mut reader = reader.map_err(|error| error.to_string())?;
    let mut entries = Vec::new();
    loop {
        let batch = reader.poll(Duration::ZERO).unwrap();
        let mut gaps = batch.gaps().iter();
        if !gaps.all(|gap| gap.reason == GapReason::LostTail) {
            return Err(format!("{:?} behind {:?}", batch.gaps(), entries.last()));
        }
        let before = entries.len();
        entries.extend(batch.iter().map(|record| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (
                record.offset().unwrap().get(),
                text(record.key().unwrap_or_default()),
                record.value().map(text),
            )
        }));
        assert_eq!(batch.len(), entries.len() - before);
        assert_eq!(batch.is_empty(), entries.len() == before);
        if batch.is_empty() && batch.gaps().is_empty() {
            return Ok(entries);
        }
    }
}

pub fn read(log: &Log) -> Vec<Entry> {
    read_from(log, 0)
}

/// Of each key the last one, as a table of all of them.
pub fn table(entries: &[Entry]) -> BTreeMap<&str, &Entry> {
    entries.iter().map(|entry| (&*entry.1, entry)).collect()
}

/// Of the entries below `until` the last of each key, and all from there on.
pub fn left(entries: &[Entry], until: u64) -> Vec<Entry> {
    let below: Vec<_> = entries
        .iter()
        .filter(|entry| entry.0 < until)
        .cloned()
        .collect();
    let last = table(&below);
    entries
        .iter()
        .filter(|entry| entry.0 >= until || last.get(&*entry.1) == Some(entry))
        .cloned()
        .collect()
}
