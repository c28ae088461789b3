//! Any moment of a deletion can be the last one.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use duralog::{
    Log, Record, Retention,
    testing::sim::{Call, Choices, Disk},
};

use super::common::{LEN, PER_SEGMENT, fill, settle, world};
use crate::{
    common::{Case, bases, in_both_modes, run, see, send, send_many, taken, told, written},
    sim::world::World,
};

/// What was sent, and a record of it that was sent as the first of a named producer's.
type Sent = Vec<(u64, String)>;

/// A moment of a deletion, and where the log started by then.
struct Moment {
    call: Call,
    path: PathBuf,
    disk: Disk,
    start: u64,
}

/// One deletion, all of it.
struct Deletion {
    case: Case,
    sent: Sent,
    moments: Vec<Moment>,
    /// Where the log started before, and afterwards.
    before: u64,
    after: u64,
}

/// Notes every moment at which something is different from the one before.
fn watch(world: &World, log: &Log) -> Arc<Mutex<Vec<Moment>>> {
    let moments = Arc::new(Mutex::new(Vec::new()));
    let (noted, log) = (Arc::clone(&moments), log.clone());
    let mut last = None;
    world.machine.observe(move |moment| {
        let start = log.log_start_offset().get();
        let versions = Some((moment.version(), start));
        if versions != last {
            last = versions;
            noted.lock().unwrap().push(Moment {
                call: moment.call,
                path: moment.path.to_path_buf(),
                disk: moment.process_crash(),
                start,
            });
        }
    });
    moments
}

/// Ten segments, with the records of a named producer in the first one, and what `delete` makes of
/// them. All of it is durable, but for a new segment behind if `unsynced`.
fn deletion(case: Case, unsynced: bool, delete: impl FnOnce(&Log)) -> Deletion {
    run(&world(case, |options| options), |world| {
        let log = world.open();
        let importer = log.producer().name("importer").build().unwrap();
        let mut sent: Sent = (0..3).map(|n| send(&importer, format!("n{n}"))).collect();
        sent.extend(fill(&log, "some", 9 * PER_SEGMENT));
        log.sync().unwrap();
        settle(world);
        let segments = log.stats().segments;
        while unsynced && log.stats().segments == segments {
            log.sync().unwrap();
            sent.extend(fill(&log, "one", 1));
        }
        let before = log.log_start_offset().get();
        let moments = watch(world, &log);
        delete(&log);
        let after = log.log_start_offset().get();
        world.machine.observe(|_| {});
        Deletion {
            case,
            sent,
            moments: taken(&moments),
            before,
            after,
        }
    })
}

impl Deletion {
    /// Opens what a crash at each moment may leave.
    fn crash_everywhere(&self, at_least: usize) {
        let Self { moments, .. } = self;
        let told_of = |moment: &Moment| format!("{:?} {}", moment.call, moment.path.display());
        let removes = |moment: &&Moment| moment.call == Call::Remove;
        assert!(self.before < self.after);
        assert!(moments.len() >= at_least, "{} moments", moments.len());
        assert!(moments.iter().filter(removes).count() >= 4);
        let mut starts = Vec::new();
        for moment in moments {
            let process = told(told_of(moment), || self.recover(moment, &moment.disk, true));
            starts.push(process);
            for (what, image) in self.case.power_cuts(&moment.disk, 2) {
                told(format!("{}, {what}", told_of(moment)), || {
                    self.recover(moment, &image, false);
                });
            }
        }
        assert!(starts.is_sorted(), "{starts:?}");
        assert_eq!(starts.first(), Some(&self.before));
        assert_eq!(starts.last(), Some(&self.after));
    }

