//! The format, byte by byte: a log of known content is compared with the one that the first
//! release wrote, and read by a second reader that was written from the format's text alone.
#![cfg(feature = "testing")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use duralog::{
    Acks, CommitOptions, Durability, Log, Record, RecordRef, WriteMode,
    testing::{self, SlotContent},
};

#[path = "format_golden/compacted.rs"]
mod compacted;

#[path = "format_golden/compressed.rs"]
mod compressed;

#[path = "format_golden/lz4_block.rs"]
mod lz4_block;

#[path = "format_golden/reader.rs"]
mod reader;

#[path = "format_golden/scenario.rs"]
mod scenario;

use reader::Parts;
use scenario::{AFTERWARDS, BOOTS, COMMITTED, EPOCH, GROUP, LOST_TAIL, METADATA, SYNCED_SENDS};

/// What the first release wrote. Must never change: logs like this are on disks.
const GOLDEN: &str = include_str!("fixtures/format_1.txt");
const INDEXES: [&str; 2] = ["00000000000000000000.index", "00000000000000000007.index"];
const SEGMENTS: [&str; 3] = [
    "00000000000000000000.log",
    "00000000000000000007.log",
    "00000000000001048576.log",
];

/// The files of a log by path, `LOCK` left out: it is empty.
type Files = BTreeMap<String, Vec<u8>>;

fn written_now() -> Files {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("log");
    scenario::make_log(&temp.path().join("scratch"), &dir);
    let group = format!("groups/{GROUP}.offset");
    let names = ["meta", "checkpoint", &group];
    let files: Files = names
        .into_iter()
        .chain(SEGMENTS)
        .chain(INDEXES)
        .map(|name| (name.to_owned(), fs::read(dir.join(name)).unwrap()))
        .collect();
    let is_file = |path: &PathBuf| path.is_file() && fs::metadata(path).unwrap().len() > 0;
    let found = |dir: PathBuf| {
        let entries = fs::read_dir(dir).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(is_file).count()
    };
    assert_eq!(found(dir.join("groups")) + found(dir), files.len());
    files
}

/// The structures of a file, as the second reader sees them.
fn parts(name: &str, bytes: &[u8]) -> Parts {
    match name {
        "meta" => reader::slots(bytes, *b"dlogMET\n").1,
        "checkpoint" => reader::slots(bytes, *b"dlogCHK\n").1,
        _ if name.starts_with("groups/") => reader::slots(bytes, *b"dlogGRP\n").1,
        _ if INDEXES.contains(&name) => reader::index(bytes).1,
        _ => reader::segment(bytes).1,
    }
}

/// Files as text: a line for each structure, in hex; `00*9` stands for nine zero bytes.
fn to_text(files: &Files) -> String {
    let mut text = String::new();
    for (name, bytes) in files {
        writeln!(text, "== {name}").unwrap();
        let mut end = 0;
        for (part, range) in parts(name, bytes) {
            assert_eq!(range.start, end, "parts of {name} are gapless");
            end = range.end;
            writeln!(text, "{part}:{}", to_hex(&bytes[range])).unwrap();
        }
        assert_eq!(end, bytes.len(), "parts of {name} are all of it");
    }
    text
}

fn to_hex(bytes: &[u8]) -> String {
    const SHORTEST_RUN: usize = 16;
    let mut text = String::new();
    for run in bytes.chunk_by(|a, b| a == b) {
        if run.len() >= SHORTEST_RUN {
            write!(text, " {:02x}*{}", run[0], run.len()).unwrap();
        } else {
            for byte in run {
                write!(text, " {byte:02x}").unwrap();
            }
        }
    }
    text
}

fn from_text(text: &str) -> Files {
    let mut files = Files::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            current = Some(files.entry(name.to_owned()).or_default());
            continue;
        }
        let bytes = current.as_deref_mut().expect("a file's name comes first");
        let (_, hex) = line.split_once(':').unwrap();
        for token in hex.split_whitespace() {
            let (byte, count) = token.split_once('*').unwrap_or((token, "1"));
            let byte = u8::from_str_radix(byte, 16).unwrap();
            bytes.extend(std::iter::repeat_n(byte, count.parse().unwrap()));
        }
    }
    files
}

