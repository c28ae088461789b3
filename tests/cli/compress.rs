//! What `produce` compresses, the other commands read, and show as such.

use crate::cli::Place;
#[cfg(feature = "lz4")]
use crate::cli::lines_of;

#[test]
#[cfg(feature = "lz4")]
fn what_is_produced_compressed_is_consumed_verified_and_dumped() {
    let place = Place::new();
    let lines = lines_of((0..2_000).map(|number| format!("a line of text, number {number}")));
    let args = ["--compression", "lz4", "--batch", "500"];
    place.feed("produce", args, &lines).done();
    place.feed("produce", [], "alone\n").done();
    let consumed = place.run("consume", ["--group", "g"]).done();
    assert_eq!(consumed.stdout, [lines.as_bytes(), b"alone\n"].concat());

    let stored = std::fs::metadata(&place.segments()[0]).unwrap().len();
    assert!(stored * 3 < lines.len() as u64, "{stored} bytes");
    let report = &place.run("verify", ["--json"]).done().json_lines()[0];
    assert_eq!(report["compressed_frames"], 4);
    assert_eq!(report["undecoded_frames"], 0);
    let shown = place.run("verify", []).done();
    assert!(shown.lines().contains(&"compressed: 4 frames"), "{shown:?}");

    let records = place.run("dump", ["--json"]).done().json_lines();
    assert_eq!(records[1_999]["compression"], "lz4");
    assert_eq!(records[2_000]["compression"], "none");
    let shown = place.run("dump", ["--from", "1999"]).done();
    assert!(shown.lines()[0].contains("  lz4  value"), "{shown:?}");
    assert!(!shown.lines()[1].contains("lz4"), "{shown:?}");
}

#[test]
#[cfg(not(feature = "lz4"))]
fn a_build_that_cannot_compress_says_so_before_it_makes_a_log() {
    let place = Place::new();
    let args = ["--compression", "lz4"];
    let ran = place.feed("produce", args, "line\n").code(2);
    assert!(ran.stderr.contains("feature `lz4`"), "{ran:?}");
    assert!(!place.log().exists());
}

#[test]
fn produce_takes_no_compression_that_there_is_not() {
    let place = Place::new();
    let args = ["--compression", "zip"];
    place.feed("produce", args, "line\n").code(2);
}
