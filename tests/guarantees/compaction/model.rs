//! A log of keys against a model of it: whatever is sent, removed and compacted, whatever crashes come
//! between, and however the wall clock jumps.

use std::time::Duration;

use duralog::{
    Log, LogOptions, Producer, Record,
    testing::{
        Clock,
        sim::{Choices, Disk, Machine, Random},
    },
};

use super::common::{Entry, compacted, left, producer, read, text, world_with};
use crate::{
    common::{Case, in_both_modes, run},
    sim::{oracle::Oracle, world::World},
};

const STEPS: usize = 60;
const HOUR: Duration = Duration::from_secs(3600);
/// The time when the first machine was switched on: so far behind some beginning that no jump of the
/// wall clock leads there.
const BEGAN: Duration = Duration::from_secs(10_000 * 3600);

/// What was sent, and when by a clock that is never set.
#[derive(Clone, Debug)]
struct Sent {
    entry: Entry,
    time: Duration,
}

/// The model: all that was sent and is not lost, removed or not.
#[derive(Clone, Debug)]
struct Model {
    sent: Vec<Sent>,
    durable: u64,
    /// Time that passed on the machines before this one.
    passed: Duration,
    /// The wall clock when the first machine was switched on.
    began: Duration,
    lag: Duration,
    retention: Duration,
    number: usize,
}

/// How a life of the log ended.
enum End {
    Closed(Disk),
    Process(Disk),
    Power(Disk),
}

fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
    random.pick(of).unwrap()
}

impl Model {
    fn now(&self, world: &World) -> Duration {
        BEGAN + self.passed + world.now()
    }

    fn send(&mut self, world: &World, producer: &Producer, random: &mut Random) {
        let count = pick(random, &[1, 1, 1, 1, 2, 5]);
        let mut records = Vec::new();
        let mut entries = Vec::new();
        for _ in 0..count {
            self.number += 1;
            let key = format!("k{}", random.below(9));
            if random.chance(40) {
                records.push(Record::tombstone(key.as_str()));
                entries.push((key, None));
            } else {
                let value = text(&key, self.number);
                records.push(Record::new(value.as_str()).key(key.as_str()));
                entries.push((key, Some(value)));
            }
        }
        let first = match &records[..] {
            [one] => producer.send(one).unwrap().offset(),
            all => producer.send_batch(all).unwrap().offset(),
        };
        let first = first.unwrap().get();
        // By a clock that is behind, it counts as sent at an earlier time.
        let wall = Duration::from_millis(world.machine.wall_millis());
        let time = self
            .now(world)
            .min((wall + BEGAN).saturating_sub(self.began));
        self.sent
            .extend((first..).zip(entries).map(|(offset, (key, value))| Sent {
                entry: (offset, key, value),
                time,
            }));
    }

    /// What the log holds is what it may hold.
    fn judge(&self, log: &Log, now: Duration) {
        let found = read(log);
        for entry in &found {
            let known = self.sent.iter().any(|sent| sent.entry == *entry);
            assert!(known, "{entry:?} is from nowhere");
        }
        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for Sent { entry, .. } in &self.sent {
            if !found.contains(entry) {
                let reason = self.reason(entry, &found, now);
                assert!(reason.is_some(), "{}", self.tell(entry, &found, now));
            }
        }
    }

    /// What is known of a key of which a record is gone.
    fn tell(&self, gone: &Entry, found: &[Entry], now: Duration) -> String {
        let of_key = self.sent.iter().filter(|sent| sent.entry.1 == gone.1);
        let records: Vec<_> = of_key
            .map(|sent| {
                let is_there = found.contains(&sent.entry);
                (sent.entry.0, sent.entry.2.is_some(), is_there, sent.time)
            })
            .collect();
        let (lag, retention) = (self.lag, self.retention);
        format!(
            "{} of {} is gone at {now:?}, lag {lag:?}, retention {retention:?}; (offset, has a \
             value, is there, sent at): {records:?}",
            gone.0, gone.1
        )
    }

