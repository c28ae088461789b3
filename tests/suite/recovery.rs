//! Opening after a crash. Tests of the rows of the table in `src/log/plan.rs` name the row.

use std::fs;

use duralog::{
    DecodeError, ErrorKind, Gap, GapReason, Log, Offset, OffsetReset, OnDamage, WriteMode,
};

use crate::common::{
    Fault, MODES, Op, Scenario, assert_records, edit, numbered, position_of, read_all, write,
};

/// Offsets reserved ahead, as DESIGN has it: about a million.
const RESERVED: u64 = 1 << 20;

#[test]
fn after_a_process_crash_everything_written_is_there_and_offsets_go_on_densely() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..1000));
        let image = scenario.crash_image();
        let log = image.open();
        let report = log.recovery();
        assert!(!report.clean && report.same_boot, "{report:?}");
        assert_eq!(report.lost_tail, None);
        assert_eq!(report.scanned_frames, 1000);
        assert_eq!(report.damage, []);
        assert_eq!(log.durable_offset(), 1000, "what is served is durable");
        write(&log, numbered(1000..1100));
        assert_records(&log, 0, numbered(0..1100));
    }
}

#[test]
fn after_a_power_cut_offsets_go_on_at_the_reservation_and_consumers_are_told() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..10));
        let image = scenario.rebooted_image();
        let log = image.open();
        let lost = log
            .recovery()
            .lost_tail
            .clone()
            .expect("the tail may be lost");
        assert_eq!(lost, Offset::new(10)..Offset::new(RESERVED));
        assert_eq!(write(&log, ["after"]), [Offset::new(RESERVED)]);
        let (records, gaps) = read_all(&log);
        assert_eq!(records.len(), 11);
        let reason = GapReason::LostTail;
        assert_gap(&gaps, 10, RESERVED, reason);
        assert_eq!(log.stats().lost_to_tails, RESERVED - 10);

        let rebooted = image.rebooted_image();
        let again = rebooted.open();
        let (records, gaps) = read_all(&again);
        assert_eq!((records.len(), gaps.len()), (11, 2));
        assert_eq!(
            again.recovery().lost_tail.clone().unwrap().start,
            Offset::new(RESERVED + 1)
        );
    }
}

#[track_caller]
fn assert_gap(gaps: &[Gap], from: u64, to: u64, reason: GapReason) {
    let seen: Vec<_> = gaps
        .iter()
        .map(|gap| (gap.from.get(), gap.to.get(), gap.reason))
        .collect();
    assert_eq!(seen, [(from, to, reason)]);
}

#[test]
fn power_cuts_without_appends_between_them_leave_one_gap_and_no_pile_of_segments() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, ["a"]);
        let mut image = scenario.rebooted_image();
        for _ in 0..4 {
            let _open = image.open();
            image = image.rebooted_image();
        }
        let log = image.open();
        let end = log.log_end_offset();
        write(&log, ["b"]);
        let (records, gaps) = read_all(&log);
        assert_eq!(records.len(), 2);
        assert_eq!(gaps.first().unwrap().from, 1);
        assert_eq!(gaps.last().unwrap().to, end);
        assert!(
            gaps.windows(2).all(|pair| pair[0].to == pair[1].from),
            "{gaps:?}"
        );
        assert_eq!(image.segments().len(), 2);
    }
}

#[test]
fn a_clean_reopen_after_a_reboot_goes_on_densely() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    write(&log, ["a"]);
    log.close().unwrap();
    scenario.host.reboot();
    let log = scenario.open();
    assert!(log.recovery().clean);
    assert_eq!(write(&log, ["b"]), [Offset::new(1)]);
}