fn golden() -> Files {
    from_text(GOLDEN)
}

#[test]
fn a_log_is_written_as_the_first_release_wrote_it() {
    let now = to_text(&written_now());
    let differences: Vec<_> = GOLDEN
        .lines()
        .zip(now.lines())
        .filter(|(golden, now)| golden != now)
        .map(|(golden, now)| format!("- {golden}\n+ {now}\n"))
        .collect();
    assert!(
        now == GOLDEN,
        "the format changed:\n{}\nall of it now:\n{now}",
        differences.concat()
    );
}

#[test]
#[ignore = "rewrites the golden file; review the difference as hex"]
fn write_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format_1.txt");
    fs::write(path, to_text(&written_now())).unwrap();
}

#[test]
fn the_checksum_of_the_second_reader_is_crc_32_ieee() {
    assert_eq!(reader::crc32(0, b"123456789"), 0xcbf4_3926);
    let continued = reader::crc32(reader::crc32(0, b"12345"), b"6789");
    assert_eq!(continued, 0xcbf4_3926);
}

/// What a send is read back as.
fn expected(record: &Record, offset: u64, append_time: u64) -> reader::Record {
    let record = record.as_ref();
    reader::Record {
        offset,
        append_time,
        key: record.key().map(<[u8]>::to_vec),
        value: record.value().map(<[u8]>::to_vec),
        time: record.own_timestamp().map(duralog::Timestamp::as_millis),
        headers: record
            .headers()
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_vec()))
            .collect(),
    }
}

#[test]
fn the_text_of_the_format_suffices_to_read_every_record() {
    let files = golden();
    let segments = SEGMENTS.map(|name| reader::segment(&files[name]).0);
    let found: Vec<_> = segments.iter().flat_map(|s| &s.records).collect();
    let times: Vec<_> = found.iter().map(|record| record.append_time).collect();
    assert!(times.is_sorted(), "append times never go back");
    assert!(times[0] > EPOCH);

    let mut sent = scenario::sends().concat();
    sent.push(Record::new(AFTERWARDS));
    assert_eq!(found.len(), sent.len());
    let [end, resumed] = LOST_TAIL;
    let offsets = (0..end).chain([resumed]);
    for ((record, found), offset) in sent.iter().zip(&found).zip(offsets) {
        assert_eq!(**found, expected(record, offset, found.append_time));
    }
}

#[test]
fn the_text_of_the_format_suffices_to_find_a_frame_by_the_index() {
    let files = golden();
    for (index, segment) in INDEXES.into_iter().zip(SEGMENTS) {
        let (index, _) = reader::index(&files[index]);
        let (segment, parts) = reader::segment(&files[segment]);
        assert_eq!((index.id, index.base), (segment.id, segment.base));
        let mut next = 1024 + 4096;
        let mut expected = Vec::new();
        let is_frame = |(name, _): &&(String, std::ops::Range<usize>)| name.starts_with("frame");
        for (number, (_, range)) in parts.iter().filter(is_frame).enumerate() {
            if range.start >= next {
                next = range.start + 4096;
                let record = &segment.records[number];
                expected.push((record.offset - index.base, range.start, record.append_time));
            }
        }
        assert_eq!(index.entries, expected);
    }
}

#[test]
fn the_text_of_the_format_suffices_to_tell_what_was_durable() {
    let files = golden();
    let [first, second, third] = SEGMENTS.map(|name| reader::segment(&files[name]).0);
    let synced = scenario::sends()[..SYNCED_SENDS].concat().len() as u64;
    assert_eq!(first.durable, [0, 0, 0, 0, synced]);
    assert_eq!(second.durable, [synced, synced]);
    let [end, resumed] = LOST_TAIL;
    assert_eq!(third.durable, [resumed]);

    let bases = [&first, &second, &third].map(|s| (s.previous_end, s.base));
    assert_eq!(bases, [(0, 0), (7, 7), (end, resumed)]);
    let last_time = |s: &reader::Segment| s.records.last().unwrap().append_time;
    assert_eq!(first.footer, Some((7, last_time(&first))));
    assert_eq!(second.footer, Some((end, last_time(&second))));
    assert_eq!(third.footer, None);
    assert!(first.id != second.id && second.id != third.id);
    assert!(EPOCH <= first.created && first.created <= first.records[0].append_time);
}

