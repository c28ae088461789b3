//! `compact`: what it does and prints, and whom it refuses.

use std::fs;

use duralog::{CleanupPolicy, Log, MIN_SEGMENT_BYTES, Record};

use crate::cli::{Place, damage};

/// A compacted log of a thousand records with ten keys, in small segments.
fn log_of_keys() -> Place {
    let place = Place::new();
    let log = Log::options()
        .cleanup_policy(CleanupPolicy::Compact)
        .segment_bytes(MIN_SEGMENT_BYTES)
        // In the background nothing is to happen meanwhile.
        .min_compaction_lag(std::time::Duration::from_millis(1))
        .open(place.log())
        .unwrap();
    let producer = log.producer().build().unwrap();
    for number in 0..1_000 {
        let record = Record::new(format!("value-{number:04}")).key(format!("key-{}", number % 10));
        producer.send(record).unwrap().wait().unwrap();
    }
    drop(producer);
    log.close().unwrap();
    place
}

#[test]
fn it_keeps_the_last_record_of_each_key_and_prints_what_went() {
    let place = log_of_keys();
    let before = place.segments().len();
    let ran = place.run("compact", []).done();
    assert!(ran.text().contains(" removed"), "{}", ran.text());
    assert!(ran.text().contains("passes: 1"), "{}", ran.text());
    assert_eq!(place.segments().len(), before);
    let ran = place.run("consume", ["--group", "g", "--no-commit"]).done();
    let lines = ran.lines();
    assert!(lines.len() < 300, "{} lines", lines.len());
    for number in 990..1_000 {
        assert!(lines.contains(&&*format!("value-{number:04}")), "{number}");
    }
    place.run("verify", []).done();
    let inspected = place.inspect();
    assert_eq!(inspected["log_end_offset"], 1_000);
    assert_eq!(inspected["options"]["cleanup_policy"], "compact");
}

#[test]
fn of_a_log_with_one_segment_it_says_why_nothing_went_and_no_limit_deletes_its_keys() {
    let place = Place::new();
    let log = Log::options()
        .cleanup_policy(CleanupPolicy::Compact)
        .open(place.log())
        .unwrap();
    let producer = log.producer().build().unwrap();
    let record = Record::new("value").key("key");
    producer.send(record).unwrap().wait().unwrap();
    drop(producer);
    log.close().unwrap();
    let ran = place.run("compact", []).done();
    assert!(ran.text().contains("the active segment"), "{}", ran.text());
    let ran = place.run("retain", ["--max-segments", "1"]);
    ran.failed(2, "retention");
    let ran = place.run("inspect", []).done();
    assert!(ran.text().contains("tombstones kept:   86400s"));
    assert_eq!(place.inspect()["options"]["min_dirty_ratio"], 0.5);
}

#[test]
fn it_tells_everything_as_json() {
    let place = log_of_keys();
    let report = place.run("compact", ["--json"]).done().json();
    let number = |key: &str| report[key].as_u64().unwrap();
    assert!(number("replaced") > 1 && number("segments") >= number("replaced"));
    assert!(number("records_after") <= 10);
    assert!(number("records_before") > 500);
    assert!(number("bytes_after") < number("bytes_before"));
    assert_eq!(number("passes"), 1);
    assert!(number("clean_below") > 500);
    assert!(number("peak_memory") > 0);
    assert_eq!(number("tombstones_removed"), 0);
    assert!(report["skipped"].as_array().unwrap().is_empty());
    assert!(report["elapsed_ms"].is_u64());
    let again = place.run("compact", ["--json"]).done().json();
    assert_eq!(again["replaced"], 0);
    assert_eq!(again["bytes_after"], report["bytes_after"]);
}

#[test]
fn a_segment_that_cannot_be_read_is_told_and_is_exit_status_3() {
    let place = log_of_keys();
    let segments = place.segments();
    damage(&segments[1], b"value-02");
    let ran = place.run("compact", ["--json"]).code(3);
    let report = ran.json();
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 1);
    let path = skipped[0]["path"].as_str().unwrap();
    assert_eq!(path, segments[1].to_string_lossy());
    assert!(skipped[0]["reason"].as_str().unwrap().contains("damaged"));
    let ran = place.run("compact", []).code(3);
    assert!(ran.text().contains("is skipped: it is damaged at byte"));
}

#[test]
fn a_log_that_is_not_compacted_or_is_open_or_is_none_is_left_alone() {
    let place = Place::with_lines(&["one", "two"]);
    place.run("compact", []).failed(1, "is not compacted");
    let nothing = Place::new();
    nothing.run("compact", []).failed(1, "there is no log");
    assert!(fs::read_dir(nothing.log()).is_err());
    let place = log_of_keys();
    let log = Log::open(place.log()).unwrap();
    place.run("compact", []).failed(1, "open in another writer");
    log.close().unwrap();
}

#[test]
fn a_line_without_a_key_is_refused_by_a_compacted_log() {
    let place = log_of_keys();
    place
        .feed("produce", ["--key-separator", "="], "a=1\n")
        .done();
    place.feed("produce", [], "plain\n").failed(1, "has no key");
}
