//! `produce`: what becomes of lines.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::cli::{Place, damage, finish, lines_of};

/// The offsets from 0 to `end`, a line each.
fn offsets(end: usize) -> String {
    lines_of(0..end)
}

fn numbered_lines(count: usize) -> String {
    lines_of((0..count).map(|number| format!("line {number}")))
}

/// Everything in the log, as `consume` prints it.
fn values(place: &Place) -> Vec<u8> {
    place
        .run("consume", ["--group", "all", "--no-commit"])
        .done()
        .stdout
}

#[test]
fn each_line_is_a_record_and_its_offset_is_printed() {
    let place = Place::new();
    let ran = place
        .feed("produce", [], "one\ntwo\nthree\n")
        .done()
        .silent();
    assert_eq!(ran.text(), "0\n1\n2\n");
    let ran = place.feed("produce", [], "four\n").done().silent();
    assert_eq!(ran.text(), "3\n");
    assert_eq!(values(&place), b"one\ntwo\nthree\nfour\n");
}

#[test]
fn a_named_producer_appends_only_the_lines_that_are_missing() {
    let place = Place::new();
    let import = |input: &str, more: &[&str]| {
        let args = [&["--producer", "importer"], more].concat();
        place.feed("produce", args, input).done()
    };
    let ran = import("one\ntwo\n", &[]).silent();
    assert_eq!(ran.text(), "0\n1\n");
    let ran = import("one\ntwo\nthree\nfour\n", &[]);
    assert_eq!(ran.text(), "2\n3\n");
    ran.complained("2 lines were in the log before");
    let ran = import("one\ntwo\nthree\nfour\n", &["--quiet", "--batch", "1"]);
    assert_eq!(ran.text(), "records: 0\n");
    ran.complained("4 lines were in the log before");
    assert_eq!(values(&place), b"one\ntwo\nthree\nfour\n");
}

#[test]
fn a_last_line_without_a_newline_is_a_record() {
    let place = Place::new();
    let ran = place.feed("produce", [], "one\ntwo").done();
    assert_eq!(ran.text(), "0\n1\n");
    assert_eq!(values(&place), b"one\ntwo\n");
}

#[test]
fn an_empty_line_is_an_empty_record() {
    let place = Place::new();
    let ran = place.feed("produce", [], "\n\none\n\n").done();
    assert_eq!(ran.text(), "0\n1\n2\n3\n");
    assert_eq!(values(&place), b"\n\none\n\n");
}

#[test]
fn any_byte_but_the_newline_may_stand_in_a_line() {
    let place = Place::new();
    let all: Vec<u8> = (0..=u8::MAX).filter(|&byte| byte != b'\n').collect();
    let input = [&all[..], b"\n\0\n\r\n", &all, b"\n"].concat();
    let ran = place.feed("produce", [], &input).done();
    assert_eq!(ran.text(), "0\n1\n2\n3\n");
    assert_eq!(values(&place), input);
}

#[test]
fn without_lines_a_log_is_made_and_nothing_is_printed() {
    let place = Place::new();
    let ran = place.feed("produce", [], "").done().silent();
    assert_eq!(ran.text(), "");
    assert_eq!(place.inspect()["log_end_offset"], 0);
}

#[test]
fn every_ack_level_prints_every_offset() {
    for acks in ["none", "written", "durable"] {
        for batch in ["1", "1000"] {
            let place = Place::new();
            let args = ["--acks", acks, "--batch", batch];
            let ran = place
                .feed("produce", args, numbered_lines(2_500))
                .done()
                .silent();
            assert_eq!(ran.text(), offsets(2_500), "{args:?}");
            assert_eq!(values(&place), numbered_lines(2_500).as_bytes());
        }
    }
}

#[test]
fn a_batch_closes_at_as_many_lines_as_asked_for() {
    for (batch, frames) in [("1", 50), ("7", 8), ("50", 1), ("1000", 1)] {
        let place = Place::new();
        place
            .feed("produce", ["--batch", batch], numbered_lines(50))
            .done();
        let report = place.run("verify", ["--json"]).done().json();
        assert_eq!(report["frames"], frames, "--batch {batch}");
    }
}

#[test]
fn a_batch_closes_when_the_input_pauses_even_within_a_line() {
    let place = Place::new();
    let mut produce = place.start("produce", []);
    produce.say("one\ntwo\nthr");
    assert_eq!(produce.take_lines(2), ["0", "1"]);
    assert_eq!(values(&place), b"one\ntwo\n");
    produce.say("ee\nfour");
    assert_eq!(produce.line(), "2");
    let (status, rest) = produce.end();
    assert!(status.success());
    assert_eq!(rest, ["3"]);
    assert_eq!(values(&place), b"one\ntwo\nthree\nfour\n");
}

