//! What stands in a frame behind its header: records. The layout is in the [text](super).

use std::num::NonZeroU32;

use super::{
    compressed::{Memory, Packed},
    frame::{self, Frame, PLAIN},
    sparse::Sparse,
    wire::{Reader, Writer, counted_len, varint_len},
};
use crate::{
    error::DecodeError,
    offset::Offset,
    options::Compression,
    record::{AsRecord, Headers, RecordRef, Timestamp},
};

const KEY: u8 = 1 << 0;
const VALUE: u8 = 1 << 1;
const HEADERS: u8 = 1 << 2;
const TIMESTAMP: u8 = 1 << 3;
const KNOWN: u8 = KEY | VALUE | HEADERS | TIMESTAMP;

/// Something that can be a frame's body. Measured before the append lock is taken, written under
/// it.
pub(crate) trait FrameBody {
    /// Attribute bits that tell a reader what the body is.
    fn attributes(&self) -> u16;
    /// How many offsets it takes.
    fn count(&self) -> u64;
    /// Its length in bytes.
    fn len(&self) -> usize;
    /// Writes exactly [`len`](FrameBody::len) bytes.
    fn write(&self, writer: &mut Writer<'_>);
}

/// The body of one record with nothing but a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainBody<'a>(pub(crate) &'a [u8]);

impl FrameBody for PlainBody<'_> {
    fn attributes(&self) -> u16 {
        PLAIN
    }

    fn count(&self) -> u64 {
        1
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        writer.bytes(self.0);
    }
}

/// Bytes of the count in front of so many records.
pub(crate) fn count_len(records: u64) -> usize {
    varint_len(records)
}

/// Most bytes of such a count.
pub(crate) const COUNT_MAX: usize = 5;
const _: () = assert!(1_u64 << (7 * COUNT_MAX) > u32::MAX as u64);

/// The body of any number of any records.
#[derive(Debug)]
pub(crate) struct RecordsBody<'a, R> {
    records: &'a [R],
    len: usize,
}

impl<'a, R: AsRecord> RecordsBody<'a, R> {
    pub(crate) fn new(records: &'a [R]) -> Self {
        let len = count_len(records.len() as u64)
            + records
                .iter()
                .map(|record| record_len(&record.as_record()))
                .sum::<usize>();
        Self { records, len }
    }

    /// Encodes the records into `memory`, without their count in front.
    pub(crate) fn encode_into<'m>(&self, memory: &'m mut Memory) -> &'m [u8] {
        let len = self.len - varint_len(self.records.len() as u64);
        let bytes = memory.slice(0..len);
        self.write_records(&mut Writer::new(bytes));
        bytes
    }

    fn write_records(&self, writer: &mut Writer<'_>) {
        for record in self.records {
            write_record(writer, &record.as_record());
        }
    }
}

impl<R: AsRecord> FrameBody for RecordsBody<'_, R> {
    fn attributes(&self) -> u16 {
        0
    }

    fn count(&self) -> u64 {
        self.records.len() as u64
    }

    fn len(&self) -> usize {
        self.len
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.varint(self.records.len() as u64);
        self.write_records(writer);
    }
}

/// The body of records in the shortest form there is.
#[derive(Debug)]
pub(crate) enum AnyBody<'a, R> {
    Plain(PlainBody<'a>),
    Records(RecordsBody<'a, R>),
}

impl<'a, R: AsRecord> AnyBody<'a, R> {
    pub(crate) fn of(records: &'a [R]) -> Self {
        if let [record] = records
            && let record = record.as_record()
            && let Some(value) = record.value.filter(|_| record.is_plain())
        {
            return Self::Plain(PlainBody(value));
        }
        Self::Records(RecordsBody::new(records))
    }
}

impl<R: AsRecord> FrameBody for AnyBody<'_, R> {
    fn attributes(&self) -> u16 {
        match self {
            Self::Plain(body) => body.attributes(),
            Self::Records(body) => body.attributes(),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Plain(body) => body.count(),
            Self::Records(body) => body.count(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Plain(body) => body.len(),
            Self::Records(body) => body.len(),
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Plain(body) => body.write(writer),
            Self::Records(body) => body.write(writer),
        }
    }
}

/// The body of records that were [encoded](encode_record) one behind the other before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodedBody<'a> {
    /// How many there are.
    pub(crate) count: u32,
    /// They stand here; or, of a plain one, its value does.
    pub(crate) records: &'a [u8],
    /// It is one record with nothing but a value.
    pub(crate) plain: bool,
}

