//! Reading frames in order, over a log of this process or of another one.

use std::{fmt, sync::Arc};

mod deleted;
mod frames;

use super::{
    place::Place,
    report::{Gap, GapReason},
    source::Source,
    unpacked::{Refusal, Unpacked},
};
use crate::{
    error::{Error, Result},
    format::{
        body::{self, Records},
        frame,
    },
    offset::Offset,
    options::Compression,
    record::RecordRef,
    segment::{Buffer, Found, FrameAt, Scanner},
};

/// How much to read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) records: usize,
    /// Bytes of frames; of those that are decompressed, of their records.
    pub(crate) bytes: usize,
    /// Records at or above this offset are not served.
    pub(crate) end: Offset,
    /// Records are to be read, so those that are compressed are decompressed.
    pub(crate) unpack: bool,
}

/// A frame that was read: verified, and where its bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) position: usize,
    pub(crate) len: usize,
    pub(crate) first: Offset,
    /// How many records it has.
    pub(crate) count: u32,
    /// How many offsets: more than records if some were removed.
    pub(crate) offsets: u32,
    /// It is a plain frame.
    plain: bool,
    /// Its number among those that were decompressed.
    unpacked: Option<u32>,
}

impl Span {
    fn of(frame: &FrameAt, unpacked: Option<u32>) -> Self {
        let FrameAt {
            position,
            len,
            first,
            count,
            offsets,
            ..
        } = *frame;
        Self {
            position,
            len,
            first,
            count,
            offsets,
            plain: false,
            unpacked,
        }
    }

    pub(super) fn of_plain(position: usize, len: usize, first: Offset) -> Self {
        Self {
            position,
            len,
            first,
            count: 1,
            offsets: 1,
            plain: true,
            unpacked: None,
        }
    }

    /// The offset behind its last record, removed or not.
    pub(crate) fn end(&self) -> Offset {
        self.first.advance(self.offsets.into())
    }
}

/// A place in a log, and what was read there last.
pub(crate) struct Cursor {
    source: Arc<dyn Source>,
    /// The next offset to deliver.
    position: Offset,
    /// Everything below was there before the last reading began: what is not found is missing, and
    /// not still to come.
    known: Offset,
    place: Option<Place>,
    buffer: Buffer,
    unpacked: Unpacked,
    spans: Vec<Span>,
    gaps: Vec<Gap>,
    /// Gaps that the next reading tells first.
    untold: Vec<Gap>,
}

/// Why reading a segment stopped.
enum Pause {
    /// The limits are reached, or nothing more is published.
    Enough,
    /// All of the segment's frames are read.
    Segment,
    /// The bytes at the place are no frame.
    Unreadable,
    /// The frame at the place verifies, but what it compressed does not decompress to records.
    Undecodable(FrameAt),
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Cursor {
    pub(crate) fn new(source: Arc<dyn Source>, position: Offset) -> Self {
        Self {
            source,
            position,
            known: Offset::ZERO,
            place: None,
            buffer: Buffer::default(),
            unpacked: Unpacked::default(),
            spans: Vec::new(),
            gaps: Vec::new(),
            untold: Vec::new(),
        }
    }

    pub(crate) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// The next offset to deliver.
    pub(crate) fn position(&self) -> Offset {
        self.position
    }

    /// Goes on at `offset`.
    pub(crate) fn seek(&mut self, offset: Offset) {
        self.untold.clear();
        self.go_to(offset);
    }

    fn go_to(&mut self, offset: Offset) {
        self.position = offset;
        self.place = None;
        self.clear();
    }

    /// Goes on at `to`; the next reading tells what lies before it as a gap.
    pub(crate) fn skip_to(&mut self, to: Offset, reason: GapReason) {
        let from = self.position;
        if from < to {
            self.untold.push(Gap { from, to, reason });
            self.go_to(to);
        }
    }

    /// Drops what was read.
    pub(crate) fn clear(&mut self) {
        self.unpacked.clear();
        self.spans.clear();
        self.gaps.clear();
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    pub(crate) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// The bytes of a frame that was read last.
    #[inline]
    pub(crate) fn bytes(&self, span: &Span) -> &[u8] {
        match &self.place {
            Some(place) => place
                .view
                .again(span.position..span.position + span.len, &self.buffer),
            None => &[],
        }
    }

    /// The record of a plain frame that was read last, if it is one: there is a short way to it.
    #[inline]
    pub(crate) fn plain_record(&self, span: &Span) -> Option<RecordRef<'_>> {
        let bytes = span.plain.then(|| self.bytes(span))?;
        body::plain_record(bytes, span.first)
    }

    /// The records of a frame that was read last.
    #[inline]
    pub(crate) fn records(&self, span: &Span) -> Option<Records<'_>> {
        let frame = frame::trusted(self.bytes(span))?;
        match span.unpacked {
            None => Some(Records::new(&frame, span.first, span.count)),
            Some(number) => self
                .unpacked
                .records(number, &frame, span.first, span.count),
        }
    }

