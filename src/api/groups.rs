//! The groups of a log: listed, described, reset, deleted.

use std::sync::Arc;

use super::{Log, ReadOnlyLog};
use crate::{
    consumer::{GroupPlace, ReaderBuilder, Start},
    error::{ErrorKind, Result},
    format::group::{GroupLosses, GroupState},
    group::{self, Beginning, Commit, FoundGroup, GroupFile, GroupSite},
    log::{Lag, Source, lag},
    offset::Offset,
    record::Timestamp,
};

/// A group, as [`Log::groups`] and [`ReadOnlyLog::groups`] list it.
#[derive(Debug)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// The next offset it will read after a restart; or why that can't be told.
    pub committed: Result<Offset>,
    /// When it was committed.
    pub commit_time: Option<Timestamp>,
    /// What was [given](crate::CommitOptions::metadata) with the commit.
    pub metadata: Vec<u8>,
    /// How far the committed offset is behind the end of the log; `None` if it can't be told.
    pub lag: Option<Lag>,
    /// Offsets that the group has passed without their records, ever.
    pub losses: GroupLosses,
}

impl GroupInfo {
    fn of(found: FoundGroup, source: &Arc<dyn Source>, end: Offset) -> Self {
        let FoundGroup { name, state, .. } = found;
        match state {
            Err(error) => Self {
                name,
                committed: Err(error),
                commit_time: None,
                metadata: Vec::new(),
                lag: None,
                losses: GroupLosses::default(),
            },
            Ok(state) => {
                let GroupState {
                    committed,
                    commit_time,
                    metadata,
                    losses,
                    ..
                } = state;
                let millis = i64::try_from(commit_time).unwrap_or(i64::MAX);
                Self {
                    name,
                    committed: Ok(committed),
                    commit_time: Some(Timestamp::from_millis(millis)),
                    metadata,
                    lag: lag(source, committed, end).ok(),
                    losses,
                }
            }
        }
    }
}

/// A log, as far as its groups are managed.
struct Groups {
    source: Arc<dyn Source>,
    place: GroupPlace,
    end: Offset,
}

impl Groups {
    /// # Errors
    ///
    /// `Closed`, `Io`.
    fn of(log: &ReaderBuilder) -> Result<Self> {
        let parts = log.parts();
        Ok(Self {
            end: parts.end()?,
            place: parts.group_place(),
            source: parts.source,
        })
    }

    fn site(&self) -> GroupSite<'_> {
        self.place.site(self.source.host())
    }

    fn list(&self) -> Result<Vec<GroupInfo>> {
        let found = group::list(self.source.host(), &self.place.dir)?;
        let info = |found| GroupInfo::of(found, &self.source, self.end);
        Ok(found.into_iter().map(info).collect())
    }

    fn describe(&self, name: &str) -> Result<GroupInfo> {
        let found = group::find(self.source.host(), &self.place.dir, name)?;
        let found = found.ok_or_else(|| not_found(name))?;
        Ok(GroupInfo::of(found, &self.source, self.end))
    }

    fn reset(&self, name: &str, to: Start) -> Result<Offset> {
        // Holding a group makes it, if there is none.
        if group::find(self.source.host(), &self.place.dir, name)?.is_none() {
            return Err(not_found(name).into());
        }
        let site = self.site();
        let to = to.resolve(&self.source, self.end)?;
        if site.sync.is_some() {
            self.source.make_durable(to)?;
        }
        let begin = |why| match why {
            Beginning::New => Err(not_found(name).into()),
            Beginning::Damaged(_) => Ok(to),
        };
        let mut group = GroupFile::hold(&site, name, begin)?;
        let GroupState {
            losses, counted, ..
        } = *group.state();
        let commit = Commit {
            offset: to,
            time: site.host.wall_millis(),
            metadata: &[],
            losses,
            counted,
        };
        group.commit(&commit, site.sync)?;
        group.close(site.sync)?;
        Ok(to)
    }
}

fn not_found(name: &str) -> ErrorKind {
    ErrorKind::GroupNotFound {
        group: name.to_owned(),
    }
}

impl Log {
    fn group_admin(&self) -> Result<Groups> {
        Groups::of(&self.reader())
    }