#[test]
fn row_c_an_incomplete_last_frame_is_cut_and_kept_in_quarantine() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..3));
        let image = scenario.crash_image();
        let path = image.last_segment();
        // Half of the last record was written when the process died.
        let last = position_of(&path, b"record number 000002");
        edit(&path, |bytes| bytes[last + 10..].fill(0));
        let log = image.open();
        let report = log.recovery();
        assert_eq!(
            report.lost_tail, None,
            "it was the frame being written: nobody was told"
        );
        assert_eq!(report.damage, []);
        assert_eq!(report.cut_bytes, 24 + 10);
        let quarantined = fs::read(&report.quarantined[0]).unwrap();
        assert!(quarantined.ends_with(b"record num"));
        let note = report.quarantined[0].to_string_lossy().into_owned() + ".txt";
        assert!(
            fs::read_to_string(note)
                .unwrap()
                .contains("00000000000000000000.log")
        );
        write(&log, ["next"]);
        assert_records(&log, 0, numbered(0..2).chain(["next".to_owned()]));
    }
}

#[test]
fn row_d_a_tail_with_holes_is_cut_at_the_first_and_offsets_are_not_used_again() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..3));
        log.sync().unwrap();
        write(&log, numbered(3..9));
        for image in [scenario.crash_image(), scenario.rebooted_image()] {
            let path = image.last_segment();
            let hole = position_of(&path, b"record number 000005");
            edit(&path, |bytes| bytes[hole] ^= 1);
            let log = image.open();
            assert_eq!(log.recovery().damage, [], "it was never durable");
            assert_eq!(
                log.recovery().lost_tail,
                Some(Offset::new(5)..Offset::new(RESERVED))
            );
            // Records of the size of those that were cut: none of them comes back behind these.
            write(&log, numbered(100..102));
            let crashed = image.crash_image();
            let after = crashed.open();
            let (records, gaps) = read_all(&after);
            assert_eq!(records.len(), 7);
            assert_eq!(records[5], (RESERVED, "record number 000100".to_owned()));
            assert_gap(&gaps, 5, RESERVED, GapReason::LostTail);
        }
    }
}

#[test]
fn row_e_a_segment_that_does_not_follow_on_is_taken_out_with_all_behind_it() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..1000));
        let image = scenario.rebooted_image();
        let segments = image.segments();
        // The second segment's name never reached the device, the later ones did.
        fs::remove_file(&segments[1]).unwrap();
        let log = image.open();
        assert_eq!(log.recovery().damage, []);
        assert_eq!(log.recovery().quarantined.len(), segments.len() - 2);
        let lost = log.recovery().lost_tail.clone().unwrap();
        let end = lost.start;
        let (records, gaps) = read_all(&log);
        assert_eq!(records.len() as u64, end.get());
        assert!(end > Offset::new(100));

        assert!(lost.end.get() >= RESERVED);
        assert_gap(&gaps, end.get(), lost.end.get(), GapReason::LostTail);
    }
}

#[test]
fn row_f_damage_below_the_durable_point_is_kept_reported_and_read_around() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..5));
        log.sync().unwrap();
        write(&log, numbered(5..7));
        for image in [scenario.crash_image(), scenario.rebooted_image()] {
            let path = image.last_segment();
            let damaged = position_of(&path, b"record number 000002");
            edit(&path, |bytes| bytes[damaged] ^= 0x10);
            // No checkpoint says so: the frames behind it carry the durable offset.
            fs::remove_file(image.path().join("checkpoint")).unwrap();
            let log = image.open();
            let report = log.recovery();
            let lost: Vec<_> = report
                .damage
                .iter()
                .filter(|damage| damage.from < damage.to)
                .collect();
            assert_eq!(lost.len(), 1, "{report:?}");
            assert_eq!((lost[0].from, lost[0].to), (Offset::new(2), Offset::new(3)));
            assert_eq!(lost[0].path, path);
            assert_eq!(lost[0].position, damaged as u64 - 24);
            assert_eq!(report.cut_bytes, 0, "damaged bytes are kept");
            let (records, gaps) = read_all(&log);
            assert_eq!(records.len(), 6);
            // Without a checkpoint, nobody knows which offsets were reserved.
            assert_eq!(gaps[1].reason, GapReason::LostTail);
            assert_gap(&gaps[..1], 2, 3, GapReason::Damage);
            assert_eq!(log.stats().lost_to_damage, 1);
            read_all(&log);
            assert_eq!(log.stats().lost_to_damage, 1, "counted once");
        }
    }
}

