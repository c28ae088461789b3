//! How far groups have come: below its floor, a group has no use for records any more. Retention
//! learns this, and nothing else of groups.

use std::collections::BTreeMap;

use super::{Site, retention::GroupFacts};
use crate::{
    error::Result,
    format::group::GroupState,
    fs::SyncKind,
    group::{self, FoundGroup, Journal},
    offset::Offset,
    options::GroupRetention,
};

/// What is remembered of groups from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Floors {
    known: BTreeMap<String, Known>,
    /// The log start: it stands for what a group has committed where that can't be told.
    start: Offset,
    /// There was a look before: a group that was not there then is new.
    looked: bool,
}

#[derive(Debug)]
struct Known {
    /// What its file says; `None` if that can't be read.
    state: Option<GroupState>,
    /// When it committed last, by the log's clock.
    active: u64,
    /// What it has committed durably, as far as that was seen to.
    durable: Offset,
    /// A sync failed while the file said this: nobody knows whether this is durable, whatever
    /// a later sync returns.
    doubted: Option<GroupState>,
}

/// The groups that count, and those that do not any more.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) groups: Vec<GroupFacts>,
    pub(super) stale: Vec<String>,
}

impl Floors {
    /// Reads what groups have committed, which other processes may do at any time. `now` is by the
    /// log's clock, `opened` what the wall clock said when the log was opened; `start` is the log
    /// start.
    ///
    /// # Errors
    ///
    /// `Io`, `SymbolicLink`.
    pub(super) fn look(
        &mut self,
        site: &Site,
        now: u64,
        opened: u64,
        start: Offset,
    ) -> Result<Look> {
        self.start = start;
        let found = group::list_settled(&*site.host, &site.dir)?;
        self.known
            .retain(|name, _| found.iter().any(|group| group.name == *name));
        for group in &found {
            self.take_in(group, now, opened);
        }
        self.looked = true;
        let keeping = &site.config.keeping;
        let mut look = Look::default();
        for (name, known) in &self.known {
            if keeping.excluded.contains(name) {
                continue;
            }
            let idle = now.saturating_sub(known.active);
            if keeping
                .stale_after
                .is_some_and(|limit| u128::from(idle) >= limit.as_millis())
            {
                look.stale.push(name.clone());
                continue;
            }
            look.groups.push(GroupFacts {
                name: name.clone(),
                floor: known.floor(start),
                holds: keeping.groups == GroupRetention::KeepUnconsumed,
            });
        }
        Ok(look)
    }

    fn take_in(&mut self, group: &FoundGroup, now: u64, opened: u64) {
        let state = group.state.as_ref().ok();
        match self.known.get_mut(&group.name) {
            Some(known) if known.state.as_ref() == state => {}
            Some(known) => {
                known.state = state.cloned();
                known.active = now;
            }
            None => {
                // Of what was committed before the log was opened, the wall clock tells the age.
                let stamped = state.map(|state| state.commit_time);
                let past = stamped.filter(|time| !self.looked && *time <= opened);
                let known = Known {
                    state: state.cloned(),
                    active: past.unwrap_or(now),
                    durable: Offset::ZERO,
                    doubted: None,
                };
                self.known.insert(group.name.clone(), known);
            }
        }
    }

    /// Makes durable what the groups have committed, as far as something is to be deleted because
    /// of it; `until` is where that ends. Afterwards each group has as its floor what is durable.
    pub(super) fn settle(
        &mut self,
        site: &Site,
        journal: &Journal,
        groups: &mut [GroupFacts],
        until: Offset,
        sync: Option<SyncKind>,
    ) {
        let Some(kind) = sync else { return };
        for group in groups {
            let Some(known) = self.known.get_mut(&group.name) else {
                continue;
            };
            if known.durable < group.floor.min(until) {
                known.make_durable(site, journal, &group.name, kind);
            }
            group.floor = group.floor.min(known.durable.max(self.start));
        }
    }
}

impl Known {
    /// What it has committed, as far as a sync may make that durable.
    fn floor(&self, start: Offset) -> Offset {
        match &self.state {
            None => start,
            Some(state) if self.doubted.as_ref() == Some(state) => {
                state.committed.min(self.durable.max(start))
            }
            Some(state) => state.committed,
        }
    }

    fn make_durable(&mut self, site: &Site, journal: &Journal, name: &str, kind: SyncKind) {
        let held = self.state.as_ref().and_then(|state| journal.held(state.id));
        let synced = match held {
            // Its consumer is in this process: nothing is written while it is synced.
            Some(group) => group.sync(kind),
            None => {
                group::read_durably(&*site.host, &site.dir, name, kind).map(|state| state.committed)
            }
        };
        match synced {
            Ok(committed) => self.durable = committed,
            Err(_failed) => {
                // Whatever stands in the file by now may be in the page cache alone.
                let found = group::find(&*site.host, &site.dir, name);
                let now = found.ok().flatten().and_then(|found| found.state.ok());
                self.doubted = now.or_else(|| self.state.clone());
            }
        }
    }
}