    /// How many records of a frame that was read last are at `from` or behind.
    pub(crate) fn count_from(&self, span: &Span, from: Offset) -> u64 {
        let skipped = from.since(span.first);
        if skipped == 0 {
            return span.count.into();
        }
        let number = u32::try_from(skipped).unwrap_or(u32::MAX);
        let frame = frame::trusted(self.bytes(span));
        match frame.and_then(|frame| frame.sparse) {
            Some(sparse) => sparse.left_from(number).into(),
            None => span.count.saturating_sub(number).into(),
        }
    }

    /// How the records of a frame that was read last are compressed.
    pub(crate) fn compression(&self, span: &Span) -> Compression {
        let frame = frame::trusted(self.bytes(span));
        frame.map_or(Compression::None, |frame| frame.compression())
    }

    /// Reads on, replacing what was read before. All frames of one call are of one segment.
    /// Returns the first offset to be delivered of them: a frame may begin below it.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`, `CompressionUnsupported`; what the source returns. What was read before is dropped, the
    /// position is as before.
    pub(crate) fn advance(&mut self, limits: Limits) -> Result<Offset> {
        let start = self.position;
        // A gap that was met before the error is met again: nobody was told of it.
        let from = self.read_on(limits).inspect_err(|_| self.go_to(start))?;
        if !self.untold.is_empty() {
            self.gaps.splice(0..0, self.untold.drain(..));
        }
        Ok(from)
    }

    fn read_on(&mut self, limits: Limits) -> Result<Offset> {
        self.clear();
        // Asked before any byte is read: the writer goes on meanwhile.
        self.known = limits.end;
        if self.source.is_foreign() {
            self.known = self.source.durable()?.min(limits.end);
        }
        self.skip_deleted();
        let mut from = self.position;
        while self.position < limits.end {
            if self.place.is_none() && !self.enter(limits.end)? {
                break;
            }
            from = self.position;
            match self.read_segment(limits)? {
                Pause::Segment if self.spans.is_empty() => {
                    if !self.cross() {
                        break;
                    }
                }
                Pause::Enough => {
                    self.miss_known();
                    break;
                }
                _ => break,
            }
        }
        for gap in &self.gaps {
            self.source.count_loss(gap);
        }
        Ok(from)
    }

    /// Reports the offsets from here to `to`, and goes on there.
    fn gap(&mut self, to: Offset, reason: GapReason) {
        if self.position < to {
            // What is missing may have been deleted since this reading began.
            self.tell_deleted(self.source.start().min(to));
        }
        if self.position < to {
            self.gaps.push(Gap {
                from: self.position,
                to,
                reason,
            });
            self.position = to;
        }
    }

