//! `duralog groups`.

use std::process::Stdio;

use serde_json::Value;

use crate::cli::{Place, Ran, finish};

fn listed(place: &Place) -> Vec<Value> {
    place.run("groups", ["--json"]).done().json_lines()
}

/// `duralog groups ACTION LOG --group GROUP ...`
fn act<'a>(place: &Place, action: &str, group: &str, more: impl AsRef<[&'a str]>) -> Ran {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_duralog"));
    command.args(["groups", action]).arg(place.log());
    command.args(["--group", group]).args(more.as_ref());
    finish(command.stdin(Stdio::null()))
}

#[test]
fn groups_are_listed_as_json_and_for_people() {
    let place = Place::with_lines(&["one", "two", "three"]);
    place.run("groups", []).done();
    assert!(listed(&place).is_empty());
    place
        .run("consume", ["--group", "zebra", "--max", "1"])
        .done();
    place.run("consume", ["--group", "audit"]).done();
    let groups = listed(&place);
    let told: Vec<_> = groups
        .iter()
        .map(|group| {
            (
                group["name"].as_str().unwrap(),
                group["committed"].as_u64(),
                group["lag"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [("audit", Some(3), Some(0)), ("zebra", Some(1), Some(2))]
    );
    let zebra = &groups[1];
    assert!(zebra["lag_bytes"].as_u64().unwrap() >= 8);
    assert!(zebra["lag_age_ms"].is_u64() && zebra["commit_time"].is_u64());
    assert_eq!(
        (&zebra["lost"]["damage"], &zebra["metadata"]),
        (&0.into(), &"".into())
    );
    let people = place.run("groups", []).done();
    let text = String::from_utf8(people.stdout).unwrap();
    assert!(text.contains("zebra: committed 1, lag 2 ("), "{text}");
}

#[test]
fn a_group_is_reset_and_the_new_offset_is_printed() {
    let place = Place::with_lines(&["one", "two", "three"]);
    place.run("consume", ["--group", "g"]).done();
    for (to, offset) in [
        ("earliest", "0\n"),
        ("latest", "3\n"),
        ("1", "1\n"),
        ("@0", "0\n"),
    ] {
        let ran = act(&place, "reset", "g", ["--to", to]).done();
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), offset, "{to}");
    }
    act(&place, "reset", "g", ["--to", "2"]).done();
    let rest = place.run("consume", ["--group", "g"]).done();
    assert_eq!(rest.stdout, b"three\n");
    act(&place, "reset", "g", ["--to", "4"]).failed(1, "offset 4 is outside");
    act(&place, "reset", "nobody", ["--to", "0"]).failed(1, "there is no group nobody");
    act(&place, "reset", "g", ["--to", "soon"]).failed(2, "expected earliest, latest");
    act(&place, "reset", "../meta", ["--to", "0"]).failed(2, "invalid name");
}

#[test]
fn a_group_is_deleted() {
    let place = Place::with_lines(&["one"]);
    place.run("consume", ["--group", "g"]).done();
    act(&place, "delete", "g", []).done();
    assert!(listed(&place).is_empty());
    act(&place, "delete", "g", []).failed(1, "there is no group g");
    assert_eq!(
        place.run("consume", ["--group", "g"]).done().stdout,
        b"one\n"
    );
}

#[test]
fn groups_are_managed_beside_a_live_writer_but_not_those_that_are_held() {
    let place = Place::new();
    let mut produce = place.start("produce", []);
    produce.say("one\ntwo\n");
    produce.take_lines(2);
    let consume = place.start("consume", ["--group", "held", "--follow"]);
    consume.take_lines(2);
    act(&place, "reset", "held", ["--to", "0"]).failed(1, "has a live consumer");
    act(&place, "delete", "held", []).failed(1, "has a live consumer");
    place.run("consume", ["--group", "free"]).done();
    act(&place, "reset", "free", ["--to", "0"]).done();
    assert_eq!(
        place.run("consume", ["--group", "free"]).done().stdout,
        b"one\ntwo\n"
    );
}
