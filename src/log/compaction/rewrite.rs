//! Writing a segment anew, without the records that are not needed any more.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use super::{
    keys::Keys,
    walk::{self, Seen, Unreadable, Walk},
};
use crate::{
    error::{Error, Result},
    format::{
        body::{EncodedBody, FrameBody, encode_record, record_len},
        compressed::{Memory, compress},
        file_name,
        frame::{self, Frame, Stamp},
        index::Entry,
        producer::{Sender, SentBody},
        segment::{Compacted, FOOTER_LEN, SegmentHeader},
        sparse::{Marks, SparseBody},
        wire::{Writer, narrow},
    },
    fs::{self, Access, File, SyncKind},
    log::{Site, segments, unpacked::Unpacked},
    offset::Offset,
    options::MAX_SEGMENT_BYTES,
    record::RecordRef,
    segment::{FRAMES_START, FrameAt, IndexEntries},
    slot_file::sync_failed,
};

/// So much is written at once.
const WRITE: usize = 256 << 10;
/// No segment gets longer than this. (One gets longer at all only if it was compressed very well.)
const LONGEST: u64 = MAX_SEGMENT_BYTES;

/// Which records stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'k> {
    pub(super) keys: &'k Keys,
    /// Records from here on stay in any case.
    pub(super) until: Offset,
    /// Tombstones have been kept for long enough.
    pub(super) drop_tombstones: bool,
}

impl Rules<'_> {
    /// Whether this record stays.
    pub(super) fn keep(&self, record: &Seen<'_>) -> bool {
        let Some(key) = record.key.filter(|_| record.offset < self.until) else {
            return true;
        };
        if self.drop_tombstones && record.is_tombstone {
            return false;
        }
        self.keys.last(key).is_none_or(|last| last <= record.offset)
    }
}

fn seen<'a>(record: &RecordRef<'a>) -> Seen<'a> {
    Seen {
        offset: record.offset.unwrap_or_default(),
        key: record.key,
        is_tombstone: record.key.is_some() && record.value.is_none(),
    }
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) removed: u64,
    pub(super) tombstones: u32,
    pub(super) removed_tombstones: u64,
}

/// Counts the records of a frame; how many of them go.
pub(super) fn judge(
    at: &FrameAt,
    bytes: &[u8],
    rules: &Rules<'_>,
    unpacked: &mut Unpacked,
    tally: &mut Tally,
) -> Result<(), Unreadable> {
    for record in walk::records(at, bytes, unpacked)?.1 {
        tally.count(&seen(&record), rules);
    }
    Ok(())
}

impl Tally {
    /// Counts a record; whether it stays.
    fn count(&mut self, record: &Seen<'_>, rules: &Rules<'_>) -> bool {
        let stays = rules.keep(record);
        self.records += 1;
        self.removed += u64::from(!stays);
        if record.is_tombstone {
            self.tombstones += u32::from(stays);
            self.removed_tombstones += u64::from(!stays);
        }
        stays
    }
}

/// A segment that is written to take another's place.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) path: PathBuf,
    file: Arc<dyn File>,
    header: SegmentHeader,
    /// Where the next frame stands; all before `written` is in the file.
    position: usize,
    written: usize,
    buffer: Vec<u8>,
    entries: IndexEntries,
    pub(super) tally: Tally,
    /// A frame of a named producer is gone.
    pub(super) lost_sender: bool,
    names: Names,
    scratch: Scratch,
}

/// Memory that is used for frame after frame.
#[derive(Debug, Default)]
struct Scratch {
    unpacked: Unpacked,
    marks: Marks,
    kept: Vec<u8>,
    packed: Memory,
}

/// The names of producers that the frames of the old segment told, and which of them the new one
/// tells: each needs the name in the first of its frames that are left.
#[derive(Debug, Default)]
struct Names {
    known: HashMap<u32, String>,
    told: HashSet<u32>,
}

/// A segment that is complete and durable, but has not taken its place.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) path: PathBuf,
    pub(super) header: SegmentHeader,
    pub(super) frames_end: usize,
    pub(super) entries: Vec<Entry>,
}