    /// The groups of the log, by name.
    ///
    /// ```
    /// use duralog::{Log, Record, Start};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::open(dir.path())?;
    /// log.producer().build()?.send(Record::new("paid"))?.wait()?;
    /// drop(log.consumer("billing").build()?);
    ///
    /// let groups = log.groups()?;
    /// assert_eq!(groups[0].name, "billing");
    /// assert_eq!(groups[0].lag.map(|lag| lag.records), Some(1));
    ///
    /// log.reset_group("billing", Start::Latest)?;
    /// assert_eq!(log.describe_group("billing")?.lag.map(|lag| lag.records), Some(0));
    ///
    /// log.delete_group("billing")?;
    /// assert!(log.groups()?.is_empty());
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io), [`SymbolicLink`](crate::ErrorKind::SymbolicLink),
    /// [`Closed`](crate::ErrorKind::Closed). What is wrong with one group's file is in its entry.
    pub fn groups(&self) -> Result<Vec<GroupInfo>> {
        self.group_admin()?.list()
    }

    /// One group of the log.
    ///
    /// # Errors
    ///
    /// As [`groups`](Log::groups); [`GroupNotFound`](crate::ErrorKind::GroupNotFound),
    /// [`InvalidName`](crate::ErrorKind::InvalidName).
    pub fn describe_group(&self, name: &str) -> Result<GroupInfo> {
        self.group_admin()?.describe(name)
    }

    /// Has a group go on elsewhere; returns the offset. It must not have a live consumer. A group
    /// whose file is damaged is whole again; the damaged bytes are kept in `quarantine`. What is
    /// skipped thereby is not told as a gap.
    ///
    /// # Durability
    ///
    /// Survives a power cut when it returns, unless the log [does not sync](crate::Fsync::Off).
    ///
    /// # Errors
    ///
    /// [`GroupNotFound`](crate::ErrorKind::GroupNotFound),
    /// [`GroupInUse`](crate::ErrorKind::GroupInUse),
    /// [`InvalidName`](crate::ErrorKind::InvalidName),
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange),
    /// [`Io`](crate::ErrorKind::Io), [`StorageFull`](crate::ErrorKind::StorageFull),
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed), [`Closed`](crate::ErrorKind::Closed). But for
    /// `SyncFailed`, nothing has changed.
    #[doc(alias = "alterConsumerGroupOffsets")]
    pub fn reset_group(&self, name: &str, to: Start) -> Result<Offset> {
        self.group_admin()?.reset(name, to)
    }

    /// Deletes a group. It must not have a live consumer. One that is built later under the name is
    /// a new group.
    ///
    /// # Durability
    ///
    /// Survives a power cut when it returns, unless the log [does not sync](crate::Fsync::Off).
    ///
    /// # Errors
    ///
    /// As [`reset_group`](Log::reset_group), but for `OffsetOutOfRange` and `StorageFull`.
    #[doc(alias = "deleteConsumerGroups")]
    pub fn delete_group(&self, name: &str) -> Result<()> {
        group::delete(&self.group_admin()?.site(), name)
    }
}

impl ReadOnlyLog {
    fn group_admin(&self) -> Result<Groups> {
        Groups::of(&self.reader())
    }

    /// The groups, by name.
    ///
    /// # Errors
    ///
    /// As [`Log::groups`].
    pub fn groups(&self) -> Result<Vec<GroupInfo>> {
        self.group_admin()?.list()
    }

    /// One group of the log.
    ///
    /// # Errors
    ///
    /// As [`Log::describe_group`].
    pub fn describe_group(&self, name: &str) -> Result<GroupInfo> {
        self.group_admin()?.describe(name)
    }

    /// Has a group go on elsewhere, as [`Log::reset_group`]. A group's file is its own: this works
    /// beside a live writer, and is all that it changes.
    ///
    /// # Errors
    ///
    /// As [`Log::reset_group`].
    pub fn reset_group(&self, name: &str, to: Start) -> Result<Offset> {
        self.group_admin()?.reset(name, to)
    }

    /// Deletes a group, as [`Log::delete_group`].
    ///
    /// # Errors
    ///
    /// As [`Log::delete_group`].
    pub fn delete_group(&self, name: &str) -> Result<()> {
        group::delete(&self.group_admin()?.site(), name)
    }
}
