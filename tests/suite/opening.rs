//! Opening what is not a log, not ours, not allowed; and the options that are stored in a log.

use std::{fs, os::unix::fs::PermissionsExt, os::unix::fs::symlink, time::Duration};

use duralog::{Acks, ErrorKind, FlushPolicy, Fsync, Log, LogOptions, Record, Start, WriteMode};

use crate::common::{Fault, MODES, Op, Scenario, assert_records, edit, write};

const EROFS: i32 = 30;
const EACCES: i32 = 13;

#[test]
fn a_directory_with_other_files_is_not_a_log_and_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let error = Log::open(dir.path()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotALog { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(matches!(
        Log::open_read_only(dir.path()).unwrap_err().kind(),
        ErrorKind::NotALog { .. }
    ));
}

#[test]
fn a_file_in_place_of_the_directory_is_not_a_log() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Log::open(file.path()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotALog { .. }), "{error}");
}

#[test]
fn segments_without_meta_are_not_made_into_a_new_log() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    write(&log, ["a"]);
    log.close().unwrap();
    fs::remove_file(scenario.path().join("meta")).unwrap();
    let error = scenario.try_open().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotALog { .. }), "{error}");
    assert!(scenario.last_segment().exists());
}

#[test]
fn reading_what_is_not_there_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nothing");
    let error = Log::open_read_only(&path).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::NotFound { .. }),
        "{error}"
    );
    assert!(!path.exists());
}

#[test]
fn a_newer_format_is_told_apart_from_damage_in_every_file() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    write(&log, ["a"]);
    drop(log.consumer("g").build().unwrap());
    log.close().unwrap();
    let slots = [12, 4096 + 12];
    let copies = [8, 512 + 8];
    let segment = scenario.last_segment();
    let name = segment.file_name().unwrap().to_str().unwrap();
    // A compacted segment has version 2.
    for (file, places, newer) in [
        ("meta", slots, 2),
        ("checkpoint", slots, 2),
        (name, copies, 3),
    ] {
        let image = scenario.crash_image();
        edit(&image.path().join(file), |bytes| {
            for at in places {
                bytes[at] = newer;
            }
        });
        let error = image.try_open().unwrap_err();
        match error.kind() {
            ErrorKind::UnsupportedVersion {
                path,
                found,
                supported,
            } => {
                assert!(path.ends_with(file));
                assert_eq!((*found, *supported), (newer.into(), u32::from(newer) - 1));
            }
            other => panic!("{file}: {other:?}"),
        }
    }
    let image = scenario.crash_image();
    edit(&image.path().join("groups/g.offset"), |bytes| {
        for at in slots {
            bytes[at] = 2;
        }
    });
    let error = image.open().consumer("g").build().unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::UnsupportedVersion { found: 2, .. }),
        "{error}"
    );
}

#[test]
fn a_foreign_file_in_place_of_meta_is_not_a_log() {
    let scenario = Scenario::new(WriteMode::Auto);
    scenario.open().close().unwrap();
    edit(&scenario.path().join("meta"), |bytes| bytes.fill(b'?'));
    let error = scenario.try_open().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotALog { .. }), "{error}");
}

#[test]
fn a_second_writer_is_told_that_the_log_is_locked() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let error = scenario.try_open().unwrap_err();
    assert!(error.is_locked(), "{error}");
    write(&log, ["still works"]);
    drop(log);
    assert_records(&scenario.open(), 0, ["still works"]);
}

#[test]
fn symbolic_links_in_place_of_files_of_the_log_are_refused() {
    for name in ["LOCK", "meta", "checkpoint", "groups", "quarantine"] {
        let scenario = Scenario::new(WriteMode::Auto);
        scenario.open().close().unwrap();
        let (path, aside) = (scenario.path().join(name), scenario.path().join("aside"));
        if path.exists() {
            fs::rename(&path, &aside).unwrap();
        }
        symlink(&aside, &path).unwrap();
        let error = scenario.try_open().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::SymbolicLink { .. }),
            "{name}: {error}"
        );
    }
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    symlink("/etc/passwd", scenario.path().join("groups/g.offset")).unwrap();
    let error = log.consumer("g").build().unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::SymbolicLink { .. }),
        "{error}"
    );
}

