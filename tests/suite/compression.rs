//! Compressed records beside others: written, read, found, recovered, damaged.
#![cfg(feature = "lz4")]

use std::{ops::Range, path::Path, time::Duration};

use duralog::{
    Acks, Compression, GapReason, Log, Offset, ReadMode, Record, Start, Timestamp,
    testing::{decode_segment_header, seal_frame},
};

use crate::common::{MODES, Scenario, copy_dir, edit, read_all, read_from};

/// Frames begin here in every segment.
const FRAMES_START: usize = 1024;
const HEADER_LEN: usize = 24;

/// A batch that compresses well.
fn batch(name: &str, records: u32) -> Vec<Record> {
    let value = |number| format!("{name}: a line of text like many others, number {number:06}");
    (0..records)
        .map(|number| Record::new(value(number)).key("a key of them all"))
        .collect()
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(next).collect()
}

fn send(log: &Log, compression: Compression, records: &[Record]) -> Offset {
    let builder = log.producer().acks(Acks::Written);
    let producer = builder.compression(compression).build().unwrap();
    let receipt = match records {
        [record] => producer.send(record).unwrap(),
        records => producer.send_batch(records).unwrap(),
    };
    receipt.offset().unwrap()
}

/// Sends of all kinds, and how each is stored.
fn sends() -> Vec<(Compression, Vec<Record>, Compression)> {
    use Compression::{Lz4, None};
    let full = Record::new("v".repeat(300))
        .key("k".repeat(40))
        .header("trace", "af31".repeat(20))
        .timestamp(Timestamp::from_millis(-7));
    vec![
        (None, vec![Record::new("plain")], None),
        (Lz4, batch("first", 50), Lz4),
        (None, batch("not compressed", 9), None),
        (Lz4, vec![Record::new("plain ".repeat(100))], Lz4),
        (Lz4, vec![Record::new("too short to be tried")], None),
        (Lz4, vec![Record::new(noise(900))], None),
        (
            Lz4,
            vec![full.clone(), Record::tombstone("gone"), full],
            Lz4,
        ),
        (Lz4, batch("second", 80), Lz4),
        (Lz4, vec![Record::new(""); 200], Lz4),
    ]
}

fn sent() -> Vec<Record> {
    sends()
        .into_iter()
        .flat_map(|(_, records, _)| records)
        .collect()
}

fn fill(log: &Log) {
    for (compression, records, _) in sends() {
        send(log, compression, &records);
    }
}

/// All records of a log, and how their frames are stored; there must be no gap.
fn everything(mut reader: duralog::Reader) -> (Vec<Record>, Vec<Compression>) {
    let mut records = Vec::new();
    let mut stored = Vec::new();
    loop {
        let batch = reader.poll(Duration::ZERO).unwrap();
        assert_eq!(batch.gaps(), []);
        if batch.is_empty() {
            return (records, stored);
        }
        assert_eq!(batch.len(), batch.iter().count());
        stored.extend(batch.frames().map(|frame| frame.compression));
        records.extend(batch.iter().map(|record| record.to_record()));
    }
}

fn assert_all(reader: duralog::Reader) {
    let (records, stored) = everything(reader);
    assert_eq!(records, sent());
    let expected: Vec<_> = sends().into_iter().map(|(_, _, stored)| stored).collect();
    assert_eq!(stored, expected);
}

#[test]
fn a_log_of_compressed_and_other_batches_is_read_in_every_mode() {
    for mode in MODES {
        for read_mode in [ReadMode::Mapped, ReadMode::Copied] {
            let mut scenario = Scenario::new(mode);
            scenario.options = scenario.options.read_mode(read_mode);
            let log = scenario.open();
            fill(&log);
            assert_all(log.reader().build().unwrap());
            let other = Log::open_read_only(scenario.path()).unwrap();
            assert_all(other.reader().build().unwrap());
            log.close().unwrap();
            assert_all(scenario.open().reader().build().unwrap());
        }
    }
}

#[test]
fn a_crash_of_the_process_takes_no_compressed_record() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        fill(&log);
        for image in [scenario.crash_image(), scenario.rebooted_image()] {
            let log = image.open();
            assert!(!log.recovery().clean);
            assert_eq!(log.recovery().damage, []);
            let mut reader = log.reader().build().unwrap();
            let (records, _) = read_from(&mut reader);
            assert_eq!(records.len(), sent().len());
        }
    }
}

