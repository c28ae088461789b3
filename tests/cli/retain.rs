//! `retain`: what it deletes and prints, and whom it refuses.

use duralog::{GroupRetention, Log, LogOptions, MIN_SEGMENT_BYTES, Record, Retention};

use crate::cli::Place;

const RECORDS: u64 = 40;

/// A log of forty records, six in each segment.
fn log_with(options: LogOptions) -> Place {
    let place = Place::new();
    let log = options
        .segment_bytes(MIN_SEGMENT_BYTES)
        .clean_in_background(false)
        .open(place.log())
        .unwrap();
    let producer = log.producer().build().unwrap();
    for number in 0..RECORDS {
        let value = format!("{number:04}-{}", "x".repeat(1_000));
        producer.send(Record::new(value)).unwrap().wait().unwrap();
    }
    drop(producer);
    log.close().unwrap();
    place
}

fn start(place: &Place) -> u64 {
    place.inspect()["log_start_offset"].as_u64().unwrap()
}

#[test]
fn it_deletes_by_the_limits_given_and_prints_what_went() {
    let place = log_with(Log::options());
    let before = place.segments().len();
    let ran = place.run("retain", ["--max-segments", "3"]).done();
    assert_eq!(place.segments().len(), 3);
    let text = ran.text();
    assert!(text.contains("by segments"), "{text}");
    assert!(
        text.contains(&format!("deleted: {} segments", before - 3)),
        "{text}"
    );
    let start = start(&place);
    assert!(start > 0);
    assert!(text.ends_with(&format!("log start:  {start}\n")), "{text}");
    let ran = place.run("consume", ["--group", "g", "--no-commit"]).done();
    assert_eq!(ran.lines().len() as u64, RECORDS - start);
    place.run("verify", []).done();
    // The limit was for once.
    assert_eq!(
        place.inspect()["options"]["retention_segments"],
        serde_json::Value::Null
    );
}

#[test]
fn a_dry_run_says_the_same_and_deletes_nothing() {
    let place = log_with(Log::options());
    let before = place.segments();
    let args = ["--max-bytes", "20000", "--json"];
    let planned = place
        .run("retain", [&args[..], &["--dry-run"]].concat())
        .done()
        .json();
    assert_eq!(place.segments(), before);
    assert_eq!(start(&place), 0);
    let done = place.run("retain", args).done().json();
    assert_eq!(planned, done);
    assert_eq!(done["deleted"][0]["reason"], "bytes");
    assert_eq!(done["log_start_offset"].as_u64().unwrap(), start(&place));
    assert!(done["bytes"].as_u64().unwrap() > 20_000);
}

#[test]
fn without_limits_those_of_the_log_count_and_groups_hold_back_what_they_have_not_committed() {
    let place = log_with(
        Log::options()
            .retention(Retention::new().max_segments(2))
            .group_retention(GroupRetention::KeepUnconsumed),
    );
    place
        .run("consume", ["--group", "slow", "--max", "13"])
        .done();
    let ran = place.run("retain", []).done();
    let text = ran.text();
    assert!(text.contains("held back: by group slow at 13"), "{text}");
    assert!(text.contains("deleted: 2 segments, 12 records"), "{text}");
    assert_eq!(start(&place), 12);
    place.run("consume", ["--group", "slow"]).done();
    place.run("retain", []).done();
    assert_eq!(place.segments().len(), 2);
}

#[test]
fn what_is_no_log_is_refused_and_nothing_is_made() {
    let place = Place::new();
    place.run("retain", []).failed(1, "there is no log");
    assert!(!place.log().exists());
    let place = log_with(Log::options());
    place
        .run("retain", ["--max-segments", "0"])
        .failed(2, "--max-segments");
}
