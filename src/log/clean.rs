//! Cleaning: what the log may let go of, by its policy, goes in the background.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Shared,
    append::Appender,
    delete::{Deletion, Doomed},
    floors::{Floors, Look},
    full::Stuck,
    maintenance::RETRY_AFTER,
    retained::RetentionReport,
    retention::{self, Facts, GroupFacts, Plan, SegmentFacts},
};
use crate::{
    error::Result,
    format::segment::FOOTER_LEN,
    fs::contain,
    offset::Offset,
    options::{GroupRetention, Retention, RetentionWarning},
};

/// Looks again after this while groups hold something back.
const LOOK_HELD: Duration = Duration::from_secs(1);
/// Looks again at least so often, for groups that are to be warned, and for the free space.
const LOOK_LONGEST: Duration = Duration::from_secs(10);
/// The rate at which a log grows is that of about so many milliseconds.
const RATE_OF: u64 = 10_000;
/// Looks again no sooner than this.
const LOOK_SHORTEST: Duration = Duration::from_millis(1);

/// What one step remembers for the next.
#[derive(Debug, Default)]
pub(crate) struct CleanPace {
    pub(super) doomed: Doomed,
    floors: Floors,
    retry_at: Duration,
    /// Groups that were warned, and have not caught up since with what there was by then.
    warned: BTreeMap<String, Offset>,
    /// Bytes appended by the last look, when that was, and how many a second lately.
    appended: u64,
    looked_at: Duration,
    rate: u64,
    /// Nothing could go when a send needed room.
    pub(super) stuck: Option<Stuck>,
}

/// What is counted beside the bytes that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Nothing.
    AsItIs,
    /// What the active segment will take, and once it is half full the one behind it: so nobody
    /// who appends waits for a deletion.
    Standing,
    /// The segment that is to be begun.
    Rolling,
}

/// What was decided, and from what.
pub(super) struct Decision {
    pub(super) plan: Plan,
    facts: Vec<SegmentFacts>,
    look: Look,
}

impl Shared {
    /// Whether its options give the thread that cleans anything to do. Without that it is not even
    /// started for this log.
    pub(super) fn wants_cleaning(&self) -> bool {
        let config = &self.site.config;
        let is_due = config.keeping.is_set() || config.compaction.policy.compacts();
        is_due && !self.on_demand_only
    }

    /// Does what is due, a bounded part of it at a time, and says when to look again; `None` is
    /// when woken.
    ///
    /// What fails here is tried again later; a failed sync latches the log.
    pub(crate) fn step_clean(&self) -> Option<Duration> {
        let next = [self.step_retention(), self.step_compaction()];
        next.into_iter().flatten().min()
    }

    fn step_retention(&self) -> Option<Duration> {
        let now = self.site.host.monotonic();
        let mut pace = self.maintenance.clean_pace.lock();
        if self.latch.is_set() {
            return None;
        }
        if now < pace.retry_at {
            return Some(pace.retry_at);
        }
        let mut warnings = Vec::new();
        let cleaned = self.clean(&mut pace, now, &mut warnings);
        let next = cleaned.unwrap_or_else(|_failed| {
            pace.retry_at = now + RETRY_AFTER;
            Some(pace.retry_at)
        });
        drop(pace);
        if let Some(call) = &self.on_warning {
            for warning in &warnings {
                drop(contain(|| (call.0)(warning)));
            }
        }
        next
    }

    fn clean(
        &self,
        pace: &mut CleanPace,
        now: Duration,
        warnings: &mut Vec<RetentionWarning>,
    ) -> Result<Option<Duration>> {
        if !pace.doomed.is_empty() {
            self.remove_files(pace)?;
            return Ok(Some(now));
        }
        let shortage = self.shortage();
        pace.stuck = None;
        let decision = self.decide(pace, self.limits(), shortage, Outlook::Standing)?;
        if !decision.plan.goes.is_empty() {
            self.carry_out(pace, &decision.plan)?;
            return Ok(Some(now));
        }
        pace.news_of(&decision, warnings);
        Ok(self.next_clean(now, &decision))
    }

    fn limits(&self) -> Retention {
        self.site.config.keeping.limits
    }

