//! A second reader of the format, written from its text alone: nothing of the crate is used. It
//! believes nothing it can check, and panics on whatever the text does not allow.

use std::ops::Range;

use super::lz4_block;

/// Structures of a file that together cover all its bytes, each with a name.
pub type Parts = Vec<(String, Range<usize>)>;

/// CRC-32/IEEE, bit by bit, continued from `crc` as zlib's `crc32(crc, bytes)` does.
pub fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    let mut register = !crc;
    for &byte in bytes {
        register ^= u32::from(byte);
        for _ in 0..8 {
            let carry = register & 1;
            register >>= 1;
            if carry == 1 {
                register ^= 0xedb8_8320;
            }
        }
    }
    !register
}

/// What the checksum of a structure at `position` of the file with this identity starts from.
fn seed(identity: u64, position: usize) -> u32 {
    const SPREAD: u32 = 0x9e37_79b1;
    let low = u32::try_from(identity & 0xffff_ffff).unwrap();
    let high = u32::try_from(identity >> 32).unwrap();
    let of_file = low ^ high.rotate_left(16).wrapping_mul(SPREAD) ^ 0x6475_7261;
    of_file ^ u32::try_from(position).unwrap().wrapping_mul(SPREAD)
}

/// Takes numbers and bytes off the front of a slice.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    /// A little-endian number of `len` bytes.
    fn number(&mut self, len: usize) -> u64 {
        let bytes = self.bytes(len);
        bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
    }

    fn length(&mut self, len: usize) -> usize {
        usize::try_from(self.number(len)).unwrap()
    }

    fn varint(&mut self) -> usize {
        let groups = self.0.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
        let bytes = self.bytes(groups);
        assert!(groups == 1 || bytes[groups - 1] != 0, "the shortest form");
        let bits = bytes.iter().map(|byte| u64::from(byte & 0x7f));
        usize::try_from(bits.rev().fold(0, |n, bits| n << 7 | bits)).unwrap()
    }

    fn counted(&mut self) -> Vec<u8> {
        let len = self.varint();
        self.bytes(len).to_vec()
    }
}

/// A record.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub offset: u64,
    pub append_time: u64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub time: Option<i64>,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// A segment's file.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    pub id: u64,
    pub base: u64,
    pub previous_end: u64,
    pub created: u64,
    pub log_id: u64,
    pub records: Vec<Record>,
    /// For each frame with records: what was durable when it was written.
    pub durable: Vec<u64>,
    /// End offset and time of the last frame, of a sealed segment.
    pub footer: Option<(u64, u64)>,
    pub compacted: Option<Compacted>,
}

/// What a compacted segment says beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub end: u64,
    pub last_time: u64,
    pub cleaned: u64,
    pub frames_end: usize,
    pub tombstones: u64,
}

/// An index: id and base of its segment, and of each entry relative offset, position and time.
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    pub id: u64,
    pub base: u64,
    pub entries: Vec<(u64, usize, u64)>,
}

/// Reads the file of an index.
pub fn index(file: &[u8]) -> (Index, Parts) {
    let mut take = Take(file);
    let magic = take.bytes(8);
    assert_eq!(magic, b"dlogIDX\n");
    let crc = take.number(4);
    assert_eq!((take.number(2), take.number(2)), (1, 0));
    let (id, base) = (take.number(8), take.number(8));
    let count = take.length(4);
    assert_eq!(take.number(4), 0);
    let identity = u64::from_le_bytes(magic.try_into().unwrap()) ^ id;
    assert_eq!(crc, u64::from(crc32(seed(identity, 0), &file[12..])));
    let mut parts = vec![("header".to_owned(), 0..40)];
    let mut entries = Vec::new();
    for number in 0..count {
        let start = 40 + 16 * number;
        parts.push((format!("entry {number}"), start..start + 16));
        entries.push((take.number(4), take.length(4), take.number(8)));
    }
    assert!(take.0.is_empty());
    (Index { id, base, entries }, parts)
}

