//! A log that is full: one of its limits is reached and nothing may go, or the disk has no space.
//! All of this is off the append path, which meets it where it would have to make room itself.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    Shared,
    append::{Appender, LATE_ROOM},
    clean::{CleanPace, Outlook},
    delete::{Deletion, records},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::segment::FOOTER_LEN,
    offset::Offset,
    options::{GroupRetention, WhenFull},
};

/// A send that waits looks again after this.
const LOOK_BLOCKED: Duration = Duration::from_millis(20);
/// Of those who wait, one looks at the groups within this time.
const LOOK_TOGETHER: Duration = Duration::from_millis(10);

/// Who waits while a log is full that lets sends wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// The append, for as long as the options say.
    #[default]
    Append,
    /// Whoever appends, and tries again by itself until it has enough.
    Caller,
}

/// What a send puts up with.
#[derive(Debug)]
pub(super) struct Patience {
    waiter: Waiter,
    /// It has sequences, of which none may be left out: it fails rather than be dropped.
    is_named: bool,
    /// How long it waits at most, once it has begun to.
    deadline: Option<Duration>,
    /// How often room had been made before it was tried, or less.
    seen: u64,
}

impl Patience {
    pub(super) fn new(waiter: Waiter, is_named: bool) -> Self {
        Self {
            waiter,
            is_named,
            deadline: None,
            seen: 0,
        }
    }

    /// It is about to be tried, with room made so often.
    pub(super) fn see(&mut self, room_made: u64) {
        self.seen = room_made;
    }
}

/// What came of making room.
#[derive(Clone, Debug)]
enum Way {
    /// Something went, so the append may be tried again.
    Clear,
    /// Nothing may go; the group that is farthest behind, if groups are why.
    Held(Option<String>),
}

/// Nothing could go at this moment.
#[derive(Debug)]
pub(super) struct Stuck {
    at: Duration,
    /// The active segment then: once another one is, there may be more that can go.
    active: Offset,
    held_by: Option<String>,
}

impl Shared {
    /// Whether so many more bytes leave the free space that is wanted.
    ///
    /// # Errors
    ///
    /// `LogFull`.
    pub(super) fn check_free(&self, needed: usize) -> Result<()> {
        let Some(floor) = self.site.config.keeping.min_free else {
            return Ok(());
        };
        if self.free_space() >= floor.saturating_add(needed as u64) {
            return Ok(());
        }
        Err(ErrorKind::LogFull {
            limit: "min_free_bytes",
            bytes: floor,
            held_by: None,
        }
        .into())
    }

    /// Where it can't be told, there is enough.
    fn free_space(&self) -> u64 {
        let free = self.site.host.free_space(&self.site.dir);
        free.unwrap_or(u64::MAX)
    }

    /// Bytes that have to be freed, so that the log can go on for a segment, and for as much as is
    /// looked for when room is made.
    pub(super) fn shortage(&self) -> u64 {
        if !self.deletes() || self.check_free(LATE_ROOM).is_ok() {
            return 0;
        }
        let floor = self.site.config.keeping.min_free.unwrap_or(0);
        let ahead = self.site.config.segment_bytes.max(LATE_ROOM);
        let wanted = floor.saturating_add(ahead as u64);
        wanted.saturating_sub(self.free_space())
    }

    /// Whether old segments may go to make room: not where the last record of each key is kept.
    fn deletes(&self) -> bool {
        self.site.config.compaction.policy.deletes()
    }

    /// Whether there may be another segment.
    ///
    /// # Errors
    ///
    /// `LogFull`.
    pub(super) fn check_roll(&self, appender: &Appender) -> Result<()> {
        // One that is prepared takes nothing more from the disk.
        let free = self.check_free(LATE_ROOM);
        if free.is_err() && self.prepared.lock().is_none() {
            return free;
        }
        self.check_bytes(appender)
    }

    /// Whether the limit in bytes leaves room for another segment.
    fn check_bytes(&self, appender: &Appender) -> Result<()> {
        let keeping = &self.site.config.keeping;
        let Some(limit) = keeping.limits.bytes else {
            return Ok(());
        };
        let segment_bytes = self.site.config.segment_bytes as u64;
        // Where all that has to go may go, it does in the background, and nobody waits for that
        // as long as it keeps up.
        let slack = match keeping.groups {
            GroupRetention::Drop => segment_bytes,
            GroupRetention::KeepUnconsumed => 0,
        };
        let rolled = (appender.writer.position() + FOOTER_LEN) as u64;
        let bytes = self.segments.rolled_bytes() + rolled + segment_bytes;
        if bytes <= limit.saturating_add(slack) {
            return Ok(());
        }
        Err(ErrorKind::LogFull {
            limit: "max_bytes",
            bytes: limit,
            held_by: None,
        }
        .into())
    }

