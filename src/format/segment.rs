//! A segment's header and footer. The layout is in the [text](super).

use super::{
    body::FrameBody,
    checksum::Seed,
    frame::{self, FOOTER, Frame},
    wire::{Reader, Writer, narrow},
};
use crate::{error::DecodeError, offset::Offset};

/// Where frames start.
pub(crate) const HEADER_LEN: usize = 2 * COPY_LEN;
/// Each copy of the header stands in a sector of its own.
const COPY_LEN: usize = 512;
/// Bytes of a copy before its checksum.
const COPY_COVERED: usize = 8 + 2 + 2 + 8 + 8 + 8 + 8 + 8;
/// The same in a segment that was compacted.
const COMPACTED_COVERED: usize = COPY_COVERED + 8 + 8 + 8 + 4 + 4;
const CHECKSUM_LEN: usize = 4;
const MAGIC: [u8; 8] = *b"dlogSEG\n";
const VERSION: u16 = super::FORMAT_VERSION;
/// The version of a segment that was compacted: a release that does not know it must not take what
/// was removed for damage.
const COMPACTED: u16 = 2;
/// Both copies start from the seed of this identity: the segment's own is what they tell.
const HEADER_SEED: Seed = Seed::of(u64::from_le_bytes(MAGIC));

/// Bytes of a footer, its frame header included.
pub(crate) const FOOTER_LEN: usize = frame::HEADER_LEN + FOOTER_BODY;
const FOOTER_BODY: usize = 8 + 8;

const _: () = assert!(COPY_COVERED + CHECKSUM_LEN == 56);
const _: () = assert!(COMPACTED_COVERED + CHECKSUM_LEN == 88);
const _: () = assert!(COMPACTED_COVERED + CHECKSUM_LEN <= COPY_LEN);
const _: () = assert!(HEADER_LEN == 1024);
const _: () = assert!(FOOTER_LEN == 40);

/// What a segment says of itself at its front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Random: seeds the checksums of this segment's frames.
    pub(crate) id: u64,
    /// The first offset.
    pub(crate) base: Offset,
    /// Where the log ended before this segment. Less than `base` if offsets were skipped because
    /// a power cut may have taken a tail: those between are lost.
    pub(crate) previous_end: Offset,
    /// When it was made, in milliseconds since the Unix epoch.
    pub(crate) created: u64,
    /// The log that it is a segment of.
    pub(crate) log_id: u64,
    /// What it says beside if it was compacted: then an offset that is missing between its frames
    /// was removed, and no gap.
    pub(crate) compacted: Option<Compacted>,
}

/// What a compacted segment says of itself. It was written as a whole, so all of it was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// The offset after its last one, removed or not.
    pub(crate) end: Offset,
    /// The append time of the last frame that it had before it was compacted first.
    pub(crate) last_time: u64,
    /// When all of it was clean first, in milliseconds since the Unix epoch; 0 if that is still to
    /// come. Its tombstones are kept for a while from then on.
    pub(crate) cleaned: u64,
    /// Its frames end here, and the footer stands here.
    pub(crate) frames_end: u32,
    /// How many tombstones it has.
    pub(crate) tombstones: u32,
}

impl SegmentHeader {
    pub(crate) fn seed(&self) -> Seed {
        Seed::of(self.id)
    }

    /// Writes both copies.
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let (version, len) = match self.compacted {
            None => (VERSION, COPY_COVERED),
            Some(_) => (COMPACTED, COMPACTED_COVERED),
        };
        for (copy, position) in bytes.chunks_exact_mut(COPY_LEN).zip([0, narrow(COPY_LEN)]) {
            let (covered, rest) = copy.split_at_mut(len);
            let mut writer = Writer::new(covered);
            writer.bytes(&MAGIC);
            writer.u16(version);
            writer.u16(0);
            writer.u64(self.id);
            writer.u64(self.base.get());
            writer.u64(self.previous_end.get());
            writer.u64(self.created);
            writer.u64(self.log_id);
            if let Some(compacted) = &self.compacted {
                writer.u64(compacted.end.get());
                writer.u64(compacted.last_time);
                writer.u64(compacted.cleaned);
                writer.u32(compacted.frames_end);
                writer.u32(compacted.tombstones);
            }
            let checksum = HEADER_SEED.at(position).checksum(covered);
            Writer::new(rest).u32(checksum);
        }
        bytes
    }

    /// Reads whichever copy verifies; also says whether the other one does.
    ///
    /// # Errors
    ///
    /// What is wrong with the first copy, if both are wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, CopyState), DecodeError> {
        let first = decode_copy(bytes, 0);
        let second = decode_copy(bytes, COPY_LEN);
        match (first, second) {
            (Ok(header), Ok(other)) if header == other => Ok((header, CopyState::Both)),
            (Ok(header), _) => Ok((header, CopyState::FirstOnly)),
            (Err(_), Ok(header)) => Ok((header, CopyState::SecondOnly)),
            (Err(error), Err(_)) => Err(error),
        }
    }
}

