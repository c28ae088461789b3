//! Two things that go wrong one after the other.

use std::time::Duration;

use duralog::testing::sim::{Call, Choices, Effect, Fault};

use crate::common::*;

const EMFILE: i32 = 24;

#[test]
fn a_gap_is_told_though_the_segment_behind_it_could_not_be_opened_at_first() {
    in_both_modes(0..2, |case| {
        let write = |world: &crate::sim::world::World, writer: &str| {
            let log = world.open();
            send_many(&log.producer().build().unwrap(), writer, 0..3, 90);
            world.machine.power_cut(&mut Choices::nothing())
        };
        let disk = run(&case.world(), |world| write(world, "a"));
        let disk = run(&case.boot(&disk), |world| write(world, "b"));
        case.reopen(&disk, |world, log| {
            let mut consumer = log.consumer("billing").build().unwrap();
            assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 3);
            let fault = Fault::once(Call::Open, "1048576.log", Effect::Fail(EMFILE));
            world.machine.inject(&fault);
            assert!(consumer.poll(Duration::ZERO).is_err());
            assert_eq!(fault.fired(), 1);
            assert_eq!(consumer.position(), 3, "the position is as before");
            let batch = consumer.poll(Duration::ZERO).unwrap();
            assert_eq!((batch.len(), batch.gaps().len()), (3, 1));
        });
    });
}

#[test]
fn without_a_checkpoint_an_opening_that_is_interrupted_does_not_let_offsets_be_used_again() {
    in_both_modes(0..2, |case| {
        let mut disk = run(&case.world(), |world| {
            let log = world.open();
            send_many(&log.producer().build().unwrap(), "durable", 0..3, 90);
            send_many(&written(&log), "tail", 0..7, 90);
            world.machine.power_cut(&mut Choices::nothing())
        });
        for slot in [0, 4096] {
            assert!(disk.flip_bit(&in_log("checkpoint"), slot + 40, 1));
        }
        let world = case.boot(&disk);
        let points = world.watch();
        run(&world, |world| drop(world.open()));
        for point in taken(&points) {
            let image = point.disk.power_cut(&mut Choices::nothing());
            let first = case.reopen(&image, |_, log| send(&written(log), "new").0);
            let (call, path) = (point.call, point.path);
            assert!(
                first >= 10,
                "interrupted at {call:?} {path}: offset {first} again"
            );
        }
    });
}

#[test]
fn where_the_page_cache_holds_a_tail_with_holes_an_interrupted_recovery_uses_no_offset_again() {
    in_both_modes(0..2, |case| {
        let (sent, mut disk) = run(&case.world(), |world| {
            let log = world.open();
            send_many(&log.producer().build().unwrap(), "durable", 0..3, 90);
            let sent = send_many(&written(&log), "tail", 0..7, 90);
            (sent, world.machine.process_crash())
        });
        let hole = position_of(&disk, &segment(0), &sent[2].1) + 20;
        assert!(disk.write(&segment(0), hole, &[0; 60]));
        let world = case.boot(&disk);
        let points = world.watch();
        run(&world, |world| drop(world.open()));
        for point in taken(&points) {
            let first = case.reopen(&point.disk, |_, log| send(&written(log), "new").0);
            let (call, path) = (point.call, point.path);
            assert!(
                first >= 10,
                "interrupted at {call:?} {path}: offset {first} again"
            );
        }
    });
}

#[test]
fn a_durable_record_that_lost_its_end_is_left_in_place() {
    in_both_modes(0..2, |case| {
        let (sent, disk) = run(&case.world(), |world| {
            let log = world.open();
            let sent = send_many(&log.producer().build().unwrap(), "durable", 0..8, 90);
            world.machine.sleep(Duration::from_secs(3));
            (sent, world.machine.process_crash())
        });
        let end = position_of(&disk, &segment(0), &sent[7].1) + 20;
        let mut disk = disk.power_cut(&mut Choices::everything());
        assert!(disk.set_len(&segment(0), end));
        let after = case.reopen(&disk, |world, log| {
            assert_eq!(log.recovery().cut_bytes, 0);
            assert_eq!(log.recovery().damage.len(), 1);
            world.machine.process_crash()
        });
        assert_eq!(after.read(&segment(0)), disk.read(&segment(0)));
    });
}