    /// Where the log starts on this disk, now and for good.
    fn recover(&self, moment: &Moment, disk: &Disk, is_whole: bool) -> u64 {
        let later = self.case.reopen(disk, |world, log| {
            let start = self.judge(world, log, is_whole);
            assert!(start >= moment.start && start <= self.after, "{start}");
            let served = world.machine.power_cut(&mut Choices::nothing());
            let more = send_many(&written(log), "more", 0..8, LEN);
            assert!(more[0].0 >= self.after.min(self.durable_end()));
            log.clone().close().unwrap();
            (start, [served, world.machine.process_crash()])
        });
        for disk in later.1 {
            self.case.reopen(&disk, |world, log| {
                assert_eq!(self.judge(world, log, false), later.0);
            });
        }
        later.0
    }

    /// Records that were durable when the deletion began end there.
    fn durable_end(&self) -> u64 {
        let last = self
            .sent
            .iter()
            .rposition(|(_, value)| value.starts_with("some"));
        self.sent[last.unwrap()].0 + 1
    }

    /// From the log start on all is there, nothing below, and the producer is known.
    fn judge(&self, world: &World, log: &Log, is_whole: bool) -> u64 {
        // A snapshot of the producers that was being written says nothing, and nothing is missing.
        let mut damage = log.recovery().damage.iter();
        assert!(damage.all(|damage| damage.from == damage.to));
        let start = log.log_start_offset().get();
        let segments = bases(world, ".log");
        assert!(
            segments.get(1).is_none_or(|next| *next > start),
            "{segments:?}"
        );
        let indexes = bases(world, ".index");
        assert!(indexes.first().is_none_or(|first| *first >= segments[0]));
        let mut expected = self.sent.clone();
        expected.retain(|(at, _)| *at >= start);
        let mut found = see(log).records;
        found.retain(|(_, value)| !value.starts_with("more"));
        let end = found.last().map_or(start, |(at, _)| at + 1);
        if !is_whole && end >= self.durable_end() {
            expected.retain(|(at, _)| *at < end);
        }
        assert_eq!(found, expected, "from {start} on");
        let importer = log.producer().name("importer").build().unwrap();
        assert_eq!(importer.last_sequence().unwrap(), Some(2));
        let again = importer.send_sequenced(1, Record::new("again"));
        assert!(again.unwrap().is_duplicate());
        start
    }
}

#[test]
fn after_a_crash_at_any_call_of_a_deletion_all_from_the_log_start_on_is_there_and_nothing_below() {
    in_both_modes(0..1, |case| {
        let limits = Retention::new().max_segments(4);
        let deletion = deletion(case, false, |log| {
            assert!(log.enforce_retention_of(limits).unwrap().deleted.len() >= 4);
        });
        deletion.crash_everywhere(15);
    });
}

#[test]
fn deleting_up_to_the_middle_of_a_segment_is_finished_or_not_begun_wherever_it_is_interrupted() {
    in_both_modes(0..1, |case| {
        let middle = 6 * PER_SEGMENT + 2;
        let deletion = deletion(case, false, |log| {
            log.delete_records_before(middle.into()).unwrap();
        });
        assert_eq!(deletion.after, middle);
        deletion.crash_everywhere(15);
    });
}

#[test]
fn deleting_everything_is_finished_or_not_begun_wherever_it_is_interrupted() {
    in_both_modes(0..1, |case| {
        let deletion = deletion(case, false, |log| {
            let end = log.log_end_offset();
            assert_eq!(log.delete_records_before(end).unwrap(), end);
        });
        deletion.crash_everywhere(20);
    });
}

#[test]
fn a_deletion_up_to_a_segment_that_was_never_synced_takes_nothing_for_damaged_after_a_power_cut() {
    in_both_modes(0..2, |case| {
        let deletion = deletion(case, true, |log| {
            let start = log.durable_offset();
            assert_eq!(start.get() + 1, log.log_end_offset().get());
            // Another one is begun behind it.
            fill(log, "more", PER_SEGMENT);
            log.delete_records_before(start).unwrap();
        });
        deletion.crash_everywhere(15);
    });
}