/// Which copies of a segment's header verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyState {
    Both,
    FirstOnly,
    SecondOnly,
}

impl CopyState {
    /// Where the copy that does not verify stands.
    pub(crate) fn damaged_at(self) -> Option<u64> {
        match self {
            Self::Both => None,
            Self::FirstOnly => Some(COPY_LEN as u64),
            Self::SecondOnly => Some(0),
        }
    }
}

fn decode_copy(bytes: &[u8], position: usize) -> Result<SegmentHeader, DecodeError> {
    let copy = bytes.get(position..).unwrap_or_default();
    let copy = copy.get(..COPY_LEN).unwrap_or(copy);
    let mut reader = Reader::new(copy);
    let used = reader.bytes(COPY_COVERED + CHECKSUM_LEN)?;
    if used.iter().all(|&byte| byte == 0) {
        return Err(DecodeError::Blank);
    }
    let mut reader = Reader::new(copy);
    if reader.array()? != MAGIC {
        return Err(DecodeError::Magic);
    }
    // Before the checksum: where a newer format keeps that is not for us to know.
    let version = reader.u16()?;
    let len = match version {
        COMPACTED => COMPACTED_COVERED,
        newer if newer > COMPACTED => {
            return Err(DecodeError::Version {
                found: newer.into(),
                supported: COMPACTED.into(),
            });
        }
        _ => COPY_COVERED,
    };
    let mut sealed = Reader::new(copy);
    let covered = sealed.bytes(len)?;
    if HEADER_SEED.at(narrow(position)).checksum(covered) != sealed.u32()? {
        return Err(DecodeError::Checksum);
    }
    let reserved = reader.u16()?;
    if version < VERSION || reserved != 0 {
        return Err(DecodeError::Field {
            field: "segment version",
        });
    }
    Ok(SegmentHeader {
        id: reader.u64()?,
        base: Offset::new(reader.u64()?),
        previous_end: Offset::new(reader.u64()?),
        created: reader.u64()?,
        log_id: reader.u64()?,
        compacted: if version == COMPACTED {
            Some(Compacted::read(&mut reader)?)
        } else {
            None
        },
    })
}

impl Compacted {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            end: Offset::new(reader.u64()?),
            last_time: reader.u64()?,
            cleaned: reader.u64()?,
            frames_end: reader.u32()?,
            tombstones: reader.u32()?,
        })
    }

    /// What its footer says.
    pub(crate) fn footer(&self) -> Footer {
        Footer {
            end: self.end,
            last_time: self.last_time,
        }
    }
}

/// What a sealed segment says of itself at its end. Written only once all before it, and the
/// segment's directory entry, are durable: so it is evidence of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// The offset after the last record.
    pub(crate) end: Offset,
    /// The append time of the last frame; of an empty segment, the last one before it.
    pub(crate) last_time: u64,
}

impl FrameBody for Footer {
    fn attributes(&self) -> u16 {
        FOOTER
    }

    fn count(&self) -> u64 {
        0
    }

    fn len(&self) -> usize {
        FOOTER_BODY
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u64(self.end.get());
        writer.u64(self.last_time);
    }
}

impl Footer {
    /// Reads the body of a frame that [is a footer](Frame::is_footer).
    pub(crate) fn decode(frame: &Frame<'_>) -> Result<Self, DecodeError> {
        if frame.body.len() != FOOTER_BODY {
            return Err(DecodeError::Length {
                length: frame.body.len() as u64,
            });
        }
        let mut reader = Reader::new(frame.body);
        Ok(Self {
            end: Offset::new(reader.u64()?),
            last_time: reader.u64()?,
        })
    }
}
