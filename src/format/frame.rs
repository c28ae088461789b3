//! A frame: one or more records under one checksum. The layout is in the [text](super).

use super::{
    body::FrameBody,
    checksum::Seed,
    producer::Sender,
    sparse::Sparse,
    wire::{Reader, Writer, narrow, widen},
};
use crate::{error::DecodeError, options::Compression, record::Timestamp};

/// Bytes of a frame before its body.
pub(crate) const HEADER_LEN: usize = 24;
/// Bytes of the checksum, which is the only thing that it does not cover.
const CHECKSUM_LEN: usize = 4;
/// The newest frame version that this release reads, and the one that it writes.
const VERSION: u16 = 1;
/// The version stands in the low bits of the attributes.
const VERSION_BITS: u16 = 0x000f;
/// The body is the value of one record that has nothing else.
pub(crate) const PLAIN: u16 = 1 << 4;
/// The body is a segment's footer, not records.
pub(crate) const FOOTER: u16 = 1 << 5;
/// In front of the body stands who sent it.
pub(crate) const PRODUCER: u16 = 1 << 6;
/// In front of the body stands which of its records are left.
pub(crate) const SPARSE: u16 = 1 << 7;
/// How the records are compressed, in two bits: 0 is not at all.
const COMPRESSION: u16 = 0b11 << 8;
/// The records are compressed with LZ4.
pub(crate) const LZ4: u16 = 1 << 8;
/// Set aside: an offset commit, a control frame. A reader that does not know a bit refuses the
/// frame.
const KNOWN: u16 = VERSION_BITS | PLAIN | FOOTER | PRODUCER | SPARSE | LZ4;
/// A frame with one of these has nothing to compress, or to remove.
const WHOLE: u16 = PLAIN | FOOTER;

const _: () = assert!(COMPRESSION & LZ4 == LZ4 && LZ4 == 0x0100 && COMPRESSION == 0x0300);
const _: () = assert!(COMPRESSION & (VERSION_BITS | PLAIN | FOOTER | PRODUCER | SPARSE) == 0);

const _: () = assert!(HEADER_LEN == CHECKSUM_LEN + 4 + 4 + 4 + TIME_LEN + 2);
const _: () = assert!(TIME_LEN == 6);
const TIME_LEN: usize = 6;
/// Latest append time: the year 10889.
const TIME_MAX: u64 = (1 << (8 * TIME_LEN)) - 1;

/// What a frame's header says beside its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Its first offset less the segment's.
    pub(crate) relative_offset: u32,
    /// How far its first offset was above the durable offset when it was written; the largest
    /// value says "at least that far".
    pub(crate) durable_distance: u32,
    /// Milliseconds since the Unix epoch, below 2^48.
    pub(crate) append_time: u64,
}

impl Stamp {
    pub(crate) fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.append_time).unwrap_or(i64::MAX))
    }
}

/// A frame whose checksum verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) stamp: Stamp,
    pub(crate) attributes: u16,
    /// The named producer that sent it.
    pub(crate) sender: Option<Sender<'a>>,
    /// Which of its records are left, if some were removed.
    pub(crate) sparse: Option<Sparse<'a>>,
    pub(crate) body: &'a [u8],
}

impl<'a> Frame<'a> {
    fn new(stamp: Stamp, attributes: u16, mut content: Reader<'a>) -> Result<Self, DecodeError> {
        let sender = if attributes & PRODUCER == 0 {
            None
        } else {
            Some(Sender::read(&mut content)?)
        };
        let sparse = if attributes & SPARSE == 0 {
            None
        } else {
            Some(Sparse::read(&mut content)?)
        };
        Ok(Self {
            stamp,
            attributes: attributes & !VERSION_BITS,
            sender,
            sparse,
            body: content.rest(),
        })
    }

    /// Its length on disk.
    pub(crate) fn len(&self) -> usize {
        let sender = self.sender.map_or(0, |sender| sender.len());
        let sparse = self.sparse.map_or(0, |sparse| sparse.len());
        HEADER_LEN + sender + sparse + self.body.len()
    }

    pub(crate) fn is_footer(&self) -> bool {
        self.attributes & FOOTER != 0
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.attributes & PLAIN != 0
    }

    /// Its attributes without what stands in front of the body.
    pub(crate) fn of_body(&self) -> u16 {
        self.attributes & !(PRODUCER | SPARSE)
    }

    /// How its records are compressed.
    #[inline]
    pub(crate) fn compression(&self) -> Compression {
        if self.attributes & COMPRESSION == LZ4 {
            Compression::Lz4
        } else {
            Compression::None
        }
    }
}

/// Length of a frame with such a body.
pub(crate) fn frame_len(body: &impl FrameBody) -> usize {
    HEADER_LEN + body.len()
}

/// Writes a frame that fills `into`, which starts where `seed` says. Returns whether it fitted
/// exactly, which it does if `into` is [`frame_len`] long.
#[inline]
pub(crate) fn encode(into: &mut [u8], seed: Seed, stamp: Stamp, body: &impl FrameBody) -> bool {
    let length = narrow(into.len());
    let Some((checksum, covered)) = into.split_first_chunk_mut::<CHECKSUM_LEN>() else {
        return false;
    };
    let [t0, t1, t2, t3, t4, t5, ..] = stamp.append_time.min(TIME_MAX).to_le_bytes();
    let [l0, l1, l2, l3] = length.to_le_bytes();
    let [r0, r1, r2, r3] = stamp.relative_offset.to_le_bytes();
    let [d0, d1, d2, d3] = stamp.durable_distance.to_le_bytes();
    let [a0, a1] = (VERSION | body.attributes()).to_le_bytes();
    let mut writer = Writer::new(covered);
    writer.bytes(&[
        l0, l1, l2, l3, r0, r1, r2, r3, d0, d1, d2, d3, t0, t1, t2, t3, t4, t5, a0, a1,
    ]);
    body.write(&mut writer);
    if writer.overflowed() || !writer.is_full() {
        return false;
    }
    *checksum = seed.checksum(covered).to_le_bytes();
    true
}