/// Reads a segment's file that ends with its last frame.
pub fn segment(file: &[u8]) -> (Segment, Parts) {
    let mut segment = header_copy(file, 0);
    assert_eq!(segment, header_copy(file, 512), "both copies say the same");
    let used = header_len(segment.compacted.is_some());
    let mut parts = vec![
        ("header".to_owned(), 0..used),
        ("unused".to_owned(), used..512),
        ("header again".to_owned(), 512..512 + used),
        ("unused".to_owned(), 512 + used..1024),
    ];
    for unused in [used..512, 512 + used..1024] {
        assert!(file[unused].iter().all(|&byte| byte == 0));
    }
    let mut position = 1024;
    let mut next = segment.base;
    while position < file.len() {
        assert_eq!(segment.footer, None, "nothing follows a footer");
        let (name, len) = frame(file, position, &mut segment, &mut next);
        parts.push((name, position..position + len));
        if let Some(compacted) = segment.compacted.filter(|_| segment.footer.is_some()) {
            assert_eq!(position, compacted.frames_end);
            let footer = (compacted.end, compacted.last_time);
            assert_eq!(segment.footer, Some(footer));
        }
        position += len;
    }
    (segment, parts)
}

fn header_len(compacted: bool) -> usize {
    if compacted { 88 } else { 56 }
}

fn header_copy(file: &[u8], position: usize) -> Segment {
    let version = file[position + 8];
    let len = header_len(version == 2);
    let copy = &file[position..position + len];
    let mut take = Take(copy);
    let magic = take.number(8);
    assert_eq!(&copy[..8], b"dlogSEG\n");
    assert!([1, 2].contains(&take.number(2)), "version");
    assert_eq!(take.number(2), 0);
    let mut segment = Segment {
        id: take.number(8),
        base: take.number(8),
        previous_end: take.number(8),
        created: take.number(8),
        log_id: take.number(8),
        records: Vec::new(),
        durable: Vec::new(),
        footer: None,
        compacted: None,
    };
    if version == 2 {
        segment.compacted = Some(Compacted {
            end: take.number(8),
            last_time: take.number(8),
            cleaned: take.number(8),
            frames_end: take.length(4),
            tombstones: take.number(4),
        });
    }
    let crc = crc32(seed(magic, position), &copy[..len - 4]);
    assert_eq!(u64::from(crc), take.number(4), "checksum of the header");
    segment
}

/// Reads the frame at `position` into `segment`; returns a name for it, and its length.
fn frame(file: &[u8], position: usize, segment: &mut Segment, next: &mut u64) -> (String, usize) {
    let mut take = Take(&file[position..]);
    let crc = take.number(4);
    let len = take.length(4);
    let found = crc32(
        seed(segment.id, position),
        &file[position + 4..position + len],
    );
    assert_eq!(crc, u64::from(found), "checksum of the frame at {position}");
    let first = segment.base + take.number(4);
    if segment.compacted.is_some() {
        assert!(first >= *next, "offsets go up");
    } else {
        assert_eq!(first, *next, "offsets are dense");
    }
    let durable = first - take.number(4);
    let append_time = take.number(6);
    let attributes = take.number(2);
    assert_eq!(attributes & 0x0f, 1, "frame version");
    let body = take.bytes(len - 24);
    let name = match attributes >> 4 {
        0x10 => {
            *next = compressed(body, first, append_time, &mut segment.records);
            format!("frame at {position}, lz4, offsets {first} to {next}")
        }
        8 => {
            assert!(segment.compacted.is_some());
            *next = sparse(body, first, append_time, &mut segment.records);
            format!("frame at {position}, sparse, offsets {first} to {next}")
        }
        0 => {
            *next = records(body, first, append_time, &mut segment.records);
            format!("frame at {position}, offsets {first} to {next}")
        }
        1 => {
            *next = first + 1;
            segment.records.push(Record {
                offset: first,
                append_time,
                value: Some(body.to_vec()),
                ..Record::default()
            });
            format!("frame at {position}, plain, offset {first}")
        }
        2 => {
            let mut take = Take(body);
            segment.footer = Some((take.number(8), take.number(8)));
            assert!(take.0.is_empty());
            return (format!("footer at {position}"), len);
        }
        unknown => panic!("unknown attributes {unknown:#x}"),
    };
    segment.durable.push(durable);
    (name, len)
}