#[test]
fn the_end_of_a_compressed_batch_that_a_crash_cut_off_is_cut_as_a_whole() {
    let scenario = Scenario::new(MODES[1]);
    let log = scenario.open();
    send(&log, Compression::None, &[Record::new("before")]);
    send(&log, Compression::Lz4, &batch("cut", 50));
    let image = scenario.crash_image();
    let path = image.last_segment();
    let frame = frames(&path)[1].clone();
    edit(&path, |bytes| bytes.truncate(frame.end - 5));
    let log = image.open();
    assert_eq!(log.log_end_offset(), 1);
    assert!(log.recovery().cut_bytes > 0);
}

#[test]
fn a_compressed_batch_takes_less_room() {
    let scenario = Scenario::new(MODES[0]);
    let log = scenario.open();
    let records = batch("room", 80);
    send(&log, Compression::None, &records);
    let uncompressed = log.stats().appended_bytes;
    send(&log, Compression::Lz4, &records);
    assert!((log.stats().appended_bytes - uncompressed) * 3 < uncompressed);
}

#[test]
fn a_batch_that_is_too_large_uncompressed_is_refused() {
    let scenario = Scenario::new(MODES[0]);
    let log = scenario.open();
    let builder = log.producer().compression(Compression::Lz4);
    let producer = builder.build().unwrap();
    let records = vec![Record::new(vec![b'a'; 4_000]); 3];
    let error = producer.send_batch(&records).unwrap_err();
    assert!(matches!(
        error.error().kind(),
        duralog::ErrorKind::TooLarge {
            what: "a batch",
            ..
        }
    ));
    assert_eq!(log.log_end_offset(), 0);
}

#[test]
fn a_seek_into_a_compressed_batch_goes_on_in_its_middle() {
    for read_mode in [ReadMode::Mapped, ReadMode::Copied] {
        let mut scenario = Scenario::new(MODES[0]);
        scenario.options = scenario.options.read_mode(read_mode);
        let log = scenario.open();
        fill(&log);
        log.sync().unwrap();
        let sent = sent();
        let mut seeker = log.reader().build().unwrap();
        for from in 0..sent.len() {
            let start = Start::At(Offset::new(from as u64));
            let (records, _) = everything(log.reader().start(start).build().unwrap());
            assert_eq!(records, sent[from..], "from {from}");
            seeker.seek(Offset::new(from as u64)).unwrap();
            let batch = seeker.poll(Duration::ZERO).unwrap();
            let first = batch.iter().next().unwrap();
            assert_eq!(first.offset().unwrap(), from as u64);
            assert_eq!(first.to_record(), sent[from]);
        }
        let found = log.reader().start(Start::Time(Timestamp::from_millis(1)));
        assert_eq!(found.build().unwrap().position(), 0);
    }
}

#[test]
fn a_limit_of_records_does_not_split_a_compressed_batch() {
    let scenario = Scenario::new(MODES[0]);
    let log = scenario.open();
    send(&log, Compression::Lz4, &batch("one", 50));
    send(&log, Compression::Lz4, &batch("two", 50));
    let mut reader = log.reader().max_poll_records(7).build().unwrap();
    for end in [50, 100] {
        assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 50);
        assert_eq!(reader.position(), end);
    }
}

#[test]
fn a_limit_of_bytes_counts_what_is_decompressed() {
    let scenario = Scenario::new(MODES[0]);
    let log = scenario.open();
    for _ in 0..6 {
        send(&log, Compression::Lz4, &[Record::new(vec![b'a'; 1_000])]);
    }
    for (limit, expected) in [(1, 1), (1_000, 1), (2_100, 2), (1 << 20, 6)] {
        let mut reader = log.reader().max_poll_bytes(limit).build().unwrap();
        assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), expected);
    }
}

#[test]
fn records_of_several_polls_do_not_mix() {
    let scenario = Scenario::new(MODES[0]);
    let log = scenario.open();
    fill(&log);
    let mut reader = log.reader().max_poll_records(1).build().unwrap();
    let mut records = Vec::new();
    for _ in sends() {
        let batch = reader.poll(Duration::ZERO).unwrap();
        records.extend(batch.iter().map(|record| record.to_record()));
    }
    assert_eq!(records, sent());
}

/// Where the frames of a segment stand that ends with its last one, or with zeros.
fn frames(path: &Path) -> Vec<Range<usize>> {
    let bytes = std::fs::read(path).unwrap();
    let mut found = Vec::new();
    let mut position = FRAMES_START;
    while let Some(header) = bytes.get(position..position + 8) {
        let len = u32::from_le_bytes(header[4..].try_into().unwrap()) as usize;
        if len == 0 {
            break;
        }
        found.push(position..position + len);
        position += len;
    }
    found
}

