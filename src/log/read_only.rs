//! A log that another process may have open: read by `pread`, never changed.
//!
//! What the writer publishes is not visible from here, so the end is where frames that verify
//! end. Bytes behind it that are no frame are "not yet", unless something that was recorded
//! (the checkpoint, a later frame) says that they were durable: then they are damage.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    task::Waker,
};

use super::{
    delete::why_gone,
    directory,
    names::Names,
    recover,
    report::{Gap, GapReason},
    segments::{Spot, load_index, segment_path},
    source::{News, NewsPlace, Source},
    sync::sync_kind,
    watch::Watch,
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        checkpoint::{Checkpoint, Mark},
        file_name,
        meta::Meta,
        segment::SegmentHeader,
    },
    fs::{Access, File, Host, Mutex, SyncKind},
    offset::Offset,
    options::Config,
    segment::{End, FRAMES_START, FileBytes, Found, Scanner, View},
    slot_file,
};

/// A log opened read-only.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    host: Arc<dyn Host>,
    pub(crate) dir: PathBuf,
    pub(crate) meta: Meta,
    pub(crate) config: Config,
    state: Mutex<State>,
    /// Futures that wait for what the writer does.
    pub(super) watch: Watch,
    pub(super) names: Names,
}

#[derive(Debug, Default)]
struct State {
    /// Base offsets of the segments there were at the last look.
    segments: Vec<Offset>,
    /// Headers read so far; `None` for one that does not verify.
    headers: BTreeMap<Offset, Option<SegmentHeader>>,
    /// How far the end is known: where to look on for it.
    end: Mark,
    /// The last file opened.
    file: Option<(Offset, Arc<dyn File>)>,
}

impl ReadOnly {
    /// Opens the log at `dir`.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotALog`, `UnsupportedVersion`, `SymbolicLink`, `Corrupt`, `Io`.
    pub(crate) fn open(host: Arc<dyn Host>, dir: &Path) -> Result<Self> {
        let dir = &*host
            .absolute(dir)
            .map_err(|error| Error::io("open", dir, error))?;
        let is_log = match directory::list(&*host, dir)? {
            None => false,
            Some(listing) => listing.is_log(dir)?,
        };
        if !is_log {
            return Err(ErrorKind::NotFound {
                path: dir.to_path_buf(),
            }
            .into());
        }
        let (meta, _, _) = directory::read_meta(&*host, dir)?;
        let config = Config::resolve(&meta.options)?;
        let state = Mutex::default();
        Ok(Self {
            host,
            dir: dir.to_path_buf(),
            meta,
            config,
            state,
            watch: Watch::default(),
            names: Names::default(),
        })
    }