impl FrameBody for EncodedBody<'_> {
    fn attributes(&self) -> u16 {
        if self.plain { PLAIN } else { 0 }
    }

    fn count(&self) -> u64 {
        self.count.into()
    }

    fn len(&self) -> usize {
        let of_count = if self.plain {
            0
        } else {
            count_len(self.count.into())
        };
        of_count + self.records.len()
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        if !self.plain {
            writer.varint(self.count.into());
        }
        writer.bytes(self.records);
    }
}

/// Encodes a record into `into`, which is [`record_len`] long. Returns whether it fitted exactly.
#[inline]
pub(crate) fn encode_record(into: &mut [u8], record: &RecordRef<'_>) -> bool {
    let mut writer = Writer::new(into);
    write_record(&mut writer, record);
    !writer.overflowed() && writer.is_full()
}

/// Bytes that `record` takes in a body.
pub(crate) fn record_len(record: &RecordRef<'_>) -> usize {
    let mut len = 1;
    len += record.key.map_or(0, counted_len);
    len += record.value.map_or(0, counted_len);
    len += record.timestamp.map_or(0, |_| size_of::<i64>());
    if !record.headers.is_empty() {
        len += varint_len(record.headers.len() as u64);
        len += record
            .headers
            .iter()
            .map(|(name, value)| counted_len(name.as_bytes()) + counted_len(value))
            .sum::<usize>();
    }
    len
}

#[inline]
fn write_record(writer: &mut Writer<'_>, record: &RecordRef<'_>) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    writer.u8(flag(record.key.is_some(), KEY)
        | flag(record.value.is_some(), VALUE)
        | flag(!record.headers.is_empty(), HEADERS)
        | flag(record.timestamp.is_some(), TIMESTAMP));
    if let Some(key) = record.key {
        writer.counted(key);
    }
    if let Some(value) = record.value {
        writer.counted(value);
    }
    if let Some(timestamp) = record.timestamp {
        writer.i64(timestamp.as_millis());
    }
    if !record.headers.is_empty() {
        writer.varint(record.headers.len() as u64);
        for (name, value) in record.headers {
            writer.counted(name.as_bytes());
            writer.counted(value);
        }
    }
}

fn read_record<'a>(reader: &mut Reader<'a>) -> Result<RecordRef<'a>, DecodeError> {
    let flags = reader.u8()?;
    if flags & !KNOWN != 0 {
        return Err(DecodeError::Field {
            field: "record flags",
        });
    }
    let key = if flags & KEY == 0 {
        None
    } else {
        Some(reader.counted()?)
    };
    let value = if flags & VALUE == 0 {
        None
    } else {
        Some(reader.counted()?)
    };
    let timestamp = if flags & TIMESTAMP == 0 {
        None
    } else {
        Some(Timestamp::from_millis(reader.i64()?))
    };
    let headers = if flags & HEADERS == 0 {
        Headers::default()
    } else {
        Headers::encoded(EncodedHeaders::read(reader)?)
    };
    Ok(RecordRef {
        offset: None,
        append_time: Timestamp::default(),
        key,
        value,
        headers,
        timestamp,
    })
}

/// Headers as they stand in a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodedHeaders<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> EncodedHeaders<'a> {
    /// Checks the headers at the front of `reader`, and leaves it behind them.
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = reader.varint()?;
        // A header takes two bytes at least, so more than this is no count of headers.
        let left = usize::try_from(length)
            .ok()
            .filter(|&count| count > 0 && count <= reader.rest().len() / 2)
            .ok_or(DecodeError::Length { length })?;
        let headers = Self {
            reader: *reader,
            left,
        };
        for _ in 0..left {
            let name = reader.counted()?;
            std::str::from_utf8(name).map_err(|_| DecodeError::Field {
                field: "header name",
            })?;
            reader.counted()?;
        }
        Ok(headers)
    }

    pub(crate) fn len(&self) -> usize {
        self.left
    }

    /// Takes off the first name and value.
    pub(crate) fn take_first(&mut self) -> Option<(&'a str, &'a [u8])> {
        self.left = self.left.checked_sub(1)?;
        let name = std::str::from_utf8(self.reader.counted().ok()?).ok()?;
        let value = self.reader.counted().ok()?;
        Some((name, value))
    }
}

/// What a body says that it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// How many records.
    pub(crate) count: u32,
    /// How many offsets they have, with those of records that were removed.
    pub(crate) offsets: u32,
    /// How many bytes they take once they are decompressed, if they are compressed.
    pub(crate) unpacked: Option<NonZeroU32>,
}

