//! `inspect`, `verify` and `dump`: what they tell, and that they disturb nothing.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    process::Stdio,
};

use duralog::{Log, Record, Timestamp};
use serde_json::{Value, json};

use crate::cli::{Place, damage, lines_of};

fn keys(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// A log of 3,000 lines in small segments.
fn log_of_many_segments() -> Place {
    let place = Place::new();
    let input = lines_of((0..3_000).map(|number| format!("line {number}")));
    place
        .feed("produce", ["--segment-bytes", "8192"], input)
        .done();
    place
}

#[test]
fn inspect_tells_everything_as_json() {
    let place = Place::with_lines(&["one", "two", "three"]);
    place
        .run("consume", ["--group", "billing", "--max", "2"])
        .done();
    let seen = place.inspect();
    let expected = [
        "closed",
        "created",
        "durable_offset",
        "groups",
        "id",
        "log_end_offset",
        "log_start_offset",
        "lost_to_damage",
        "lost_to_drop_oldest",
        "lost_to_retention",
        "lost_to_tails",
        "options",
        "segments",
    ];
    assert_eq!(keys(&seen), expected);
    assert_eq!(seen["id"].as_str().unwrap().len(), 16);
    assert!(seen["created"].as_u64().unwrap() > 1_500_000_000_000);
    assert_eq!(seen["closed"], true);
    for (key, number) in [
        ("log_start_offset", 0),
        ("log_end_offset", 3),
        ("durable_offset", 3),
        ("lost_to_damage", 0),
        ("lost_to_tails", 0),
    ] {
        assert_eq!(seen[key], number, "{key}");
    }
    let options = json!({
        "segment_bytes": 64 << 20,
        "segment_age_ms": 7 * 24 * 60 * 60 * 1000,
        "max_record_bytes": 16 << 20,
        "flush_messages": null,
        "flush_interval_ms": 1000,
        "fsync": "data",
        "write_mode": "auto",
        "cleanup_policy": "delete",
        "tombstone_retention_ms": 24 * 60 * 60 * 1000,
        "min_compaction_lag_ms": 0,
        "min_dirty_ratio": 0.5,
        "compaction_memory": 128 << 20,
        "compaction_rate": 32 << 20,
            "retention_ms": null,
            "retention_bytes": null,
            "retention_segments": null,
            "group_retention": "drop",
            "excluded_groups": [],
            "groups_stale_after_ms": null,
            "when_full": "reject",
            "min_free_bytes": 0,
    });
    assert_eq!(seen["options"], options);
    inspect_tells_groups_and_segments(&seen, &place);
}

fn inspect_tells_groups_and_segments(seen: &Value, place: &Place) {
    let [group] = &seen["groups"].as_array().unwrap()[..] else {
        panic!("{seen}");
    };
    assert_eq!(
        keys(group),
        [
            "commit_time",
            "committed",
            "lag",
            "lag_age_ms",
            "lag_bytes",
            "lost",
            "metadata",
            "name"
        ]
    );
    assert_eq!(
        (&group["name"], &group["committed"]),
        (&"billing".into(), &2.into())
    );
    assert_eq!(group["lag"], 1);
    let [segment] = &seen["segments"].as_array().unwrap()[..] else {
        panic!("{seen}");
    };
    let path = &place.segments()[0];
    let expected = json!({
        "base_offset": 0,
        "end_offset": 3,
        "bytes": fs::metadata(path).unwrap().len(),
        "sealed": false,
        "path": path.to_str().unwrap(),
    });
    assert_eq!(*segment, expected);
}

#[test]
fn inspect_tells_everything_to_people() {
    let place = Place::with_lines(&["one", "two", "three"]);
    place
        .run("consume", ["--group", "billing", "--max", "2"])
        .done();
    let ran = place.run("inspect", []).done().silent();
    let expected = [
        "closed:            yes",
        "log end offset:    3",
        "durable offset:    3",
        "flush:             every 1s",
        "  billing: committed 2, lag 1 (",
        "  0 to 3, ",
    ];
    for line in expected {
        let found = ran.lines().iter().any(|printed| printed.starts_with(line));
        assert!(found, "{line}: {ran:?}");
    }
}

#[test]
fn a_group_that_cannot_be_read_is_told_and_is_damage() {
    let place = Place::with_lines(&["one"]);
    place.run("consume", ["--group", "g"]).done();
    let file = place.log().join("groups").join("g.offset");
    let mut bytes = fs::read(&file).unwrap();
    for slot in bytes.chunks_mut(4096) {
        slot[30] ^= 1;
    }
    fs::write(&file, bytes).unwrap();

    let group = place.group("g").unwrap();
    assert_eq!(
        (&group["committed"], &group["lag"]),
        (&Value::Null, &Value::Null)
    );
    assert!(
        group["error"]
            .as_str()
            .unwrap()
            .contains("checksum mismatch"),
        "{group}"
    );
    place.run("inspect", []).done();
    place.run("verify", []).code(3);
    place
        .run("consume", ["--group", "g", "--no-commit"])
        .failed(1, "checksum mismatch");
    let again = place.run("consume", ["--group", "g", "--from", "latest"]);
    assert_eq!(again.stdout, b"one\n");
    assert!(
        again.stderr.contains("checksum mismatch"),
        "{}",
        again.stderr
    );
    assert!(again.stderr.contains("it goes on at 0"), "{}", again.stderr);
    let group = place.group("g").unwrap();
    assert_eq!(group["committed"], 1, "it is whole again");
}

#[test]
fn a_live_log_can_be_looked_at() {
    let place = Place::new();
    let mut produce = place.start("produce", []);
    let mut end = 0;
    for _ in 0..5 {
        produce.say("one\ntwo\n");
        produce.take_lines(2);
        end += 2;
        let seen = place.inspect();
        assert_eq!(
            (&seen["closed"], &seen["log_end_offset"]),
            (&false.into(), &end.into())
        );
        let report = place.run("verify", ["--json"]).done().json();
        assert_eq!(
            (&report["damage"], &report["log_end_offset"]),
            (&json!([]), &end.into())
        );
        assert_eq!(place.run("dump", []).done().lines().len(), end);
    }
    let (status, _) = produce.end();
    assert!(status.success());
    assert_eq!(place.inspect()["closed"], true);
}

#[test]
fn looking_changes_no_file() {
    let place = log_of_many_segments();
    let content = || {
        let files = fs::read_dir(place.log())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.is_file()).collect();
        files.sort();
        let read = |path| (fs::read(&path).unwrap(), path);
        files.into_iter().map(read).collect::<Vec<_>>()
    };
    let before = content();
    for (name, args) in [
        ("inspect", &[][..]),
        ("verify", &[]),
        ("dump", &[]),
        ("consume", &["--group", "g", "--no-commit"]),
    ] {
        place.run(name, args).done();
    }
    assert!(before == content());
}

