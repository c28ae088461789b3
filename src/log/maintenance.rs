//! What is done in the background, so that the append path need not: making room ahead, reserving
//! offsets, flushing by interval, sealing, rolling by age, checkpoints. One [`step`] looks at all
//! of it and says when to look again; a thread calls it in a loop.
//!
//! The append path does not wake the thread while it is active (that would be a system call):
//! the thread looks again after a time that follows the rate of appends. Only when there is
//! nothing left to do does it sleep until it is woken, by the first append after that.
//!
//! [`step`]: Shared::step

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use parking_lot::Mutex;

use super::{Shared, append::PreparedSegment, segments::Segment};
use crate::{error::Result, fs::Joiner, offset::Offset};

/// Looks again no sooner than this.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// Looks again after this at the latest while records are not durable or were just appended.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// How long after the last append the thread stays active.
const ACTIVE: Duration = Duration::from_millis(100);
/// Room kept ready ahead of the writer, at least...
const ROOM_MIN: usize = 256 << 10;
/// ...and as much as is appended in this time, at the present rate...
const ROOM_AHEAD: Duration = Duration::from_millis(12);
/// ...and at most. (Populating makes pages dirty, and the next sync pays for that.)
const ROOM_MAX: usize = 32 << 20;
/// Time between checkpoints while records become durable.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);
/// Time until something that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The maintenance of one log.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    waker: OnceLock<Waker>,
    pub(crate) stop: AtomicBool,
    pub(crate) thread: Mutex<Option<Box<dyn Joiner>>>,
    /// Durable segments that have no footer yet.
    sealable: Mutex<Vec<Arc<Segment>>>,
    pace: Mutex<Pace>,
}

/// What one step remembers for the next.
#[derive(Debug, Default)]
struct Pace {
    at: Duration,
    appended_bytes: u64,
    last_append: Duration,
    /// Bytes a millisecond.
    rate: u64,
    /// Since when there are records that are not durable.
    unsynced_since: Option<Duration>,
    checkpoint_at: Duration,
    retry_at: Duration,
    /// Since when the active segment has had records.
    segment_since: Option<(Offset, Duration)>,
}

impl Maintenance {
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn add_sealable(&self, segments: Vec<Arc<Segment>>) {
        if !segments.is_empty() {
            self.sealable.lock().extend(segments);
        }
    }
}

/// Starts the thread.
///
/// # Errors
///
/// What the platform says.
pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
    let served = Arc::clone(shared);
    let thread = shared
        .site
        .host
        .spawn("duralog", Box::new(move || run(&served)))?;
    *shared.maintenance.thread.lock() = Some(thread);
    Ok(())
}

fn run(shared: &Shared) {
    let parker = shared.site.host.parker();
    shared.maintenance.waker.get_or_init(|| parker.waker());
    while !shared.maintenance.stop.load(Ordering::Acquire) {
        let until = shared.step();
        parker.park(until);
    }
}

/// What a step saw of the log.
struct Seen {
    end: Offset,
    base: Offset,
    position: usize,
    has_frames: bool,
    created: u64,
    appended_bytes: u64,
}

impl Shared {
    /// Does what is due, and says when to look again; `None` is when woken.
    ///
    /// What fails here is tried again later; a failed sync latches the log, and whoever appends
    /// or waits is told.
    pub(crate) fn step(&self) -> Option<Duration> {
        let now = self.site.host.monotonic();
        let mut pace = self.maintenance.pace.lock();
        let seen = self.look();
        pace.follow(now, &seen);
        if self.latch.is_set() {
            return None;
        }
        let mut retry = false;
        let mut tried = |result: Result<()>| retry |= result.is_err();
        if now >= pace.retry_at {
            tried(self.make_room(&seen, pace.rate));
            tried(self.reserve(seen.end));
            tried(self.seal_durable());
        }
        tried(self.flush_if_due(&mut pace, now, seen.end));
        tried(self.roll_if_old(&mut pace, now, &seen));
        let rest = pace.is_at_rest(now);
        if rest || now >= pace.checkpoint_at + CHECKPOINT_EVERY {
            tried(self.refresh_checkpoint());
            pace.checkpoint_at = now;
        }
        if retry {
            pace.retry_at = now + RETRY_AFTER;
        }
        self.next_look(&pace, now, &seen, rest)
    }

    fn look(&self) -> Seen {
        let appender = self.append.lock();
        Seen {
            end: appender.next,
            base: appender.writer.header.base,
            position: appender.writer.position(),
            has_frames: appender.writer.has_frames(),
            created: appender.writer.header.created,
            appended_bytes: appender.appended_bytes,
        }
    }

    /// Prepares the active segment ahead of the writer, and the next one.
    fn make_room(&self, seen: &Seen, rate: u64) -> Result<()> {
        let ahead = room_ahead(rate);
        let room = Arc::clone(self.append.lock().writer.room());
        let wanted = seen.position + ahead;
        let path = super::segments::segment_path(&self.site.dir, seen.base);
        room.extend(wanted.min(seen.position + ROOM_MIN), wanted)
            .map_err(|error| crate::error::Error::io("prepare", &path, error))?;
        let near_full = wanted + ROOM_MIN >= self.site.config.segment_bytes;
        if near_full && self.prepared.lock().is_none() {
            let next = PreparedSegment::create(&self.site)?;
            let room = Arc::clone(next.writer.room());
            *self.prepared.lock() = Some(next);
            room.extend(0, ahead)
                .map_err(|error| crate::error::Error::io("prepare", &self.site.dir, error))?;
        }
        Ok(())
    }

