//! Logs that let go of their oldest records.

use std::time::Duration;

use duralog::{Acks, GroupRetention, Log, MIN_SEGMENT_BYTES, Producer, Retention};

use crate::sim::{
    examine::NAMED,
    world::{World, value},
};

/// Three records of this size fill a segment.
const LEN: usize = 2_000;
/// So many of the newest records stay, by all limits here.
const STAY: usize = 2;
const GROUP: &str = "billing";

fn send(world: &World, log: &Log, producer: &Producer, writer: &str, number: usize) {
    world.send(producer, Acks::Written, &[value(writer, number, LEN)]);
    world.look(log);
}

/// What is due in the background is done.
fn settle(world: &World, log: &Log) {
    world.machine.sleep(Duration::from_secs(3));
    world.look(log);
}

/// The oldest segments go, in the background and as the user says, and with them what a named
/// producer sent; then the log is opened again, and they wait for a group.
pub fn retained(world: &mut World, _: u64) {
    world.oracle(|oracle| oracle.kept().keeps_newest(STAY));
    let bytes = Retention::new().max_bytes(4 * MIN_SEGMENT_BYTES);
    world.options = world.options.clone().retention(bytes);
    let log = world.open();
    let named = log.producer().name(NAMED).acks(Acks::Written);
    let (named, plain) = (named.build().unwrap(), log.producer().build().unwrap());
    let mut group = world.consumer(&log, GROUP);
    for number in 0..3 {
        send(world, &log, &named, NAMED, number);
        send(world, &log, &plain, "plain", number);
    }
    assert_eq!(world.drain(&mut group), []);
    for number in 3..11 {
        send(world, &log, &plain, "plain", number);
    }
    settle(world, &log);
    assert_ne!(log.log_start_offset(), 0);
    send(world, &log, &named, NAMED, 3);
    let report = world.enforce(&log, Retention::new().max_segments(2));
    assert!(!report.deleted.is_empty());
    for number in 11..15 {
        send(world, &log, &plain, "plain", number);
    }
    // In the middle of a segment, and behind it.
    let start = log.log_start_offset().get();
    world.delete_before(&log, start + 1);
    world.delete_before(&log, start + 5);
    drop((group, named, plain));
    world.close(log);
    held_back(world);
}

/// Nothing goes that the group has not committed, unless the user says so.
fn held_back(world: &mut World) {
    world.options = world
        .options
        .clone()
        .retention(Retention::new().max_segments(2))
        .group_retention(GroupRetention::KeepUnconsumed);
    let log = world.open();
    world.look(&log);
    world.oracle(|oracle| oracle.kept().keeps_unconsumed());
    let producer = log.producer().build().unwrap();
    let mut group = world.consumer(&log, GROUP);
    // What was deleted before it is told once.
    assert_eq!(world.drain(&mut group).len(), 1);
    for number in 15..23 {
        send(world, &log, &producer, "plain", number);
    }
    settle(world, &log);
    assert_eq!(world.drain(&mut group), []);
    settle(world, &log);
    assert!(log.stats().segments <= 2);
    for number in 23..27 {
        send(world, &log, &producer, "plain", number);
    }
    settle(world, &log);
    world.poll_and_commit(&mut group, Duration::ZERO);
    let end = log.log_end_offset().get();
    world.delete_before(&log, end - 1);
    drop((group, producer));
    world.close(log);
}
