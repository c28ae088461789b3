//! `consume`: what is printed, and what is committed.

use std::{fs, ops::Range, process::Stdio};

use duralog::{Log, Record, Timestamp};
use serde_json::{Value, json};

use crate::cli::{Place, damage, lines_of, wait_until};

fn numbered(range: Range<usize>) -> Vec<String> {
    range.map(|number| format!("line {number}")).collect()
}

/// A log of lines `line 0`, `line 1` and so on, in batches of `batch`.
fn numbered_log(lines: usize, batch: &str) -> Place {
    let place = Place::new();
    let input = lines_of(numbered(0..lines));
    place.feed("produce", ["--batch", batch], input).done();
    place
}

/// Appends a record that has everything, and one without a value.
fn rich_log() -> Place {
    let place = Place::new();
    let log = Log::open(place.log()).unwrap();
    let producer = log.producer().build().unwrap();
    let full = Record::new("paid")
        .key("order-17")
        .header("trace", "af31")
        .header("trace", "af32")
        .timestamp(Timestamp::from_millis(1_234_567_890_123));
    producer.send(full).unwrap().wait().unwrap();
    producer
        .send(Record::tombstone("order-17"))
        .unwrap()
        .wait()
        .unwrap();
    drop(producer);
    log.close().unwrap();
    place
}

#[test]
fn a_group_goes_on_where_it_stopped() {
    let place = numbered_log(5, "1000");
    let ran = place.run("consume", ["--group", "g"]).done().silent();
    assert_eq!(ran.lines(), numbered(0..5));
    assert_eq!(place.committed("g"), 5);

    place.feed("produce", [], "line 5\nline 6\n").done();
    let ran = place.run("consume", ["--group", "g"]).done();
    assert_eq!(ran.lines(), ["line 5", "line 6"]);
    let ran = place.run("consume", ["--group", "g"]).done().silent();
    assert!(ran.stdout.is_empty());
}

#[test]
fn max_ends_within_a_batch_and_commits_just_that() {
    let place = numbered_log(10, "1000");
    for (max, committed) in [("3", 3), ("1", 4), ("100", 10)] {
        let ran = place.run("consume", ["--group", "g", "--max", max]).done();
        let before = committed - ran.lines().len();
        assert_eq!(ran.lines(), numbered(before..committed));
        assert_eq!(place.committed("g"), committed as u64);
    }
}

#[test]
fn commit_every_commits_while_the_command_goes_on() {
    let place = numbered_log(25, "1000");
    let consume = place.start(
        "consume",
        ["--group", "g", "--commit-every", "10", "--follow"],
    );
    assert_eq!(consume.take_lines(25), numbered(0..25));
    // The commits came before the last lines; the next one is not due.
    consume.kill();
    assert_eq!(place.committed("g"), 20);

    let ran = place
        .run("consume", ["--group", "g", "--commit-every", "3"])
        .done();
    assert_eq!(ran.lines(), numbered(20..25));
    assert_eq!(place.committed("g"), 25, "at the end, all is committed");
}

#[test]
fn commit_every_counts_across_batches() {
    let place = numbered_log(25, "4");
    let consume = place.start(
        "consume",
        ["--group", "g", "--commit-every", "10", "--follow"],
    );
    assert_eq!(consume.take_lines(25), numbered(0..25));
    consume.kill();
    assert_eq!(place.committed("g"), 20);
}

#[test]
fn without_commit_every_what_was_printed_is_committed_at_once() {
    let place = numbered_log(25, "1000");
    let consume = place.start("consume", ["--group", "g", "--follow"]);
    assert_eq!(consume.take_lines(25), numbered(0..25));
    wait_until("25 is committed", || place.committed("g") == 25);
    consume.kill();
    assert_eq!(place.committed("g"), 25);
}

#[test]
fn no_commit_neither_makes_nor_moves_nor_holds_a_group() {
    let place = numbered_log(5, "1000");
    let look = ["--group", "g", "--no-commit"];
    assert_eq!(place.run("consume", look).done().lines(), numbered(0..5));
    assert!(place.group("g").is_none());

    place.run("consume", ["--group", "g", "--max", "2"]).done();
    let holder = place.start("consume", ["--group", "g", "--follow", "--max", "100"]);
    assert_eq!(holder.take_lines(3), numbered(2..5));
    wait_until("5 is committed", || place.committed("g") == 5);
    place.feed("produce", [], "line 5\n").done();
    assert_eq!(holder.line(), "line 5");
    wait_until("6 is committed", || place.committed("g") == 6);
    let ran = place.run("consume", look).done().silent();
    assert!(ran.stdout.is_empty(), "it starts at the commit");
    holder.kill();
    assert_eq!(place.committed("g"), 6);

    let from = ["--group", "other", "--no-commit", "--from", "4"];
    assert_eq!(
        place.run("consume", from).done().lines(),
        ["line 4", "line 5"]
    );
}