#[test]
fn a_read_only_directory_is_a_typed_error_with_the_path() {
    for errno in [EROFS, EACCES] {
        let scenario = Scenario::new(WriteMode::Auto);
        let log = scenario.open();
        write(&log, ["a"]);
        log.close().unwrap();
        let fault = Fault::always(Op::Open, "LOCK", errno);
        scenario.host.inject(&fault);
        let error = scenario.try_open().unwrap_err();
        match error.kind() {
            ErrorKind::Io { path, source, .. } => {
                assert!(path.ends_with("LOCK"));
                assert_eq!(source.raw_os_error(), Some(errno));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fault.fired(), 1);
        let look = Log::open_read_only(scenario.path()).unwrap();
        assert_eq!(
            look.reader()
                .build()
                .unwrap()
                .poll(Duration::ZERO)
                .unwrap()
                .len(),
            1
        );
    }
}

#[test]
fn files_are_for_their_owner_alone() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    drop(log.consumer("g").build().unwrap());
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(scenario.path()), 0o700);
    assert_eq!(mode(scenario.path().join("groups")), 0o700);
    for name in ["LOCK", "meta", "checkpoint", "groups/g.offset"] {
        assert_eq!(mode(scenario.path().join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(scenario.last_segment()), 0o600);
}

#[test]
fn names_that_break_the_rule_are_refused_at_construction() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    for name in [
        "",
        "a/b",
        "..",
        ".hidden",
        &"x".repeat(300),
        "na me",
        "\u{fc}",
    ] {
        let error = log.consumer(name).build().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::InvalidName { .. }),
            "{name:?}: {error}"
        );
    }
    drop(log.consumer("Billing").build().unwrap());
    let error = log.consumer("billing").build().unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::InvalidName { .. }),
        "{error}"
    );
    assert_eq!(
        fs::read_dir(scenario.path().join("groups"))
            .unwrap()
            .count(),
        1
    );
}

/// Options, and the name of the one that `open` refuses.
fn refused() -> Vec<(&'static str, LogOptions)> {
    let zero = Duration::ZERO;
    vec![
        ("segment_bytes", Log::options().segment_bytes(0)),
        ("segment_bytes", Log::options().segment_bytes(4 << 30)),
        ("segment_age", Log::options().segment_age(zero)),
        ("max_record_bytes", Log::options().max_record_bytes(0)),
        (
            "max_record_bytes",
            Log::options()
                .segment_bytes(1 << 20)
                .max_record_bytes(1 << 20),
        ),
        (
            "flush",
            Log::options().flush(FlushPolicy::every_messages(0)),
        ),
        ("flush", Log::options().flush(FlushPolicy::every(zero))),
        (
            "fsync",
            Log::options()
                .fsync(Fsync::Off)
                .flush(FlushPolicy::every_append()),
        ),
    ]
}

#[test]
fn options_out_of_range_or_in_contradiction_are_refused_by_name_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    for (option, options) in refused() {
        let path = dir.path().join("log");
        let error = options.open(&path).unwrap_err();
        match error.kind() {
            ErrorKind::InvalidOption { name, .. } => assert_eq!(*name, option),
            other => panic!("{option}: {other:?}"),
        }
        assert!(!path.exists());
    }
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    for builder in [
        log.reader().max_poll_records(0),
        log.reader().max_poll_bytes(0),
    ] {
        assert!(matches!(
            builder.build().unwrap_err().kind(),
            ErrorKind::InvalidOption { .. }
        ));
    }
}

#[test]
fn an_option_that_contradicts_a_stored_one_is_refused_and_the_log_stays_as_it_was() {
    let scenario = Scenario::new(WriteMode::Auto);
    scenario.open().close().unwrap();
    let error = Log::options()
        .max_record_bytes(1 << 20)
        .open(scenario.path())
        .unwrap_err();
    assert!(matches!(
        error.kind(),
        ErrorKind::InvalidOption {
            name: "max_record_bytes",
            ..
        }
    ));
    let look = Log::open_read_only(scenario.path()).unwrap();
    assert_eq!(look.options().segment_bytes, duralog::MIN_SEGMENT_BYTES);
}

#[test]
fn options_are_stored_and_replaced_when_given_again() {
    let scenario = Scenario::new(WriteMode::Auto);
    scenario.open().close().unwrap();
    let stored = || Log::open_read_only(scenario.path()).unwrap().options();
    Log::open(scenario.path()).unwrap().close().unwrap();
    assert_eq!(stored().segment_bytes, duralog::MIN_SEGMENT_BYTES);
    assert_eq!(stored().flush, FlushPolicy::never());
    Log::options()
        .segment_bytes(1 << 20)
        .open(scenario.path())
        .unwrap()
        .close()
        .unwrap();
    assert_eq!(stored().segment_bytes, 1 << 20);
    assert_eq!(stored().flush, FlushPolicy::never());
}

#[test]
fn segments_may_become_smaller_and_larger_over_reopens() {
    for mode in MODES {
        let mut scenario = Scenario::new(mode);
        let mut values = Vec::new();
        for (round, bytes) in [1 << 20, 8 << 10, 64 << 10].into_iter().enumerate() {
            scenario.options = scenario.options.segment_bytes(bytes);
            let log = scenario.open();
            let more: Vec<_> = (0..300).map(|n| format!("{round} {n:0100}")).collect();
            write(&log, more.clone());
            values.extend(more);
            assert_records(&log, 0, &values);
            log.close().unwrap();
        }
    }
}