    /// Makes room for an append that failed for want of it, or waits for some: if this returns, it
    /// may be tried again.
    ///
    /// # Errors
    ///
    /// Why there is no room; `Dropped`; those of a deletion.
    pub(super) fn make_way(
        &self,
        error: Error,
        patience: &mut Patience,
        records: u64,
    ) -> Result<()> {
        let keeping = &self.site.config.keeping;
        if !error.is_full() {
            return Err(error);
        }
        if !keeping.acts_when_full() {
            self.compact_when_full();
            return Err(error);
        }
        let seen = std::mem::replace(&mut patience.seen, self.counters.room_made());
        let held_by = match self.give_way(&error, seen)? {
            Way::Clear => return Ok(()),
            Way::Held(held_by) => held_by,
        };
        let error = blame(error, held_by);
        match keeping.when_full {
            WhenFull::Block(timeout) if patience.waiter == Waiter::Append => {
                let now = self.site.host.monotonic();
                let deadline = *patience.deadline.get_or_insert_with(|| {
                    self.counters.blocked_sends.fetch_add(1, Ordering::Relaxed);
                    now.saturating_add(timeout)
                });
                if now < deadline {
                    let parker = self.site.host.parker();
                    parker.park(Some(deadline.min(now + LOOK_BLOCKED)));
                    return Ok(());
                }
            }
            WhenFull::DropNewest if !patience.is_named => {
                self.counters
                    .dropped_newest
                    .fetch_add(records, Ordering::Relaxed);
                return Err(ErrorKind::Dropped { source: error }.into());
            }
            _ => {}
        }
        self.counters.rejected_sends.fetch_add(1, Ordering::Relaxed);
        Err(error)
    }

    /// Lets go of what may go, and with `DropOldest` of what may not.
    fn give_way(&self, error: &Error, seen: u64) -> Result<Way> {
        let mut pace = self.maintenance.clean_pace.lock();
        self.check_writable()?;
        let is_clear = || self.counters.room_made() != seen;
        let on_disk = !pace.doomed.is_empty() && !is_limit(error);
        if on_disk {
            self.remove_all_files(&mut pace)?;
        }
        if on_disk || is_clear() {
            return Ok(Way::Clear);
        }
        let now = self.site.host.monotonic();
        let active = self.append.lock().writer.header.base;
        if let Some(stuck) = &pace.stuck
            && stuck.active == active
            && now.saturating_sub(stuck.at) < LOOK_TOGETHER
        {
            let held_by = stuck.held_by.clone();
            self.compact_when_full();
            return Ok(Way::Held(held_by));
        }
        let held_by = self.let_go(&mut pace, error)?;
        if !is_clear() && self.has_room(error) {
            // Nothing went because nothing had to any more.
            return Ok(Way::Clear);
        }
        if !is_clear() {
            self.compact_when_full();
            if self.site.config.keeping.when_full == WhenFull::DropOldest {
                self.drop_oldest(&mut pace)?;
            }
        }
        if is_clear() {
            pace.stuck = None;
            if !is_limit(error) {
                self.remove_all_files(&mut pace)?;
            }
            self.maintenance.wake_clean();
            return Ok(Way::Clear);
        }
        pace.stuck = Some(Stuck {
            at: now,
            active,
            held_by: held_by.clone(),
        });
        Ok(Way::Held(held_by))
    }

    /// Whether there is room by now where an append met this limit. Compaction makes some at any
    /// moment, and others who were full before do. Of a disk that is full, only trying tells.
    fn has_room(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::LogFull { .. } if is_limit(error) => {
                self.check_bytes(&self.append.lock()).is_ok()
            }
            ErrorKind::LogFull { .. } => self.check_free(LATE_ROOM).is_ok(),
            _ => false,
        }
    }

    /// Deletes what may go by the limits; returns who holds back the rest.
    fn let_go(&self, pace: &mut CleanPace, error: &Error) -> Result<Option<String>> {
        let keeping = &self.site.config.keeping;
        let has_limit = keeping.limits.bytes.is_some() || keeping.min_free.is_some();
        let shortage = if error.is_storage_full() && has_limit && self.deletes() {
            self.site.config.segment_bytes as u64
        } else {
            self.shortage()
        };
        let decision = self.decide(pace, keeping.limits, shortage, Outlook::Rolling)?;
        self.carry_out(pace, &decision.plan)?;
        let held_back = decision.plan.held_back.into_iter().next();
        Ok(held_back.map(|held| held.group))
    }

    /// Deletes the oldest segment, whoever has not read it; not the active one.
    fn drop_oldest(&self, pace: &mut CleanPace) -> Result<()> {
        let facts = self.segment_facts();
        let Some((first, next)) = facts.first().zip(facts.get(1)) else {
            return Ok(());
        };
        let deletion = Deletion {
            start: next.base,
            lost: 0,
            dropped: records(&facts, self.log_start().max(first.base), next.base),
        };
        self.delete(pace, deletion)
    }
}

/// Whether a limit in bytes is reached: no file has to be gone for that to change.
fn is_limit(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::LogFull {
            limit: "max_bytes",
            ..
        }
    )
}

/// The same error, with the group that holds the log back.
fn blame(error: Error, group: Option<String>) -> Error {
    match (error.kind(), group) {
        (ErrorKind::LogFull { limit, bytes, .. }, held_by @ Some(_)) => ErrorKind::LogFull {
            limit,
            bytes: *bytes,
            held_by,
        }
        .into(),
        _ => error,
    }
}