    pub(crate) fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// The checkpoint as recorded by now.
    ///
    /// # Errors
    ///
    /// `UnsupportedVersion`, `Io`.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(directory::read_checkpoint(&*self.host, &self.dir)?
            .0
            .unwrap_or_default())
    }

    /// Base offsets of the segments, as of now: none is missing between two of them.
    ///
    /// A directory is not listed at one moment: of two names that come meanwhile, the later one may
    /// be told and the earlier one not (`readdir(3p)`). But segments come one behind the other, so
    /// when the last one was told, all before it were there, and a second listing tells them. Some
    /// file systems don't tell a name, either, that goes over to another file meanwhile; so what
    /// one of the two told is there, but for what was deleted in between: the oldest.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub(crate) fn list_segments(&self) -> Result<Vec<Offset>> {
        let mut before = self.list_once()?;
        loop {
            let now = self.list_once()?;
            let (Some(&last), Some(&first)) = (before.last(), now.first()) else {
                return Ok(now);
            };
            if first > last {
                // All that was there is deleted.
                before = now;
                continue;
            }
            let told = before.into_iter().chain(now);
            let mut bases: Vec<_> = told.filter(|b| (first..=last).contains(b)).collect();
            bases.sort_unstable();
            bases.dedup();
            return Ok(bases);
        }
    }

    fn list_once(&self) -> Result<Vec<Offset>> {
        let listing =
            directory::list(&*self.host, &self.dir)?.ok_or_else(|| ErrorKind::NotFound {
                path: self.dir.clone(),
            })?;
        Ok(listing.segments.into_iter().map(|(base, _)| base).collect())
    }

    /// Where the log ends, found by reading on from where it was found last.
    ///
    /// # Errors
    ///
    /// `UnsupportedVersion`, `Io`.
    pub(crate) fn find_end(&self) -> Result<Offset> {
        self.beside_deletions(|| self.find_end_once())
    }

    /// Does something with the segments' files again, if that failed for want of one that the
    /// writer has deleted meanwhile.
    ///
    /// # Errors
    ///
    /// What it returns.
    pub(super) fn beside_deletions<T>(&self, look: impl Fn() -> Result<T>) -> Result<T> {
        let mut known = None;
        loop {
            let error = match look() {
                Err(error) if error.is_not_found() => error,
                looked => return looked,
            };
            // The oldest go first: as long as that is another one each time, it is a deletion.
            let first = self.list_segments()?.first().copied();
            if known.is_some() && known == Some(first) {
                return Err(error);
            }
            known = Some(first);
            self.state.lock().segments.clear();
        }
    }

    /// Base offsets of the segments, without those that are deleted but for their files; and the
    /// log start offset.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`.
    pub(super) fn live_segments(&self) -> Result<(Vec<Offset>, Offset)> {
        // In this order: the log start moves before the first file goes.
        let mut bases = self.list_segments()?;
        let start = self.checkpoint()?.log_start;
        let nexts = bases.iter().skip(1);
        let deleted = nexts.take_while(|next| **next <= start).count();
        bases.drain(..deleted);
        Ok((bases, start))
    }

    fn find_end_once(&self) -> Result<Offset> {
        let recorded = self.checkpoint()?.durable;
        self.find_end_behind(recorded)
    }

    /// Where the log ends, and up to where it is durable as far as that is recorded.
    ///
    /// # Errors
    ///
    /// `UnsupportedVersion`, `Io`.
    pub(super) fn find_ends(&self) -> Result<(Offset, Offset)> {
        self.beside_deletions(|| {
            let recorded = self.checkpoint()?.durable;
            Ok((self.find_end_behind(recorded)?, recorded.offset))
        })
    }

    /// `recorded` was read before: what was durable by then is in segments that are listed now.
    fn find_end_behind(&self, recorded: Mark) -> Result<Offset> {
        let segments = self.list_segments()?;
        let mut state = self.state.lock();
        state.segments = segments;
        if recorded.offset > state.end.offset {
            state.end = recorded;
        }
        let Some(&last) = state.segments.last() else {
            return Ok(state.end.offset);
        };
        let Some((file, header)) = self.segment(&mut state, last)? else {
            return Ok(state.end.offset.max(last));
        };
        let known = usize::try_from(state.end.position).unwrap_or(FRAMES_START);
        let (position, expected) = if state.end.segment == last && known >= FRAMES_START {
            (known, state.end.offset)
        } else {
            (FRAMES_START, last)
        };
        let path = segment_path(&self.dir, last);
        let io = |error| Error::io("read", &path, error);
        let len = usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX);
        let mut scanner = Scanner::new((&header).into(), Offset::MAX, position, expected);
        let mut bytes = FileBytes::new(&*file, len);
        loop {
            match scanner.step(&mut bytes).map_err(io)? {
                Found::Frame(frame) => {
                    state.end = Mark {
                        offset: frame.end(),
                        segment: last,
                        position: (frame.position + frame.len) as u64,
                        time: frame.append_time,
                    };
                }
                Found::Hole(hole) if hole.to <= recorded.offset => {}
                Found::Hole(_) | Found::Footer(..) | Found::Stop(_) => break,
            }
        }
        Ok(state.end.offset.max(last))
    }

    /// The file and the header of a segment; `None` if the header does not verify.
    fn segment(
        &self,
        state: &mut State,
        base: Offset,
    ) -> Result<Option<(Arc<dyn File>, SegmentHeader)>> {
        let path = segment_path(&self.dir, base);
        let known = state.headers.get(&base).copied().flatten();
        if let (Some(header), Some((_, file))) =
            (known, state.file.as_ref().filter(|(held, _)| *held == base))
        {
            return Ok(Some((Arc::clone(file), header)));
        }
        let opened = recover::open_segment(&*self.host, &path, base, self.meta.id, Access::Read)?;
        let (file, header) = (opened.file, opened.header);
        state.headers.insert(base, header);
        state.file = Some((base, Arc::clone(&file)));
        Ok(header.map(|header| (file, header)))
    }
}

impl Source for ReadOnly {
    fn host(&self) -> &dyn Host {
        &*self.host
    }

    fn start(&self) -> Offset {
        self.checkpoint()
            .map_or(Offset::ZERO, |checkpoint| checkpoint.log_start)
    }

    fn why_gone(&self, offset: Offset) -> (GapReason, Offset) {
        let checkpoint = self.checkpoint().unwrap_or_default();
        why_gone(&checkpoint, offset)
    }

    /// What is there is told from the bytes.
    fn visible_end(&self) -> Result<Offset> {
        Ok(Offset::MAX)
    }

