//! The ordered set of segments, and their views.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    format::{
        file_name,
        frame::Stamp,
        segment::{FOOTER_LEN, Footer, SegmentHeader},
        wire::narrow,
    },
    fs::{self, Access, File, Host, Mutex, RwLock, SyncKind},
    offset::Offset,
    segment::{End, View},
    slot_file::sync_failed,
};

/// Sealed segments whose views are kept at hand: bounds mappings and open files.
const CACHED_VIEWS: usize = 16;

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
    pub(crate) fn active(path: PathBuf, header: SegmentHeader, view: View) -> Arc<Self> {
        let state = State {
            view: Some(view),
            ..State::default()
        };
        Self::new(path, header.base, header.previous_end, Some(header), state)
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
        Self::new(path, base, previous_end, header, state)
    }

    fn new(
        path: PathBuf,
        base: Offset,
        previous_end: Offset,
        header: Option<SegmentHeader>,
        state: State,
    ) -> Arc<Self> {
        Arc::new(Self {
            base,
            previous_end,
            path,
            header,
            state: Mutex::new(state),
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

    /// Writes the footer and cuts the file behind it. Everything in the segment, and its
    /// directory entry, must be durable. Returns whether it is done: while a mapping of the longer
    /// file is read, the cut has to wait. (The cut itself need not be durable: a file that is
    /// longer again after a power cut is cut when the log is opened.)
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`, `SyncFailed`.
    pub(crate) fn seal(&self, sync: Option<SyncKind>) -> Result<bool> {
        let pending = {
            let state = self.state.lock();
            state.file.clone().zip(state.frames_end).zip(state.footer)
        };
        let (Some(header), Some(((file, frames_end), footer))) = (self.header, pending) else {
            return Ok(true);
        };
        if let Some(footer) = footer.unwritten() {
            // Not under the lock, for which readers wait: this is up to the device.
            self.write_footer(&*file, &header, &footer, frames_end, sync)?;
            self.state.lock().footer = Some(FooterState::Written);
        }
        let mut state = self.state.lock();
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

    fn view(&self, host: &dyn Host, copy: bool) -> Result<Option<(View, bool)>> {
        let Some(header) = self.header else {
            return Ok(None);
        };
        let mut state = self.state.lock();
        if let Some(view) = &state.view {
            return Ok(Some((view.clone(), false)));
        }
        let Some(end) = state.frames_end else {
            return Ok(None);
        };
        let file = host
            .open(&self.path, Access::Read)
            .map_err(|error| Error::io("open", &self.path, error))?;
        let (base, seed) = (self.base, header.seed());
        let view = if copy || end == 0 {
            View::copied(base, seed, file, End::Fixed(end))
        } else {
            let reader = file
                .map_reader(end)
                .map_err(|error| Error::io("map", &self.path, error))?;
            View::mapped(base, seed, reader)
        };
        state.view = Some(view.clone());
        Ok(Some((view, true)))
    }

    /// Forgets the view, unless the segment still needs its own.
    fn release_view(&self) {
        let mut state = self.state.lock();
        if state.file.is_none() && state.frames_end.is_some() {
            state.view = None;
        }
    }
}

/// A footer frame at `position`.
fn encode_footer(header: &SegmentHeader, footer: &Footer, position: usize) -> Vec<u8> {
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
    /// The base offset and `previous_end` of the segment behind it; `None` for the last one.
    pub(crate) next: Option<(Offset, Offset)>,
}

impl Segments {
    pub(crate) fn new(segments: Vec<Arc<Segment>>, copy: bool) -> Self {
        let table = segments
            .into_iter()
            .map(|segment| (segment.base, segment))
            .collect();
        Self {
            table: RwLock::new(table),
            cached: Mutex::default(),
            copy,
        }
    }

    pub(crate) fn push(&self, segment: Arc<Segment>) {
        self.table.write().insert(segment.base, segment);
    }

    pub(crate) fn len(&self) -> usize {
        self.table.read().len()
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
        Ok(Some(Spot {
            base: segment.base,
            previous_end: segment.previous_end,
            path: segment.path.clone(),
            view,
            next,
        }))
    }

    /// Keeps the view of `segment` at hand, and lets go of the one kept longest.
    fn keep(&self, segment: &Arc<Segment>) {
        let oldest = {
            let mut cached = self.cached.lock();
            cached.push_back(Arc::clone(segment));
            if cached.len() > CACHED_VIEWS {
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