#[test]
fn a_new_group_starts_where_it_is_told_to() {
    let place = numbered_log(5, "1");
    let start = |group: &str, from: &str| {
        let ran = place
            .run("consume", ["--group", group, "--from", from])
            .done()
            .silent();
        let count = ran.lines().len();
        assert_eq!(ran.lines(), numbered(5 - count..5), "--from {from}");
        assert_eq!(place.committed(group), 5);
        count
    };
    assert_eq!(start("a", "earliest"), 5);
    assert_eq!(start("b", "latest"), 0);
    assert_eq!(start("c", "3"), 2);
    assert_eq!(start("d", "5"), 0);
    assert_eq!(start("e", "@0"), 5);
    assert_eq!(start("f", "@99999999999999"), 0);

    let look = ["--group", "z", "--no-commit", "--format", "json"];
    let records = place.run("consume", look).done().json_lines();
    let times: Vec<_> = records
        .iter()
        .map(|record| record["timestamp"].as_i64().unwrap())
        .collect();
    let last = times[4];
    let since_last = times.iter().filter(|&&time| time >= last).count();
    assert_eq!(start("g", &format!("@{last}")), since_last);
}

#[test]
fn from_does_not_move_a_group_that_exists() {
    let place = numbered_log(5, "1000");
    place.run("consume", ["--group", "g", "--max", "2"]).done();
    let ran = place
        .run("consume", ["--group", "g", "--from", "earliest"])
        .done();
    assert_eq!(ran.lines(), numbered(2..5));
    ran.complained("group g exists and goes on from its commit, 2");
}

#[test]
fn an_offset_outside_the_log_is_no_start() {
    let place = numbered_log(5, "1000");
    for extra in [None, Some("--no-commit")] {
        let args: Vec<_> = ["--group", "g", "--from", "6"]
            .into_iter()
            .chain(extra)
            .collect();
        place
            .run("consume", args)
            .failed(1, "offset 6 is outside the log's 0 to 5");
    }
}

