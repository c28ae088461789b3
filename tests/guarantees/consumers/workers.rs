//! Workers that are stopped at any moment skip no record.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    InFlight, ParallelConsumer, Record, WriteMode,
    testing::sim::{Choices, Disk, Machine, Random},
};

use super::parallel::{billing, committed_on, rot};
use crate::{
    common::{Case, run, send, told, written},
    sim::{
        oracle::Oracle,
        world::{World, value},
    },
};

const LINES: u64 = 48;
/// The record that is damaged.
const HIT: u64 = 16;

fn line(number: u64) -> String {
    value("line", usize::try_from(number).unwrap(), 90)
}

/// What the workers did, beside the log: it survives all crashes.
#[derive(Clone, Debug, Default)]
struct Book {
    processed: BTreeSet<u64>,
    gap_told: bool,
    /// What the consumer said that it had committed, in this life.
    committed: u64,
    /// In flight now.
    out: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
}

impl Book {
    fn take(&mut self, record: &InFlight) {
        let offset = record.offset().get();
        assert_eq!(record.value().unwrap(), line(offset).as_bytes());
        assert!(self.out.insert(offset), "{offset} is out twice");
        assert!(!self.acknowledged.contains(&offset), "{offset} comes again");
        let tells = |gap: &duralog::Gap| (gap.from.get(), gap.to.get()) == (HIT, HIT + 1);
        assert_eq!(record.gaps().iter().any(tells), offset == HIT + 1);
        self.gap_told |= offset > HIT;
    }

    /// Just before it is acknowledged.
    fn process(&mut self, offset: u64) {
        self.out.remove(&offset);
        self.processed.insert(offset);
        self.acknowledged.insert(offset);
    }

    /// Nothing that is committed was skipped.
    fn check(&self, committed: u64) {
        for offset in (0..committed).filter(|&offset| offset != HIT) {
            let processed = &self.processed;
            assert!(
                processed.contains(&offset),
                "{committed} is committed, and {offset} was never processed"
            );
        }
        assert!(committed <= HIT || self.gap_told);
    }
}

/// A log with records alone and in batches, and one that is damaged.
fn lines(case: Case) -> Disk {
    let disk = run(&case.world(), |world| {
        let log = world.open();
        let producer = written(&log);
        for number in (0..LINES).step_by(4) {
            if number % 8 == 0 {
                (number..number + 4).for_each(|number| drop(send(&producer, line(number))));
            } else {
                let line = |number| Record::new(line(number));
                let records: Vec<_> = (number..number + 4).map(line).collect();
                drop(producer.send_batch(records).unwrap());
            }
        }
        log.close().unwrap();
        world.machine.process_crash()
    });
    rot(&disk, &line(HIT))
}

/// How a life of the workers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    PowerCut,
    /// Everything was acknowledged.
    Done,
}

/// One of the workers: it holds some records at a time, and ends each of them in some way.
fn work(consumer: &ParallelConsumer, book: &Mutex<Book>, mut random: Random) {
    let mut held: Vec<InFlight> = Vec::new();
    while consumer.committed().get() < LINES {
        if held.len() <= random.below(3)
            && let Some(record) = consumer.take(Duration::from_millis(2)).unwrap()
        {
            book.lock().unwrap().take(&record);
            held.push(record);
            continue;
        }
        if held.is_empty() {
            continue;
        }
        let record = held.swap_remove(random.below(held.len()));
        let offset = record.offset().get();
        let way = random.below(9);
        if way > 2 {
            book.lock().unwrap().process(offset);
            record.ack().unwrap();
            let committed = consumer.committed().get();
            let mut book = book.lock().unwrap();
            book.committed = book.committed.max(committed);
            continue;
        }
        book.lock().unwrap().out.remove(&offset);
        match way {
            0 => record.fail(),
            1 => record.retry_after(Duration::from_millis(1)),
            _ => drop(record),
        }
    }
}

/// A life of the workers: they go on where the group is, and are stopped somewhere.
fn live(disk: &Disk, case: &Case, random: &mut Random, before: &Book) -> (Disk, Book, End) {
    let machine = Machine::boot(disk.clone(), random.number());
    let world = World::on(machine.clone(), case.options(), Oracle::default());
    let book = Arc::new(Mutex::new(Book {
        processed: before.processed.clone(),
        gap_told: before.gap_told,
        ..Book::default()
    }));
    let stop_at = random.below(420) as u64;
    let by_power = random.chance(128);
    let choices = random.number();
    let taken: Arc<Mutex<Option<(Disk, Book)>>> = Arc::default();
    let (image, noted) = (Arc::clone(&taken), Arc::clone(&book));
    machine.observe(move |moment| {
        if moment.number == stop_at {
            let disk = if by_power {
                moment.power_cut(&mut Choices::of(choices))
            } else {
                moment.process_crash()
            };
            *image.lock().unwrap() = Some((disk, noted.lock().unwrap().clone()));
        }
    });
    run(&world, |world| {
        let log = world.open();
        let consumer = billing(&log, 1 + random.below(10));
        let start = consumer.committed().get();
        let workers: Vec<_> = (0..3 + random.below(2))
            .map(|_| {
                let (consumer, book, random) = (consumer.clone(), Arc::clone(&book), random.fork());
                world.spawn("worker", move |_| work(&consumer, &book, random))
            })
            .collect();
        workers.into_iter().for_each(duralog::testing::Joiner::join);
        let all: BTreeSet<_> = (start..LINES).filter(|&offset| offset != HIT).collect();
        assert_eq!(book.lock().unwrap().acknowledged, all, "each came again");
        consumer.close().unwrap();
    });
    match taken.lock().unwrap().take() {
        Some((disk, book)) if by_power => (disk, book, End::PowerCut),
        Some((disk, book)) => (disk, book, End::Killed),
        None => (
            machine.process_crash(),
            book.lock().unwrap().clone(),
            End::Done,
        ),
    }
}

#[test]
fn workers_that_are_stopped_a_thousand_times_skip_no_record() {
    let modes = [WriteMode::Mapped, WriteMode::Buffered];
    let (mut killed, mut cut) = (0, 0);
    for (seed, mode) in (0..).zip(modes.into_iter().cycle()) {
        if killed + cut >= 1000 {
            break;
        }
        let case = Case { mode, seed };
        let mut random = Random::new(seed);
        told(format!("{mode:?}, seed {seed}"), || {
            let (mut disk, mut book) = (lines(case), Book::default());
            loop {
                let (left, then, end) = live(&disk, &case, &mut random, &book);
                (disk, book) = (left, then);
                let committed = committed_on(&disk);
                book.check(committed.unwrap_or(0));
                match end {
                    End::Killed => {
                        assert!(committed.unwrap_or(0) >= book.committed, "a commit is lost");
                        killed += 1;
                    }
                    End::PowerCut => cut += 1,
                    End::Done => break,
                }
            }
            assert_eq!(committed_on(&disk), Some(LINES));
            assert_eq!(book.processed.len() as u64, LINES - 1);
        });
    }
    assert!(
        killed > 300 && cut > 300,
        "{killed} kills, {cut} power cuts"
    );
}
