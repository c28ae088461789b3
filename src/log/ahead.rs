//! Staying ahead of the writer: room in the active segment, the next segment, reserved offsets;
//! and rolling a segment that is old.

use std::{sync::Arc, time::Duration};

use super::{
    Shared, append::PreparedSegment, checkpointer::RESERVED_AHEAD, maintenance::RETRY_AFTER,
    segments::segment_path,
};
use crate::{
    error::{Error, Result},
    offset::Offset,
};

/// Looks again no sooner than this.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// Looks again after this at the latest while something was just appended.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// How long after the last append the thread stays active, and how long it takes at least to believe
/// that appends have become slow: a writer that has to wait, for a processor above all, comes back
/// at the rate that it had.
const ACTIVE: Duration = Duration::from_millis(100);
/// Room kept ready ahead of the writer, at least...
const ROOM_MIN: usize = 256 << 10;
/// ...and as much as is appended in this time, at the present rate...
const ROOM_AHEAD: Duration = Duration::from_millis(12);
/// ...and at most. (Populating makes pages dirty, and the next sync pays for that.)
const ROOM_MAX: usize = 32 << 20;
/// Offsets are reserved for this time ahead, at the present rate, if that is more than usual: the
/// reservation waits for the device, which may be busy with a flush.
const OFFSETS_AHEAD: Duration = Duration::from_secs(4);
/// At most this many offsets are reserved ahead.
pub(super) const OFFSETS_MAX: u64 = 1 << 30;

/// What one step remembers for the next.
#[derive(Debug, Default)]
pub(crate) struct AheadPace {
    at: Duration,
    /// The base offset of the active segment.
    base: Option<Offset>,
    last_append: Duration,
    appended_bytes: u64,
    end: Offset,
    /// Bytes, and records, a millisecond.
    bytes_rate: u64,
    records_rate: u64,
    retry_at: Duration,
    /// This is the first step after a rest, so the rate is not known.
    just_woken: bool,
    /// The base offset of the active segment, and since when it has had records.
    segment_since: Option<(Offset, Duration)>,
    /// The base offset of the last segment that was seen to be half full.
    half_full: Option<Offset>,
    /// The disk has less free space than is wanted.
    is_low: bool,
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
    /// What fails here is tried again later. Whoever appends meanwhile meets the same error.
    pub(crate) fn step_ahead(&self) -> Option<Duration> {
        let now = self.site.host.monotonic();
        let mut pace = self.maintenance.ahead_pace.lock();
        let seen = self.look(now);
        if pace
            .base
            .replace(seen.base)
            .is_some_and(|before| before != seen.base)
        {
            // The device can begin with the segment before.
            self.maintenance.wake_settle();
        }
        if seen.position >= self.site.config.segment_bytes / 2
            && pace.half_full.replace(seen.base) != Some(seen.base)
        {
            // From now on there is to be room for the next one.
            self.maintenance.wake_clean();
        }
        pace.follow(now, &seen);
        if seen.end > self.durable() {
            self.maintenance.wake_settle_if_unaware();
        }
        if self.latch.is_set() {
            return None;
        }
        if now >= pace.retry_at {
            let done = self
                .make_room(&seen, &mut pace)
                .and(self.reserve(seen.end, pace.offsets_ahead()))
                .and(self.roll_if_old(&mut pace, now, &seen));
            if done.is_err() {
                pace.retry_at = now + RETRY_AFTER;
            }
        }
        self.next_look(&pace, now, &seen)
    }

