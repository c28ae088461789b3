//! A log of keys against a model of it: whatever is sent, removed, compacted and deleted, whatever
//! crashes come between, and however the wall clock jumps.

use std::time::Duration;

use duralog::{
    CleanupPolicy, CommitOptions, Consumer, Durability, GapReason, GroupRetention, Log, LogOptions,
    Producer, Record, Retention,
    testing::{
        Clock,
        sim::{Choices, Disk, Machine, Random},
    },
};

use super::common::{Entry, left, producer, text, try_read_from, world_with};
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
    policy: CleanupPolicy,
    deleted: Deleted,
}

/// What is known of what was deleted.
#[derive(Clone, Debug, Default)]
struct Deleted {
    /// The log start: what is below is gone.
    start: u64,
    /// Records below were deleted because that was asked for, whoever had read them.
    told: u64,
    /// Segments go that are this old.
    age: Option<Duration>,
    /// Nothing goes otherwise that the group has not committed.
    holds: bool,
    /// The group is there.
    is_registered: bool,
    /// The furthest that it has committed.
    committed: u64,
}

/// How a life of the log ended.
enum End {
    Closed(Disk),
    Process(Disk),
    Power(Disk),
}

/// Where the log starts, and all that is there: read while nothing is deleted.
fn read_all(log: &Log) -> (u64, Vec<Entry>) {
    loop {
        let start = log.log_start_offset().get();
        let found = try_read_from(log, start);
        if log.log_start_offset() == start {
            return (start, found.unwrap());
        }
    }
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

    /// Whether any record was sent with an offset between, and is not lost.
    fn has_any(&self, from: u64, to: u64) -> bool {
        let mut offsets = self.sent.iter().map(|sent| sent.entry.0);
        offsets.any(|offset| (from..to).contains(&offset))
    }

    /// Takes in the log start, which may have moved by itself, or by limits that somebody gave.
    fn follow(&mut self, log: &Log, now: Duration, by_age: bool) {
        let start = log.log_start_offset().get();
        let Deleted { age, holds, .. } = self.deleted;
        assert!(start >= self.deleted.start, "what was deleted comes back");
        if holds && self.deleted.is_registered && start > self.deleted.told {
            let committed = self.deleted.committed;
            assert!(
                !self.has_any(committed, start),
                "{committed} is committed, and the log starts at {start}"
            );
        }
        let is_new = |sent: &&Sent| (self.deleted.start..start).contains(&sent.entry.0);
        for sent in self.sent.iter().filter(is_new).filter(|_| by_age) {
            // No record counts as younger than one behind it, whatever the clock said by then.
            let behind = |other: &&Sent| other.entry.0 >= sent.entry.0;
            let times = self.sent.iter().filter(behind).map(|other| other.time);
            let lived = now.saturating_sub(times.min().unwrap_or(sent.time));
            let lived = lived + Duration::from_millis(20);
            assert!(
                age.is_some_and(|age| lived >= age),
                "{} went after {lived:?} of {age:?}",
                sent.entry.0
            );
        }
        self.deleted.start = start;
    }

    /// All that is there.
    fn read(&mut self, log: &Log, now: Duration) -> Vec<Entry> {
        loop {
            self.follow(log, now, true);
            let (start, found) = read_all(log);
            if start == self.deleted.start {
                return found;
            }
        }
    }

    /// What the log holds is what it may hold.
    fn judge(&mut self, log: &Log, now: Duration) {
        let found = self.read(log, now);
        for entry in &found {
            let known = self.sent.iter().any(|sent| sent.entry == *entry);
            assert!(known, "{entry:?} is from nowhere");
        }
        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for Sent { entry, .. } in &self.sent {
            if entry.0 >= self.deleted.start && !found.contains(entry) {
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
        if !self.policy.compacts() {
            return None;
        }
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
        let (_, found) = read_all(log);
        let durable = self.durable;
        let end = found.iter().map(|entry| entry.0 + 1).max().unwrap_or(0);
        self.sent
            .retain(|sent| sent.entry.0 < durable || sent.entry.0 < end);
    }

    /// A life of the log, from its opening to its end.
    fn live(&mut self, world: &World, log: &Log, random: &mut Random) -> End {
        let producer = producer(log);
        let mut group = self.register(log);
        for _ in 0..STEPS {
            match random.below(26) {
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
                    if self.policy.compacts() {
                        drop(log.compact().unwrap());
                    }
                    self.judge(log, self.now(world));
                }
                20 => self.delete_before(world, log, random),
                21 => self.enforce(world, log, random),
                22..26 => self.consume(&mut group, random),
                _ => self.judge(log, self.now(world)),
            }
            self.durable = self.durable.max(log.durable_offset().get());
        }
        drop(producer);
        std::mem::forget(group);
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

    /// The group goes on where it was, and has not been passed.
    fn register(&mut self, log: &Log) -> Consumer {
        let group = log.consumer("slow").max_poll_records(7).build().unwrap();
        let (committed, start) = (group.committed().get(), log.log_start_offset().get());
        if self.deleted.is_registered && self.deleted.holds && start > self.deleted.told {
            assert!(!self.has_any(committed, start), "{committed} of {start}");
        }
        self.deleted.is_registered = true;
        self.deleted.committed = self.deleted.committed.max(committed);
        group
    }

    fn delete_before(&mut self, world: &World, log: &Log, random: &mut Random) {
        self.follow(log, self.now(world), true);
        let (start, end) = (self.deleted.start, log.log_end_offset().get());
        let to = end.min(start + random.below(12) as u64);
        log.delete_records_before(to.into()).unwrap();
        self.deleted.told = self.deleted.told.max(to);
        self.follow(log, self.now(world), false);
        self.durable = self.durable.max(to);
    }

    fn enforce(&mut self, world: &World, log: &Log, random: &mut Random) {
        self.follow(log, self.now(world), true);
        let limits = Retention::new().max_segments(pick(random, &[1, 2, 4]));
        if !self.policy.deletes() {
            drop(log.enforce_retention_of(limits).unwrap_err());
            return;
        }
        let planned = log.plan_retention_of(limits).unwrap();
        let report = log.enforce_retention_of(limits).unwrap();
        // Some of it may have gone by itself in between.
        assert!(report.log_start_offset >= planned.log_start_offset);
        self.follow(log, self.now(world), false);
        self.durable = self.durable.max(self.deleted.start);
    }

    fn consume(&mut self, group: &mut Consumer, random: &mut Random) {
        let batch = group.try_poll().unwrap();
        for gap in batch.gaps() {
            let (from, to) = (gap.from.get().max(self.deleted.told), gap.to.get());
            let is_told = !self.deleted.holds || !self.has_any(from, to);
            assert!(gap.reason == GapReason::LostTail || is_told, "{gap:?}");
        }
        let durability = pick(random, &[Durability::Written, Durability::Durable]);
        group
            .commit_with(&CommitOptions::new().durability(durability))
            .unwrap();
        self.deleted.committed = self.deleted.committed.max(group.committed().get());
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
            let mut until = 0;
            if self.policy.compacts() {
                log.compact().unwrap();
                until = log.compact().unwrap().clean_below.get();
            }
            let mut found = self.read(&log, self.now(world));
            let mut expected: Vec<_> = self.sent.iter().map(|sent| sent.entry.clone()).collect();
            expected = left(&expected, until);
            let start = self.deleted.start;
            expected.retain(|entry| entry.0 >= start);
            expected.retain(|entry| entry.2.is_some() || entry.0 >= until);
            found.retain(|entry| entry.2.is_some() || entry.0 >= until);
            assert_eq!(found, expected);
        });
    }
}

