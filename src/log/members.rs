//! The live consumers of a log in this process, and how long each has held the batch it polled
//! last.
//!
//! A poll notes the time in its consumer's own atomics. The maintenance thread looks when the last
//! batch that it knows of would be held for too long, as no later one can be before. Where none was
//! taken since, it does not look again by itself: whoever takes the next batch wakes it. So there is
//! at most one look for each interval, and none while nothing is polled.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::Shared;
use crate::{
    fs::{Host, Mutex, contain},
    offset::Offset,
};

/// A live consumer of this process, as of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerInfo {
    /// Its group.
    pub group: String,
    /// The offset that its next poll starts at.
    pub position: Offset,
    /// The committed offset of its group.
    pub committed: Offset,
    /// For how long it has held the batch that it polled last; `None` while it polls, and where
    /// there were no records.
    pub held_for: Option<Duration>,
    /// Whether that is longer than its
    /// [`max_poll_interval`](crate::ConsumerBuilder::max_poll_interval).
    pub overdue: bool,
}

/// What is called about a consumer that holds a batch for too long.
pub(crate) type OnOverdue = Arc<dyn Fn(&ConsumerInfo) + Send + Sync>;

/// A live consumer.
pub(crate) struct Member {
    group: String,
    max_hold: Duration,
    on_overdue: Option<OnOverdue>,
    position: AtomicU64,
    committed: AtomicU64,
    /// When it took its last batch, and whether it still holds it: see [`Hold`]. Only the consumer
    /// writes it.
    hold: AtomicU64,
    /// The batch that was reported last, by the same.
    reported: AtomicU64,
    /// The maintenance thread does not look until it is woken.
    unwatched: AtomicBool,
}

/// A batch that a consumer took, in one word: the monotonic clock's nanoseconds, doubled, and 1 if
/// it is held. No two batches of a consumer have the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hold(u64);

impl Hold {
    const NOTHING: Self = Self(0);

    fn begin(now: Duration) -> Self {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Self(nanos << 1 | 1)
    }

    fn end(self) -> Self {
        Self(self.0 & !1)
    }

    fn is_held(self) -> bool {
        self.0 & 1 == 1
    }

