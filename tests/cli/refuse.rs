//! What every command refuses, and how it ends then.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::cli::Place;

/// Every command, with what it needs at least.
const COMMANDS: [(&str, &[&str]); 8] = [
    ("produce", &[]),
    ("consume", &["--group", "g"]),
    ("inspect", &[]),
    ("verify", &[]),
    ("dump", &[]),
    ("groups", &[]),
    ("retain", &[]),
    ("compact", &[]),
];
/// All but the one that makes logs.
const READING: &[(&str, &[&str])] = COMMANDS.split_at(1).1;

#[test]
fn arguments_that_make_no_sense_are_bad_usage() {
    let place = Place::with_lines(&["one"]);
    let bad: [(&str, &[&str]); 18] = [
        ("produce", &["--acks", "most"]),
        ("produce", &["--batch", "0"]),
        ("produce", &["--batch", "-1"]),
        ("produce", &["--segment-bytes", "0"]),
        ("produce", &["--segment-bytes", "9999999999"]),
        ("produce", &["--flush-messages", "0"]),
        ("produce", &["--flush-interval", "0"]),
        ("produce", &["--key-separator", ""]),
        ("produce", &["--key-separator", "\n"]),
        ("produce", &["--no-such-option"]),
        ("consume", &[]),
        ("consume", &["--group", "g", "--max", "0"]),
        ("consume", &["--group", "g", "--commit-every", "0"]),
        ("consume", &["--group", "g", "--from", "yesterday"]),
        ("consume", &["--group", "g", "--from", "@noon"]),
        ("consume", &["--group", "g", "--format", "xml"]),
        ("dump", &["--max", "0"]),
        ("dump", &["--from", "-1"]),
    ];
    for (name, args) in bad {
        let ran = place.run(name, args).code(2);
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{ran:?}");
    }
    assert!(place.group("g").is_none(), "nothing was changed");
    assert_eq!(place.inspect()["log_end_offset"], 1);
}

#[test]
fn names_that_are_no_names_of_groups_are_bad_usage() {
    let place = Place::with_lines(&["one"]);
    let too_long = "x".repeat(300);
    for name in [
        "a/b",
        "../up",
        ".hidden",
        "",
        "sp ace",
        "line\nbreak",
        &too_long,
    ] {
        place
            .run("consume", ["--group", name])
            .failed(2, "invalid name");
    }
    place.run("consume", ["--group", "billing"]).done();
    place
        .run("consume", ["--group", "Billing"])
        .failed(2, "differs from it in case alone");
    let longest = "x".repeat(200);
    place.run("consume", ["--group", &longest]).done();
}

#[test]
fn a_command_or_a_directory_must_be_given() {
    for args in [&[][..], &["inspect"], &["no-such-command", "dir"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_duralog"));
        let ended = command.args(args).stdin(Stdio::null()).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{args:?}");
        assert!(ended.stdout.is_empty());
    }
}

#[test]
fn help_is_a_result() {
    for args in [&["--help"][..], &["--version"], &["consume", "--help"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_duralog"));
        let ended = command.args(args).stdin(Stdio::null()).output().unwrap();
        assert!(ended.status.success(), "{args:?}");
        assert!(!ended.stdout.is_empty() && ended.stderr.is_empty());
    }
}

#[test]
fn where_there_is_no_log_there_is_nothing_to_read() {
    let place = Place::new();
    for (name, args) in READING {
        place.run(name, args).failed(1, "there is no log at");
    }
    assert!(!place.log().exists());
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.log()).unwrap();
    fs::write(place.log().join("thesis.txt"), "precious").unwrap();
    for (name, args) in COMMANDS {
        place.run(name, args).failed(1, "is not a log");
    }
    assert_eq!(fs::read_dir(place.log()).unwrap().count(), 1);
}

#[test]
fn a_log_of_a_newer_format_is_refused_by_its_version() {
    /// In each slot, the number of its format stands here.
    const VERSION_AT: [usize; 2] = [12, 4096 + 12];
    let place = Place::with_lines(&["one"]);
    let meta = place.log().join("meta");
    let mut bytes = fs::read(&meta).unwrap();
    for at in VERSION_AT {
        assert_eq!(bytes[at..at + 2], [1, 0]);
        bytes[at] = 2;
    }
    fs::write(&meta, bytes).unwrap();
    for (name, args) in COMMANDS {
        place
            .run(name, args)
            .failed(1, "has format version 2; this release reads up to 1");
    }
}