#[test]
fn verify_finds_nothing_wrong_with_a_whole_log() {
    let place = log_of_many_segments();
    let report = place.run("verify", ["--json"]).done().silent().json();
    let expected = [
        "bytes",
        "compressed_frames",
        "damage",
        "durable_offset",
        "frames",
        "log_end_offset",
        "log_start_offset",
        "segments",
        "undecoded_frames",
        "unproven_bytes",
    ];
    assert_eq!(keys(&report), expected);
    assert_eq!(report["segments"], place.segments().len());
    assert_eq!(
        (&report["damage"], &report["unproven_bytes"]),
        (&json!([]), &0.into())
    );
    assert_eq!(
        (&report["log_end_offset"], &report["durable_offset"]),
        (&3000.into(), &3000.into())
    );

    let ran = place.run("verify", []).done();
    assert!(
        ran.text()
            .contains("offsets: 0 to 3000, durable below 3000\n"),
        "{ran:?}"
    );
    assert!(ran.text().ends_with("damaged places: 0\n"), "{ran:?}");
}

#[test]
fn verify_lists_each_damage_and_ends_with_status_3() {
    let place = log_of_many_segments();
    let segments = place.segments();
    damage(&segments[1], b"line");
    damage(segments.last().unwrap(), b"line");

    let report = place.run("verify", ["--json"]).code(3).silent().json();
    let damages = report["damage"].as_array().unwrap();
    assert_eq!(damages.len(), 2, "{report}");
    for (damage, path) in damages.iter().zip([&segments[1], segments.last().unwrap()]) {
        assert_eq!(keys(damage), ["from", "path", "position", "reason", "to"]);
        assert_eq!(damage["path"], path.to_str().unwrap());
        assert!(damage["from"].as_u64() < damage["to"].as_u64(), "{damage}");
        assert!(
            damage["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty())
        );
    }

    let ran = place.run("verify", []).code(3).silent();
    let told = ran
        .lines()
        .iter()
        .filter(|line| line.starts_with("damage: "))
        .count();
    assert_eq!(told, 2);
    assert!(ran.text().ends_with("damaged places: 2\n"), "{ran:?}");
}

#[test]
fn verify_finds_a_missing_segment() {
    let place = log_of_many_segments();
    let segments = place.inspect()["segments"].as_array().unwrap().clone();
    let missing = &segments[segments.len() / 2];
    fs::remove_file(missing["path"].as_str().unwrap()).unwrap();
    let report = place.run("verify", ["--json"]).code(3).json();
    let [damage] = &report["damage"].as_array().unwrap()[..] else {
        panic!("{report}");
    };
    assert_eq!(damage["from"], missing["base_offset"]);
    assert_eq!(damage["to"], missing["end_offset"]);
}

#[test]
fn bytes_behind_the_last_record_are_mentioned_and_are_no_damage() {
    let place = Place::with_lines(&["one"]);
    let mut segment = OpenOptions::new()
        .append(true)
        .open(&place.segments()[0])
        .unwrap();
    segment.write_all(&[7; 20]).unwrap();
    let report = place.run("verify", ["--json"]).done().json();
    assert_eq!(
        (&report["unproven_bytes"], &report["damage"]),
        (&20.into(), &json!([]))
    );
    let ran = place.run("verify", []).done();
    assert!(
        ran.text()
            .contains("unproven: 20 bytes behind the last record\n"),
        "{ran:?}"
    );
}

#[test]
fn verify_tells_damage_even_to_nobody() {
    let place = Place::with_lines(&["one"]);
    damage(&place.segments()[0], b"one");
    let mut child = place
        .command::<&str>("verify", [])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn dump_starts_and_ends_where_it_is_told_to() {
    let place = Place::with_lines(&["a", "b", "c", "d"]);
    let offsets = |args: &[&str]| -> Vec<u64> {
        let ran = place
            .run("dump", [&["--json"], args].concat())
            .done()
            .silent();
        let records = ran.json_lines();
        records
            .iter()
            .map(|record| record["offset"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(offsets(&[]), [0, 1, 2, 3]);
    assert_eq!(offsets(&["--from", "2"]), [2, 3]);
    assert_eq!(offsets(&["--max", "1"]), [0]);
    assert_eq!(offsets(&["--from", "1", "--max", "2"]), [1, 2]);
    assert!(offsets(&["--from", "4"]).is_empty());
    place
        .run("dump", ["--from", "5"])
        .failed(1, "offset 5 is outside the log's 0 to 4");
}

#[test]
fn dump_shows_all_that_is_stored() {
    let place = Place::new();
    let log = Log::open(place.log()).unwrap();
    let producer = log.producer().build().unwrap();
    let full = Record::new(b"it's \"\xff\"\n")
        .key("order-17")
        .header("trace", "af31")
        .timestamp(Timestamp::from_millis(86_400_000));
    producer.send(full).unwrap().wait().unwrap();
    producer
        .send(Record::tombstone("k"))
        .unwrap()
        .wait()
        .unwrap();
    drop(producer);
    log.close().unwrap();

    let ran = place.run("dump", []).done().silent();
    let [full, tombstone] = ran.lines()[..] else {
        panic!("{ran:?}");
    };
    assert!(full.starts_with("0  20"), "{full}");
    let rest = r#"  time 1970-01-02T00:00:00.000Z  key "order-17"  value "it's \"\xff\"\n"  header "trace"="af31""#;
    assert!(full.ends_with(rest), "{full}");
    assert!(
        tombstone.ends_with(r#"Z  key "k"  tombstone"#),
        "{tombstone}"
    );

    let records = place.run("dump", ["--json"]).done().json_lines();
    let expected = [
        "append_time",
        "compression",
        "encoding",
        "headers",
        "key",
        "offset",
        "own_timestamp",
        "timestamp",
        "value",
    ];
    assert_eq!(keys(&records[0]), expected);
    assert_eq!(records[0]["own_timestamp"], 86_400_000);
    assert_eq!(records[0]["timestamp"], 86_400_000);
    assert_eq!(records[1]["own_timestamp"], Value::Null);
    assert_eq!(records[1]["timestamp"], records[1]["append_time"]);
}

#[test]
fn dump_shows_gaps_where_they_are() {
    let place = Place::new();
    place
        .feed("produce", ["--batch", "1"], "alpha\nbeta\ngamma\n")
        .done();
    damage(&place.segments()[0], b"beta");
    let ran = place.run("dump", []).done().silent();
    assert_eq!(ran.lines()[1], "gap: offsets 1 to 2 are missing (damage)");
    assert_eq!(ran.lines().len(), 3);
    let ran = place.run("dump", ["--json"]).done().silent();
    let gap = json!({"gap": {"from": 1, "to": 2, "reason": "damage"}});
    assert_eq!(ran.json_lines()[1], gap);
}