    /// Why it may be gone.
    fn reason(&self, gone: &Entry, found: &[Entry], now: Duration) -> Option<&'static str> {
        let old_enough = |time: Duration, than: Duration| {
            now.saturating_sub(time) + Duration::from_millis(20) >= than
        };
        let behind = self.sent.iter().filter(|sent| {
            sent.entry.1 == gone.1 && sent.entry.0 > gone.0 && old_enough(sent.time, self.lag)
        });
        // The one that removed it may have been removed in turn; some record of the key is the last.
        let of_key = || found.iter().filter(|entry| entry.1 == gone.1);
        if behind.clone().any(|sent| found.contains(&sent.entry)) {
            return Some("there is a later one");
        }
        let mut behind = behind;
        let last = behind.next_back().map_or(gone, |sent| &sent.entry);
        let last_time = self.sent.iter().find(|sent| sent.entry == *last)?.time;
        let is_over = last.2.is_none()
            && old_enough(last_time, self.lag + self.retention)
            && of_key().all(|entry| entry.0 > last.0);
        is_over.then_some("its tombstone was kept for long enough")
    }

    /// After a power cut: what was durable is there; what was not may be gone.
    fn lose(&mut self, log: &Log) {
        let found = read(log);
        let durable = self.durable;
        let end = found.iter().map(|entry| entry.0 + 1).max().unwrap_or(0);
        self.sent
            .retain(|sent| sent.entry.0 < durable || sent.entry.0 < end);
    }

    /// A life of the log, from its opening to its end.
    fn live(&mut self, world: &World, log: &Log, random: &mut Random) -> End {
        let producer = producer(log);
        for _ in 0..STEPS {
            match random.below(20) {
                0..12 => self.send(world, &producer, random),
                12 => self.durable = log.sync().unwrap().get(),
                13 => world.machine.sleep(Duration::from_millis(300)),
                14 => {
                    let pause = pick(random, &[HOUR / 60, HOUR / 2, HOUR * 2]);
                    world.machine.sleep(pause);
                }
                15 => {
                    let jump = pick(random, &[-90_000_000, -5_000, 5_000, 90_000_000]);
                    world.machine.jump_wall_clock(jump);
                }
                16 | 17 => {
                    drop(log.compact().unwrap());
                    self.judge(log, self.now(world));
                }
                _ => self.judge(log, self.now(world)),
            }
            self.durable = self.durable.max(log.durable_offset().get());
        }
        drop(producer);
        match random.below(3) {
            0 => {
                log.clone().close().unwrap();
                self.durable = u64::MAX;
                End::Closed(world.machine.process_crash())
            }
            1 => End::Process(world.machine.process_crash()),
            _ => {
                let seed = random.number();
                End::Power(world.machine.power_cut(&mut Choices::of(seed)))
            }
        }
    }

    fn run(&mut self, case: &Case, options: &LogOptions) {
        let mut random = Random::new(case.seed);
        let mut world = world_with(case, options.clone());
        self.began = Duration::from_millis(world.machine.wall_millis());
        for _ in 0..4 {
            let end = run(&world, |world| {
                let log = world.open();
                self.judge(&log, self.now(world));
                let end = self.live(world, &log, &mut random);
                drop(log);
                end
            });
            self.passed += world.now();
            let is_power_cut = matches!(end, End::Power(_));
            let (End::Closed(disk) | End::Process(disk) | End::Power(disk)) = end;
            let machine = Machine::boot(disk, random.number());
            world = World::on(machine, options.clone(), Oracle::default());
            run(&world, |world| {
                // The clock is set right, or is behind.
                let millis = i64::try_from(self.passed.as_millis()).unwrap();
                world
                    .machine
                    .jump_wall_clock(pick(&mut random, &[millis, millis / 2]));
                let log = world.open();
                assert_eq!(log.recovery().damage, []);
                if is_power_cut {
                    self.lose(&log);
                }
                self.durable = log.durable_offset().get();
                self.judge(&log, self.now(world));
                log.close().unwrap();
            });
        }
        run(&world, |world| {
            let log = world.open();
            log.sync().unwrap();
            // Everything is older than the lag, and the clock may have been half of it behind.
            world.machine.sleep(self.passed + HOUR * 4);
            log.compact().unwrap();
            let until = log.compact().unwrap().clean_below.get();
            let mut expected: Vec<_> = self.sent.iter().map(|sent| sent.entry.clone()).collect();
            expected = left(&expected, until);
            expected.retain(|entry| entry.2.is_some() || entry.0 >= until);
            let mut found = read(&log);
            found.retain(|entry| entry.2.is_some() || entry.0 >= until);
            assert_eq!(found, expected);
        });
    }
}

#[test]
fn whatever_is_sent_removed_compacted_and_crashed_the_log_holds_what_the_model_says() {
    in_both_modes(0..10, |case| {
        let mut random = Random::new(case.seed ^ 0x00c0_ffee);
        let times = [Duration::ZERO, Duration::from_secs(60), HOUR];
        let (lag, retention) = (pick(&mut random, &times), pick(&mut random, &times));
        let options = compacted(&case)
            .min_compaction_lag(lag)
            .tombstone_retention(retention)
            .min_dirty_ratio(0.2);
        let mut model = Model {
            sent: Vec::new(),
            durable: 0,
            passed: Duration::ZERO,
            began: Duration::ZERO,
            lag,
            retention,
            number: 0,
        };
        model.run(&case, &options);
    });
}
