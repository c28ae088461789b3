//! Makes structures whose checksums hold, whatever they say: so that a fuzzer gets behind the
//! checksums. Written from the text of the format.

use crate::specimen;
use arbitrary::Arbitrary;
use crc32fast::Hasher;
use duralog::testing;

pub const META: [u8; 8] = *b"dlogMET\n";
pub const CHECKPOINT: [u8; 8] = *b"dlogCHK\n";
pub const GROUP: [u8; 8] = *b"dlogGRP\n";
const SEGMENT: [u8; 8] = *b"dlogSEG\n";

const SLOT: usize = 4096;
const SLOT_HEADER: usize = 28;
const FRAME_HEADER: usize = 24;
/// Segments are kept small: what is wrong with a long one is wrong with a short one.
const SEGMENT_MAX: usize = 16 << 10;

fn checksum(identity: u64, position: u32, bytes: &[u8]) -> u32 {
    const SPREAD: u32 = 0x9e37_79b1;
    let [low, high] = [identity, identity >> 32].map(|half| (half & 0xffff_ffff) as u32);
    let of_file = low ^ high.rotate_left(16).wrapping_mul(SPREAD) ^ 0x6475_7261;
    let mut hasher = Hasher::new_with_initial(of_file ^ position.wrapping_mul(SPREAD));
    hasher.update(bytes);
    hasher.finalize()
}

/// A file of two slots, intact as to its form.
pub fn slots(magic: [u8; 8], generations: [u64; 2], payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(SLOT - SLOT_HEADER)];
    let mut file = vec![0; 2 * SLOT];
    for (slot, generation) in [0, SLOT].into_iter().zip(generations) {
        let bytes = &mut file[slot..slot + SLOT_HEADER + payload.len()];
        bytes[..8].copy_from_slice(&magic);
        bytes[12] = 1;
        bytes[16..24].copy_from_slice(&generation.to_le_bytes());
        bytes[24..28].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[28..].copy_from_slice(payload);
        let crc = checksum(u64::from_le_bytes(magic), slot as u32, &bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    file
}

/// The two copies of a segment's header, intact as to their form.
pub fn segment_header(id: u64, base: u64, previous_end: u64, created: u64, log: u64) -> Vec<u8> {
    let mut file = vec![0; 1024];
    for copy in [0, 512] {
        let bytes = &mut file[copy..copy + 56];
        bytes[..8].copy_from_slice(&SEGMENT);
        bytes[8] = 1;
        let numbers = [id, base, previous_end, created, log].map(u64::to_le_bytes);
        bytes[12..52].copy_from_slice(&numbers.concat());
        let crc = checksum(u64::from_le_bytes(SEGMENT), copy as u32, &bytes[..52]);
        bytes[52..].copy_from_slice(&crc.to_le_bytes());
    }
    file
}

/// An LZ4 block that stands for these bytes.
pub fn lz4_block(bytes: &[u8]) -> Vec<u8> {
    lz4_flex::block::compress(bytes)
}

/// A body that says that `block` holds `count` records of `len` bytes.
pub fn compressed_body(count: u64, len: u64, block: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for mut number in [count, len] {
        while number >= 0x80 {
            body.push(number as u8 | 0x80);
            number >>= 7;
        }
        body.push(number as u8);
    }
    body.extend(block);
    body
}

/// A frame with this body that says that it is compressed with LZ4.
pub fn compressed_frame(id: u64, position: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER];
    frame[FRAME_HEADER - 2..].copy_from_slice(&LZ4.to_le_bytes());
    frame.extend(body);
    testing::seal_frame(&mut frame, id, position);
    frame
}

/// Attributes of a frame of compressed records.
const LZ4: u16 = 0x0101;

/// A segment in pieces.
#[derive(Arbitrary, Debug)]
pub struct Segment {
    id: u64,
    /// It says that it is another log's.
    foreign: bool,
    pub base: Number,
    previous_end: Number,
    created: u64,
    pieces: Vec<Piece>,
}

/// An offset: mostly a small one, so that several fit together.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    Small(u8),
    Large(u64),
}

