//! Consumers that are killed, or lose their power, a thousand times in each mode.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    Acks, CommitOptions, Consumer, ConsumerBuilder, Durability, FlushPolicy, Log, Record,
    WriteMode,
    testing::sim::{Choices, Disk, Machine, Random},
};

use crate::{
    common::{Case, run, told},
    sim::{
        oracle::Oracle,
        world::{World, value},
    },
};

const LINES: u64 = 40;

/// A way to consume.
#[derive(Clone, Copy)]
struct Way {
    build: fn(ConsumerBuilder) -> ConsumerBuilder,
    /// After a batch was processed.
    commit: fn(&mut Consumer, &mut Random),
    /// Nothing is done twice; else nothing is skipped.
    at_most_once: bool,
}

/// What was done outside of the machine, with the moment at which it was.
type Done = Arc<Mutex<Vec<(u64, String)>>>;

enum End {
    Killed,
    PowerCut,
    Finished,
}

/// Appends and consumes until all is done, unless the machine stops at a random moment before.
fn live(disk: Disk, case: &Case, way: &Way, random: &mut Random, done: &Done) -> (Disk, End) {
    let machine = Machine::boot(disk, random.number());
    let flush = FlushPolicy::every(Duration::from_millis(3));
    let options = case.options().flush(flush);
    let world = World::on(machine.clone(), options, Oracle::default());
    let stop_at = random.below(500) as u64;
    let by_power = random.chance(128);
    let choices = random.number();
    let taken: Arc<Mutex<Option<Disk>>> = Arc::default();
    let image = Arc::clone(&taken);
    machine.observe(move |moment| {
        if moment.number == stop_at {
            *image.lock().unwrap() = Some(if by_power {
                moment.power_cut(&mut Choices::of(choices))
            } else {
                moment.process_crash()
            });
        }
    });
    let mut random = random.fork();
    run(&world, |world| consume_all(world, way, &mut random, done));
    let crashed = taken.lock().unwrap().take();
    if crashed.is_some() {
        done.lock()
            .unwrap()
            .retain(|(moment, _)| *moment <= stop_at);
    }
    // From here on it is long ago.
    for entry in &mut *done.lock().unwrap() {
        entry.0 = 0;
    }
    match crashed {
        Some(disk) if by_power => (disk, End::PowerCut),
        Some(disk) => (disk, End::Killed),
        None => (machine.process_crash(), End::Finished),
    }
}

fn consume_all(world: &World, way: &Way, random: &mut Random, done: &Done) {
    let log = world.open();
    let builder = log.producer().name("importer").acks(Acks::Written);
    let importer = builder.build().unwrap();
    let mut next = importer.last_sequence().unwrap().map_or(0, |last| last + 1);
    let builder = log.consumer("billing").max_poll_records(5);
    let mut billing = (way.build)(builder).build().unwrap();
    loop {
        let until = (next + random.below(9) as u64).min(LINES);
        for number in next..until {
            let line = value("line", usize::try_from(number).unwrap(), 60);
            drop(importer.send_sequenced(number, Record::new(line)).unwrap());
        }
        next = until;
        let batch = billing.poll(Duration::ZERO).unwrap();
        let is_empty = batch.is_empty();
        for record in &batch {
            let line = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
            done.lock().unwrap().push((world.machine.moments(), line));
        }
        (way.commit)(&mut billing, random);
        if random.chance(40) {
            world.machine.sleep(Duration::from_millis(2));
        }
        if is_empty && next == LINES {
            return close(log, billing);
        }
    }
}

fn close(log: Log, billing: Consumer) {
    billing.close().unwrap();
    log.close().unwrap();
}

fn stop_a_thousand_times(way: &Way) {
    let modes = [WriteMode::Mapped, WriteMode::Buffered];
    let (mut killed, mut cut, mut repeated) = (0, 0, 0);
    for (seed, mode) in (0..).zip(modes.into_iter().cycle()) {
        if killed + cut >= 1000 {
            break;
        }
        let case = Case { mode, seed };
        let mut random = Random::new(seed);
        let mut disk = Machine::new(seed).process_crash();
        let done = Done::default();
        told(format!("{mode:?}, seed {seed}"), || {
            loop {
                let (left, end) = live(disk.clone(), &case, way, &mut random, &done);
                disk = left;
                match end {
                    End::Killed => killed += 1,
                    End::PowerCut => cut += 1,
                    End::Finished => break,
                }
            }
            let mut times: BTreeMap<String, usize> = BTreeMap::new();
            for (_, line) in done.lock().unwrap().iter() {
                *times.entry(line.clone()).or_default() += 1;
            }
            repeated += times.values().filter(|times| **times > 1).count();
            for number in 0..LINES {
                let line = value("line", usize::try_from(number).unwrap(), 60);
                let times = times.get(&line).copied().unwrap_or(0);
                if way.at_most_once {
                    assert!(times <= 1, "line {number} was done {times} times");
                } else {
                    assert!(times >= 1, "line {number} was skipped");
                }
            }
        });
    }
    assert!(
        killed > 300 && cut > 300,
        "{killed} kills, {cut} power cuts"
    );
    assert!(
        way.at_most_once || repeated > 50,
        "{repeated} were repeated"
    );
}

#[test]
fn manual_commits_skip_no_record_however_often_the_consumer_is_stopped() {
    stop_a_thousand_times(&Way {
        build: |builder| builder,
        commit: |consumer, random| {
            let durability = random
                .pick(&[Durability::Written, Durability::Durable])
                .unwrap();
            let options = CommitOptions::new().durability(durability);
            match random.below(4) {
                0 => {}
                1 => drop(consumer.commit_async(&options).unwrap()),
                _ => consumer.commit_with(&options).unwrap(),
            }
        },
        at_most_once: false,
    });
}

#[test]
fn automatic_commits_skip_no_record_however_often_the_consumer_is_stopped() {
    stop_a_thousand_times(&Way {
        build: |builder| builder.auto_commit_after(Duration::from_millis(1)),
        commit: |_, _| {},
        at_most_once: false,
    });
}

#[test]
fn a_consumer_that_commits_before_processing_repeats_none_however_often_it_is_stopped() {
    stop_a_thousand_times(&Way {
        build: ConsumerBuilder::commit_before_processing,
        commit: |_, _| {},
        at_most_once: true,
    });
}