#[test]
fn the_text_of_the_format_suffices_to_read_the_files_of_slots() {
    let files = golden();
    let meta = reader::meta(reader::slots(&files["meta"], *b"dlogMET\n").0);
    let options = [
        (1, vec![8 << 10]),
        (2, vec![3_600_000]),
        (3, vec![7001]),
        (4, vec![1000, 100]),
        (5, vec![1]),
        (6, vec![3]),
    ];
    assert_eq!(meta.options, options);
    assert_eq!(meta.created, EPOCH);

    let group = format!("groups/{GROUP}.offset");
    let group = reader::group(reader::slots(&files[&group], *b"dlogGRP\n").0);
    assert!(group.time > EPOCH && group.id != 0);
    let expected = reader::Group {
        log_id: meta.id,
        id: group.id,
        committed: COMMITTED,
        time: group.time,
        counted: COMMITTED,
        lost: [0; 5],
        metadata: METADATA.to_vec(),
    };
    assert_eq!(group, expected);

    let [end, resumed] = LOST_TAIL;
    let last = &files[SEGMENTS[2]];
    let found = reader::checkpoint(reader::slots(&files["checkpoint"], *b"dlogCHK\n").0);
    let expected = reader::Checkpoint {
        durable: resumed + 1,
        segment: resumed,
        position: last.len() as u64,
        time: reader::segment(last).0.records[0].append_time,
        reservation: resumed + (1 << 20),
        log_start: 0,
        boot_id: BOOTS[1].to_vec(),
        closed_in_order: true,
        unproven: false,
        lost: [0, 0, 0, resumed - end],
        damage: vec![],
        compacted: None,
    };
    assert_eq!(found, expected);
}

/// Puts files into a directory, with what is empty in a log's.
fn lay_out(files: &Files, dir: &Path) {
    fs::create_dir_all(dir.join("groups")).unwrap();
    fs::write(dir.join("LOCK"), "").unwrap();
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn damaged_ranges_stand_in_the_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let mut files = golden();
    let (_, parts) = reader::segment(&files[SEGMENTS[0]]);
    let (_, frame) = parts
        .iter()
        .find(|(name, _)| name.contains("offsets 3 to 6"))
        .unwrap();
    files.get_mut(SEGMENTS[0]).unwrap()[frame.start + 30] ^= 1;
    lay_out(&files, temp.path());

    let log = scenario::open(temp.path());
    let mut reader = log.reader().build().unwrap();
    while reader.position() < log.log_end_offset() {
        reader.poll(Duration::ZERO).unwrap();
    }
    drop(reader);
    log.close().unwrap();

    let file = fs::read(temp.path().join("checkpoint")).unwrap();
    let found = reader::checkpoint(reader::slots(&file, *b"dlogCHK\n").0);
    assert_eq!(found.damage, [(3, 6)]);
    assert_eq!(found.lost[2], 3);
}

/// Everything in a log, in the words of the second reader.
fn read_all(log: &Log) -> Vec<reader::Record> {
    let mut reader = log.reader().build().unwrap();
    let mut found = Vec::new();
    while reader.position() < log.log_end_offset() {
        let batch = reader.poll(Duration::ZERO).unwrap();
        let own = |record: RecordRef<'_>| {
            let append_time = u64::try_from(record.append_time().as_millis()).unwrap();
            let offset = record.offset().unwrap().get();
            expected(&record.to_record(), offset, append_time)
        };
        found.extend(batch.iter().map(own));
    }
    found
}