#[test]
fn row_g_a_missing_segment_in_the_middle_is_reported_and_read_around() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..1000));
        log.close().unwrap();
        let segments = scenario.segments();
        let base = |index: usize| -> u64 {
            segments[index]
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        };
        fs::remove_file(&segments[2]).unwrap();
        let report = Log::open_read_only(scenario.path())
            .unwrap()
            .verify()
            .unwrap();
        assert_eq!(report.damage.len(), 1, "{report:?}");
        let log = scenario.open();
        assert!(log.recovery().clean);
        let damage = &log.recovery().damage;
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_eq!(
            (damage[0].from.get(), damage[0].to.get()),
            (base(2), base(3))
        );
        let (records, gaps) = read_all(&log);
        assert_gap(&gaps, base(2), base(3), GapReason::Damage);
        assert_eq!(records.len() as u64, 1000 - (base(3) - base(2)));
        assert_eq!(log.log_end_offset(), 1000);
        write(&log, ["more"]);
        log.close().unwrap();
        assert_eq!(
            scenario.open().stats().lost_to_damage,
            base(3) - base(2),
            "kept on record"
        );
    }
}

#[test]
fn row_g_a_segment_without_a_readable_header_is_read_around() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..1000));
        log.close().unwrap();
        let segments = scenario.segments();
        edit(&segments[1], |bytes| bytes[..1024].fill(0xff));
        let log = scenario.open();
        assert_eq!(log.recovery().damage.len(), 1);
        let (records, gaps) = read_all(&log);
        assert_eq!(gaps.len(), 1);
        assert_eq!(records.len() as u64, 1000 - gaps[0].to.since(gaps[0].from));
        assert!(segments[1].exists(), "the damaged bytes are kept");
    }
}

#[test]
fn row_h_durable_records_missing_at_the_end_are_damage_and_nothing_is_appended_behind_them() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..9));
        log.close().unwrap();
        let path = scenario.last_segment();
        let cut = position_of(&path, b"record number 000006");
        edit(&path, |bytes| bytes.truncate(cut));
        let log = scenario.open();
        assert!(
            !log.recovery().clean,
            "the file is shorter than the checkpoint says"
        );
        let damage = &log.recovery().damage;
        assert_eq!(
            (damage[0].from, damage[0].to),
            (Offset::new(6), Offset::new(9))
        );
        assert_eq!(write(&log, ["after"]), [Offset::new(9)]);
        let (records, gaps) = read_all(&log);
        assert_eq!(records.len(), 7);
        assert_gap(&gaps, 6, 9, GapReason::Damage);
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            cut as u64,
            "nothing was cut"
        );
    }
}

#[test]
fn on_damage_refuse_fails_and_changes_nothing() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    write(&log, numbered(0..1000));
    log.close().unwrap();
    fs::remove_file(&scenario.segments()[1]).unwrap();
    let before = listing(&scenario);
    let refusing = scenario.options.clone().on_damage(OnDamage::Refuse);
    let error = refusing.open(scenario.path()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Damaged { .. }), "{error}");
    assert!(error.is_corruption());
    assert_eq!(listing(&scenario), before);
    assert!(scenario.try_open().is_ok());
}

fn listing(scenario: &Scenario) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(scenario.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_checkpoint_that_is_gone_means_a_scan_and_no_offset_is_used_again() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..300));
        log.close().unwrap();
        fs::remove_file(scenario.path().join("checkpoint")).unwrap();
        let log = scenario.open();
        assert_eq!(log.recovery().damage.len(), 1, "{:?}", log.recovery());
        let next = write(&log, ["after"])[0];
        assert!(next.get() >= RESERVED);
        let (records, gaps) = read_all(&log);
        assert_eq!(records.len(), 301);
        assert_gap(&gaps, 300, next.get(), GapReason::LostTail);
    }
}