/// Reads which records are left, and those; returns the offset behind the last one that there was.
fn sparse(content: &[u8], first: u64, append_time: u64, into: &mut Vec<Record>) -> u64 {
    let mut take = Take(content);
    let offsets = take.varint();
    let bits = take.bytes(offsets.div_ceil(8));
    let is_left = |number: &usize| bits[number / 8] >> (number % 8) & 1 == 1;
    assert!((offsets..8 * bits.len()).all(|spare| !is_left(&spare)));
    let left: Vec<_> = (0..offsets).filter(is_left).collect();
    assert!(!left.is_empty() && left.len() < offsets);
    let start = into.len();
    let end = records(take.0, first, append_time, into);
    assert_eq!(end - first, left.len() as u64, "a record for each bit");
    for (record, number) in into[start..].iter_mut().zip(left) {
        record.offset = first + number as u64;
    }
    first + offsets as u64
}

/// Reads a body that is not plain; returns the offset behind its last record.
fn records(body: &[u8], first: u64, append_time: u64, into: &mut Vec<Record>) -> u64 {
    let mut take = Take(body);
    let count = take.varint();
    counted_records(take, count, first, append_time, into)
}

/// The same of a compressed body.
fn compressed(body: &[u8], first: u64, append_time: u64, into: &mut Vec<Record>) -> u64 {
    let mut take = Take(body);
    let (count, len) = (take.varint(), take.varint());
    let bytes = lz4_block::decompress(take.0);
    assert_eq!(bytes.len(), len);
    counted_records(Take(&bytes), count, first, append_time, into)
}

fn counted_records(
    mut take: Take<'_>,
    count: usize,
    first: u64,
    append_time: u64,
    into: &mut Vec<Record>,
) -> u64 {
    assert!(count > 0);
    let mut offset = first;
    for _ in 0..count {
        let flags = take.number(1);
        assert_eq!(flags & !0x0f, 0, "unknown flags");
        let has = |bit: u32| flags >> bit & 1 == 1;
        let key = has(0).then(|| take.counted());
        let value = has(1).then(|| take.counted());
        let time = has(3).then(|| take.number(8).cast_signed());
        let headers = if has(2) { take.varint() } else { 0 };
        let headers = (0..headers)
            .map(|_| (String::from_utf8(take.counted()).unwrap(), take.counted()))
            .collect();
        into.push(Record {
            offset,
            append_time,
            key,
            value,
            time,
            headers,
        });
        offset += 1;
    }
    assert!(take.0.is_empty(), "the body ends with its last record");
    offset
}

/// Reads a file of slots that says the same in both pages, and nothing else; returns the payload.
pub fn slots(file: &[u8], magic: [u8; 8]) -> (&[u8], Parts) {
    assert_eq!(file.len(), 8192);
    let first = slot(file, magic, 0);
    let second = slot(file, magic, 4096);
    assert_eq!(first, second, "both slots say the same");
    let mut parts = Vec::new();
    for (name, start) in [("slot 1", 0), ("slot 2", 4096)] {
        let end = start + 28 + first.1.len();
        parts.push((format!("{name}, header"), start..start + 28));
        parts.push((format!("{name}, payload"), start + 28..end));
        parts.push(("unused".to_owned(), end..start + 4096));
    }
    (first.1, parts)
}

/// Reads the file of a group that is held, all of whose slots are whole or empty; returns the payload
/// of the newest.
pub fn held_group(file: &[u8]) -> &[u8] {
    assert_eq!(file.len(), 8192);
    let mut newest = (0, &[][..]);
    for page in [0, 4096] {
        for position in [page, page + 512] {
            if file[position..position + 8] != [0; 8] {
                let (generation, payload) = slot_of(512, file, *b"dlogGRP\n", position);
                if generation > newest.0 {
                    newest = (generation, payload);
                }
            }
        }
    }
    newest.1
}