    fn durable(&self) -> Result<Offset> {
        Ok(self.checkpoint()?.durable.offset)
    }

    fn find(&self, offset: Offset) -> Result<Option<Spot>> {
        self.beside_deletions(|| self.find_once(offset))
    }

    fn bases(&self) -> Result<Vec<Offset>> {
        self.list_segments()
    }

    fn is_foreign(&self) -> bool {
        true
    }

    /// The writer counts; this changes nothing.
    fn count_loss(&self, _gap: &Gap) {}

    fn names(&self) -> &Names {
        &self.names
    }

    fn find_name(self: Arc<Self>, id: u32) -> Result<Option<Arc<str>>> {
        self.search_name(id)
    }

    fn poll_news(
        self: Arc<Self>,
        news: News,
        waker: &Waker,
        place: &mut NewsPlace,
    ) -> Result<bool> {
        // The writer's end is not seen from here.
        if !matches!(news, News::End(_)) {
            self.watch_for(news, waker, &mut place.written)?;
        }
        Ok(false)
    }

    fn forget(&self, place: NewsPlace) {
        if let Some(place) = place.written {
            self.watch.forget(&place);
        }
    }

    fn check_below(&self, _below: Offset) -> Result<()> {
        Ok(())
    }

    /// The writer's own syncs may be long in coming, so the files are synced from here.
    fn make_durable(&self, below: Offset) -> Result<()> {
        let kind = sync_kind(self.config.fsync).ok_or(ErrorKind::DurabilityOff)?;
        let durable = self.durable()?;
        if below <= durable {
            return Ok(());
        }
        self.beside_deletions(|| self.sync_segments(durable, below, kind))?;
        slot_file::sync_dir(&*self.host, &self.dir)
    }

    fn frames_end(&self, base: Offset) -> Result<Option<u64>> {
        let state = self.state.lock();
        if state.end.segment == base {
            return Ok(Some(state.end.position));
        }
        drop(state);
        let path = segment_path(&self.dir, base);
        match self.host.open(&path, Access::Read) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            opened => opened
                .and_then(|file| file.len())
                .map(Some)
                .map_err(|error| Error::io("open", &path, error)),
        }
    }
}

impl ReadOnly {
    /// Syncs the segments with the records from `durable` to `below`.
    fn sync_segments(&self, durable: Offset, below: Offset, kind: SyncKind) -> Result<()> {
        let bases = self.list_segments()?;
        let first = bases.partition_point(|&base| base <= durable);
        for &base in bases.iter().skip(first.saturating_sub(1)) {
            if base >= below {
                break;
            }
            let path = segment_path(&self.dir, base);
            let file = self
                .host
                .open(&path, Access::Read)
                .map_err(|error| Error::io("open", &path, error))?;
            file.sync(kind)
                .map_err(|error| slot_file::sync_failed(&path, error))?;
        }
        Ok(())
    }

    fn find_once(&self, offset: Offset) -> Result<Option<Spot>> {
        // What lies before the last segment does not change: only from there on is there news.
        let is_known = |state: &State| state.segments.last().is_some_and(|&last| offset < last);
        let listed = if is_known(&self.state.lock()) {
            None
        } else {
            Some(self.list_segments()?)
        };
        let mut state = self.state.lock();
        if let Some(segments) = listed {
            state.segments = segments;
        }
        let behind = state.segments.partition_point(|&base| base <= offset);
        let Some(&base) = state.segments.get(behind.saturating_sub(1)) else {
            return Ok(None);
        };
        let next = match state.segments.get(behind.max(1)).copied() {
            None => None,
            Some(next) => {
                let header = match state.headers.get(&next) {
                    Some(Some(header)) => Some(*header),
                    _ => self.segment(&mut state, next)?.map(|(_, header)| header),
                };
                Some((next, header.map_or(next, |header| header.previous_end)))
            }
        };
        let path = segment_path(&self.dir, base);
        let mut previous_end = base;
        let mut index = None;
        let view = match self.segment(&mut state, base)? {
            None => None,
            Some((file, header)) => {
                previous_end = header.previous_end;
                if offset > base && next.is_some() {
                    let path = path.with_file_name(file_name::index(base));
                    index = load_index(&*self.host, &path, &header, true);
                }
                let len = file
                    .len()
                    .map_err(|error| Error::io("read", &path, error))?;
                let end = End::Fixed(usize::try_from(len).unwrap_or(usize::MAX));
                Some(View::copied((&header).into(), file, end))
            }
        };
        Ok(Some(Spot {
            base,
            previous_end,
            path,
            view,
            index,
            next,
        }))
    }
}
