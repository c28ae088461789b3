//! The ordered set of segments, and their views.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    error::{Error, Result},
    format::{
        file_name,
        frame::Stamp,
        index,
        segment::{FOOTER_LEN, Footer, SegmentHeader},
        wire::narrow,
    },
    fs::{self, Access, File, Host, Mutex, RwLock, SyncKind},
    offset::Offset,
    segment::{Buffer, End, Index, LiveIndex, SegmentWriter, Shape, View, build_index},
    slot_file::sync_failed,
};

mod compaction;
mod deletion;
mod indexing;

/// Sealed segments whose views are kept at hand: bounds mappings.
const CACHED_VIEWS: usize = 256;
/// The same where segments are read by copying: bounds open files.
const CACHED_FILES: usize = 16;
/// Bytes of the largest index.
pub(crate) const INDEX_MAX: usize = 16 << 20;

/// A segment of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: Offset,
    /// Where the log ended before it; less than `base` if offsets were skipped.
    pub(crate) previous_end: Offset,
    pub(crate) path: PathBuf,
    /// `None` if neither copy of the header verifies: then nothing in it can be read.
    header: Option<SegmentHeader>,
    state: Mutex<State>,
    index: Mutex<IndexState>,
}

#[derive(Debug, Default)]
struct IndexState {
    /// Of a segment that is written, until it is sealed.
    live: Option<LiveIndex>,
    /// At hand while the view is.
    loaded: Option<Index>,
}

#[derive(Debug, Default)]
struct State {
    /// At hand while it is written, and while it is among the cached.
    view: Option<View>,
    /// Held from the roll until it is sealed.
    file: Option<Arc<dyn File>>,
    /// Where its frames end, once that is final.
    frames_end: Option<usize>,
    /// The footer, once the segment is rolled.
    footer: Option<FooterState>,
    /// Another file has its name: this view is the only way to its own.
    retired: bool,
    /// When its newest record was appended, at the latest, by the log's
    /// [clock](super::age::AgeClock); once no more come.
    newest: u64,
}

/// How far a rolled segment is on its way to be sealed.
#[derive(Clone, Copy, Debug)]
enum FooterState {
    Unwritten(Footer),
    Written,
}

impl FooterState {
    fn unwritten(self) -> Option<Footer> {
        match self {
            Self::Unwritten(footer) => Some(footer),
            Self::Written => None,
        }
    }
}

impl Segment {
    /// The segment that is written from now on.
    pub(crate) fn active(path: PathBuf, writer: &SegmentWriter, copy: bool) -> Arc<Self> {
        let header = writer.header;
        let state = State {
            view: Some(writer.view(copy)),
            ..State::default()
        };
        let live = Some(writer.index());
        Self::new(
            path,
            header.base,
            header.previous_end,
            Some(header),
            state,
            live,
        )
    }

    /// One that is not written any more, with its frames' end.
    pub(crate) fn at_rest(
        path: PathBuf,
        base: Offset,
        previous_end: Offset,
        header: Option<SegmentHeader>,
        frames_end: usize,
    ) -> Arc<Self> {
        let state = State {
            frames_end: Some(frames_end),
            ..State::default()
        };
        Self::new(path, base, previous_end, header, state, None)
    }

    fn new(
        path: PathBuf,
        base: Offset,
        previous_end: Offset,
        header: Option<SegmentHeader>,
        state: State,
        live: Option<LiveIndex>,
    ) -> Arc<Self> {
        let index = IndexState { live, loaded: None };
        Arc::new(Self {
            base,
            previous_end,
            path,
            header,
            state: Mutex::new(state),
            index: Mutex::new(index),
        })
    }

    /// Notes that it was rolled: no frame comes after `frames_end`. The file is held for the sync
    /// and the footer to come.
    pub(crate) fn set_rolled(&self, file: Arc<dyn File>, frames_end: usize, footer: Footer) {
        let mut state = self.state.lock();
        state.file = Some(file);
        state.frames_end = Some(frames_end);
        state.footer = Some(FooterState::Unwritten(footer));
    }