    /// Writes the footers of segments that are durable as a whole.
    pub(crate) fn seal_durable(&self) -> Result<()> {
        let segments = std::mem::take(&mut *self.maintenance.sealable.lock());
        let mut left = Vec::new();
        let mut result = Ok(());
        for segment in segments {
            let sealed = self.latch_on_failure(segment.seal(self.sync_kind()));
            if !matches!(sealed, Ok(true)) {
                left.push(segment);
            }
            result = result.and(sealed.map(drop));
        }
        self.maintenance.add_sealable(left);
        result
    }

    /// Syncs if the flush policy's interval is over, or somebody asked.
    fn flush_if_due(&self, pace: &mut Pace, now: Duration, end: Offset) -> Result<()> {
        if end <= self.syncer.durable() {
            pace.unsynced_since = None;
        } else if pace.unsynced_since.is_none() {
            pace.unsynced_since = Some(now);
        }
        let asked = self.syncer.requested.swap(false, Ordering::AcqRel);
        let due = pace
            .flush_at(self.site.config.flush.interval)
            .is_some_and(|at| now >= at);
        if !(asked || due) || self.sync_kind().is_none() {
            return Ok(());
        }
        pace.unsynced_since = None;
        self.sync_until(end)
    }

    fn roll_if_old(&self, pace: &mut Pace, now: Duration, seen: &Seen) -> Result<()> {
        if !seen.has_frames {
            pace.segment_since = None;
            return Ok(());
        }
        let known = pace.segment_since.filter(|(base, _)| *base == seen.base);
        let since = known.map_or_else(
            || {
                // Of a segment that was there before this process, only the wall clock knows the
                // age; one that jumps ahead rolls too early, which loses nothing.
                let age = self.site.host.wall_millis().saturating_sub(seen.created);
                now.saturating_sub(Duration::from_millis(age))
            },
            |(_, since)| since,
        );
        pace.segment_since = Some((seen.base, since));
        if now.saturating_sub(since) < self.site.config.segment_age {
            return Ok(());
        }
        let mut appender = self.append.lock();
        if appender.writer.header.base == seen.base {
            self.roll(&mut appender)?;
        }
        Ok(())
    }

    /// When to look again. Nothing to do at all: sleeps until woken, which the appender is told
    /// under its lock.
    fn next_look(&self, pace: &Pace, now: Duration, seen: &Seen, rest: bool) -> Option<Duration> {
        let mut next = None;
        let mut by = |at: Duration| next = Some(next.map_or(at, |next: Duration| next.min(at)));
        if pace.retry_at > now {
            by(pace.retry_at);
        }
        if !self.maintenance.sealable.lock().is_empty() {
            by(now + LONGEST_SLEEP);
        }
        if let Some((_, since)) = pace.segment_since {
            by(since.saturating_add(self.site.config.segment_age));
        }
        if let Some(at) = pace.flush_at(self.site.config.flush.interval) {
            by(at);
        }
        if rest {
            let mut appender = self.append.lock();
            if appender.next == seen.end {
                appender.maintenance_sleeps = true;
                return next;
            }
        }
        by(now + pace.sleep(self.append.lock().writer.room().prepared(), seen.position));
        next
    }
}

/// Room to keep ready for appends of `rate` bytes a millisecond.
fn room_ahead(rate: u64) -> usize {
    let millis = u64::try_from(ROOM_AHEAD.as_millis()).unwrap_or(1);
    usize::try_from(rate.saturating_mul(millis))
        .unwrap_or(ROOM_MAX)
        .clamp(ROOM_MIN, ROOM_MAX)
}

impl Pace {
    /// Takes in what was appended since the last step.
    fn follow(&mut self, now: Duration, seen: &Seen) {
        let bytes = seen.appended_bytes.saturating_sub(self.appended_bytes);
        let millis = now.saturating_sub(self.at).as_millis().max(1);
        self.rate = bytes / u64::try_from(millis).unwrap_or(u64::MAX);
        if bytes > 0 {
            self.last_append = now;
        }
        self.appended_bytes = seen.appended_bytes;
        self.at = now;
    }

    /// Whether nothing was appended for a while and nothing waits to be flushed.
    fn is_at_rest(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_append) >= ACTIVE
    }

    fn flush_at(&self, interval: Option<Duration>) -> Option<Duration> {
        self.unsynced_since?.checked_add(interval?)
    }

    /// A quarter of the time in which the room that is ready will be used up.
    fn sleep(&self, prepared: usize, position: usize) -> Duration {
        let room = prepared.saturating_sub(position) as u64;
        let millis = (room / 4).checked_div(self.rate).unwrap_or(u64::MAX);
        Duration::from_millis(millis).clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
    }
}