/// Generation and payload of the slot at `position`.
fn slot(file: &[u8], magic: [u8; 8], position: usize) -> (u64, &[u8]) {
    slot_of(4096, file, magic, position)
}

fn slot_of(size: usize, file: &[u8], magic: [u8; 8], position: usize) -> (u64, &[u8]) {
    let slot = &file[position..position + size];
    let mut take = Take(slot);
    assert_eq!(slot[..8], magic);
    let identity = take.number(8);
    let crc = take.number(4);
    assert_eq!(take.number(2), 1, "version");
    assert_eq!(take.number(2), 0);
    let generation = take.number(8);
    let len = take.length(4);
    let found = crc32(seed(identity, position), &slot[12..28 + len]);
    assert_eq!(crc, u64::from(found), "checksum of the slot at {position}");
    assert!(slot[28 + len..].iter().all(|&byte| byte == 0));
    (generation, &slot[28..28 + len])
}

/// What `meta` says.
#[derive(Debug, PartialEq, Eq)]
pub struct Meta {
    pub id: u64,
    pub created: u64,
    /// Tags, and the numbers that their values consist of.
    pub options: Vec<(u64, Vec<u64>)>,
}

pub fn meta(payload: &[u8]) -> Meta {
    let mut take = Take(payload);
    let (id, created) = (take.number(8), take.number(8));
    let mut options = Vec::new();
    while !take.0.is_empty() {
        let tag = take.number(1);
        let len = take.length(1);
        assert_eq!(len % 8, 0);
        options.push((tag, (0..len / 8).map(|_| take.number(8)).collect()));
    }
    Meta {
        id,
        created,
        options,
    }
}

/// What `checkpoint` says.
#[derive(Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub durable: u64,
    pub segment: u64,
    pub position: u64,
    pub time: u64,
    pub reservation: u64,
    pub log_start: u64,
    pub boot_id: Vec<u8>,
    pub closed_in_order: bool,
    pub unproven: bool,
    /// To retention, drop-oldest, damage and lost tails.
    pub lost: [u64; 4],
    pub damage: Vec<(u64, u64)>,
    /// How far the log is compacted, and where that has to begin anew.
    pub compacted: Option<(u64, u64)>,
}

pub fn checkpoint(payload: &[u8]) -> Checkpoint {
    let mut take = Take(payload);
    let [durable, segment, position, time, reservation, log_start] =
        std::array::from_fn(|_| take.number(8));
    let boot_id = take.bytes(16).to_vec();
    let flags = take.number(1);
    assert_eq!(flags & !0x0b, 0, "unknown flags");
    let lost = std::array::from_fn(|_| take.number(8));
    let count = take.number(2);
    let damage = (0..count)
        .map(|_| (take.number(8), take.number(8)))
        .collect();
    let compacted = (flags & 8 == 8).then(|| (take.number(8), take.number(8)));
    assert!(take.0.is_empty());
    Checkpoint {
        durable,
        segment,
        position,
        time,
        reservation,
        log_start,
        boot_id,
        closed_in_order: flags & 1 == 1,
        unproven: flags & 2 == 2,
        lost,
        damage,
        compacted,
    }
}

/// What a group's file holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    pub log_id: u64,
    pub id: u64,
    pub committed: u64,
    pub time: u64,
    pub counted: u64,
    /// To retention, drop-oldest, damage, lost tails and offset resets.
    pub lost: [u64; 5],
    pub metadata: Vec<u8>,
}

pub fn group(payload: &[u8]) -> Group {
    let mut take = Take(payload);
    Group {
        log_id: take.number(8),
        id: take.number(8),
        committed: take.number(8),
        time: take.number(8),
        counted: take.number(8),
        lost: std::array::from_fn(|_| take.number(8)),
        metadata: take.0.to_vec(),
    }
}