/// A closed log: a plain record, a compressed batch and a plain record.
struct Specimen {
    scenario: Scenario,
    frame: Range<usize>,
}

const RECORDS: u32 = 90;

impl Specimen {
    fn new() -> Self {
        let scenario = Scenario::new(MODES[1]);
        let log = scenario.open();
        send(&log, Compression::None, &[Record::new("before")]);
        send(&log, Compression::Lz4, &batch("within", RECORDS));
        send(&log, Compression::None, &[Record::new("behind")]);
        log.close().unwrap();
        let frame = frames(&scenario.last_segment())[1].clone();
        Self { scenario, frame }
    }

    /// A copy in which the compressed frame's body is another, with a checksum that matches.
    fn forged(&self, change: impl FnOnce(&mut [u8])) -> Scenario {
        let mut copy = Scenario::new(MODES[1]);
        copy.options = self.scenario.options.clone();
        copy_dir(&self.scenario.path(), &copy.path());
        edit(&copy.last_segment(), |bytes| {
            let (id, _) = decode_segment_header(bytes).unwrap();
            let frame = &mut bytes[self.frame.clone()];
            change(&mut frame[HEADER_LEN..]);
            seal_frame(frame, id, u32::try_from(self.frame.start).unwrap());
        });
        copy
    }
}

/// What an open log and a look at it say: the batch is missing, what is beside it is there.
#[track_caller]
fn assert_damaged(scenario: &Scenario, what: &str) {
    let look = Log::open_read_only(scenario.path()).unwrap();
    let report = look.verify().unwrap();
    let ranges: Vec<_> = report.damage.iter().map(|d| (d.from, d.to)).collect();
    let [from, to] = [1, 1 + u64::from(RECORDS)].map(Offset::new);
    assert_eq!(ranges, [(from, to)], "{what}: {:?}", report.damage);
    let own = scenario.open();
    for reader in [look.reader(), own.reader()] {
        let mut reader = reader.build().unwrap();
        let (records, gaps) = read_from(&mut reader);
        let expected = [(0, "before".to_owned()), (to.get(), "behind".to_owned())];
        assert_eq!(records, expected, "{what}");
        let [gap] = gaps.as_slice() else {
            panic!("{what}: {gaps:?}");
        };
        assert_eq!((gap.from, gap.to), (from, to), "{what}");
        assert_eq!(gap.reason, GapReason::Damage);
    }
    assert_eq!(own.log_end_offset(), to.next());
    assert_eq!(own.stats().lost_to_damage, to.since(from), "{what}");
    let offset = send(&own, Compression::Lz4, &batch("afterwards", 9));
    assert_eq!(offset, to.next());
}

/// A number below 16384 as a varint of two bytes.
fn two_bytes(number: u16) -> [u8; 2] {
    assert!((128..1 << 14).contains(&number));
    [
        number.to_le_bytes()[0] | 0x80,
        (number >> 7).to_le_bytes()[0],
    ]
}

#[test]
fn a_length_that_lies_is_damage() {
    let specimen = Specimen::new();
    let bytes = std::fs::read(specimen.scenario.last_segment()).unwrap();
    let body = &bytes[specimen.frame.clone()][HEADER_LEN..];
    assert_eq!(u32::from(body[0]), RECORDS, "the number of records");
    let true_len = u16::from(body[1] & 0x7f) | u16::from(body[2]) << 7;
    for lie in [128, true_len - 1, true_len + 1, (1 << 14) - 1] {
        let forged = specimen.forged(|body| body[1..3].copy_from_slice(&two_bytes(lie)));
        assert_damaged(&forged, &format!("{lie} instead of {true_len} bytes"));
    }
}