    fn look(&self, now: Duration) -> Seen {
        let mut appender = self.append.lock();
        if appender.seen.0 != appender.appended_bytes {
            appender.seen = (appender.appended_bytes, self.ages.at(now));
        }
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
    fn make_room(&self, seen: &Seen, pace: &mut AheadPace) -> Result<()> {
        let ahead = room_ahead(pace.bytes_rate);
        if self.check_free(ahead).is_err() {
            // Whoever appends meets the same limit, and does what the options say.
            if !std::mem::replace(&mut pace.is_low, true) {
                self.maintenance.wake_clean();
            }
            return Ok(());
        }
        pace.is_low = false;
        let room = Arc::clone(self.append.lock().writer.room());
        let wanted = seen.position + ahead;
        let path = segment_path(&self.site.dir, seen.base);
        room.extend(wanted.min(seen.position + ROOM_MIN), wanted)
            .map_err(|error| Error::io("prepare", &path, error))?;
        let near_full = wanted + ROOM_MIN >= self.site.config.segment_bytes;
        if near_full && self.prepared.lock().is_none() {
            let next = PreparedSegment::create(&self.site)?;
            let room = Arc::clone(next.writer.room());
            *self.prepared.lock() = Some(next);
            room.extend(0, ahead)
                .map_err(|error| Error::io("prepare", &self.site.dir, error))?;
        }
        Ok(())
    }

    fn roll_if_old(&self, pace: &mut AheadPace, now: Duration, seen: &Seen) -> Result<()> {
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
        if now.saturating_sub(since) < self.segment_age() {
            return Ok(());
        }
        let mut appender = self.append.lock();
        if appender.writer.header.base == seen.base {
            self.check_roll(&appender)?;
            self.roll(&mut appender)?;
        }
        Ok(())
    }

    /// What is kept no longer than this has to be rolled by then.
    fn segment_age(&self) -> Duration {
        let config = &self.site.config;
        let limit = config.keeping.limits.age;
        limit.map_or(config.segment_age, |limit| limit.min(config.segment_age))
    }

    /// When to look again. After a while without appends it is when woken, which the appender is
    /// told under its lock.
    fn next_look(&self, pace: &AheadPace, now: Duration, seen: &Seen) -> Option<Duration> {
        let age = self.segment_age();
        let old_at = pace
            .segment_since
            .map(|(_, since)| since.saturating_add(age).max(pace.retry_at));
        let retry_at = Some(pace.retry_at).filter(|at| *at > now);
        let mut appender = self.append.lock();
        let paused = now.saturating_sub(pace.last_append) >= ACTIVE;
        let look_at = if paused && appender.next == seen.end {
            appender.maintenance_sleeps = true;
            None
        } else {
            let room = appender
                .writer
                .room()
                .prepared()
                .saturating_sub(seen.position);
            Some(now + pace.sleep(room, self.site.config.flush.interval))
        };
        [old_at, retry_at, look_at].into_iter().flatten().min()
    }
}

/// Room to keep ready for appends of `rate` bytes a millisecond.
fn room_ahead(rate: u64) -> usize {
    let bytes = rate.saturating_mul(millis(ROOM_AHEAD));
    usize::try_from(bytes)
        .unwrap_or(ROOM_MAX)
        .clamp(ROOM_MIN, ROOM_MAX)
}

/// What a rate a millisecond becomes after so many in this time: up at once, down within [`ACTIVE`].
fn follow_rate(before: u64, count: u64, elapsed: Duration) -> u64 {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let now = count.saturating_mul(1000) / micros(elapsed).max(1000);
    let left = micros(ACTIVE.saturating_sub(elapsed));
    now.max(before.saturating_mul(left) / micros(ACTIVE))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl AheadPace {
    /// Takes in what was appended since the last step.
    fn follow(&mut self, now: Duration, seen: &Seen) {
        let elapsed = now.saturating_sub(self.at);
        self.just_woken = elapsed >= ACTIVE;
        let bytes = seen.appended_bytes.saturating_sub(self.appended_bytes);
        self.bytes_rate = follow_rate(self.bytes_rate, bytes, elapsed);
        let records = if bytes > 0 {
            seen.end.since(self.end)
        } else {
            0
        };
        self.records_rate = follow_rate(self.records_rate, records, elapsed);
        if bytes > 0 {
            self.last_append = now;
        }
        self.appended_bytes = seen.appended_bytes;
        self.end = seen.end;
        self.at = now;
    }

    fn offsets_ahead(&self) -> u64 {
        let records = self.records_rate.saturating_mul(millis(OFFSETS_AHEAD));
        records.clamp(RESERVED_AHEAD, OFFSETS_MAX)
    }

    /// A quarter of the time in which the room that is ready will be used up. Short enough to see
    /// in time that there is something to flush.
    fn sleep(&self, room: usize, flush_interval: Option<Duration>) -> Duration {
        if self.just_woken {
            return SHORTEST_SLEEP;
        }
        let until_used = (room as u64 / 4)
            .checked_div(self.bytes_rate)
            .unwrap_or(u64::MAX);
        let longest = flush_interval.map_or(LONGEST_SLEEP, |every| (every / 2).min(LONGEST_SLEEP));
        Duration::from_millis(until_used)
            .min(longest)
            .max(SHORTEST_SLEEP)
    }
}