    fn since(self) -> Duration {
        Duration::from_nanos(self.0 >> 1)
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl Member {
    pub(crate) fn new(
        group: &str,
        committed: Offset,
        max_hold: Duration,
        on_overdue: Option<OnOverdue>,
    ) -> Self {
        let committed = committed.get();
        Self {
            group: group.to_owned(),
            max_hold,
            on_overdue,
            position: AtomicU64::new(committed),
            committed: AtomicU64::new(committed),
            hold: AtomicU64::new(Hold::NOTHING.0),
            reported: AtomicU64::new(Hold::NOTHING.0),
            unwatched: AtomicBool::new(true),
        }
    }

    fn hold(&self) -> Hold {
        Hold(self.hold.load(Ordering::SeqCst))
    }

    /// It holds a batch from now on; whether the maintenance thread has to be woken.
    #[inline]
    fn take_batch(&self, now: Duration) -> bool {
        // In one order with what the thread does, which says that it looks no more, and then looks
        // once more: one of the two sees the other.
        self.hold.swap(Hold::begin(now).0, Ordering::SeqCst);
        self.unwatched.load(Ordering::SeqCst) && self.unwatched.swap(false, Ordering::SeqCst)
    }

    /// It holds none from now on.
    #[inline]
    fn give_up_batch(&self) {
        let hold = Hold(self.hold.load(Ordering::Relaxed));
        self.hold.store(hold.end().0, Ordering::Relaxed);
    }

    fn held_for(&self, now: Duration) -> Option<Duration> {
        let hold = self.hold();
        hold.is_held().then(|| now.saturating_sub(hold.since()))
    }

    fn is_overdue(&self, now: Duration) -> bool {
        self.held_for(now).is_some_and(|held| held >= self.max_hold)
    }

    fn info(&self, now: Duration) -> ConsumerInfo {
        let held_for = self.held_for(now);
        ConsumerInfo {
            group: self.group.clone(),
            position: Offset::new(self.position.load(Ordering::Relaxed)),
            committed: Offset::new(self.committed.load(Ordering::Relaxed)),
            held_for,
            overdue: held_for.is_some_and(|held| held >= self.max_hold),
        }
    }

    /// Whether the batch that it holds is overdue, and this is the first to say so.
    fn find_overdue(&self, now: Duration) -> bool {
        let hold = self.hold();
        let is_overdue = hold.is_held() && now.saturating_sub(hold.since()) >= self.max_hold;
        is_overdue && self.reported.swap(hold.0, Ordering::Relaxed) != hold.0
    }

    /// Calls who wants to know. That is other people's code, so nothing is held meanwhile.
    fn report(&self, now: Duration) {
        if let Some(on_overdue) = &self.on_overdue {
            let info = self.info(now);
            // What a panic said was printed where it began; the next batch is reported again.
            drop(contain(|| on_overdue(&info)));
        }
    }

    /// When to look again, if not before `now`; `None` is when woken.
    fn next_look(&self, now: Duration) -> Option<Duration> {
        let seen = self.hold();
        let at = seen.since().checked_add(self.max_hold)?;
        if at > now && seen != Hold::NOTHING {
            return Some(at);
        }
        self.unwatched.store(true, Ordering::SeqCst);
        if self.hold().since() == seen.since() || !self.unwatched.swap(false, Ordering::SeqCst) {
            return None;
        }
        Some(now)
    }
}

/// The live consumers of a log.
#[derive(Debug, Default)]
pub(crate) struct Members {
    all: Mutex<Vec<Arc<Member>>>,
    overdue_batches: AtomicU64,
}

impl Members {
    fn all(&self) -> Vec<Arc<Member>> {
        self.all.lock().clone()
    }

    pub(super) fn overdue_batches(&self) -> u64 {
        self.overdue_batches.load(Ordering::Relaxed)
    }
}

/// A consumer's place among those that are live; given up when dropped.
#[derive(Debug)]
pub(crate) struct Membership {
    member: Arc<Member>,
    /// The log, if this process maintains it.
    log: Option<Arc<Shared>>,
}

impl Membership {
    pub(crate) fn new(member: Member, log: Option<Arc<Shared>>) -> Self {
        let member = Arc::new(member);
        if let Some(log) = &log {
            log.members.all.lock().push(Arc::clone(&member));
        }
        Self { member, log }
    }

    /// A poll begins, and the batch before is done with. Where nobody looks at the log, it is now
    /// that somebody may be told that this took too long.
    #[inline]
    pub(crate) fn begin_poll(&self, host: &dyn Host) {
        if self.log.is_none() {
            let now = host.monotonic();
            if self.member.find_overdue(now) {
                self.member.report(now);
            }
        }
        self.member.give_up_batch();
    }

    /// A poll returned.
    #[inline]
    pub(crate) fn end_poll(&self, position: Offset, has_records: bool, host: &dyn Host) {
        self.set_position(position);
        if has_records && self.member.take_batch(host.monotonic()) {
            self.watch();
        }
    }

    #[cold]
    fn watch(&self) {
        if let Some(log) = &self.log {
            log.maintenance.wake_settle();
        }
    }

    pub(crate) fn set_position(&self, position: Offset) {
        let position = position.get();
        self.member.position.store(position, Ordering::Relaxed);
    }

    pub(crate) fn set_committed(&self, committed: Offset) {
        let committed = committed.get();
        self.member.committed.store(committed, Ordering::Relaxed);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            let is_other = |member: &Arc<Member>| !Arc::ptr_eq(member, &self.member);
            log.members.all.lock().retain(is_other);
        }
    }
}

impl Shared {
    /// The live consumers of this process, in the order in which they were made.
    pub(crate) fn consumers(&self) -> Vec<ConsumerInfo> {
        let now = self.site.host.monotonic();
        let members = self.members.all();
        members.iter().map(|member| member.info(now)).collect()
    }

    /// How many consumers hold a batch for longer than they may.
    pub(super) fn overdue_consumers(&self) -> u64 {
        let now = self.site.host.monotonic();
        let members = self.members.all.lock();
        let overdue = members.iter().filter(|member| member.is_overdue(now));
        overdue.count() as u64
    }

    /// Reports the consumers that have held a batch for too long by now, and says when to look
    /// again; `None` is when woken.
    pub(super) fn watch_members(&self) -> Option<Duration> {
        let members = self.members.all();
        if members.is_empty() {
            return None;
        }
        let now = self.site.host.monotonic();
        for member in members.iter().filter(|member| member.find_overdue(now)) {
            self.members.overdue_batches.fetch_add(1, Ordering::Relaxed);
            member.report(now);
        }
        members
            .iter()
            .filter_map(|member| member.next_look(now))
            .min()
    }
}