#[test]
fn json_shows_everything_there_is() {
    let place = rich_log();
    let ran = place
        .run("consume", ["--group", "g", "--format", "json"])
        .done();
    let [full, tombstone] = &ran.json_lines()[..] else {
        panic!("{ran:?}");
    };
    let expected = json!({
        "offset": 0,
        "timestamp": 1_234_567_890_123_i64,
        "key": "order-17",
        "value": "paid",
        "headers": [{"name": "trace", "value": "af31"}, {"name": "trace", "value": "af32"}],
    });
    assert_eq!(*full, expected);
    assert_eq!(
        (&tombstone["offset"], &tombstone["value"]),
        (&1.into(), &Value::Null)
    );
    assert!(
        tombstone["timestamp"].as_i64().unwrap() > 1_500_000_000_000,
        "of the append"
    );
    assert!(
        ran.lines()[0].starts_with(r#"{"offset":0,"timestamp":"#),
        "{ran:?}"
    );
}

#[test]
fn json_is_base64_as_a_whole_where_something_is_not_utf8() {
    let place = Place::new();
    let input = b"key=\xff\x00\nk\xfe=text\nkey=caf\xc3\xa9 \"1\"\\\t\n";
    place
        .feed("produce", ["--key-separator", "="], input)
        .done();
    let ran = place
        .run("consume", ["--group", "g", "--format", "json"])
        .done();
    let seen = |record: &Value| {
        ["encoding", "key", "value"].map(|name| record.get(name).cloned().unwrap_or_default())
    };
    let records: Vec<_> = ran.json_lines().iter().map(seen).collect();
    let expected = [
        [json!("base64"), json!("a2V5"), json!("/wA=")],
        [json!("base64"), json!("a/4="), json!("dGV4dA==")],
        [Value::Null, json!("key"), json!("caf\u{e9} \"1\"\\\t")],
    ];
    assert_eq!(records, expected);
}

#[test]
fn a_tombstone_is_an_empty_line() {
    let place = rich_log();
    let ran = place.run("consume", ["--group", "g"]).done();
    assert_eq!(ran.text(), "paid\n\n");
}

#[test]
fn follow_sees_every_line_of_a_live_produce_and_of_the_next_one() {
    let place = numbered_log(3, "1000");
    let consume = place.start("consume", ["--group", "g", "--follow"]);
    assert_eq!(consume.take_lines(3), numbered(0..3));
    let mut next = 3;
    for _ in 0..3 {
        let mut produce = place.start("produce", ["--segment-bytes", "8192"]);
        for count in [1, 2, 700] {
            let lines = numbered(next..next + count);
            produce.say(&lines_of(&lines));
            assert_eq!(consume.take_lines(count), lines);
            next += count;
        }
        let (status, _) = produce.end();
        assert!(status.success());
    }
    assert!(
        place.segments().len() > 1,
        "it followed from segment to segment"
    );
    consume.kill();
}

#[test]
fn durable_only_leaves_out_what_a_power_cut_could_take() {
    let place = Place::new();
    let hour = ["--acks", "written", "--flush-interval", "3600000"];
    let mut produce = place.start("produce", hour);
    produce.say("one\n");
    assert_eq!(produce.line(), "0");
    let durable = place
        .run("consume", ["--group", "durable", "--durable-only"])
        .done();
    assert_eq!(durable.text(), "");
    let written = place.run("consume", ["--group", "written"]).done();
    assert_eq!(written.text(), "one\n");

    let (status, _) = produce.end();
    assert!(status.success());
    let durable = place
        .run("consume", ["--group", "durable", "--durable-only"])
        .done();
    assert_eq!(durable.text(), "one\n");
}

#[test]
fn a_group_has_one_consumer_at_a_time() {
    let place = numbered_log(1, "1000");
    let first = place.start("consume", ["--group", "g", "--follow"]);
    assert_eq!(first.line(), "line 0");
    place
        .run("consume", ["--group", "g"])
        .failed(1, "group g has a live consumer already");
    place.run("consume", ["--group", "h"]).done();
    first.kill();
    place.run("consume", ["--group", "g"]).done();
}

#[test]
fn damage_is_a_gap_and_everything_else_is_served() {
    let place = numbered_log(20, "1");
    damage(&place.segments()[0], b"line 7");
    let rest = [numbered(0..7), numbered(8..20)].concat();

    let ran = place.run("consume", ["--group", "value"]).done();
    assert_eq!(ran.lines(), rest);
    let ran = ran.complained("gap: offsets 7 to 8 are missing (damage)");
    assert_eq!(ran.stderr.lines().count(), 1);

    let ran = place
        .run("consume", ["--group", "json", "--format", "json"])
        .done()
        .silent();
    let printed = ran.json_lines();
    assert_eq!(printed.len(), 20);
    assert_eq!(
        printed[7],
        json!({"gap": {"from": 7, "to": 8, "reason": "damage"}})
    );
    assert_eq!(printed[8]["offset"], 8);
    assert_eq!(place.committed("json"), 20);
}

#[test]
fn a_gap_is_told_again_until_a_commit_has_passed_it() {
    let place = numbered_log(3, "1");
    damage(&place.segments()[0], b"line 2");
    let args = ["--group", "g", "--format", "json"];
    let before = place
        .run("consume", [&args[..], &["--max", "2"]].concat())
        .done();
    assert_eq!(before.lines().len(), 2);
    let gap = json!({"gap": {"from": 2, "to": 3, "reason": "damage"}});
    let look = [&args[..], &["--no-commit"]].concat();
    assert_eq!(place.run("consume", look).done().json(), gap);
    assert_eq!(place.run("consume", args).done().json(), gap);
    assert_eq!(place.committed("g"), 3);
    assert_eq!(place.run("consume", args).done().text(), "");
}

#[test]
fn a_missing_segment_is_a_gap() {
    let place = Place::new();
    let input = lines_of(numbered(0..3_000));
    place
        .feed("produce", ["--segment-bytes", "8192"], input)
        .done();
    let segments = place.inspect()["segments"].as_array().unwrap().clone();
    let missing = &segments[segments.len() / 2];
    fs::remove_file(missing["path"].as_str().unwrap()).unwrap();
    let (from, to) = (&missing["base_offset"], &missing["end_offset"]);

    let ran = place
        .run("consume", ["--group", "g", "--format", "json"])
        .done();
    let (gaps, records): (Vec<_>, Vec<_>) = ran
        .json_lines()
        .into_iter()
        .partition(|line| line.get("gap").is_some());
    assert_eq!(
        gaps,
        [json!({"gap": {"from": from, "to": to, "reason": "damage"}})]
    );
    let lost = to.as_u64().unwrap() - from.as_u64().unwrap();
    assert_eq!(records.len() as u64, 3_000 - lost);
}

/// What a pipe holds, in lines of the shortest kind, and then some.
const PIPE_LINES: u64 = 20_000;

#[test]
fn a_closed_standard_output_ends_it_quietly_and_commits_only_what_was_flushed() {
    let place = numbered_log(100_000, "1000");
    let mut command = place.command("consume", ["--group", "g", "--commit-every", "100"]);
    let piped = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // Something was flushed by the time there is a commit.
    wait_until("something is committed", || {
        let group = place.group("g").unwrap_or_default();
        group["committed"]
            .as_u64()
            .is_some_and(|committed| committed > 0)
    });
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(
        ended.status.success() && ended.stderr.is_empty(),
        "{ended:?}"
    );

    let committed = place.committed("g");
    assert!((1..PIPE_LINES).contains(&committed), "{committed}");
    let rest = place.run("consume", ["--group", "g"]).done();
    assert_eq!(
        rest.lines(),
        numbered(usize::try_from(committed).unwrap()..100_000)
    );
}