#[test]
fn one_damaged_slot_of_meta_or_checkpoint_is_reported_and_stood_in_for() {
    for file in ["meta", "checkpoint"] {
        for slot in [0, 4096] {
            let scenario = Scenario::new(WriteMode::Auto);
            let log = scenario.open();
            write(&log, ["a"]);
            log.close().unwrap();
            edit(&scenario.path().join(file), |bytes| bytes[slot + 40] ^= 1);
            let log = scenario.open();
            assert!(log.recovery().clean);
            assert_eq!(log.recovery().damage.len(), 1, "{file} {slot}");
            assert_records(&log, 0, ["a"]);
        }
    }
}

#[test]
fn both_slots_of_meta_damaged_is_an_error_with_the_path() {
    let scenario = Scenario::new(WriteMode::Auto);
    scenario.open().close().unwrap();
    edit(&scenario.path().join("meta"), |bytes| {
        bytes[40] ^= 1;
        bytes[4096 + 40] ^= 1;
    });
    let error = scenario.try_open().unwrap_err();
    match error.kind() {
        ErrorKind::Corrupt {
            path,
            source: DecodeError::Checksum,
            ..
        } => {
            assert!(path.ends_with("meta"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_ahead_of_the_log_keeps_offsets_from_being_used_again() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    write(&log, numbered(0..9));
    let mut consumer = log.consumer("billing").build().unwrap();
    while !consumer.poll(std::time::Duration::ZERO).unwrap().is_empty() {}
    consumer.commit().unwrap();
    let image = scenario.crash_image();
    let path = image.last_segment();
    // The commit reached the device, the last records did not.
    let cut = position_of(&path, b"record number 000004") - 24;
    edit(&path, |bytes| bytes[cut..].fill(0));
    let log = image.open();
    assert_eq!(
        log.recovery().lost_tail,
        Some(Offset::new(4)..Offset::new(RESERVED))
    );
    assert_eq!(
        log.recovery().groups_ahead,
        [("billing".to_owned(), Offset::new(9))]
    );
    write(&log, ["after"]);
    let mut billing = log.consumer("billing").build().unwrap();
    let batch = billing.poll(std::time::Duration::ZERO).unwrap();
    assert_eq!(
        batch.iter().next().unwrap().offset(),
        Some(Offset::new(RESERVED))
    );
    assert_gap(batch.gaps(), 9, RESERVED, GapReason::LostTail);
}

#[test]
fn recovery_that_fails_at_any_call_is_done_by_the_next_opening() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..3));
        log.sync().unwrap();
        write(&log, numbered(3..400));
        let torn = scenario.rebooted_image();
        let hole = position_of(&torn.segments()[1], b"record number 000200");
        edit(&torn.segments()[1], |bytes| bytes[hole] ^= 1);
        drop(log);
        let mut interrupted = 0;
        for op in [
            Op::Write,
            Op::SetLen,
            Op::Sync,
            Op::SyncDir,
            Op::Rename,
            Op::Open,
            Op::Read,
        ] {
            for call in 0.. {
                let image = torn.crash_image();
                let fault = Fault::once(op, "", libc_eio()).after(call);
                image.host.inject(&fault);
                let first = image.try_open();
                image.host.lift_faults();
                if fault.fired() == 0 {
                    drop(first);
                    break;
                }
                interrupted += usize::from(first.is_err());
                drop(first);
                let log = image.open();
                let (records, _) = read_all(&log);
                let expected: Vec<_> = (0..200).zip(numbered(0..200)).collect();
                assert_eq!(records, expected, "{mode:?} {op:?} {call}");
                assert!(
                    log.log_end_offset().get() >= RESERVED,
                    "{mode:?} {op:?} {call}"
                );
            }
        }
        assert!(
            interrupted > 20,
            "only {interrupted} openings were interrupted"
        );
    }
}

