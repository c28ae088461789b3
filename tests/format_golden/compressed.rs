//! Compressed records, byte by byte. What they are compressed to may differ from one version of
//! the compressor to the next, so these bytes are only read: by the second reader, and by the
//! library, which says by name what it lacks where it was built without the feature.

#[cfg(feature = "lz4")]
use std::{fs, path::Path};

use duralog::{Log, Record, Timestamp};

use super::{Files, expected, from_text, lay_out, reader, scenario};

const FIXTURE: &str = include_str!("../fixtures/compressed_1.txt");
const SEGMENT: &str = "00000000000000000000.log";

/// What was sent: the first and the last of them uncompressed.
fn sends() -> Vec<Vec<Record>> {
    let line = |number| {
        Record::new(format!("a line of text, number {number} of twenty"))
            .key("order-17")
            .timestamp(Timestamp::from_millis(number))
    };
    vec![
        vec![Record::new("before")],
        (1..=20).map(line).collect(),
        vec![Record::new("again and ".repeat(200))],
        vec![Record::new("behind")],
    ]
}

fn files() -> Files {
    from_text(FIXTURE)
}

fn laid_out() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    lay_out(&files(), temp.path());
    temp
}

#[test]
#[cfg(feature = "lz4")]
#[ignore = "rewrites the fixture; review the difference as hex"]
fn write_the_fixture_of_compressed_records() {
    use duralog::Compression;
    let temp = tempfile::tempdir().unwrap();
    let log = scenario::open_as_made(temp.path());
    for (number, records) in sends().iter().enumerate() {
        let compression = match number {
            1 | 2 => Compression::Lz4,
            _ => Compression::None,
        };
        let producer = log.producer().compression(compression).build().unwrap();
        match records.as_slice() {
            [record] => producer.send(record).unwrap().wait().unwrap(),
            records => producer.send_batch(records).unwrap().wait().unwrap(),
        };
    }
    log.close().unwrap();
    let read = |name: &str| (name.to_owned(), fs::read(temp.path().join(name)).unwrap());
    let files = ["meta", "checkpoint", SEGMENT].map(read).into();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compressed_1.txt");
    fs::write(path, super::to_text(&files)).unwrap();
}

#[test]
fn the_text_of_the_format_suffices_to_read_compressed_records() {
    let (segment, parts) = reader::segment(&files()[SEGMENT]);
    let compressed = parts.iter().filter(|(name, _)| name.contains("lz4"));
    assert_eq!(compressed.count(), 2);
    let sent = sends().concat();
    assert_eq!(segment.records.len(), sent.len());
    for ((record, found), offset) in sent.iter().zip(&segment.records).zip(0..) {
        assert_eq!(*found, expected(record, offset, found.append_time));
    }
}

#[test]
#[cfg(feature = "lz4")]
fn a_log_of_compressed_records_is_read() {
    let dir = laid_out();
    let look = Log::open_read_only(dir.path()).unwrap();
    let report = look.verify().unwrap();
    assert_eq!(report.damage, []);
    assert_eq!((report.compressed_frames, report.undecoded_frames), (2, 0));
    let (segment, _) = reader::segment(&files()[SEGMENT]);
    assert_eq!(
        super::read_all(&scenario::open(dir.path())),
        segment.records
    );
}

#[test]
#[cfg(not(feature = "lz4"))]
fn a_build_without_the_feature_says_so_by_name_and_skips_nothing() {
    use duralog::{ErrorKind, Start};
    use std::time::Duration;
    let dir = laid_out();
    let log = scenario::open(dir.path());
    let mut reader = log.reader().build().unwrap();
    let batch = reader.poll(Duration::ZERO).unwrap();
    assert_eq!(batch.len(), 1, "what stands before it is served");
    for expected in [(1, 21), (21, 22)] {
        for _ in 0..2 {
            let error = reader.poll(Duration::ZERO).unwrap_err();
            let ErrorKind::CompressionUnsupported {
                codec, from, to, ..
            } = *error.kind()
            else {
                panic!("{error}");
            };
            assert_eq!(
                (codec, from.get(), to.get()),
                ("lz4", expected.0, expected.1)
            );
            assert!(error.to_string().contains("feature `lz4`"), "{error}");
            assert_eq!(reader.position(), from);
        }
        reader.seek(expected.1.into()).unwrap();
    }
    let batch = reader.poll(Duration::ZERO).unwrap();
    assert_eq!(batch.iter().next().unwrap().value(), Some(&b"behind"[..]));
    let time = Start::Time(Timestamp::from_millis(scenario::EPOCH.cast_signed()));
    assert_eq!(log.reader().start(time).build().unwrap().position(), 0);
}

#[test]
#[cfg(not(feature = "lz4"))]
fn a_build_without_the_feature_opens_verifies_and_appends() {
    let dir = laid_out();
    let look = Log::open_read_only(dir.path()).unwrap();
    let report = look.verify().unwrap();
    assert_eq!(report.damage, []);
    assert_eq!((report.compressed_frames, report.undecoded_frames), (2, 2));
    assert_eq!(report.log_end_offset, 23);
    let log = scenario::open(dir.path());
    let producer = log.producer().build().unwrap();
    let offset = producer.send(Record::new("new")).unwrap().wait().unwrap();
    assert_eq!(offset, 23);
}

#[test]
#[cfg(not(feature = "lz4"))]
fn a_build_without_the_feature_does_not_promise_to_compress() {
    use duralog::{Compression, ErrorKind};
    let dir = laid_out();
    let log = scenario::open(dir.path());
    assert!(!Compression::Lz4.is_available());
    let error = log.producer().compression(Compression::Lz4).build();
    let error = error.unwrap_err();
    assert!(matches!(
        error.kind(),
        ErrorKind::InvalidOption {
            name: "compression",
            ..
        }
    ));
    assert!(error.to_string().contains("feature `lz4`"), "{error}");
}