#[test]
fn making_a_log_that_is_interrupted_anywhere_is_begun_again() {
    let mut interrupted = 0;
    for op in [
        Op::Open,
        Op::Write,
        Op::Sync,
        Op::SyncDir,
        Op::Rename,
        Op::Allocate,
    ] {
        for call in 0.. {
            let scenario = Scenario::new(WriteMode::Buffered);
            let fault = Fault::once(op, "", 5).after(call);
            scenario.host.inject(&fault);
            let first = scenario.try_open();
            scenario.host.lift_faults();
            if fault.fired() == 0 {
                break;
            }
            interrupted += usize::from(first.is_err());
            drop(first);
            let log = scenario.open();
            write(&log, ["a"]);
            assert_eq!(log.stats().appended_records, 1, "{op:?} {call}");
        }
    }
    assert!(
        interrupted > 10,
        "only {interrupted} attempts were interrupted"
    );
}

#[test]
fn auto_appends_without_a_mapping_where_blocks_cannot_be_allocated_ahead() {
    const EOPNOTSUPP: i32 = 95;
    let scenario = Scenario::new(WriteMode::Auto);
    let fault = Fault::always(Op::Allocate, "", EOPNOTSUPP);
    scenario.host.inject(&fault);
    let log = scenario.open();
    assert!(fault.fired() > 0);
    write(&log, ["a"]);
    assert_records(&log, 0, ["a"]);
    assert!(Scenario::new(WriteMode::Mapped).try_open().is_ok());
}

#[test]
fn leftover_prepared_segments_are_removed() {
    let scenario = Scenario::new(WriteMode::Auto);
    scenario.open().close().unwrap();
    let leftover = scenario.path().join("next-0123456789abcdef");
    fs::write(&leftover, "prepared").unwrap();
    let log = scenario.open();
    assert!(!leftover.exists());
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    drop(producer.send(Record::new("a")).unwrap());
    let reader = log.reader().start(Start::Latest).build().unwrap();
    assert_eq!(reader.position(), 1);
}

#[test]
fn an_option_that_fits_only_together_with_the_stored_ones_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    Log::options()
        .segment_bytes(256 << 20)
        .open(&path)
        .unwrap()
        .close()
        .unwrap();
    Log::options()
        .max_record_bytes(100 << 20)
        .open(&path)
        .unwrap()
        .close()
        .unwrap();
    let options = Log::open_read_only(&path).unwrap().options();
    assert_eq!(
        (options.segment_bytes, options.max_record_bytes),
        (256 << 20, 100 << 20)
    );
}

#[test]
fn a_relative_path_keeps_its_meaning_when_the_process_changes_its_directory() {
    let scenario = Scenario::new(WriteMode::Auto);
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(here.path()).unwrap();
    let log = scenario.options.open("log").unwrap();
    std::env::set_current_dir(elsewhere.path()).unwrap();
    write(&log, crate::common::numbered(0..1000));
    log.close().unwrap();
    std::env::set_current_dir(before).unwrap();
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    let log = Log::open(here.path().join("log")).unwrap();
    assert_records(&log, 0, crate::common::numbered(0..1000));
}

#[test]
fn an_empty_path_is_refused() {
    assert!(matches!(
        Log::open("").unwrap_err().kind(),
        ErrorKind::Io { .. }
    ));
    assert!(matches!(
        Log::open_read_only("").unwrap_err().kind(),
        ErrorKind::Io { .. }
    ));
}

#[test]
fn a_segment_of_another_log_is_not_believed() {
    let (ours, theirs) = (
        Scenario::new(WriteMode::Auto),
        Scenario::new(WriteMode::Auto),
    );
    for scenario in [&ours, &theirs] {
        let log = scenario.open();
        write(&log, crate::common::numbered(0..1000));
        log.close().unwrap();
    }
    fs::copy(&theirs.segments()[1], &ours.segments()[1]).unwrap();
    let report = Log::open_read_only(ours.path()).unwrap().verify().unwrap();
    assert_eq!(report.damage.len(), 1, "{report:?}");
    let log = ours.open();
    assert_eq!(log.recovery().damage.len(), 1);
    let (records, gaps) = crate::common::read_all(&log);
    assert_eq!(gaps.len(), 1);
    assert_eq!(records.len() as u64, 1000 - gaps[0].to.since(gaps[0].from));
}

#[test]
fn a_file_that_has_the_name_of_the_next_segment_is_not_overwritten() {
    for mode in MODES {
        let twin = Scenario::new(mode);
        let log = twin.open();
        write(&log, crate::common::numbered(0..1000));
        let next = twin.segments()[1].file_name().unwrap().to_owned();
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let foreign = scenario.path().join(next);
        fs::write(&foreign, "not ours").unwrap();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        let refused = crate::common::numbered(0..1000)
            .find_map(|value| producer.send(Record::new(value)).err())
            .expect("the roll fails");
        match refused.error().kind() {
            ErrorKind::Io { path, source, .. } => {
                assert_eq!(path, &foreign);
                assert_eq!(source.kind(), std::io::ErrorKind::AlreadyExists);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read(&foreign).unwrap(), b"not ours");
    }
}
