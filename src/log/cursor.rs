//! Reading frames in order, over a log of this process or of another one.

use std::{io, sync::Arc, time::Duration};

use super::{
    Shared,
    report::{Gap, GapReason},
    segments::Spot,
};
use crate::{
    error::{DecodeError, Error, Result},
    format::{
        body,
        frame::{self, HEADER_LEN},
        wire::{narrow, widen},
    },
    fs::Host,
    offset::Offset,
    segment::{Buffer, FRAMES_START, Found, FrameAt, Scanner, View},
};

/// Where a cursor reads from.
pub(crate) trait Source: std::fmt::Debug + Send + Sync {
    /// The machine.
    fn host(&self) -> &dyn Host;
    /// The log start offset.
    fn start(&self) -> Offset;
    /// The offset up to which records may be served.
    ///
    /// # Errors
    ///
    /// `Closed`, `Io`.
    fn visible_end(&self) -> Result<Offset>;
    /// The durable offset, as far as it is recorded.
    ///
    /// # Errors
    ///
    /// `Io`.
    fn durable(&self) -> Result<Offset>;
    /// The segment that holds an offset, or the first one behind it.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`.
    fn find(&self, offset: Offset) -> Result<Option<Spot>>;
    /// Whether bytes that are published may still be changing: another process writes them.
    fn is_foreign(&self) -> bool;
    /// Counts a gap.
    fn count_loss(&self, gap: &Gap);
    /// Waits until there may be a record at or above `offset`, or until `until`.
    ///
    /// # Errors
    ///
    /// `SyncFailed`, `Closed`, `Io`.
    fn wait(&self, offset: Offset, until: Duration) -> Result<()>;
    /// Waits until the record at `offset` may be durable, or until `until`; asks for no sync.
    ///
    /// # Errors
    ///
    /// As `wait`.
    fn wait_durable(&self, offset: Offset, until: Duration) -> Result<()>;
    /// Whether offsets below `below` may be acted on.
    ///
    /// # Errors
    ///
    /// `SyncFailed` if the log is latched and they are not all durable.
    fn check_below(&self, below: Offset) -> Result<()>;
}

/// How much to read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// Records at or above this offset are not served.
    pub(crate) end: Offset,
}

/// A frame that was read: verified, and where its bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) position: usize,
    pub(crate) len: usize,
    pub(crate) first: Offset,
    pub(crate) count: u32,
}

/// A place in a log, and what was read there last.
#[derive(Debug)]
pub(crate) struct Cursor {
    source: Arc<dyn Source>,
    /// The next offset to deliver.
    position: Offset,
    place: Option<Place>,
    buffer: Buffer,
    spans: Vec<Span>,
    gaps: Vec<Gap>,
}

/// A place within a segment.
#[derive(Debug)]
struct Place {
    spot: Spot,
    view: View,
    /// Where the next frame stands.
    at: usize,
    /// The offset that should stand there.
    expected: Offset,
}

/// Why reading a segment stopped.
enum Pause {
    /// The limits are reached, or nothing more is published.
    Enough,
    /// All of the segment's frames are read.
    Segment,
}

