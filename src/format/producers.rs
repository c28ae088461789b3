//! What `producers-0` and `producers-1` hold: how far each named producer had come. The layout is
//! in the [text](super).

use super::{
    checksum::Seed,
    wire::{Reader, Writer, counted_len, narrow, varint_len},
};
use crate::{error::DecodeError, offset::Offset};

const MAGIC: [u8; 8] = *b"dlogPRD\n";
const VERSION: u16 = super::FORMAT_VERSION;
const CHECKSUM_LEN: usize = 4;
/// Where what the checksum covers begins.
const COVERED: usize = 8 + CHECKSUM_LEN;
/// Before the entries.
const HEADER_LEN: usize = COVERED + 2 + 2 + 8 + 8 + 8 + 4;
/// So many of a producer's last records have their offsets remembered.
pub(crate) const RECENT_MAX: usize = 64;
/// A larger file is none of ours.
pub(crate) const FILE_MAX: u64 = 64 << 20;

const _: () = assert!(HEADER_LEN == 44);

/// How far all named producers of a log had come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Of two, the higher one counts.
    pub(crate) generation: u64,
    /// All frames below are in it; of those from here on, some may be.
    pub(crate) upto: Offset,
    pub(crate) producers: Vec<Known>,
}

/// How far one of them had come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) epoch: u32,
    /// The sequence after the last one.
    pub(crate) next_sequence: u64,
    /// The offsets of the last records, in order; the last is that of `next_sequence - 1`.
    pub(crate) recent: Vec<Offset>,
}

impl Known {
    fn len(&self) -> usize {
        let mut len = counted_len(self.name.as_bytes()) + 4 + 4 + 8 + 1;
        self.each_step(|step| len += varint_len(step));
        len
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.counted(self.name.as_bytes());
        writer.u32(self.id);
        writer.u32(self.epoch);
        writer.u64(self.next_sequence);
        writer.u8(u8::try_from(self.recent.len()).unwrap_or(0));
        self.each_step(|step| writer.varint(step));
    }

    /// The first of the recent offsets, then how far each is behind the one before.
    fn each_step(&self, mut step: impl FnMut(u64)) {
        let mut last = Offset::ZERO;
        for offset in &self.recent {
            step(offset.since(last));
            last = *offset;
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = std::str::from_utf8(reader.counted()?);
        let field = |field| DecodeError::Field { field };
        let mut known = Self {
            name: name.map_err(|_| field("producer name"))?.to_owned(),
            id: reader.u32()?,
            epoch: reader.u32()?,
            next_sequence: reader.u64()?,
            recent: Vec::new(),
        };
        let count = reader.u8()?;
        if usize::from(count) > RECENT_MAX || u64::from(count) > known.next_sequence {
            return Err(field("recent records"));
        }
        let mut last = Offset::ZERO;
        for _ in 0..count {
            last = last.advance(reader.varint()?);
            known.recent.push(last);
        }
        Ok(known)
    }
}

impl Snapshot {
    /// The file of the log with this id.
    pub(crate) fn encode(&self, log_id: u64) -> Vec<u8> {
        let entries: usize = self.producers.iter().map(Known::len).sum();
        let mut bytes = vec![0; HEADER_LEN + entries];
        let mut writer = Writer::new(&mut bytes);
        writer.bytes(&MAGIC);
        writer.u32(0);
        writer.u16(VERSION);
        writer.u16(0);
        writer.u64(log_id);
        writer.u64(self.generation);
        writer.u64(self.upto.get());
        writer.u32(narrow(self.producers.len()));
        for producer in &self.producers {
            producer.write(&mut writer);
        }
        seal(&mut bytes);
        bytes
    }

    /// Reads the file of the log with this id.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Version`] if a newer release wrote it; others if it does not verify.
    pub(crate) fn decode(bytes: &[u8], log_id: u64) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return Err(DecodeError::Magic);
        }
        let checksum = reader.u32()?;
        let version = reader.u16()?;
        if version > VERSION {
            return Err(DecodeError::Version {
                found: version.into(),
                supported: VERSION.into(),
            });
        }
        if checksum != checksum_of(bytes) {
            return Err(DecodeError::Checksum);
        }
        reader.u16()?;
        if reader.u64()? != log_id {
            return Err(DecodeError::Field { field: "log id" });
        }
        let mut snapshot = Self {
            generation: reader.u64()?,
            upto: Offset::new(reader.u64()?),
            producers: Vec::new(),
        };
        for _ in 0..reader.u32()? {
            snapshot.producers.push(Known::read(&mut reader)?);
        }
        if reader.rest().is_empty() {
            Ok(snapshot)
        } else {
            let length = bytes.len() as u64;
            Err(DecodeError::Length { length })
        }
    }
}

/// Puts the magic and the checksum in place.
pub(crate) fn seal(bytes: &mut [u8]) {
    let checksum = checksum_of(bytes);
    let mut writer = Writer::new(bytes);
    writer.bytes(&MAGIC);
    writer.u32(checksum);
}

fn checksum_of(bytes: &[u8]) -> u32 {
    let covered = bytes.get(COVERED..).unwrap_or_default();
    let seed = Seed::of(u64::from_le_bytes(MAGIC)).at(0);
    seed.checksum(covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let known = |id: u32| Known {
            name: format!("importer-{id}"),
            id,
            epoch: 3,
            next_sequence: 1 << 40,
            recent: (0..RECENT_MAX as u64)
                .map(|n| Offset::new(u64::from(id) + n * 1000))
                .collect(),
        };
        Snapshot {
            generation: 9,
            upto: Offset::new(77),
            producers: (0..5).map(known).chain([Known::default()]).collect(),
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for snapshot in [snapshot(), Snapshot::default()] {
            assert_eq!(Snapshot::decode(&snapshot.encode(7), 7), Ok(snapshot));
        }
    }

    #[test]
    fn another_log_s_is_refused_and_so_is_every_flipped_bit_and_every_other_length() {
        let bytes = snapshot().encode(7);
        assert!(Snapshot::decode(&bytes, 8).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Snapshot::decode(&flipped, 7).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes[..len], 7).is_err(), "{len} bytes");
        }
    }
}