#[test]
fn lines_that_linger_share_a_batch_with_those_that_come_later() {
    let place = Place::new();
    let mut produce = place.start("produce", ["--linger", "600000", "--batch", "3"]);
    for line in ["one\n", "two\n", "three\n"] {
        produce.say(line);
    }
    assert_eq!(produce.take_lines(3), ["0", "1", "2"]);
    let (status, _) = produce.end();
    assert!(status.success());
    let verified = place.run("verify", ["--json"]).done().json();
    assert_eq!(verified["frames"], 1);
}

#[test]
fn lines_longer_than_a_batch_are_records_too() {
    let place = Place::new();
    let long = "x".repeat(3 << 20);
    let input = format!("short\n{long}\nshort\n{long}");
    let ran = place.feed("produce", [], &input).done();
    assert_eq!(ran.text(), offsets(4));
    assert_eq!(values(&place), format!("{input}\n").as_bytes());
}

#[test]
fn a_line_longer_than_the_limit_is_named_and_all_before_it_are_sent() {
    let place = Place::new();
    place
        .feed("produce", ["--segment-bytes", "8192"], "")
        .done();
    let limit = place.inspect()["options"]["max_record_bytes"]
        .as_u64()
        .unwrap();
    let longest = "x".repeat(usize::try_from(limit).unwrap());

    let input = format!("one\n\n{longest}\n{longest}y\nfive\n");
    let ran = place.feed("produce", [], input).failed(1, "line 4");
    assert!(ran.stderr.contains(&limit.to_string()), "{ran:?}");
    assert_eq!(ran.text(), "0\n1\n2\n");
    assert_eq!(values(&place), format!("one\n\n{longest}\n").as_bytes());
}

#[test]
fn a_line_that_does_not_fit_with_its_key_is_named() {
    let place = Place::new();
    place
        .feed("produce", ["--segment-bytes", "8192"], "")
        .done();
    let limit = place.inspect()["options"]["max_record_bytes"]
        .as_u64()
        .unwrap();
    let value = "x".repeat(usize::try_from(limit).unwrap() - 2);

    let input = format!("a=b\nk={value}\n");
    let args = ["--key-separator", "="];
    let ran = place
        .feed("produce", args, input)
        .failed(1, "cannot append line 2: a record of");
    assert_eq!(ran.text(), "0\n");
}

#[test]
fn a_key_stands_before_the_first_separator() {
    let place = Place::new();
    let input = "k=v\nnone\n=v\nk=\na=b=c\n=\n";
    place
        .feed("produce", ["--key-separator", "="], input)
        .done();
    let ran = place
        .run("consume", ["--group", "g", "--format", "json"])
        .done();
    let pairs: Vec<_> = ran
        .json_lines()
        .iter()
        .map(|record| format!("{}={}", record["key"], record["value"]))
        .collect();
    let expected = [
        r#""k"="v""#,
        r#"null="none""#,
        r#"""="v""#,
        r#""k"="""#,
        r#""a"="b=c""#,
        r#"""="""#,
    ];
    assert_eq!(pairs, expected);
}

#[test]
fn a_separator_may_be_longer_than_a_byte() {
    let place = Place::new();
    place
        .feed("produce", ["--key-separator", "::"], "a:b::c::d\n")
        .done();
    let ran = place
        .run("consume", ["--group", "g", "--format", "json"])
        .done();
    let record = ran.json();
    assert_eq!(
        (&record["key"], &record["value"]),
        (&"a:b".into(), &"c::d".into())
    );
}

#[test]
fn quiet_prints_a_summary_instead_of_offsets() {
    let place = Place::with_lines(&["earlier"]);
    let ran = place
        .feed("produce", ["--quiet"], numbered_lines(20))
        .done()
        .silent();
    assert_eq!(
        ran.text(),
        "records: 20, first offset: 1, last offset: 20\n"
    );
    let ran = place.feed("produce", ["--quiet"], "").done();
    assert_eq!(ran.text(), "records: 0\n");
}

#[test]
fn quiet_sums_up_what_was_sent_before_a_failure_too() {
    let place = Place::new();
    let input = format!("one\ntwo\n{}\n", "x".repeat(10_000));
    let args = ["--quiet", "--segment-bytes", "8192"];
    let ran = place.feed("produce", args, input).failed(1, "line 3");
    assert_eq!(ran.text(), "records: 2, first offset: 0, last offset: 1\n");
}