fn libc_eio() -> i32 {
    5
}

#[test]
fn opening_again_and_again_after_crashes_keeps_every_record() {
    for mode in MODES {
        let mut image = Scenario::new(mode);
        let mut written = 0;
        for round in 0..20 {
            let log = image.open();
            assert_records(&log, 0, numbered(0..written));
            let more = 7 * round + 1;
            write(&log, numbered(written..written + more));
            written += more;
            image = image.crash_image();
        }
    }
}

#[test]
fn nothing_is_synced_with_fsync_off_and_a_process_crash_still_loses_nothing() {
    let mut scenario = Scenario::new(WriteMode::Auto);
    scenario.options = scenario.options.fsync(duralog::Fsync::Off);
    let syncs = Fault::always(Op::Sync, "", 5);
    scenario.host.inject(&syncs);
    let log = scenario.open();
    assert!(matches!(
        log.producer().build().unwrap_err().kind(),
        ErrorKind::DurabilityOff
    ));
    assert!(matches!(
        log.sync().unwrap_err().kind(),
        ErrorKind::DurabilityOff
    ));
    write(&log, numbered(0..500));
    let image = scenario.crash_image();
    assert_records(&image.open(), 0, numbered(0..500));
    log.close().unwrap();
    assert_records(&scenario.open(), 0, numbered(0..500));
    assert_eq!(syncs.fired(), 0);
}

#[test]
fn a_segment_with_very_many_damaged_frames_is_read_around_each_of_them() {
    const RECORDS: u32 = 20_000;
    for mode in MODES {
        let mut scenario = Scenario::new(mode);
        scenario.options = scenario.options.segment_bytes(4 << 20);
        let log = scenario.open();
        write(&log, numbered(0..RECORDS));
        log.close().unwrap();
        let frame = 24 + "record number 000000".len();
        edit(&scenario.last_segment(), |bytes| {
            for at in (1024..).step_by(2 * frame).take(RECORDS as usize / 2) {
                bytes[at + frame - 1] ^= 1;
            }
        });
        let log = scenario.open();
        let (records, gaps) = read_all(&log);
        assert_eq!(records.len(), RECORDS as usize / 2);
        assert_eq!(gaps.len(), RECORDS as usize / 2);
        assert_eq!(log.stats().lost_to_damage, u64::from(RECORDS) / 2);
        let mut reader = log
            .reader()
            .start(duralog::Start::At(Offset::new(15_001)))
            .build();
        let (records, gaps) = crate::common::read_from(reader.as_mut().unwrap());
        assert_eq!((records.len(), gaps.len()), (2_500, 2_499));
    }
}

#[test]
fn a_log_of_more_segments_than_files_may_be_open_is_opened_and_read() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let held = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    write(&log, numbered(0..40_000));
    log.close().unwrap();
    assert!(scenario.segments().len() > 200);
    let before = held();
    let log = scenario.open();
    let (records, gaps) = read_all(&log);
    assert_eq!((records.len(), gaps.len()), (40_000, 0));
    // Other tests open files at the same time; what counts is that it is not one a segment.
    assert!(held() < before + 150, "{} files are open", held());
}

#[test]
fn a_group_file_that_is_damaged_in_both_slots_stops_nobody_else() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    write(&log, ["a"]);
    drop(log.consumer("billing").build().unwrap());
    log.close().unwrap();
    edit(&scenario.path().join("groups/billing.offset"), |bytes| {
        for byte in bytes {
            *byte ^= 0xff;
        }
    });
    let log = scenario.open();
    let builder = log.consumer("billing").offset_reset(OffsetReset::Error);
    let error = builder.build().unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Corrupt { .. }),
        "{error:?}"
    );
    assert!(error.is_corruption());
    let mut audit = log.consumer("audit").build().unwrap();
    let batch = audit.poll(std::time::Duration::ZERO).unwrap();
    assert!(format!("{batch:?}").contains("records"));
    assert_eq!(batch.len(), 1);
}