#[test]
fn a_length_that_no_block_has_is_damage() {
    let specimen = Specimen::new();
    let impossible: [(&str, &[u8]); 5] = [
        ("no bytes", &[90, 0]),
        ("fewer bytes than records", &[90, 89]),
        ("bytes of a larger block", &[90, 0xff, 0xff, 0xff, 0x0f]),
        (
            "more than any segment",
            &[90, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        ),
        (
            "no number",
            &[
                100, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
        ),
    ];
    for (what, front) in impossible {
        let forged = specimen.forged(|body| body[..front.len()].copy_from_slice(front));
        assert_damaged(&forged, what);
    }
}

#[test]
fn a_block_that_is_none_is_damage() {
    let specimen = Specimen::new();
    for filler in [0x00, 0xff, 0x0f, 0xf0] {
        let forged = specimen.forged(|body| body[3..].fill(filler));
        assert_damaged(&forged, &format!("a block of {filler:#x}"));
    }
    let forged = specimen.forged(|body| body[3..].rotate_left(1));
    assert_damaged(&forged, "a block that begins elsewhere");
}

#[test]
fn records_that_no_release_writes_are_damage() {
    let specimen = Specimen::new();
    // The block begins with a token and its length, then the first record: its flags.
    let forged = specimen.forged(|body| {
        let flags = 3 + body[3..].iter().position(|&byte| byte == 3).unwrap();
        body[flags] = 0xf3;
    });
    assert_damaged(&forged, "unknown flags");
}

#[test]
fn a_compression_that_no_release_has_is_a_newer_version() {
    let specimen = Specimen::new();
    let path = specimen.scenario.last_segment();
    // Frame version 1; the two bits of the codec, and LZ4 with a plain body or a footer.
    for attributes in [0x0201_u16, 0x0301, 0x0111, 0x0121] {
        edit(&path, |bytes| {
            let (id, _) = decode_segment_header(bytes).unwrap();
            let frame = &mut bytes[specimen.frame.clone()];
            frame[HEADER_LEN - 2..HEADER_LEN].copy_from_slice(&attributes.to_le_bytes());
            seal_frame(frame, id, u32::try_from(specimen.frame.start).unwrap());
        });
        let look = Log::open_read_only(specimen.scenario.path()).unwrap();
        let mut reader = look.reader().build().unwrap();
        assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 1);
        let error = reader.poll(Duration::ZERO).unwrap_err();
        let kind = error.kind();
        assert!(
            matches!(kind, duralog::ErrorKind::UnsupportedVersion { .. }),
            "{attributes:#x}: {error}"
        );
        assert_eq!(reader.position(), 1);
    }
}

#[test]
fn every_flipped_bit_is_found_by_the_checksum() {
    let specimen = Specimen::new();
    let path = specimen.scenario.last_segment();
    let intact = std::fs::read(&path).unwrap();
    for bit in (0..specimen.frame.len() * 8).step_by(5) {
        let mut bytes = intact.clone();
        bytes[specimen.frame.start + bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bytes).unwrap();
        let look = Log::open_read_only(specimen.scenario.path()).unwrap();
        let (records, gaps) = read_from(&mut look.reader().build().unwrap());
        assert_eq!(records.len(), 2, "bit {bit}");
        assert_eq!(gaps.len(), 1, "bit {bit}");
    }
}

#[test]
fn whatever_is_flipped_behind_a_checksum_that_matches_no_offset_is_left_out() {
    let specimen = Specimen::new();
    for bit in (0..(specimen.frame.len() - HEADER_LEN) * 8).step_by(3) {
        let forged = specimen.forged(|body| body[bit / 8] ^= 1 << (bit % 8));
        let look = Log::open_read_only(forged.path()).unwrap();
        let mut reader = look.reader().build().unwrap();
        let (records, gaps) = read_from(&mut reader);
        let missing: u64 = gaps.iter().map(|gap| gap.to.since(gap.from)).sum();
        assert_eq!(reader.position(), u64::from(RECORDS) + 2, "bit {bit}");
        let all = reader.position().get();
        assert_eq!(records.len() as u64 + missing, all, "bit {bit}");
        // A number of records that is too high takes the offset of the one behind, too.
        assert!(
            missing == 0 || records.len() <= 2,
            "bit {bit}: half a batch"
        );
    }
}

#[test]
fn a_verification_counts_what_is_compressed() {
    let scenario = Scenario::new(MODES[0]);
    let log = scenario.open();
    fill(&log);
    assert_eq!(read_all(&log).1, []);
    let report = Log::open_read_only(scenario.path())
        .unwrap()
        .verify()
        .unwrap();
    assert_eq!(report.compressed_frames, 5);
    assert_eq!(report.undecoded_frames, 0);
    assert_eq!(report.damage, []);
}

#[test]
fn threads_that_compress_at_once_do_not_share_memory() {
    let scenario = Scenario::new(MODES[0]);
    let log = scenario.open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for round in 0..50 {
                    let records = batch(&format!("{thread}-{round}"), 20);
                    send(log, Compression::Lz4, &records);
                }
            });
        }
    });
    let (records, gaps) = read_all(&log);
    assert_eq!((records.len(), gaps), (4 * 50 * 20, vec![]));
    for batch in records.chunks(20) {
        let name = |record: &(u64, String)| record.1.split(':').next().unwrap().to_owned();
        assert!(batch.iter().all(|record| name(record) == name(&batch[0])));
    }
}
