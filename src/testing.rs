//! The seam and the decoders, for tests and fuzzing. Not covered by semantic versioning.

use std::{path::Path, sync::Arc};

pub use crate::fs::sim;
pub use crate::fs::{
    Access, Clock, DirEntry, Directory, EntryKind, File, FileSystem, Host, Joiner, MapCells,
    MapReader, MapWriter, Parker, RealHost, SyncKind, Threads,
};
use crate::{
    api::{Log, ReadOnlyLog},
    error::Result,
    format::{
        body, checkpoint,
        checksum::Seed,
        compressed::{Memory, Packed},
        frame, group, meta, producers, segment,
        wire::widen,
    },
    offset::Offset,
    options::LogOptions,
    record::RecordRef,
    segment::{Scanner, Survey},
};

/// Opens a log on a machine of the caller's: one that fails when told to, say.
///
/// # Errors
///
/// Those of [`LogOptions::open`].
pub fn open(host: Arc<dyn Host>, options: &LogOptions, path: impl AsRef<Path>) -> Result<Log> {
    options.open_on(host, path)
}

/// Opens a log read-only on a machine of the caller's.
///
/// # Errors
///
/// Those of [`Log::open_read_only`].
pub fn open_read_only(host: Arc<dyn Host>, path: impl AsRef<Path>) -> Result<ReadOnlyLog> {
    ReadOnlyLog::open(host, path.as_ref())
}

/// The rows of the recovery table (in `src/log/plan.rs`) that opening the log met, as letters.
pub fn recovery_rows(log: &Log) -> String {
    log.recovery().rows.names()
}

/// Decodes bytes as a frame of the segment with this id, at this position, and reads all its
/// records; returns how many there are, or `None` if it is no frame, or one of compressed records
/// that do not decompress in this build.
pub fn decode_frame(bytes: &[u8], segment_id: u64, position: u32) -> Option<usize> {
    let frame = frame::decode(bytes, Seed::of(segment_id).at(position)).ok()?;
    let contents = body::check(&frame).ok()?;
    let mut memory = Memory::default();
    let records = if contents.unpacked.is_some() {
        let range = Packed::of(&frame).ok()?.unpack(&mut memory, 0).ok()?;
        body::Records::unpacked(memory.get(range), &frame, Offset::ZERO, contents.count)
    } else {
        body::Records::new(&frame, Offset::ZERO, contents.count)
    };
    let most = contents
        .unpacked
        .map_or(bytes.len(), |len| widen(len.get()));
    let headers_fit = |record: &RecordRef<'_>| record.headers().iter().count() <= most;
    Some(records.filter(headers_fit).count())
}

/// Gives bytes the checksum of a frame at this position, so that a fuzzer gets past it.
pub fn seal_frame(bytes: &mut [u8], segment_id: u64, position: u32) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if let Some((checksum, covered)) = bytes.split_first_chunk_mut::<4>() {
        if let Some((length, _)) = covered.split_first_chunk_mut::<4>() {
            *length = len.to_le_bytes();
        }
        *checksum = Seed::of(segment_id)
            .at(position)
            .checksum(covered)
            .to_le_bytes();
    }
}

/// Decodes bytes as the header of a segment; returns its id and base offset.
pub fn decode_segment_header(bytes: &[u8]) -> Option<(u64, u64)> {
    let (header, _) = segment::SegmentHeader::decode(bytes).ok()?;
    Some((header.id, header.base.get()))
}

/// Scans bytes as a segment, header included, from its first frame on; returns how many frames
/// verify and how many holes there are.
pub fn scan_segment(bytes: &[u8]) -> Option<(u64, usize)> {
    let (header, _) = segment::SegmentHeader::decode(bytes).ok()?;
    let scanner = Scanner::whole((&header).into(), Offset::MAX);
    let mut source = bytes;
    let survey = Survey::run(scanner, &mut source).ok()?;
    Some((survey.frames, survey.holes.len()))
}

/// Which file of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotContent {
    /// `meta`.
    Meta,
    /// `checkpoint`.
    Checkpoint,
    /// A group's file.
    Group,
}

/// Decodes bytes as a file of slots, and the newest one's payload; returns what that says.
pub fn decode_slots(bytes: &[u8], content: SlotContent) -> Option<String> {
    let kind = match content {
        SlotContent::Meta => meta::KIND,
        SlotContent::Checkpoint => checkpoint::KIND,
        SlotContent::Group => group::KIND,
    };
    let payload = kind.pick(bytes).ok()?.payload;
    decode_payload(payload, content)
}

/// Decodes bytes as the payload of a slot; returns what that says.
pub fn decode_payload(payload: &[u8], content: SlotContent) -> Option<String> {
    match content {
        SlotContent::Meta => Some(format!("{:?}", meta::Meta::decode(payload).ok()?)),
        SlotContent::Checkpoint => Some(format!(
            "{:?}",
            checkpoint::Checkpoint::decode(payload).ok()?
        )),
        SlotContent::Group => Some(format!("{:?}", group::GroupState::decode(payload).ok()?)),
    }
}

/// Gives bytes the magic and the checksum of what is known of named producers, and decodes them for
/// the log with this id; returns how many producers there are.
pub fn decode_producers(bytes: &mut [u8], log_id: u64) -> Option<usize> {
    producers::seal(bytes);
    let snapshot = producers::Snapshot::decode(bytes, log_id).ok()?;
    let again = producers::Snapshot::decode(&snapshot.encode(log_id), log_id);
    debug_assert_eq!(
        again.as_ref(),
        Ok(&snapshot),
        "it is written as it was read"
    );
    Some(snapshot.producers.len())
}