#[test]
fn options_given_once_are_kept_in_the_log() {
    let place = Place::new();
    let args = ["--flush-messages", "10", "--segment-bytes", "65536"];
    place.feed("produce", args, "one\n").done();
    place.feed("produce", [], "two\n").done();
    let options = &place.inspect()["options"];
    assert_eq!(options["flush_messages"], 10);
    assert!(options["flush_interval_ms"].is_null());
    assert_eq!(options["segment_bytes"], 65_536);

    place
        .feed("produce", ["--flush-interval", "250"], "")
        .done();
    let options = &place.inspect()["options"];
    assert!(options["flush_messages"].is_null());
    assert_eq!(options["flush_interval_ms"], 250);

    let both = ["--flush-messages", "3", "--flush-interval", "7"];
    place.feed("produce", both, "").done();
    let options = &place.inspect()["options"];
    assert_eq!(
        (&options["flush_messages"], &options["flush_interval_ms"]),
        (&3.into(), &7.into())
    );
}

#[test]
fn small_segments_hold_any_number_of_lines() {
    let place = Place::new();
    let input = numbered_lines(5_000);
    let ran = place
        .feed("produce", ["--segment-bytes", "8192"], &input)
        .done();
    assert_eq!(ran.text(), offsets(5_000));
    assert!(place.segments().len() > 5);
    assert_eq!(values(&place), input.as_bytes());
}

#[test]
fn a_second_writer_is_refused_while_the_first_goes_on() {
    let place = Place::new();
    let mut first = place.start("produce", []);
    first.say("one\n");
    assert_eq!(first.line(), "0");
    let second = place
        .feed("produce", [], "two\n")
        .failed(1, "is open in another writer");
    assert_eq!(second.text(), "");
    first.say("three\n");
    assert_eq!(first.line(), "1");
    let (status, _) = first.end();
    assert!(status.success());
    assert_eq!(values(&place), b"one\nthree\n");
}

#[test]
fn a_closed_standard_output_is_a_failure_because_lines_are_left() {
    let place = Place::new();
    let mut command = place.command("produce", ["--batch", "10"]);
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    let feed = std::thread::spawn(move || {
        use std::io::Write;
        while stdin.write_all(numbered_lines(100).as_bytes()).is_ok() {}
    });
    let ended = child.wait_with_output().unwrap();
    feed.join().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(
        stderr.contains("cannot write to standard output"),
        "{stderr}"
    );
}

#[test]
fn an_input_that_cannot_be_read_is_a_failure() {
    let place = Place::new();
    let directory = fs::File::open(std::env::temp_dir()).unwrap();
    let mut command = place.command::<&str>("produce", []);
    let ended = command.stdin(directory).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    // With the cause that the operating system gave.
    assert!(
        stderr.starts_with("duralog: cannot read standard input: "),
        "{stderr}"
    );
}

#[test]
fn what_opening_finds_is_told_on_standard_error() {
    let place = Place::new();
    let mut killed = place.start("produce", []);
    for (offset, line) in ["alpha\n", "beta\n", "gamma\n"].iter().enumerate() {
        killed.say(line);
        assert_eq!(killed.line(), offset.to_string());
    }
    killed.kill();
    damage(&place.segments()[0], b"beta");

    let ran = place
        .feed("produce", [], "delta\n")
        .done()
        .complained("damage: ");
    assert!(ran.stderr.contains("offsets 1 to 2 lost"), "{ran:?}");
    assert_eq!(ran.text(), "3\n");
    assert_eq!(values(&place), b"alpha\ngamma\ndelta\n");
}

#[test]
fn a_full_disk_is_told_and_what_was_acknowledged_is_there() {
    /// Sets the largest size of a file, in blocks of 512 bytes, for the command that follows.
    const LIMITED: &str = "ulimit -f 600; trap '' XFSZ; exec \"$@\"";
    let place = Place::new();
    let produce = place.command("produce", ["--batch", "10", "--segment-bytes", "1048576"]);
    let input = place.file("input", numbered_lines(100_000));
    let mut shell = Command::new("sh");
    shell
        .args(["-c", LIMITED, "sh"])
        .arg(produce.get_program())
        .args(produce.get_args());
    let ran = finish(shell.stdin(input)).failed(1, "cannot append lines ");
    assert!(ran.stderr.contains("no space left"), "{ran:?}");

    let printed = ran.lines().len();
    assert!(printed > 0 && ran.text() == offsets(printed));
    let found = String::from_utf8(values(&place)).unwrap();
    let lines = found.lines().count();
    assert!(lines >= printed);
    assert!(found == numbered_lines(lines));
    let more = place.feed("produce", [], "more\n").done();
    assert_eq!(more.text(), format!("{lines}\n"));
}