impl Number {
    pub fn get(self) -> u64 {
        match self {
            Self::Small(number) => number.into(),
            Self::Large(number) => number,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Piece {
    /// A frame whose checksum holds.
    Frame {
        relative_offset: u8,
        durable_distance: Number,
        append_time: u64,
        attributes: u16,
        body: Vec<u8>,
    },
    /// A frame of one plain record.
    Plain {
        relative_offset: u8,
        value: u8,
    },
    /// A frame of compressed records: as many as it says, or not.
    Compressed {
        relative_offset: u8,
        count: u8,
        records: Vec<u8>,
        /// The length that it says, if that is not the true one.
        lie: Option<u16>,
        /// The records stand where the block should.
        raw: bool,
    },
    /// A footer.
    Footer {
        end: Number,
        last_time: u64,
    },
    /// Anything.
    Bytes(Vec<u8>),
    Zeros(u8),
}

impl Segment {
    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let base = self.base.get();
        let mut file = segment_header(
            self.id,
            base,
            self.previous_end.get(),
            self.created,
            if self.foreign {
                self.created
            } else {
                specimen::log_id()
            },
        );
        for piece in &self.pieces {
            if file.len() > SEGMENT_MAX {
                break;
            }
            self.add(piece, &mut file);
        }
        file
    }

    fn add(&self, piece: &Piece, file: &mut Vec<u8>) {
        match piece {
            Piece::Frame {
                relative_offset,
                durable_distance,
                append_time,
                attributes,
                body,
            } => {
                let distance = durable_distance.get() as u32;
                let offset = u32::from(*relative_offset);
                self.seal(file, offset, distance, *append_time, *attributes, body);
            }
            Piece::Plain {
                relative_offset,
                value,
            } => {
                let offset = u32::from(*relative_offset);
                self.seal(file, offset, offset, 0, 0x11, &[*value]);
            }
            Piece::Compressed {
                relative_offset,
                count,
                records,
                lie,
                raw,
            } => {
                let len = lie.map_or(records.len() as u64, u64::from);
                let block = if *raw { records } else { &lz4_block(records) };
                let body = compressed_body(u64::from(*count), len, block);
                let offset = u32::from(*relative_offset);
                self.seal(file, offset, offset, 0, LZ4, &body);
            }
            Piece::Footer { end, last_time } => {
                let relative = end.get().saturating_sub(self.base.get()) as u32;
                let body = [end.get(), *last_time].map(u64::to_le_bytes).concat();
                self.seal(file, relative, 0, *last_time, 0x21, &body);
            }
            Piece::Bytes(bytes) => file.extend(bytes),
            Piece::Zeros(count) => file.extend(std::iter::repeat_n(0, usize::from(*count))),
        }
    }

    fn seal(
        &self,
        file: &mut Vec<u8>,
        relative_offset: u32,
        durable_distance: u32,
        append_time: u64,
        attributes: u16,
        body: &[u8],
    ) {
        let position = file.len();
        file.extend([0; 8]);
        file.extend(relative_offset.to_le_bytes());
        file.extend(durable_distance.to_le_bytes());
        file.extend(&append_time.to_le_bytes()[..6]);
        file.extend(attributes.to_le_bytes());
        debug_assert_eq!(file.len() - position, FRAME_HEADER);
        file.extend(body);
        testing::seal_frame(&mut file[position..], self.id, position as u32);
    }
}

/// What a checkpoint may say.
#[derive(Arbitrary, Debug)]
pub struct Checkpoint {
    /// Durable offset, its segment.
    durable: [Number; 2],
    position: u16,
    time: u64,
    /// Reservation, log start.
    limits: [Number; 2],
    boot_id: [u8; 16],
    flags: u8,
    lost: [u64; 4],
    damage: Vec<[Number; 2]>,
}

impl Checkpoint {
    pub fn payload(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        bytes.extend(self.durable.iter().flat_map(|n| n.get().to_le_bytes()));
        bytes.extend(u64::from(self.position).to_le_bytes());
        bytes.extend(self.time.to_le_bytes());
        bytes.extend(self.limits.iter().flat_map(|n| n.get().to_le_bytes()));
        bytes.extend(self.boot_id);
        bytes.push(self.flags & 3);
        bytes.extend(self.lost.iter().flat_map(|n| n.to_le_bytes()));
        let damage = &self.damage[..self.damage.len().min(200)];
        bytes.extend((damage.len() as u16).to_le_bytes());
        bytes.extend(damage.iter().flatten().flat_map(|n| n.get().to_le_bytes()));
        bytes
    }
}