impl Cursor {
    pub(crate) fn new(source: Arc<dyn Source>, position: Offset) -> Self {
        Self {
            source,
            position,
            place: None,
            buffer: Buffer::default(),
            spans: Vec::new(),
            gaps: Vec::new(),
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
        self.position = offset;
        self.place = None;
        self.clear();
    }

    /// Drops what was read.
    pub(crate) fn clear(&mut self) {
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

    /// Reads on, replacing what was read before. All frames of one call are of one segment.
    /// Returns the first offset to be delivered of them: a frame may begin below it.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`; what the source returns. What was read before is dropped, the
    /// position is as before.
    pub(crate) fn advance(&mut self, limits: Limits) -> Result<Offset> {
        self.clear();
        self.skip_retained();
        let mut from = self.position;
        while self.position < limits.end {
            if self.place.is_none() && !self.enter(limits.end)? {
                break;
            }
            from = self.position;
            let pause = self.read_segment(limits);
            let pause = match pause {
                Ok(pause) => pause,
                Err(error) => {
                    self.seek(from);
                    return Err(error);
                }
            };
            match pause {
                Pause::Segment if self.spans.is_empty() => {
                    if !self.cross()? {
                        break;
                    }
                }
                Pause::Enough | Pause::Segment => break,
            }
        }
        for gap in &self.gaps {
            self.source.count_loss(gap);
        }
        Ok(from)
    }

    /// Records below the log start are gone.
    fn skip_retained(&mut self) {
        let start = self.source.start();
        if self.position < start {
            self.gap(start, GapReason::Retention);
            self.place = None;
        }
    }

    /// Reports the offsets from here to `to`, and goes on there.
    fn gap(&mut self, to: Offset, reason: GapReason) {
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
        let Some(spot) = self.source.find(self.position)? else {
            return Ok(false);
        };
        if self.position < spot.base {
            // The segment that held it is missing, or it was skipped.
            self.gap(spot.previous_end.min(end), GapReason::Damage);
            self.gap(spot.base.min(end), GapReason::LostTail);
        }
        if let Some(view) = spot.view.clone() {
            let expected = spot.base;
            self.buffer.clear();
            self.place = Some(Place {
                spot,
                view,
                at: FRAMES_START,
                expected,
            });
            return Ok(true);
        }
        // The whole segment can't be read.
        let until = spot.next.map_or(end, |(_, previous_end)| previous_end);
        self.gap(until.min(end), GapReason::Damage);
        match spot.next {
            Some((base, _)) if self.position < end => {
                self.gap(base.min(end), GapReason::LostTail);
                self.enter(end)
            }
            _ => Ok(false),
        }
    }

    /// Leaves a segment whose frames are all read, for the next one; `false` if there is none, or
    /// if the missing frames may still come.
    fn cross(&mut self) -> Result<bool> {
        let Some(place) = &self.place else {
            return Ok(false);
        };
        let Some((base, previous_end)) = place.spot.next else {
            return Ok(false);
        };
        let missing = self.position < previous_end;
        if missing && self.source.is_foreign() && self.source.durable()? < previous_end {
            return Ok(false);
        }
        self.gap(previous_end, GapReason::Damage);
        self.gap(base, GapReason::LostTail);
        self.place = None;
        Ok(true)
    }

    /// Reads frames of the segment until the limits are reached, or there are no more.
    fn read_segment(&mut self, limits: Limits) -> Result<Pause> {
        self.look_behind()?;
        let Some(place) = &mut self.place else {
            return Ok(Pause::Segment);
        };
        let published = place.view.published();
        let limit = place
            .spot
            .next
            .map_or(limits.end, |(base, _)| base.min(limits.end));
        let mut records = 0;
        let mut bytes = 0;
        while place.at < published {
            if records >= limits.records || bytes >= limits.bytes {
                return Ok(Pause::Enough);
            }
            let fits = bytes == 0 || !place.view.must_refill(place.at, &self.buffer);
            if !fits {
                return Ok(Pause::Enough);
            }
            let found = place.frame(&mut self.buffer);
            let frame = match found.map_err(|error| place.io(error))? {
                Ok(frame) => frame,
                Err(DecodeError::Version { found }) => {
                    let error = DecodeError::Version { found };
                    return Err(Error::decode(&place.spot.path, place.at as u64, error));
                }
                Err(_) if !self.spans.is_empty() => return Ok(Pause::Enough),
                Err(_) => return self.read_damage(limits, published),
            };
            if frame.count == 0 {
                // The footer.
                place.at = published;
                return Ok(Pause::Segment);
            }
            if frame.first >= limits.end || frame.end() > limit {
                return Ok(Pause::Enough);
            }
            place.at += frame.len;
            place.expected = frame.end();
            if frame.end() <= self.position {
                continue;
            }
            self.position = frame.end();
            self.spans.push(Span {
                position: frame.position,
                len: frame.len,
                first: frame.first,
                count: frame.count,
            });
            records += widen(frame.count);
            bytes += frame.len;
        }
        Ok(if place.spot.next.is_some() {
            Pause::Segment
        } else {
            Pause::Enough
        })
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
        let found = self.source.find(place.spot.base)?;
        let Some(spot) = found.filter(|spot| spot.base == place.spot.base) else {
            return Ok(());
        };
        place.spot.next = spot.next;
        if let (true, Some(view)) = (self.source.is_foreign(), spot.view) {
            place.view = view;
        }
        Ok(())
    }

    /// At bytes that are no frame: tells a gap from what is only not there yet.
    fn read_damage(&mut self, limits: Limits, published: usize) -> Result<Pause> {
        let foreign = self.source.is_foreign();
        let Some(place) = &mut self.place else {
            return Ok(Pause::Segment);
        };
        if foreign {
            // What was read may be half a write: once more, from the file.
            self.buffer.clear();
        }
        let limit = place.spot.next.map_or(limits.end, |(base, _)| base);
        let limit = if foreign && place.spot.next.is_none() {
            Offset::MAX
        } else {
            limit
        };
        let (seed, base) = (place.view.seed, place.view.base);
        let mut scanner = Scanner::new(seed, base, limit, place.at, place.expected);
        let mut bytes = place.view.bytes(&mut self.buffer);
        let found = scanner.step(&mut bytes);
        let found = found.map_err(|error| Error::io("read", &place.spot.path, error))?;
        match found {
            Found::Hole(hole) => {
                let evidence = match scanner.step(&mut bytes) {
                    Ok(Found::Frame(frame)) => frame.durable,
                    _ => Offset::ZERO,
                };
                drop(bytes);
                if foreign && hole.from >= self.source.durable()?.max(evidence) {
                    return Ok(Pause::Enough);
                }
                place.at = hole.resume;
                place.expected = hole.to;
                self.gap(hole.to, GapReason::Damage);
                self.read_segment(limits)
            }
            Found::Frame(_) => {
                drop(bytes);
                self.read_segment(limits)
            }
            Found::Footer(..) => {
                drop(bytes);
                place.at = published;
                Ok(Pause::Segment)
            }
            Found::Stop(_) => {
                drop(bytes);
                if place.spot.next.is_some() {
                    return Ok(Pause::Segment);
                }
                let durable = if foreign {
                    self.source.durable()?
                } else {
                    limits.end
                };
                if self.position < durable {
                    // What should stand here was durable, and nothing behind it is intact.
                    self.gap(durable, GapReason::Damage);
                }
                Ok(Pause::Enough)
            }
        }
    }
}

impl Place {
    /// The frame at the place, verified.
    #[inline]
    fn frame(&self, buffer: &mut Buffer) -> io::Result<Result<FrameAt, DecodeError>> {
        let position = self.at;
        let mut bytes = self.view.read(position, HEADER_LEN, buffer)?;
        if let Some(seen) = frame::glimpse(bytes).filter(|seen| seen.len > bytes.len()) {
            bytes = self.view.read(position, seen.len, buffer)?;
        }
        let seed = self.view.seed.at(narrow(position));
        Ok(frame::decode(bytes, seed).and_then(|frame| {
            let first = self.view.base.advance(frame.stamp.relative_offset.into());
            if first != self.expected {
                return Err(DecodeError::Missing);
            }
            let count = if frame.is_footer() {
                0
            } else {
                body::check(&frame)?
            };
            Ok(FrameAt {
                position,
                len: frame.len(),
                first,
                count,
                append_time: frame.stamp.append_time,
                durable: Offset::ZERO,
                plain: frame.is_plain(),
            })
        }))
    }

    #[cold]
    fn io(&self, error: io::Error) -> Error {
        Error::io("read", &self.spot.path, error)
    }
}

impl Source for Shared {
    fn host(&self) -> &dyn Host {
        &*self.site.host
    }

    fn start(&self) -> Offset {
        self.log_start()
    }

    /// While the log is latched, nobody acts on what may vanish.
    fn visible_end(&self) -> Result<Offset> {
        self.check_open()?;
        Ok(if self.latch.is_set() {
            self.durable()
        } else {
            self.end()
        })
    }

    fn durable(&self) -> Result<Offset> {
        Ok(self.syncer.durable())
    }

    fn find(&self, offset: Offset) -> Result<Option<Spot>> {
        self.segments.find(&*self.site.host, offset)
    }

    fn is_foreign(&self) -> bool {
        false
    }

    fn count_loss(&self, gap: &Gap) {
        Shared::count_loss(self, gap.from, gap.to, gap.reason);
    }

    fn wait(&self, offset: Offset, until: Duration) -> Result<()> {
        self.wait_for_records(offset, until)
    }

    fn wait_durable(&self, offset: Offset, until: Duration) -> Result<()> {
        self.watch_durable(offset, until)
    }

    fn check_below(&self, below: Offset) -> Result<()> {
        self.check_open()?;
        if below > self.durable() {
            self.latch.check()
        } else {
            Ok(())
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
    let mut cursor = Cursor::new(Arc::clone(source), source.start());
    let limits = Limits {
        records: 1024,
        bytes: 1 << 20,
        end,
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
