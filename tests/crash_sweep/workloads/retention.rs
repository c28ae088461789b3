//! Logs that let go of their oldest records.

use std::time::Duration;

use duralog::{Acks, GroupRetention, Log, MIN_SEGMENT_BYTES, Producer, Retention, WhenFull};

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

/// All that was sent so far may be gone from now on.
fn may_expire(world: &World, log: &Log) {
    let end = log.log_end_offset().get();
    world.oracle(|oracle| oracle.kept().may_delete_below(end));
}

/// Records grow too old while others come, and once none come any more; a group reads on.
pub fn expired(world: &mut World, _: u64) {
    let limits = Retention::new().max_age(Duration::from_secs(20));
    world.options = world.options.clone().retention(limits);
    let log = world.open();
    let named = log.producer().name(NAMED).acks(Acks::Written);
    let (named, plain) = (named.build().unwrap(), log.producer().build().unwrap());
    let mut group = world.consumer(&log, GROUP);
    for round in 0..3 {
        send(world, &log, &named, NAMED, round);
        for number in 0..4 {
            send(world, &log, &plain, "plain", round * 4 + number);
        }
        may_expire(world, &log);
        assert_eq!(world.drain(&mut group), []);
        // What is older than the limit by now was sent before the last round.
        world.machine.sleep(Duration::from_secs(15));
        world.look(&log);
    }
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    assert!(start.get() > 0 && start < end, "{start} of {end}");
    world.machine.sleep(Duration::from_secs(45));
    world.look(&log);
    assert_eq!(log.log_start_offset(), end, "an idle log expires");
    send(world, &log, &named, NAMED, 3);
    drop((group, named, plain));
    world.close(log);
}

/// A group holds the log back until it is full: sends are refused, and go on once the group has
/// committed. Then the oldest records go for the newest.
pub fn full(world: &mut World, _: u64) {
    world.options = world
        .options
        .clone()
        .retention(Retention::new().max_bytes(3 * MIN_SEGMENT_BYTES))
        .group_retention(GroupRetention::KeepUnconsumed);
    world.oracle(|oracle| {
        oracle.kept().keeps_unconsumed();
        oracle.kept().keeps_newest(STAY);
        oracle.kept().may_refuse();
    });
    let log = world.open();
    let mut group = world.consumer(&log, GROUP);
    let producer = log.producer().build().unwrap();
    for number in 0..12 {
        send(world, &log, &producer, "plain", number);
    }
    let refused = log.stats().rejected_sends;
    assert!(refused > 0, "the log is full");
    assert_eq!(log.log_start_offset(), 0);
    assert_eq!(world.drain(&mut group), []);
    settle(world, &log);
    for number in 12..14 {
        send(world, &log, &producer, "plain", number);
    }
    assert_eq!(log.stats().rejected_sends, refused);
    drop((group, producer));
    world.close(log);
    makes_room(world);
}

/// Nobody is asked whether it has read what goes.
fn makes_room(world: &mut World) {
    world.options = world.options.clone().when_full(WhenFull::DropOldest);
    let log = world.open();
    let producer = log.producer().build().unwrap();
    for number in 14..24 {
        let end = log.log_end_offset().get();
        world.oracle(|oracle| oracle.kept().may_delete_unread_below(end));
        send(world, &log, &producer, "plain", number);
    }
    let stats = log.stats();
    assert!(stats.lost_to_drop_oldest > 0 && stats.rejected_sends == 0);
    drop(producer);
    world.close(log);
}
