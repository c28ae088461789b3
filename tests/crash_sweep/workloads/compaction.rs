//! Compacted logs.

use std::time::Duration;

use duralog::{Acks, CleanupPolicy, Log, Producer, testing::sim::Random};

use crate::sim::{
    examine::NAMED,
    world::{World, gone, value},
};

fn compacting(world: &mut World, tombstone_retention: Duration) {
    world.options = world
        .options
        .clone()
        .cleanup_policy(CleanupPolicy::Compact)
        .clean_in_background(false)
        .tombstone_retention(tombstone_retention);
    world.oracle(crate::sim::oracle::Oracle::compacts);
}

/// Full segments are durable, and sealed in the background.
fn settle(world: &World, log: &Log) {
    world.sync(log);
    world.machine.sleep(Duration::from_millis(200));
}

fn send(world: &World, producer: &Producer, key: &str, number: usize) {
    world.send(producer, Acks::Written, &[value(key, number, 900)]);
}

/// A few keys are sent again and again, alone and in batches, by a named producer too; the log is
/// compacted twice, and opened again between.
pub fn compacted(world: &mut World, _: u64) {
    const KEYS: [&str; 3] = ["red", "green", "blue"];
    compacting(world, Duration::from_secs(3600));
    for round in 0..2 {
        let log = world.open();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        let builder = log.producer().name(NAMED).acks(Acks::Written);
        let named = builder.build().unwrap();
        for number in 0..8 {
            let number = round * 8 + number;
            send(world, &producer, KEYS[number % 3], number);
            if number % 2 == 0 {
                // By the sequence that it has.
                send(world, &named, NAMED, number / 2);
            }
            if number % 4 == 1 {
                let batch = KEYS.map(|key| value(key, 100 + number, 200));
                world.send(&producer, Acks::Written, &batch);
            }
        }
        // Of the named producer's records none is needed.
        send(world, &producer, &format!("{NAMED}-other"), round);
        for number in 0..8 {
            send(world, &producer, &format!("end{round}"), number);
        }
        settle(world, &log);
        world.compact(&log);
        drop((producer, named));
        world.close(log);
    }
}

/// Keys are removed, their tombstones go, and some are sent again.
pub fn tombstones(world: &mut World, _: u64) {
    compacting(world, Duration::from_secs(1));
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for number in 0..10 {
        send(world, &producer, ["red", "green"][number % 2], number);
    }
    world.send(&producer, Acks::Written, &[gone("red", 90)]);
    for number in 0..10 {
        send(world, &producer, "blue", number);
    }
    settle(world, &log);
    world.compact(&log);
    world.machine.sleep(Duration::from_secs(2));
    send(world, &producer, "green", 20);
    world.oracle(crate::sim::oracle::Oracle::may_drop_tombstones);
    world.compact(&log);
    send(world, &producer, "red", 91);
    drop(producer);
    world.close(log);
}

/// Another thread goes on to send while the log is compacted; the background does it as well.
pub fn beside(world: &mut World, seed: u64) {
    compacting(world, Duration::from_secs(3600));
    world.options = world.options.clone().clean_in_background(true);
    world.oracle(|oracle| oracle.may_remove_below(u64::MAX));
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for number in 0..16 {
        send(
            world,
            &producer,
            ["red", "green", "blue"][number % 3],
            number,
        );
    }
    settle(world, &log);
    let (sender, beside) = (producer.clone(), log.clone());
    let writer = world.spawn("writer", move |world| {
        let mut random = Random::new(seed);
        for number in 0..12 {
            let key = random.pick(&["red", "green", "white"]).unwrap_or("red");
            send(world, &sender, key, 50 + number);
            if number % 5 == 4 {
                world.sync(&beside);
            }
        }
    });
    world.compact(&log);
    writer.join();
    settle(world, &log);
    world.machine.sleep(Duration::from_secs(20));
    drop(producer);
    world.close(log);
}

/// Another thread deletes while the log is compacted, so that segments go which are being read, or
/// whose places compacted ones were to take.
pub fn deleted_beside(world: &mut World, seed: u64) {
    compacting(world, Duration::from_secs(3600));
    world.options = world
        .options
        .clone()
        .cleanup_policy(CleanupPolicy::CompactAndDelete);
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let keys = ["red", "green", "blue", "white"];
    for number in 0..20 {
        send(world, &producer, keys[number % 4], number);
    }
    settle(world, &log);
    let beside = log.clone();
    let deleter = world.spawn("deleter", move |world| {
        let mut random = Random::new(seed);
        for step in 1..4 {
            world
                .machine
                .sleep(Duration::from_micros(random.below(400) as u64));
            world.delete_before(&beside, step * 5);
        }
    });
    let mut replaced = world.compact(&log);
    deleter.join();
    for number in 20..27 {
        send(world, &producer, keys[number % 2], number);
    }
    settle(world, &log);
    replaced += world.compact(&log);
    assert!(replaced > 0);
    drop(producer);
    world.close(log);
}
