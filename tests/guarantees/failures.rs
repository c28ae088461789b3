//! DESIGN 2.3, item 8, and what 2.2 and the files' section promise of groups: calls that fail, disks
//! that are full, groups that are made and commit.

use std::time::Duration;

use duralog::{
    Acks, ErrorKind, Record, Start, WriteMode,
    testing::sim::{Call, Choices, Disk, Effect, Fault},
};

use crate::{
    common::{
        Case, EIO, ENOSPC, drain, in_both_modes, run, see, send, send_many, taken, told, written,
    },
    sim::{
        oracle::Crash,
        world::{World, value},
    },
};

/// Calls of an append, and of the roll that it may need.
const FAILING: [(Call, &str, Effect); 8] = [
    (Call::Write, ".log", Effect::Fail(EIO)),
    (Call::Write, ".log", Effect::Short),
    (Call::HalfWritten, ".log", Effect::Fail(EIO)),
    (Call::Allocate, "", Effect::Fail(ENOSPC)),
    (Call::Create, "next-", Effect::Fail(EIO)),
    (Call::Write, "next-", Effect::Fail(EIO)),
    (Call::Map, "next-", Effect::Fail(ENOSPC)),
    (Call::Rename, ".log", Effect::Fail(EIO)),
];

#[test]
fn a_failed_append_changed_nothing_and_the_log_goes_on() {
    in_both_modes(0..4, |case| {
        for (call, path, effect) in FAILING {
            let is_of_mode = match case.mode {
                WriteMode::Buffered => !matches!(call, Call::Map | Call::Allocate),
                _ => !matches!(call, Call::Write | Call::HalfWritten),
            };
            if is_of_mode {
                told(format!("{call:?} {path} {effect:?}"), || {
                    append_that_fails(case, call, path, effect);
                });
            }
        }
    });
}

fn append_that_fails(case: Case, call: Call, path: &str, effect: Effect) {
    let (mut sent, after, later) = run(&case.world(), |world| {
        let log = world.open();
        let producer = log.producer().build().unwrap();
        let mut sent = send_many(&producer, "before", 0..2, 700);
        // What half of a write left is put back to zeros by another one, which may go well.
        let fault = match call {
            Call::Write | Call::HalfWritten => Fault::once(call, path, effect),
            _ => Fault::always(call, path, effect),
        };
        world.machine.inject(&fault);
        let failed = (0..40).find_map(|number| {
            let record = Record::new(value("filling", number, 700));
            match producer.send_with(&record, Acks::Written) {
                Ok(receipt) => {
                    let value = value("filling", number, 700);
                    sent.push((receipt.wait().unwrap().get(), value));
                    None
                }
                Err(failed) => Some((failed.record() == &&record, failed.into_parts().1)),
            }
        });
        assert!(fault.fired() > 0);
        let Some((is_handed_back, error)) = failed else {
            // A short write is gone on with.
            assert_eq!(effect, Effect::Short);
            return (sent, world.machine.process_crash(), None);
        };
        assert!(is_handed_back, "{error}");
        assert!(!error.is_latched(), "{error}");
        assert_eq!(
            error.is_storage_full(),
            effect == Effect::Fail(ENOSPC),
            "{error}"
        );
        assert_eq!(log.log_end_offset().get(), sent.len() as u64);
        assert_eq!(see(&log).records, sent, "what is there is read");
        let after = world.machine.process_crash();
        world.machine.lift_faults();
        sent.push(send(&producer, value("behind", 0, 700)));
        assert_eq!(see(&log).records, sent, "the log goes on");
        (sent, after, Some(world.machine.process_crash()))
    });
    if let Some(later) = later {
        assert_eq!(case.read(&later).records, sent);
        let cut = later.power_cut(&mut Choices::nothing());
        assert_eq!(case.read(&cut).records, sent, "the last one was durable");
        sent.pop();
    }
    case.reopen(&after, |_, log| {
        assert_eq!(see(log).records, sent, "nothing of it is left");
        assert_eq!(log.recovery().lost_tail, None);
        assert_eq!(log.recovery().cut_bytes, 0);
    });
}

#[test]
fn on_a_full_disk_appends_fail_as_such_and_work_again_when_space_returns() {
    in_both_modes(0..6, |case| {
        let (sent, disk) = run(&case.world(), |world| {
            let log = world.open();
            let producer = written(&log);
            let mut sent = send_many(&producer, "before", 0..3, 700);
            let mut billing = log.consumer("billing").build().unwrap();
            for round in 0..3 {
                world.machine.set_free(Some(12_000));
                let failed = (0..100).find_map(|number| {
                    let value = value(&format!("round{round}"), number, 700);
                    match producer.send(Record::new(value.as_str())) {
                        Ok(receipt) => sent.push((receipt.wait().unwrap().get(), value)),
                        Err(failed) => return Some(failed),
                    }
                    None
                });
                let failed = failed.unwrap();
                let is_full = matches!(failed.error().kind(), ErrorKind::StorageFull { .. });
                assert!(is_full, "{failed}");
                assert_eq!(log.log_end_offset().get(), sent.len() as u64);
                log.sync().unwrap();
                assert_eq!(log.durable_offset().get(), sent.len() as u64);
                drain(&mut billing);
                billing.commit().unwrap();
                assert_eq!(billing.committed().get(), sent.len() as u64);
                world.machine.set_free(None);
                let value = String::from_utf8(failed.record().as_ref().value().unwrap().into());
                let again = producer.send(failed.into_record()).unwrap();
                sent.push((again.wait().unwrap().get(), value.unwrap()));
            }
            log.sync().unwrap();
            assert!(!log.stats().latched);
            (sent, world.machine.process_crash())
        });
        case.each_power_cut(&disk, 4, |cut| assert_eq!(case.read(cut).records, sent));
        case.reopen(&disk, |_, log| {
            let billing = log.consumer("billing").build().unwrap();
            assert!(billing.committed().get() + 1 == sent.len() as u64);
        });
    });
}

