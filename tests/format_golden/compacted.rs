//! A compacted log, byte by byte. When it was compacted is told by a clock that nobody steers, so
//! these bytes are only read: by the second reader, and by the library; and what the library writes
//! now is read by the second reader.

use std::{collections::BTreeMap, fs, path::Path};

use duralog::{Log, Record};

use super::{Files, expected, from_text, lay_out, reader, scenario};

const FIXTURE: &str = include_str!("../fixtures/compacted_2.txt");
/// Two that were compacted, of which the second one has no record left; one of which nothing went;
/// and the active one.
const SEGMENTS: [&str; 4] = [
    "00000000000000000000.log",
    "00000000000000000013.log",
    "00000000000000000014.log",
    "00000000000000000015.log",
];

/// What was sent, each as one frame: a batch, a few alone, a tombstone, and thrice one that fills a
/// segment.
fn sends() -> Vec<Vec<Record>> {
    let keyed = |key: &str, value: &str| Record::new(value).key(key);
    let batch = (0..9).map(|n| keyed(&format!("key-{n}"), &format!("of the batch, {n}")));
    let large = |fill| vec![Record::new(vec![fill; 6_800]).key("large")];
    vec![
        batch.collect(),
        vec![keyed("key-1", "alone")],
        vec![keyed("key-8", "alone").header("trace", "af31")],
        vec![Record::tombstone("key-0")],
        vec![keyed("key-1", "again")],
        large(b'x'),
        large(b'y'),
        large(b'z'),
        vec![keyed("new", "in the active segment")],
    ]
}

/// The offsets of those that are left.
const LEFT: [u64; 12] = [2, 3, 4, 5, 6, 7, 10, 11, 12, 14, 15, 16];

fn written_now() -> Files {
    let temp = tempfile::tempdir().unwrap();
    let log = scenario::open_compacted(temp.path());
    let producer = log.producer().build().unwrap();
    for records in &sends() {
        match records.as_slice() {
            [record] => producer.send(record).unwrap().wait().unwrap(),
            records => producer.send_batch(records).unwrap().wait().unwrap(),
        };
    }
    assert_eq!(log.compact().unwrap().replaced, 2);
    drop(producer);
    log.close().unwrap();
    let read = |name: &str| (name.to_owned(), fs::read(temp.path().join(name)).unwrap());
    let files = ["meta", "checkpoint"].into_iter().chain(SEGMENTS);
    files.map(read).collect()
}

#[test]
#[ignore = "rewrites the fixture; review the difference as hex"]
fn write_the_fixture_of_a_compacted_log() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compacted_2.txt");
    fs::write(path, super::to_text(&written_now())).unwrap();
}

fn is_as_it_should_be(files: &Files) {
    let segments = SEGMENTS.map(|name| reader::segment(&files[name]).0);
    let sent: BTreeMap<_, _> = (0..).zip(sends().concat()).collect();
    let found: Vec<_> = segments.iter().flat_map(|s| &s.records).collect();
    let offsets: Vec<_> = found.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, LEFT);
    for record in found {
        let as_sent = expected(&sent[&record.offset], record.offset, record.append_time);
        assert_eq!(*record, as_sent);
    }
    let [first, second, third, active] = &segments;
    let (one, two) = (first.compacted.unwrap(), second.compacted.unwrap());
    assert_eq!((one.end, one.tombstones), (13, 1));
    assert_eq!((two.end, two.tombstones), (14, 0));
    assert!(one.cleaned >= one.last_time && two.cleaned >= two.last_time);
    assert_eq!(two.frames_end, 1024);
    assert_eq!((third.compacted, active.compacted), (None, None));
    assert!(first.id != second.id && second.id != third.id);
    let payload = reader::slots(&files["checkpoint"], *b"dlogCHK\n").0;
    let checkpoint = reader::checkpoint(payload);
    assert_eq!(checkpoint.compacted, Some((15, u64::MAX)));
    let meta = reader::meta(reader::slots(&files["meta"], *b"dlogMET\n").0);
    let options = [
        (32, vec![2]),
        (33, vec![60_000]),
        (34, vec![0]),
        (35, vec![250_000]),
        (36, vec![1 << 20]),
        (37, vec![1 << 21]),
    ];
    assert!(meta.options.ends_with(&options), "{:?}", meta.options);
}

#[test]
fn the_text_of_the_format_suffices_to_read_a_compacted_log() {
    is_as_it_should_be(&from_text(FIXTURE));
}

#[test]
fn what_is_compacted_now_is_as_it_was() {
    is_as_it_should_be(&written_now());
}

#[test]
fn a_log_that_was_compacted_is_read_and_nothing_is_wrong_with_it() {
    let files = from_text(FIXTURE);
    let temp = tempfile::tempdir().unwrap();
    lay_out(&files, temp.path());
    let look = Log::open_read_only(temp.path()).unwrap();
    assert_eq!(look.verify().unwrap().damage, []);
    let segments = SEGMENTS.map(|name| reader::segment(&files[name]).0);
    let expected: Vec<_> = segments.into_iter().flat_map(|s| s.records).collect();
    let log = scenario::open(temp.path());
    assert!(log.recovery().clean);
    assert_eq!(super::read_all(&log), expected);
}