#[test]
fn a_log_that_the_first_release_wrote_is_read_and_appended_to() {
    let temp = tempfile::tempdir().unwrap();
    let files = golden();
    lay_out(&files, temp.path());
    let look = Log::open_read_only(temp.path()).unwrap();
    assert_eq!(look.verify().unwrap().damage, []);
    assert_eq!(look.groups().unwrap()[0].name, GROUP);

    let log = Log::open(temp.path()).unwrap();
    assert!(log.recovery().clean);
    let segments = SEGMENTS.map(|name| reader::segment(&files[name]).0);
    let expected: Vec<_> = segments.into_iter().flat_map(|s| s.records).collect();
    assert_eq!(read_all(&log), expected);
    let mut consumer = log.consumer(GROUP).build().unwrap();
    assert_eq!(consumer.position(), COMMITTED);

    let producer = log.producer().build().unwrap();
    let offset = producer.send(Record::new("new")).unwrap().wait().unwrap();
    assert_eq!(offset, LOST_TAIL[1] + 1);
    consumer.seek(offset).unwrap();
    let batch = consumer.poll(Duration::ZERO).unwrap();
    assert_eq!(batch.iter().next().unwrap().value(), Some(&b"new"[..]));
}

#[test]
fn the_text_of_the_format_suffices_to_read_the_file_of_a_group_that_commits() {
    for mode in [WriteMode::Auto, WriteMode::Buffered] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::options().write_mode(mode).open(&dir).unwrap();
        let producer = log.producer().build().unwrap();
        for _ in 0..20 {
            producer.send(Record::new("x")).unwrap().wait().unwrap();
        }
        let file = dir.path().join("groups/billing.offset");
        let committed = || {
            let bytes = fs::read(&file).unwrap();
            reader::group(reader::held_group(&bytes)).committed
        };
        let mut consumer = log.consumer("billing").build().unwrap();
        assert_eq!(committed(), 0);
        for offset in 1..=20 {
            let durability = match offset % 6 {
                0 => Durability::Durable,
                _ => Durability::Written,
            };
            let options = CommitOptions::new().durability(durability);
            consumer
                .commit_offset_with(offset.into(), &options)
                .unwrap();
            assert_eq!(committed(), offset, "{mode:?}");
        }
        consumer.close().unwrap();
        let bytes = fs::read(&file).unwrap();
        let group = reader::group(reader::slots(&bytes, *b"dlogGRP\n").0);
        assert_eq!(group.committed, 20, "{mode:?}");
    }
}

#[test]
fn zeros_are_no_structure() {
    const LONGEST: usize = 9000;
    let zeros = [0; LONGEST];
    for len in 0..=LONGEST {
        let zeros = &zeros[..len];
        for content in [
            SlotContent::Meta,
            SlotContent::Checkpoint,
            SlotContent::Group,
        ] {
            assert_eq!(testing::decode_slots(zeros, content), None, "{len}");
        }
        assert_eq!(testing::decode_segment_header(zeros), None, "{len}");
        assert_eq!(testing::scan_segment(zeros), None, "{len}");
        for (id, position) in [(0, 0), (0, 1024), (u64::MAX, 1024), (7, 5000)] {
            assert_eq!(testing::decode_frame(zeros, id, position), None, "{len}");
        }
    }
}

/// Bytes that one send adds to what its values hold.
fn overhead(records: &[Record]) -> u64 {
    let temp = tempfile::tempdir().unwrap();
    let log = Log::open(temp.path()).unwrap();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let receipt = match records {
        [record] => producer.send(record).unwrap(),
        _ => producer.send_batch(records).unwrap(),
    };
    receipt.wait().unwrap();
    let values = records.iter().map(|r| r.as_ref().value().unwrap().len());
    log.stats().appended_bytes - values.sum::<usize>() as u64
}

#[test]
fn a_frame_of_one_plain_record_adds_at_most_32_bytes() {
    for len in [0, 1, 100, 127, 128, 16_384, 1 << 20] {
        let added = overhead(&[Record::new(vec![7; len])]);
        assert!(added <= 32, "{added} bytes for a value of {len}");
    }
}

#[test]
fn a_frame_of_a_hundred_records_adds_at_most_8_bytes_to_each() {
    for len in [0, 1, 100, 127, 128, 16_384] {
        let added = overhead(&vec![Record::new(vec![7; len]); 100]);
        assert!(added <= 8 * 100, "{added} bytes for 100 values of {len}");
    }
}