#[test]
fn a_log_is_recovered_on_a_full_disk_and_its_groups_commit() {
    in_both_modes(0..6, |case| {
        let (sent, disk) = run(&case.world(), |world| {
            let log = world.open();
            let sent = send_many(&log.producer().build().unwrap(), "full", 0..6, 90);
            let mut billing = log.consumer("billing").build().unwrap();
            drain(&mut billing);
            (sent, world.machine.process_crash())
        });
        let world = case.boot(&disk);
        world.machine.set_free(Some(0));
        let committed = run(&world, |world| {
            let log = world.open();
            let mut billing = log.consumer("billing").build().unwrap();
            for (number, record) in (1..).zip(&sent) {
                billing.commit_offset(number.into()).unwrap();
                assert_eq!(billing.committed(), number, "{record:?}");
            }
            world.machine.process_crash()
        });
        case.reopen(&committed, |_, log| {
            assert_eq!(log.consumer("billing").build().unwrap().committed(), 6);
            assert_eq!(see(log).records, sent);
        });
    });
}

#[test]
fn a_commit_survives_the_end_of_the_process_at_any_moment() {
    in_both_modes(0..6, |case| {
        let points = case.watch(|world| {
            let log = world.open();
            let producer = written(&log);
            let mut billing = world.consumer(&log, "billing");
            for number in 0..12 {
                world.send(&producer, Acks::Written, &[value("work", number, 90)]);
                world.poll_and_commit(&mut billing, Duration::ZERO);
            }
        });
        for point in case.some(points, 60) {
            told(format!("at {:?} {}", point.call, point.path), || {
                case.judge(&point.disk, Crash::Process, &point.oracle);
            });
        }
    });
}

/// A log of five durable records.
fn five(world: &World) -> duralog::Log {
    let log = world.open();
    send_many(&log.producer().build().unwrap(), "five", 0..5, 60);
    log
}

#[test]
fn a_group_that_was_made_is_there_after_any_power_cut_also_if_its_making_was_interrupted() {
    in_both_modes(0..4, |case| {
        let world = case.world();
        let points = world.watch();
        let points = run(&world, |world| {
            let log = five(world);
            points.lock().unwrap().clear();
            drop(
                log.consumer("billing")
                    .start(Start::Latest)
                    .build()
                    .unwrap(),
            );
            taken(&points)
        });
        assert!(points.len() >= 5, "{}", points.len());
        for point in points {
            let mut interrupted = case.power_cuts(&point.disk, 2);
            interrupted.push(("the process ends".to_owned(), point.disk.clone()));
            for (what, disk) in interrupted {
                let at = format!("at {:?} {}, {what}", point.call, point.path);
                told(at, || made_once_more(case, &disk));
            }
        }
    });
}

fn made_once_more(case: Case, disk: &Disk) {
    let (committed, disk) = case.reopen(disk, |world, log| {
        send(&log.producer().build().unwrap(), "one more");
        let billing = log
            .consumer("billing")
            .start(Start::Latest)
            .build()
            .unwrap();
        let committed = billing.committed();
        assert!(
            [5, log.log_end_offset().get()].contains(&committed.get()),
            "{committed}"
        );
        (committed, world.machine.process_crash())
    });
    case.each_power_cut(&disk, 4, |cut| {
        case.reopen(cut, |_, log| {
            let billing = log
                .consumer("billing")
                .start(Start::Earliest)
                .build()
                .unwrap();
            assert_eq!(billing.committed(), committed, "it would start anew");
        });
    });
}

#[test]
fn a_group_file_that_fails_to_sync_fails_its_group_and_not_the_log() {
    in_both_modes(0..6, |case| {
        let faults = [
            (Call::Synced, "billing.offset"),
            (Call::DirSynced, "/groups"),
        ];
        for (call, path) in faults {
            let disk = run(&case.world(), |world| {
                let log = five(world);
                let fault = Fault::once(call, path, Effect::FailedSync);
                world.machine.inject(&fault);
                let latest = |group: &str| log.consumer(group).start(Start::Latest).build();
                let error = latest("billing").unwrap_err();
                assert!(error.is_latched(), "{error}");
                assert_eq!(fault.fired(), 1, "{path}");
                assert!(!log.stats().latched);
                send(&log.producer().build().unwrap(), "the log goes on");
                assert_eq!(latest("audit").unwrap().committed(), 6);
                // Made again, it is durable: nothing is taken for synced that was not.
                let again = latest("billing").unwrap();
                assert!([5, 6].contains(&again.committed().get()));
                (world.machine.process_crash(), again.committed())
            });
            let (mut disk, committed) = disk;
            let check = |disk: &Disk| {
                case.reopen(disk, |_, log| {
                    let group = |name: &str| log.consumer(name).build().unwrap().committed();
                    assert_eq!((group("billing"), group("audit").get()), (committed, 6));
                });
            };
            case.each_power_cut(&disk, 4, check);
            disk.drop_cache();
            check(&disk);
        }
    });
}