    /// Finds the segment of the position; `false` if there is none yet.
    fn enter(&mut self, end: Offset) -> Result<bool> {
        while self.position < end {
            let Some(spot) = self.source.find(self.position)? else {
                self.miss_known();
                return Ok(false);
            };
            if self.position < spot.base {
                // The segment that held it is missing, or it was skipped.
                self.gap(spot.previous_end.min(end), GapReason::Damage);
                self.gap(spot.base.min(end), GapReason::LostTail);
            }
            if let Some(view) = spot.view.clone() {
                let place = Place::new(spot, view);
                self.place = Some(place.nearer(self.position, &mut self.buffer)?);
                return Ok(true);
            }
            if !self.pass_unreadable(spot.next, end) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Goes on behind a segment of which nothing can be read; `false` if it is the last.
    fn pass_unreadable(&mut self, next: Option<(Offset, Offset)>, end: Offset) -> bool {
        let Some((base, previous_end)) = next else {
            self.gap(self.known, GapReason::Damage);
            return false;
        };
        self.gap(previous_end.min(end), GapReason::Damage);
        self.gap(base.min(end), GapReason::LostTail);
        true
    }

    /// Leaves a segment whose frames are all read, for the next one; `false` if there is none, or
    /// if the missing frames may still come.
    fn cross(&mut self) -> bool {
        let Some(place) = &self.place else {
            return false;
        };
        let Some((base, previous_end)) = place.spot.next else {
            self.miss_known();
            return false;
        };
        if let Some(end) = place.end_of_compacted() {
            self.position = self.position.max(end);
        }
        let missing = self.position < previous_end;
        if missing && self.source.is_foreign() && self.known < previous_end {
            return false;
        }
        self.gap(previous_end, GapReason::Damage);
        self.gap(base, GapReason::LostTail);
        self.place = None;
        true
    }

    /// Reads frames of the segment until the limits are reached, or there are no more.
    fn read_segment(&mut self, limits: Limits) -> Result<Pause> {
        self.look_behind()?;
        loop {
            match self.read_frames(limits)? {
                Pause::Unreadable if self.spans.is_empty() => {
                    if let Some(pause) = self.read_damage()? {
                        return Ok(pause);
                    }
                }
                // What was read before it is delivered first.
                Pause::Unreadable | Pause::Undecodable(_) if !self.spans.is_empty() => {
                    return Ok(Pause::Enough);
                }
                Pause::Undecodable(frame) => self.pass(&frame),
                pause => return Ok(pause),
            }
        }
    }

    /// Reports the records of the frame at the place as damaged, and goes on behind it.
    fn pass(&mut self, frame: &FrameAt) {
        if let Some(place) = &mut self.place {
            place.pass(frame);
        }
        self.gap(frame.end(), GapReason::Damage);
    }

    /// At the end of what is published of the last segment, finds out whether there is a next one
    /// by now.
    fn look_behind(&mut self) -> Result<()> {
        let Some(place) = &mut self.place else {
            return Ok(());
        };
        let at_end = self.source.is_foreign() || place.at >= place.view.published();
        if place.spot.next.is_some() || !at_end {
            return Ok(());
        }
        let Some(spot) = self.source.find(place.spot.base)? else {
            return Ok(());
        };
        if spot.base != place.spot.base {
            // It was deleted meanwhile; then the first one there is comes next.
            place.spot.next = Some((spot.base, spot.previous_end));
            return Ok(());
        }
        place.spot.next = spot.next;
        if let (true, Some(view)) = (self.source.is_foreign(), spot.view.clone()) {
            if view.shape.seed == place.view.shape.seed {
                place.view = view;
            } else {
                // It was compacted meanwhile: another file has its name.
                *place = Place::new(spot, view).nearer(self.position, &mut self.buffer)?;
            }
        }
        Ok(())
    }

    /// At bytes that are no frame: tells a gap from what is only not there yet. Returns `None` if
    /// reading can go on.
    fn read_damage(&mut self) -> Result<Option<Pause>> {
        let foreign = self.source.is_foreign();
        let Some(place) = &mut self.place else {
            return Ok(Some(Pause::Segment));
        };
        if foreign {
            // What was read may be half a write: once more, from the file.
            self.buffer.clear();
        }
        let limit = place.spot.next.map_or(Offset::MAX, |(base, _)| base);
        let mut scanner = Scanner::new(place.view.shape, limit, place.at, place.expected);
        let mut bytes = place.view.bytes(&mut self.buffer);
        let io = |error| Error::io("read", &place.spot.path, error);
        let found = scanner.step(&mut bytes).map_err(io)?;
        let evidence = match (found, scanner.step(&mut bytes).map_err(io)?) {
            (Found::Hole(_), Found::Frame(behind)) => behind.durable,
            _ => Offset::ZERO,
        };
        drop(bytes);
        match found {
            Found::Hole(hole) => {
                if foreign && hole.from >= self.known.max(evidence) {
                    return Ok(Some(Pause::Enough));
                }
                place.at = hole.resume;
                place.expected = hole.to;
                self.gap(hole.to, GapReason::Damage);
                Ok(None)
            }
            Found::Frame(_) => Ok(None),
            Found::Footer(..) => Ok(Some(Pause::Segment)),
            Found::Stop(_) if place.spot.next.is_some() => Ok(Some(Pause::Segment)),
            Found::Stop(_) => {
                // What should stand here is known, and nothing behind it is intact.
                self.gap(self.known, GapReason::Damage);
                Ok(Some(Pause::Enough))
            }
        }
    }
}

/// The first offset whose frame was appended at or after `millis`, or the end of what is served.
///
/// # Errors
///
/// What reading returns.
pub(crate) fn offset_for_time(source: &Arc<dyn Source>, millis: u64) -> Result<Offset> {
    let end = source.visible_end()?;
    let start = last_place_before(source, millis)?.max(source.start());
    let mut cursor = Cursor::new(Arc::clone(source), start);
    let limits = Limits {
        records: 1024,
        // With an index, the place is no farther than this.
        bytes: 16 << 10,
        end,
        unpack: false,
    };
    loop {
        cursor.advance(limits)?;
        if cursor.spans().is_empty() {
            if cursor.gaps().is_empty() {
                return Ok(cursor.position());
            }
            continue;
        }
        for span in cursor.spans() {
            let time = frame::append_time(cursor.bytes(span));
            if time.is_some_and(|time| time >= millis) {
                return Ok(span.first);
            }
        }
    }
}

/// The first offset of a frame that was appended before `millis`, and not long before: append times
/// never go back, so segments and the entries of an index are in order of them.
fn last_place_before(source: &Arc<dyn Source>, millis: u64) -> Result<Offset> {
    let bases = source.bases()?;
    let (mut low, mut high) = (0, bases.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        let base = bases.get(middle).copied().unwrap_or_default();
        // A segment that does not tell counts as later: then more is read, and nothing is missed.
        if first_time(source, base)?.is_some_and(|time| time < millis) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let Some(&base) = low.checked_sub(1).and_then(|last| bases.get(last)) else {
        return Ok(source.start());
    };
    let spot = source.find(base.next())?.filter(|spot| spot.base == base);
    let entry = spot.and_then(|spot| spot.index?.by_time(millis));
    Ok(entry.map_or(base, |entry| base.advance(entry.relative_offset.into())))
}

/// The append time of a segment's first frame.
fn first_time(source: &Arc<dyn Source>, base: Offset) -> Result<Option<u64>> {
    let spot = source.find(base)?.filter(|spot| spot.base == base);
    let Some((view, spot)) = spot.and_then(|spot| Some((spot.view.clone()?, spot))) else {
        return Ok(None);
    };
    let place = Place::new(spot, view);
    let frame = place.frame(&mut Buffer::default());
    let frame = frame.map_err(|error| place.io(error))?;
    let of_frame = frame.ok().map(|frame| frame.append_time);
    // Of one from which everything was removed, the last frame's is as good.
    let compacted = place.view.shape.compacted;
    let of_none = compacted.filter(|_| place.end_of_compacted().is_some());
    Ok(of_frame.or(of_none.map(|compacted| compacted.last_time)))
}