/// Reads the frame at the front of `bytes`, which starts where `seed` says.
///
/// # Errors
///
/// [`DecodeError::Blank`] if nothing was written there, [`DecodeError::Truncated`] if the frame
/// says that it goes on behind `bytes`; [`DecodeError::Version`] for a frame that verifies but has
/// a version or attributes that this release does not know; others if it does not verify.
#[inline]
pub(crate) fn decode(bytes: &[u8], seed: Seed) -> Result<Frame<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let checksum = reader.u32()?;
    let length = reader.u32()?;
    if length == 0 && checksum == 0 {
        return Err(DecodeError::Blank);
    }
    let len = widen(length);
    if len < HEADER_LEN {
        return Err(DecodeError::Length {
            length: length.into(),
        });
    }
    let frame = bytes.get(CHECKSUM_LEN..len).ok_or(DecodeError::Truncated {
        needed: len,
        found: bytes.len(),
    })?;
    if seed.checksum(frame) != checksum {
        return Err(DecodeError::Checksum);
    }
    let mut reader = Reader::new(frame);
    reader.u32()?;
    let relative_offset = reader.u32()?;
    let durable_distance = reader.u32()?;
    let [t0, t1, t2, t3, t4, t5] = reader.array()?;
    let attributes = reader.u16()?;
    let has_many = attributes & (COMPRESSION | SPARSE) != 0;
    if attributes & VERSION_BITS != VERSION
        || attributes & !KNOWN != 0
        || (has_many && attributes & WHOLE != 0)
    {
        return Err(DecodeError::Version {
            found: attributes.into(),
            supported: super::FORMAT_VERSION.into(),
        });
    }
    let stamp = Stamp {
        relative_offset,
        durable_distance,
        append_time: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, 0, 0]),
    };
    Frame::new(stamp, attributes, reader)
}

/// Reads a plain frame at the front of `bytes`, the usual one; returns its length and its relative
/// offset. `None` stands for all else, which [`decode`] tells apart.
#[inline]
pub(crate) fn decode_plain(bytes: &[u8], seed: Seed) -> Option<(usize, u32)> {
    let header: &[u8; HEADER_LEN] = bytes.first_chunk()?;
    let [c0, c1, c2, c3, l0, l1, l2, l3, r0, r1, r2, r3, .., a0, a1] = *header;
    let len = widen(u32::from_le_bytes([l0, l1, l2, l3]));
    if u16::from_le_bytes([a0, a1]) != VERSION | PLAIN || len < HEADER_LEN {
        return None;
    }
    let frame = bytes.get(CHECKSUM_LEN..len)?;
    let verifies = seed.checksum(frame) == u32::from_le_bytes([c0, c1, c2, c3]);
    verifies.then_some((len, u32::from_le_bytes([r0, r1, r2, r3])))
}

/// The append time and the value of the plain frame that fills `bytes`, which verified before.
#[inline]
pub(crate) fn trusted_plain(bytes: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (header, value) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let [.., t0, t1, t2, t3, t4, t5, _, _] = *header;
    let millis = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, 0, 0]);
    let time = Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX));
    Some((time, value))
}

/// The length that the header at the front of `bytes` declares, believed or not; what else there
/// is to see of a frame before its checksum. `None` if it can't be one.
pub(crate) fn glimpse(bytes: &[u8]) -> Option<Glimpse> {
    let mut reader = Reader::new(bytes);
    reader.u32().ok()?;
    let len = widen(reader.u32().ok()?);
    let relative_offset = reader.u32().ok()?;
    reader.bytes(4 + TIME_LEN).ok()?;
    let attributes = reader.u16().ok()?;
    let possible = len >= HEADER_LEN && attributes & VERSION_BITS == VERSION;
    possible.then_some(Glimpse {
        len,
        relative_offset,
    })
}

/// What an unverified header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glimpse {
    pub(crate) len: usize,
    pub(crate) relative_offset: u32,
}

/// The append time in the header of a frame that verified.
pub(crate) fn append_time(bytes: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(bytes);
    reader.bytes(HEADER_LEN - TIME_LEN - 2).ok()?;
    let [t0, t1, t2, t3, t4, t5] = reader.array().ok()?;
    Some(u64::from_le_bytes([t0, t1, t2, t3, t4, t5, 0, 0]))
}

/// The frame that fills `bytes`, which [verified](decode) before.
pub(crate) fn trusted(bytes: &[u8]) -> Option<Frame<'_>> {
    let mut reader = Reader::new(bytes);
    reader.u64().ok()?;
    let relative_offset = reader.u32().ok()?;
    let durable_distance = reader.u32().ok()?;
    let [t0, t1, t2, t3, t4, t5] = reader.array().ok()?;
    let append_time = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, 0, 0]);
    let attributes = reader.u16().ok()?;
    let stamp = Stamp {
        relative_offset,
        durable_distance,
        append_time,
    };
    Frame::new(stamp, attributes, reader).ok()
}