#[test]
fn whatever_is_sent_removed_compacted_deleted_and_crashed_the_log_holds_what_the_model_says() {
    in_both_modes(0..24, |case| {
        let mut random = Random::new(case.seed ^ 0x00c0_ffee);
        let times = [Duration::ZERO, Duration::from_secs(60), HOUR];
        let (lag, retention) = (pick(&mut random, &times), pick(&mut random, &times));
        let policies = [
            CleanupPolicy::Compact,
            CleanupPolicy::CompactAndDelete,
            CleanupPolicy::Delete,
        ];
        let policy = pick(&mut random, &policies);
        let mut deleted = Deleted {
            holds: random.chance(128),
            ..Deleted::default()
        };
        let mut limits = Retention::new();
        if policy.deletes() && random.chance(170) {
            let age = pick(&mut random, &[HOUR, HOUR * 3]);
            deleted.age = Some(age);
            limits = limits.max_age(age);
        }
        let groups = if deleted.holds {
            GroupRetention::KeepUnconsumed
        } else {
            GroupRetention::Drop
        };
        let options = case.options().cleanup_policy(policy);
        let options = options
            .min_compaction_lag(lag)
            .tombstone_retention(retention)
            .min_dirty_ratio(0.2)
            .retention(limits)
            .group_retention(groups);
        let mut model = Model {
            sent: Vec::new(),
            durable: 0,
            passed: Duration::ZERO,
            began: Duration::ZERO,
            lag,
            retention,
            number: 0,
            policy,
            deleted,
        };
        model.run(&case, &options);
    });
}