impl Output {
    /// Begins a segment in place of the one that is walked through.
    ///
    /// # Errors
    ///
    /// `StorageFull`, `Io`.
    pub(super) fn begin(site: &Site, walk: &Walk) -> Result<Self> {
        let path = site.dir.join(file_name::cleaned(walk.header.base));
        let io = |error| Error::io("create", &path, error);
        let file = match site.host.open(&path, Access::CreateNew) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                // From an attempt that failed.
                site.host.remove_file(&path).map_err(io)?;
                site.host.open(&path, Access::CreateNew).map_err(io)?
            }
            opened => opened.map_err(io)?,
        };
        let id = site.host.random();
        Ok(Self {
            path,
            file,
            header: SegmentHeader { id, ..walk.header },
            position: FRAMES_START,
            written: FRAMES_START,
            buffer: Vec::new(),
            entries: IndexEntries::default(),
            tally: Tally::default(),
            lost_sender: false,
            names: Names::default(),
            scratch: Scratch::default(),
        })
    }

    /// Bytes that were put out so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Takes over what stays of a frame.
    pub(super) fn take(
        &mut self,
        at: &FrameAt,
        bytes: &[u8],
        rules: &Rules<'_>,
    ) -> Result<(), Unreadable> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let taken = self.take_with(at, bytes, rules, &mut scratch);
        self.scratch = scratch;
        taken
    }

    fn take_with(
        &mut self,
        at: &FrameAt,
        bytes: &[u8],
        rules: &Rules<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Unreadable> {
        let (frame, records) = walk::records(at, bytes, &mut scratch.unpacked)?;
        scratch.marks.reset(at.offsets);
        scratch.kept.clear();
        for record in records {
            let seen = seen(&record);
            if self.tally.count(&seen, rules) {
                let number = seen.offset.since(at.first);
                scratch
                    .marks
                    .keep(u32::try_from(number).unwrap_or(u32::MAX));
                add_record(&mut scratch.kept, &record);
            }
        }
        let left = scratch.marks.left();
        self.names.learn(&frame);
        if left == 0 {
            self.lost_sender |= frame.sender.is_some();
            return Ok(());
        }
        if left == at.count {
            let body = SparseBody {
                sparse: frame.sparse,
                body: &Unchanged(&frame),
            };
            return self.put(&frame, &body);
        }
        let sparse = scratch.marks.sparse();
        let plain = EncodedBody {
            count: left,
            records: &scratch.kept,
            plain: false,
        };
        let codec = frame.compression();
        let count = plain.count();
        match compress(
            plain.records,
            count,
            codec,
            plain.len(),
            &mut scratch.packed,
        ) {
            None => self.put(
                &frame,
                &SparseBody {
                    sparse,
                    body: &plain,
                },
            ),
            Some(packed) => {
                let body = &packed;
                self.put(&frame, &SparseBody { sparse, body })
            }
        }
    }

    /// Puts out a frame with what the old one said, and this body.
    fn put(&mut self, frame: &Frame<'_>, body: &impl FrameBody) -> Result<(), Unreadable> {
        match &frame.sender {
            None => self.encode(frame.stamp, body),
            Some(sender) => {
                let name = self.names.tell(sender.id);
                let name = name.as_deref().unwrap_or_default();
                let sender = Sender { name, ..*sender };
                self.encode(frame.stamp, &SentBody { sender, body })
            }
        }
    }

    fn encode(&mut self, old: Stamp, body: &impl FrameBody) -> Result<(), Unreadable> {
        let len = frame::frame_len(body);
        if (self.position + len + FOOTER_LEN) as u64 > LONGEST {
            let reason = "compressed anew, what is left does not fit a segment";
            return Err(Unreadable(reason.to_owned()));
        }
        // All before it was durable long ago.
        let stamp = Stamp {
            durable_distance: 0,
            ..old
        };
        let seed = self.header.seed().at(narrow(self.position));
        let start = self.buffer.len();
        self.buffer.resize(start + len, 0);
        let into = self.buffer.get_mut(start..).unwrap_or_default();
        let fitted = frame::encode(into, seed, stamp, body);
        debug_assert!(fitted, "it is as long as it says");
        self.entries
            .note(self.position, stamp.relative_offset, stamp.append_time);
        self.position += len;
        Ok(())
    }

    /// Writes what is gathered, if that is enough, and has the device begin with it: so that it
    /// does not get all at once in the end, and others wait for it.
    ///
    /// # Errors
    ///
    /// `StorageFull`, `Io`.
    pub(super) fn write(&mut self, least: usize) -> Result<()> {
        if self.buffer.len() < least.max(1) {
            return Ok(());
        }
        fs::write_full(&*self.file, &self.buffer, self.written as u64)
            .map_err(|error| Error::io("write", &self.path, error))?;
        self.written += self.buffer.len();
        self.buffer.clear();
        self.file.begin_writeback();
        Ok(())
    }

    /// The same for what is usually written at once.
    ///
    /// # Errors
    ///
    /// `StorageFull`, `Io`.
    pub(super) fn write_some(&mut self) -> Result<()> {
        self.write(WRITE)
    }

    /// Completes it: it is durable then. `cleaned` is when all of it was clean first, if it is.
    ///
    /// # Errors
    ///
    /// `StorageFull`, `Io`, `SyncFailed`.
    pub(super) fn finish(
        mut self,
        walk: &Walk,
        cleaned: u64,
        sync: Option<SyncKind>,
    ) -> Result<Finished> {
        let frames_end = self.position;
        self.header.compacted = Some(Compacted {
            end: walk.footer.end,
            last_time: walk.footer.last_time,
            cleaned,
            frames_end: narrow(frames_end),
            tombstones: self.tally.tombstones,
        });
        let footer = segments::encode_footer(&self.header, &walk.footer, frames_end);
        self.buffer.extend_from_slice(&footer);
        self.write(0)?;
        fs::write_full(&*self.file, &self.header.encode(), 0)
            .map_err(|error| Error::io("write", &self.path, error))?;
        if let Some(kind) = sync {
            self.file
                .sync(kind)
                .map_err(|error| sync_failed(&self.path, error))?;
        }
        Ok(Finished {
            path: self.path,
            header: self.header,
            frames_end,
            entries: self.entries.into_entries(),
        })
    }
}