    /// The file of a rolled segment, to be synced.
    pub(crate) fn file(&self) -> Option<Arc<dyn File>> {
        self.state.lock().file.clone()
    }

    /// Takes what is to be written back out of the mapping.
    pub(crate) fn release(&self, from: usize, end: usize) {
        let view = self.state.lock().view.clone();
        if let Some(view) = view {
            view.release(from, end);
        }
    }

    /// Has the device begin with a rolled segment.
    pub(crate) fn begin_writeback(&self) {
        if let Some(file) = self.file() {
            self.release(0, usize::MAX);
            file.begin_writeback();
        }
    }

    /// Writes the index, then the footer, and cuts the file behind it. Everything in the segment, and its
    /// directory entry, must be durable. Returns whether it is done: while a mapping of the longer
    /// file is read, the cut has to wait. (The cut itself need not be durable: a file that is
    /// longer again after a power cut is cut when the log is opened.)
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`, `SyncFailed`.
    pub(crate) fn seal(&self, host: &dyn Host, sync: Option<SyncKind>) -> Result<bool> {
        let pending = {
            let state = self.state.lock();
            state.file.clone().zip(state.frames_end).zip(state.footer)
        };
        let (Some(header), Some(((file, frames_end), footer))) = (self.header, pending) else {
            return Ok(true);
        };
        if let Some(footer) = footer.unwritten() {
            // Not under the lock, for which readers wait: this is up to the device.
            self.store_index(host, &*file, frames_end, &header, sync)?;
            self.write_footer(&*file, &header, &footer, frames_end, sync)?;
            self.state.lock().footer = Some(FooterState::Written);
        }
        let mut state = self.state.lock();
        if state.retired {
            // It goes when nobody reads it any more.
            state.file = None;
            return Ok(true);
        }
        if state
            .view
            .as_ref()
            .is_some_and(|view| !view.is_sole_holder())
        {
            return Ok(false);
        }
        state.view = None;
        let end = frames_end + FOOTER_LEN;
        file.set_len(end as u64)
            .map_err(|error| Error::io("cut", &self.path, error))?;
        state.file = None;
        Ok(true)
    }

    fn write_footer(
        &self,
        file: &dyn File,
        header: &SegmentHeader,
        footer: &Footer,
        position: usize,
        sync: Option<SyncKind>,
    ) -> Result<()> {
        let bytes = encode_footer(header, footer, position);
        fs::write_full(file, &bytes, position as u64)
            .map_err(|error| Error::io("write the footer of", &self.path, error))?;
        let Some(kind) = sync else { return Ok(()) };
        file.sync(kind)
            .map_err(|error| sync_failed(&self.path, error))
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.path.with_file_name(file_name::index(self.base))
    }

    /// The index: of a segment that is written as it grows, of another one from its file. Where
    /// there is none to be used, the segment is read once to make it.
    ///
    /// # Errors
    ///
    /// `Io`.
    fn index(&self, host: &dyn Host, copy: bool, view: &View) -> Result<Option<Index>> {
        let Some(header) = self.header else {
            return Ok(None);
        };
        let mut state = self.index.lock();
        if let Some(loaded) = &state.loaded {
            return Ok(Some(loaded.clone()));
        }
        let build = || {
            let mut buffer = Buffer::default();
            let entries = build_index(&header, &mut view.bytes(&mut buffer));
            entries.map_err(|error| Error::io("read", &self.path, error))
        };
        let loaded = match &state.live {
            Some(live) => {
                let before = if live.is_whole { Vec::new() } else { build()? };
                Index::Live {
                    before: before.into(),
                    live: live.clone(),
                }
            }
            None => match load_index(host, &self.index_path(), &header, copy) {
                Some(stored) => stored,
                None => Index::Built(build()?.into()),
            },
        };
        state.loaded = Some(loaded.clone());
        Ok(Some(loaded))
    }

    fn view(&self, host: &dyn Host, copy: bool) -> Result<Option<(View, bool)>> {
        let Some(header) = self.header else {
            return Ok(None);
        };
        self.view_in(&mut self.state.lock(), header, host, copy)
    }

    fn view_in(
        &self,
        state: &mut State,
        header: SegmentHeader,
        host: &dyn Host,
        copy: bool,
    ) -> Result<Option<(View, bool)>> {
        if let Some(view) = &state.view {
            return Ok(Some((view.clone(), false)));
        }
        let Some(end) = state.frames_end else {
            return Ok(None);
        };
        let file = host
            .open(&self.path, Access::Read)
            .map_err(|error| Error::io("open", &self.path, error))?;
        let shape = Shape::from(&header);
        let view = if copy || end == 0 {
            View::copied(shape, file, End::Fixed(end))
        } else {
            let reader = file
                .map_reader(end)
                .map_err(|error| Error::io("map", &self.path, error))?;
            View::mapped(shape, reader)
        };
        state.view = Some(view.clone());
        Ok(Some((view, true)))
    }

    /// Forgets the view, unless the segment still needs its own.
    fn release_view(&self) {
        let mut state = self.state.lock();
        if state.file.is_none() && state.frames_end.is_some() && !state.retired {
            state.view = None;
            self.index.lock().loaded = None;
        }
    }
}

/// The index in a file, if it is one of this segment.
pub(crate) fn load_index(
    host: &dyn Host,
    path: &Path,
    header: &SegmentHeader,
    copy: bool,
) -> Option<Index> {
    let file = host.open(path, Access::Read).ok()?;
    let len = usize::try_from(file.len().ok()?).ok()?;
    // Nothing else is longer than the entries of the largest segment.
    if !(index::HEADER_LEN..=INDEX_MAX).contains(&len) {
        return None;
    }
    if !copy {
        return Index::mapped(file.map_reader(len).ok()?, header).ok();
    }
    let mut bytes = vec![0; len];
    let read = fs::read_full(&*file, &mut bytes, 0).ok()?;
    Index::copied(bytes.get(..read)?, header).ok()
}

/// A footer frame at `position`.
pub(super) fn encode_footer(header: &SegmentHeader, footer: &Footer, position: usize) -> Vec<u8> {
    let mut bytes = vec![0; FOOTER_LEN];
    let stamp = Stamp {
        relative_offset: u32::try_from(footer.end.since(header.base)).unwrap_or(u32::MAX),
        durable_distance: 0,
        append_time: footer.last_time,
    };
    let fitted = crate::format::frame::encode(
        &mut bytes,
        header.seed().at(narrow(position)),
        stamp,
        footer,
    );
    debug_assert!(fitted, "FOOTER_LEN is the length of a footer");
    bytes
}

/// All segments of a log, by base offset.
#[derive(Debug)]
pub(crate) struct Segments {
    table: RwLock<BTreeMap<Offset, Arc<Segment>>>,
    cached: Mutex<VecDeque<Arc<Segment>>>,
    rolled_bytes: AtomicU64,
    /// Read by copying even what could be mapped.
    copy: bool,
}

/// A segment found by offset.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) base: Offset,
    pub(crate) previous_end: Offset,
    pub(crate) path: PathBuf,
    /// `None` if nothing in the segment can be read.
    pub(crate) view: Option<View>,
    /// Where what was looked for is not at the start of the segment.
    pub(crate) index: Option<Index>,
    /// The base offset and `previous_end` of the segment behind it; `None` for the last one.
    pub(crate) next: Option<(Offset, Offset)>,
}

impl Segments {
    pub(crate) fn new(segments: Vec<Arc<Segment>>, copy: bool) -> Self {
        let bytes = segments.iter().map(|segment| segment.bytes()).sum();
        let table = segments
            .into_iter()
            .map(|segment| (segment.base, segment))
            .collect();
        Self {
            table: RwLock::new(table),
            cached: Mutex::default(),
            rolled_bytes: AtomicU64::new(bytes),
            copy,
        }
    }

    /// Adds the segment that is written from now on; the one before was rolled.
    pub(crate) fn push(&self, segment: Arc<Segment>) {
        let rolled = self.last().map_or(0, |last| last.bytes());
        self.rolled_bytes.fetch_add(rolled, Ordering::Relaxed);
        self.table.write().insert(segment.base, segment);
    }

    pub(crate) fn len(&self) -> usize {
        self.table.read().len()
    }

    /// The base offsets of all.
    pub(crate) fn bases(&self) -> Vec<Offset> {
        self.table.read().keys().copied().collect()
    }

    /// Where the frames of the segment at `base` end by now.
    pub(crate) fn frames_end(&self, base: Offset) -> Option<u64> {
        let segment = self.table.read().get(&base).cloned()?;
        let state = segment.state.lock();
        let end = state
            .frames_end
            .or_else(|| Some(state.view.as_ref()?.published()));
        end.map(|end| end as u64)
    }

    /// All but the last one, each with where the log ended behind it.
    pub(super) fn all_with_ends(&self) -> Vec<(Arc<Segment>, Offset)> {
        let table = self.table.read();
        let pairs = table.values().zip(table.values().skip(1));
        pairs
            .map(|(segment, next)| (Arc::clone(segment), next.previous_end))
            .collect()
    }

    /// The segment with this base.
    pub(super) fn at(&self, base: Offset) -> Option<Arc<Segment>> {
        self.table.read().get(&base).cloned()
    }

    /// Whether this one is in the table, and no other in its place.
    pub(super) fn is_current(&self, segment: &Arc<Segment>) -> bool {
        let found = self.at(segment.base);
        found.is_some_and(|found| Arc::ptr_eq(&found, segment))
    }

    /// The last segment.
    pub(crate) fn last(&self) -> Option<Arc<Segment>> {
        self.table.read().values().next_back().cloned()
    }

    /// The segment that holds `offset`, or the first one if that lies behind it.
    ///
    /// # Errors
    ///
    /// `Io` if it can't be opened.
    pub(crate) fn find(&self, host: &dyn Host, offset: Offset) -> Result<Option<Spot>> {
        loop {
            let first = self.table.read().keys().next().copied();
            match self.find_once(host, offset) {
                // It was deleted between the look and the opening.
                Err(error)
                    if error.is_not_found()
                        && first != self.table.read().keys().next().copied() => {}
                found => return found,
            }
        }
    }

    fn find_once(&self, host: &dyn Host, offset: Offset) -> Result<Option<Spot>> {
        let (segment, next) = {
            let table = self.table.read();
            let found = table
                .range(..=offset)
                .next_back()
                .or_else(|| table.iter().next());
            let Some((base, segment)) = found else {
                return Ok(None);
            };
            let behind = (std::ops::Bound::Excluded(*base), std::ops::Bound::Unbounded);
            let next = table
                .range(behind)
                .next()
                .map(|(base, next)| (*base, next.previous_end));
            (Arc::clone(segment), next)
        };
        let view = match segment.view(host, self.copy)? {
            None => None,
            Some((view, opened)) => {
                if opened {
                    self.keep(&segment);
                }
                Some(view)
            }
        };
        let index = match &view {
            Some(view) if offset > segment.base => segment.index(host, self.copy, view)?,
            _ => None,
        };
        Ok(Some(Spot {
            base: segment.base,
            previous_end: segment.previous_end,
            path: segment.path.clone(),
            view,
            index,
            next,
        }))
    }

    /// Keeps the view of `segment` at hand, and lets go of the one kept longest.
    fn keep(&self, segment: &Arc<Segment>) {
        let oldest = {
            let mut cached = self.cached.lock();
            cached.push_back(Arc::clone(segment));
            let most = if self.copy {
                CACHED_FILES
            } else {
                CACHED_VIEWS
            };
            if cached.len() > most {
                cached.pop_front()
            } else {
                None
            }
        };
        if let Some(oldest) = oldest {
            oldest.release_view();
        }
    }
}

/// Where a segment's file is.
pub(crate) fn segment_path(dir: &Path, base: Offset) -> PathBuf {
    dir.join(file_name::segment(base))
}