    /// When to look again.
    fn next_clean(&self, now: Duration, decision: &Decision) -> Option<Duration> {
        let keeping = &self.site.config.keeping;
        let held = !decision.plan.held_back.is_empty();
        let warns = keeping.groups == GroupRetention::Drop
            && self.on_warning.is_some()
            && !decision.look.groups.is_empty();
        let held_at = held.then_some(LOOK_HELD);
        let warn_at = (warns || keeping.min_free.is_some()).then_some(LOOK_LONGEST);
        let oldest = decision.facts.first().filter(|s| s.base < s.end);
        let old_at = oldest.zip(keeping.limits.age).map(|(oldest, limit)| {
            let age = self.ages.at(now).saturating_sub(oldest.newest);
            limit.saturating_sub(Duration::from_millis(age))
        });
        // What is old and held back waits for the group.
        let old_at = old_at.filter(|_| !held);
        let soon_at = keeping.limits.age.filter(|_| warns).and_then(|limit| {
            let age = self.ages.at(now).saturating_sub(oldest?.newest);
            let soon = limit.saturating_sub(limit / retention::WARN_PART);
            soon.checked_sub(Duration::from_millis(age))
        });
        let wait = [held_at, warn_at, old_at, soon_at]
            .into_iter()
            .flatten()
            .min()?;
        Some(now + wait.max(LOOK_SHORTEST))
    }

    /// When the newest record of the active segment was appended, at the latest.
    pub(super) fn newest(&self, appender: &Appender) -> u64 {
        let (bytes, at) = appender.seen;
        if bytes == appender.appended_bytes {
            at
        } else {
            self.ages.at(self.site.host.monotonic())
        }
    }

    /// All segments, the active one last.
    pub(super) fn segment_facts(&self) -> Vec<SegmentFacts> {
        loop {
            let active = {
                let appender = self.append.lock();
                SegmentFacts {
                    base: appender.writer.header.base,
                    end: appender.next,
                    bytes: appender.writer.position() as u64,
                    newest: self.newest(&appender),
                }
            };
            let mut facts = self.segments.facts();
            match facts.last_mut() {
                Some(last) if last.base == active.base => *last = active,
                // It was rolled meanwhile.
                _ => continue,
            }
            return facts;
        }
    }

    pub(super) fn look_at_groups(&self, pace: &mut CleanPace) -> Result<Look> {
        let now = self.ages.at(self.site.host.monotonic());
        let (opened, start) = (self.ages.opened(), self.log_start());
        pace.floors.look(&self.site, now, opened, start)
    }

    /// Decides what is to go by these limits.
    pub(super) fn decide(
        &self,
        pace: &mut CleanPace,
        limits: Retention,
        shortage: u64,
        outlook: Outlook,
    ) -> Result<Decision> {
        let mut look = self.look_at_groups(pace)?;
        let segments = self.segment_facts();
        self.follow_rate(pace);
        let segment_bytes = self.site.config.segment_bytes as u64;
        let active = segments.last().map_or(0, |active| active.bytes);
        let to_come = match outlook {
            Outlook::AsItIs => 0,
            Outlook::Standing if active < segment_bytes / 2 => segment_bytes - active,
            Outlook::Standing => segment_bytes.saturating_sub(active) + segment_bytes,
            // With it the active one gets its footer.
            Outlook::Rolling => segment_bytes + FOOTER_LEN as u64,
        };
        let (log_start, rate) = (self.log_start(), pace.rate);
        let facts = |groups: &[GroupFacts]| {
            retention::plan(&Facts {
                segments: &segments,
                log_start,
                groups,
                limits,
                to_come,
                shortage,
                now: self.ages.at(self.site.host.monotonic()),
                rate,
            })
        };
        let mut plan = facts(&look.groups);
        let until = plan.goes.last().map(|last| last.end_offset);
        let holds = self.site.config.keeping.groups == GroupRetention::KeepUnconsumed;
        if let Some(until) = until.filter(|_| holds) {
            let sync = self.sync_kind();
            pace.floors
                .settle(&self.site, &self.commits, &mut look.groups, until, sync);
            plan = facts(&look.groups);
        }
        Ok(Decision {
            plan,
            facts: segments,
            look,
        })
    }