/// Checks that the body of a verified frame is well formed, and counts its records. Those that are
/// compressed stay so: whether they decompress is for who [reads](Packed::unpack) them to find out.
///
/// # Errors
///
/// What contradicts the format. That takes a writer that is not ours: the checksum matched.
#[inline]
pub(crate) fn check(frame: &Frame<'_>) -> Result<Contents, DecodeError> {
    if frame.is_plain() {
        return Ok(Contents::dense(1));
    }
    let mut contents = if frame.compression() == Compression::None {
        let mut reader = Reader::new(frame.body);
        let count = read_count(&mut reader, frame.body.len() as u64)?;
        check_records(reader, count)?;
        Contents::dense(count)
    } else {
        Packed::of(frame)?.contents()
    };
    if let Some(sparse) = &frame.sparse {
        if sparse.left() != contents.count {
            let field = "number of records left";
            return Err(DecodeError::Field { field });
        }
        contents.offsets = sparse.offsets();
    }
    Ok(contents)
}

impl Contents {
    /// A record for each offset, uncompressed.
    fn dense(count: u32) -> Self {
        Self {
            count,
            offsets: count,
            unpacked: None,
        }
    }
}

/// Reads the number of records in front of a body, at most `most`.
pub(super) fn read_count(reader: &mut Reader<'_>, most: u64) -> Result<u32, DecodeError> {
    let length = reader.varint()?;
    u32::try_from(length)
        .ok()
        .filter(|&count| count > 0 && length <= most)
        .ok_or(DecodeError::Length { length })
}

/// Checks that exactly `count` records are there.
pub(super) fn check_records(mut reader: Reader<'_>, count: u32) -> Result<(), DecodeError> {
    for _ in 0..count {
        read_record(&mut reader)?;
    }
    if reader.rest().is_empty() {
        Ok(())
    } else {
        Err(DecodeError::Field { field: "body" })
    }
}

/// The record of the plain frame that fills `bytes`, which verified before.
#[inline]
pub(crate) fn plain_record(bytes: &[u8], offset: Offset) -> Option<RecordRef<'_>> {
    let (append_time, value) = frame::trusted_plain(bytes)?;
    Some(RecordRef {
        offset: Some(offset),
        append_time,
        key: None,
        value: Some(value),
        headers: Headers::default(),
        timestamp: None,
    })
}

/// The records of a frame whose body was [checked](check).
#[derive(Clone, Debug)]
pub(crate) struct Records<'a> {
    reader: Reader<'a>,
    plain: bool,
    left: u32,
    /// The offset of the frame's first record, there or not.
    first: Offset,
    /// The number of the next record, counted from that one.
    next: u32,
    sparse: Option<Sparse<'a>>,
    append_time: Timestamp,
}

impl<'a> Records<'a> {
    pub(crate) fn new(frame: &Frame<'a>, first: Offset, count: u32) -> Self {
        let mut reader = Reader::new(frame.body);
        let plain = frame.is_plain();
        // The count was checked with the body; a reader at the end yields no records.
        let left = if plain || reader.varint().is_ok() {
            count
        } else {
            0
        };
        Self {
            reader,
            plain,
            left,
            first,
            next: 0,
            sparse: frame.sparse,
            append_time: frame.stamp.timestamp(),
        }
    }

    /// The records that a frame's body held [compressed](Packed::unpack).
    pub(crate) fn unpacked(bytes: &'a [u8], frame: &Frame<'a>, first: Offset, count: u32) -> Self {
        Self {
            reader: Reader::new(bytes),
            plain: false,
            left: count,
            first,
            next: 0,
            sparse: frame.sparse,
            append_time: frame.stamp.timestamp(),
        }
    }

    /// The records of a body that is not in a frame yet, numbered from `first` on.
    pub(crate) fn encoded(body: EncodedBody<'a>, first: Offset) -> Self {
        Self {
            reader: Reader::new(body.records),
            plain: body.plain,
            left: body.count,
            first,
            next: 0,
            sparse: None,
            append_time: Timestamp::default(),
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut record = if self.plain {
            RecordRef::new(self.reader.rest())
        } else {
            read_record(&mut self.reader).ok()?
        };
        let number = match &self.sparse {
            None => self.next,
            Some(sparse) => sparse.next(self.next)?,
        };
        record.offset = Some(self.first.advance(number.into()));
        record.append_time = self.append_time;
        self.next = number.wrapping_add(1);
        Some(record)
    }
}
