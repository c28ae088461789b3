//! Finding a place within a segment without reading it from its start.
//!
//! An index is never evidence: whoever goes to where it points checks the frame that stands there,
//! and reads from the start if it is another one.

use std::{io, sync::Arc};

use super::{
    FRAMES_START,
    scan::{Bytes, Found, Scanner},
};
use crate::{
    error::DecodeError,
    format::{
        index::{self, Entry},
        segment::SegmentHeader,
        wire::narrow,
    },
    fs::{MapReader, RwLock},
    offset::Offset,
};

/// Bytes of frames between two entries, at least. (Kafka's `index.interval.bytes`.)
const INTERVAL: usize = 4 << 10;

/// Which frames get an entry.
#[derive(Clone, Debug)]
struct Pace {
    next: usize,
}

impl Pace {
    /// Of a segment that is read or written from its start.
    fn from_start() -> Self {
        let next = FRAMES_START + INTERVAL;
        Self { next }
    }

    #[inline]
    fn takes(&mut self, position: usize) -> bool {
        let takes = position >= self.next;
        if takes {
            self.next = position + INTERVAL;
        }
        takes
    }
}

/// The index of a segment that is written, shared with those who read it.
#[derive(Clone, Debug)]
pub(crate) struct LiveIndex {
    entries: Arc<RwLock<Vec<Entry>>>,
    /// It has the frames from the start of the segment on, and not only those written since the
    /// log was opened.
    pub(crate) is_whole: bool,
}

/// Keeps a live index.
#[derive(Debug)]
pub(crate) struct Indexer {
    live: LiveIndex,
    pace: Pace,
}

impl Indexer {
    /// For a segment of at most `capacity` bytes whose frames end at `position` so far.
    pub(crate) fn new(position: usize, capacity: usize) -> Self {
        // All at once, so that no append has to make more room. (Memory that is not used yet costs
        // addresses alone.)
        let entries = Vec::with_capacity(capacity.saturating_sub(position) / INTERVAL + 1);
        let live = LiveIndex {
            entries: Arc::new(RwLock::new(entries)),
            is_whole: position <= FRAMES_START,
        };
        let pace = Pace::from_start();
        Self { live, pace }
    }

    pub(crate) fn live(&self) -> &LiveIndex {
        &self.live
    }

    /// A frame was appended at `position`.
    #[inline]
    pub(crate) fn note(&mut self, position: usize, relative_offset: u32, append_time: u64) {
        if self.pace.takes(position) {
            self.add(position, relative_offset, append_time);
        }
    }

    #[cold]
    fn add(&mut self, position: usize, relative_offset: u32, append_time: u64) {
        self.live.entries.write().push(Entry {
            relative_offset,
            position: narrow(position),
            append_time,
        });
    }
}

impl LiveIndex {
    /// The entries so far.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.read().clone()
    }
}

/// An index to be looked into. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Index {
    /// Of a segment that is written: what is noted since the log was opened, and what was there.
    Live {
        before: Arc<[Entry]>,
        live: LiveIndex,
    },
    Built(Arc<[Entry]>),
    Mapped(MapReader),
}

impl Index {
    /// The index in a file that is mapped; checks that it is of this segment.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn mapped(file: MapReader, header: &SegmentHeader) -> Result<Self, DecodeError> {
        index::decode_header(file.bytes(), header.id, header.base)?;
        Ok(Self::Mapped(file))
    }

    /// The same of a file that was read.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn copied(file: &[u8], header: &SegmentHeader) -> Result<Self, DecodeError> {
        let count = index::decode_header(file, header.id, header.base)?;
        let entries = (0..count).filter_map(|number| index::entry(file, number));
        Ok(Self::Built(entries.collect()))
    }

    /// The last frame in it that does not begin above `offset`.
    pub(crate) fn by_offset(&self, offset: Offset, base: Offset) -> Option<Entry> {
        let relative = offset.since(base);
        self.last(|entry| u64::from(entry.relative_offset) <= relative)
    }

    /// The last frame in it that was appended before `millis`.
    pub(crate) fn by_time(&self, millis: u64) -> Option<Entry> {
        self.last(|entry| entry.append_time < millis)
    }

    /// The last of the entries for which this holds, which are the first ones.
    fn last(&self, holds: impl Fn(&Entry) -> bool) -> Option<Entry> {
        match self {
            Self::Live { before, live } => {
                let found = last_of(&live.entries.read(), &holds);
                found.or_else(|| last_of(before, holds))
            }
            Self::Built(entries) => last_of(entries, holds),
            Self::Mapped(file) => {
                let bytes = file.bytes();
                let len = bytes.len().saturating_sub(index::HEADER_LEN);
                let (mut low, mut high) = (0, len / index::ENTRY_LEN);
                while low < high {
                    let middle = usize::midpoint(low, high);
                    if index::entry(bytes, middle).is_some_and(|entry| holds(&entry)) {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                index::entry(bytes, low.checked_sub(1)?)
            }
        }
    }
}

fn last_of(entries: &[Entry], holds: impl Fn(&Entry) -> bool) -> Option<Entry> {
    let count = entries.partition_point(holds);
    entries.get(count.checked_sub(1)?).copied()
}

/// Reads a segment to make its index.
///
/// # Errors
///
/// What reading returns.
pub(crate) fn build_index(
    header: &SegmentHeader,
    bytes: &mut impl Bytes,
) -> io::Result<Vec<Entry>> {
    let mut scanner = Scanner::whole(header.into(), Offset::MAX);
    let mut entries = IndexEntries::default();
    loop {
        match scanner.step(bytes)? {
            Found::Frame(frame) => {
                let relative = frame.first.since(header.base);
                let relative = u32::try_from(relative).unwrap_or(u32::MAX);
                entries.note(frame.position, relative, frame.append_time);
            }
            Found::Hole(_) => {}
            Found::Footer(..) | Found::Stop(_) => return Ok(entries.into_entries()),
        }
    }
}

/// Gathers the entries of a segment that is read or written from its start.
#[derive(Debug)]
pub(crate) struct IndexEntries {
    pace: Pace,
    entries: Vec<Entry>,
}

impl Default for IndexEntries {
    fn default() -> Self {
        Self {
            pace: Pace::from_start(),
            entries: Vec::new(),
        }
    }
}

impl IndexEntries {
    /// The next frame stands at `position`.
    pub(crate) fn note(&mut self, position: usize, relative_offset: u32, append_time: u64) {
        if self.pace.takes(position) {
            self.entries.push(Entry {
                relative_offset,
                position: narrow(position),
                append_time,
            });
        }
    }

    pub(crate) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}