    fn follow_rate(&self, pace: &mut CleanPace) {
        let now = self.site.host.monotonic();
        let elapsed = now.saturating_sub(pace.looked_at);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        // Of a shorter time nothing can be told.
        if millis < 100 {
            return;
        }
        let appended = self.append.lock().appended_bytes;
        let bytes = appended.saturating_sub(pace.appended);
        // What came before counts as so much time.
        let before = if pace.looked_at.is_zero() { 0 } else { RATE_OF };
        let sum = pace.rate.saturating_mul(before);
        pace.rate = sum.saturating_add(bytes.saturating_mul(1_000)) / (before + millis);
        (pace.appended, pace.looked_at) = (appended, now);
    }

    pub(super) fn carry_out(&self, pace: &mut CleanPace, plan: &Plan) -> Result<()> {
        let Some(last) = plan.goes.last() else {
            return Ok(());
        };
        if plan.rolls {
            self.roll_at(last.end_offset)?;
        }
        // If something was appended to the active segment meanwhile, it stays, rolled or not.
        let facts = self.segments.facts();
        let rolled = facts.iter().rev().skip(1);
        let is_as_planned =
            |fact: &SegmentFacts| fact.base == last.base_offset && fact.end == last.end_offset;
        let behind = self.segments.base_behind(last.base_offset);
        let start = behind
            .filter(|_| rolled.clone().any(is_as_planned))
            .unwrap_or(last.base_offset);
        let deletion = Deletion {
            start,
            lost: plan.lost,
            dropped: 0,
        };
        self.delete(pace, deletion)
    }

    /// What would go by these limits, or the log's own; changes nothing but that it may sync the
    /// files of groups.
    ///
    /// # Errors
    ///
    /// `InvalidOption`, `Closed`, `Io`.
    pub(crate) fn plan_retention(&self, limits: Option<Retention>) -> Result<RetentionReport> {
        let mut pace = self.maintenance.clean_pace.lock();
        self.check_writable()?;
        let decision = self.decide_for(&mut pace, limits)?;
        let start = self.start_after(&decision);
        Ok(self.report(decision, start))
    }

    /// Deletes what is to go by these limits, or by the log's own.
    ///
    /// # Errors
    ///
    /// `InvalidOption`, `Closed`, `Io`, `StorageFull`, `SyncFailed`.
    pub(crate) fn enforce_retention(&self, limits: Option<Retention>) -> Result<RetentionReport> {
        let mut pace = self.maintenance.clean_pace.lock();
        self.check_writable()?;
        let decision = self.decide_for(&mut pace, limits)?;
        self.carry_out(&mut pace, &decision.plan)?;
        self.remove_all_files(&mut pace)?;
        Ok(self.report(decision, self.log_start()))
    }

    fn decide_for(&self, pace: &mut CleanPace, limits: Option<Retention>) -> Result<Decision> {
        match limits {
            Some(limits) => {
                limits.check()?;
                limits.check_policy(self.site.config.compaction.policy)?;
                self.decide(pace, limits, 0, Outlook::AsItIs)
            }
            None => self.decide(pace, self.limits(), self.shortage(), Outlook::Standing),
        }
    }

    fn start_after(&self, decision: &Decision) -> Offset {
        let gone = decision.plan.goes.len();
        let next = decision.facts.get(gone).map(|next| next.base);
        match (decision.plan.goes.last(), next) {
            (None, _) => self.log_start(),
            (Some(_), Some(next)) => next,
            (Some(last), None) => last.end_offset,
        }
    }

    fn report(&self, decision: Decision, start: Offset) -> RetentionReport {
        let (clock_ahead, clock_behind) = self.ages.strayed(&*self.site.host);
        RetentionReport {
            deleted: decision.plan.goes,
            log_start_offset: start,
            held_back: decision.plan.held_back,
            losses: decision.plan.losses,
            warnings: decision.plan.warnings,
            stale_groups: decision.look.stale,
            clock_ahead,
            clock_behind,
        }
    }
}

impl CleanPace {
    /// Picks the warnings that are news.
    fn news_of(&mut self, decision: &Decision, news: &mut Vec<RetentionWarning>) {
        let groups = &decision.look.groups;
        let is_behind = |name: &String, end: &Offset| {
            let mut same = groups.iter().filter(|group| group.name == *name);
            same.any(|group| group.floor < *end)
        };
        self.warned.retain(|name, end| is_behind(name, end));
        let end = decision.facts.last().map_or(Offset::ZERO, |last| last.end);
        for warning in &decision.plan.warnings {
            if !self.warned.contains_key(&warning.group) {
                self.warned.insert(warning.group.clone(), end);
                news.push(warning.clone());
            }
        }
    }
}