/// Encodes a record behind others.
fn add_record(into: &mut Vec<u8>, record: &RecordRef<'_>) {
    let start = into.len();
    into.resize(start + record_len(record), 0);
    let fitted = encode_record(into.get_mut(start..).unwrap_or_default(), record);
    debug_assert!(fitted, "it is as long as it says");
}

impl Names {
    fn learn(&mut self, frame: &Frame<'_>) {
        if let Some(sender) = frame.sender.filter(|sender| !sender.name.is_empty()) {
            self.known.insert(sender.id, sender.name.to_owned());
        }
    }

    /// The name to be told with a frame of this producer.
    fn tell(&mut self, id: u32) -> Option<String> {
        if self.told.insert(id) {
            self.known.remove(&id)
        } else {
            None
        }
    }
}

/// The body of a frame of which nothing goes.
#[derive(Debug)]
struct Unchanged<'a>(&'a Frame<'a>);

impl FrameBody for Unchanged<'_> {
    fn attributes(&self) -> u16 {
        self.0.of_body()
    }

    fn count(&self) -> u64 {
        0
    }

    fn len(&self) -> usize {
        self.0.body.len()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.bytes(self.0.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: u64, key: Option<&[u8]>, is_tombstone: bool) -> Seen<'_> {
        Seen {
            offset: Offset::new(offset),
            key,
            is_tombstone,
        }
    }

    #[test]
    fn what_has_a_later_record_of_its_key_goes_and_all_else_stays() {
        let mut keys = Keys::new(1 << 20);
        keys.note(b"a", Offset::new(7));
        let rules = Rules {
            keys: &keys,
            until: Offset::new(10),
            drop_tombstones: false,
        };
        assert!(!rules.keep(&record(6, Some(b"a"), false)));
        assert!(rules.keep(&record(7, Some(b"a"), false)));
        assert!(rules.keep(&record(8, Some(b"a"), false)));
        assert!(rules.keep(&record(6, Some(b"b"), false)));
        assert!(rules.keep(&record(6, None, false)));
        assert!(rules.keep(&record(7, Some(b"a"), true)));
    }

    #[test]
    fn tombstones_go_once_they_may_but_not_behind_what_was_compared() {
        let keys = Keys::new(1 << 20);
        let rules = Rules {
            keys: &keys,
            until: Offset::new(10),
            drop_tombstones: true,
        };
        assert!(!rules.keep(&record(9, Some(b"a"), true)));
        assert!(rules.keep(&record(10, Some(b"a"), true)));
        assert!(rules.keep(&record(9, Some(b"a"), false)));
        assert!(rules.keep(&record(9, None, true)));
    }
}
