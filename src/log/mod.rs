//! The log: an ordered set of segments with one end to append to.
//!
//! All locks of a log are here, and they are taken in this order:
//!
//! 1. the paces of the maintenance (each step's own), and whose turn it is to compact; the files of
//!    segments, while they are sealed or replaced; what is stored of producers,
//! 2. `append`,
//! 3. `prepared`; the table of segments; a segment's state; the cached views,
//! 4. the checkpoint; the waiters for durability; the durable mark; the journal of commits, and the
//!    queue before it (nothing else is taken while one of these two is held),
//! 5. the queues of the maintenance threads, which serve other logs too; the live consumers.
//!
//! Nobody waits for the device while holding `append`. Readers take it only to register before
//! they wait.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

mod age;
mod ahead;
mod append;
mod checkpointer;
mod clean;
mod commits;
mod compaction;
mod cursor;
mod delete;
mod directory;
mod floors;
mod full;
mod gather;
mod lag;
mod maintenance;
mod members;
mod names;
mod open;
mod place;
mod plan;
mod pool;
mod producers;
mod read_only;
mod recover;
mod report;
mod retained;
mod retention;
mod rota;
mod segments;
mod settle;
mod snapshots;
mod source;
mod sync;
mod unpacked;
mod verify;
mod watch;

pub(crate) use cursor::{Cursor, Limits, Span, offset_for_time};
pub(crate) use full::Waiter;
pub use lag::Lag;
pub(crate) use lag::lag;
pub use members::ConsumerInfo;
pub(crate) use members::{Member, Membership, OnOverdue};
pub(crate) use open::{open, wants_mapping};
pub(crate) use producers::{Identity, Sent};
pub(crate) use read_only::ReadOnly;
pub use report::{
    CompactionReport, Damage, Gap, GapReason, Losses, RecoveryReport, SkippedSegment, Stats,
};
pub use retained::{DeletedSegment, HeldBack, RetentionLoss, RetentionReason, RetentionReport};
pub(crate) use source::{News, NewsPlace, Source};
pub(crate) use sync::sync_kind;
pub use verify::{SegmentInfo, VerifyReport};
pub(crate) use watch::Pause;

use crate::{
    error::{Error, ErrorKind, Result},
    fs::{Directory, File, Host, Mutex},
    group::Journal,
    offset::Offset,
    options::{Config, ReadMode, WarningCall},
};

/// Where a log is, and how it is written.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) dir: PathBuf,
    /// The log's identity.
    pub(crate) log_id: u64,
    /// The same directory, to be synced.
    directory: Arc<dyn Directory>,
    pub(crate) config: Config,
    /// New segments are written through a mapping.
    mapped: AtomicBool,
}

impl Site {
    /// Whether files are written through mapped memory.
    pub(crate) fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Relaxed)
    }
}

/// A log that is open for writing, as its handles and the maintenance threads share it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) site: Site,
    read_mode: ReadMode,
    /// The log end offset.
    end: AtomicU64,
    log_start: AtomicU64,
    latch: sync::Latch,
    pub(crate) counters: append::Counters,
    append: Mutex<append::Appender>,
    segments: segments::Segments,
    syncer: sync::Syncer,
    checkpoint: checkpointer::Checkpointer,
    snapshots: snapshots::Snapshots,
    /// Durable commits of groups.
    pub(crate) commits: Journal,
    /// The segment to be rolled to next.
    prepared: Mutex<Option<append::PreparedSegment>>,
    maintenance: maintenance::Maintenance,
    members: members::Members,
    cleaner: compaction::Cleaner,
    ages: age::AgeClock,
    on_warning: Option<WarningCall>,
    on_demand_only: bool,
    pub(crate) recovery: RecoveryReport,
    /// Held until the log is closed.
    lock: Mutex<Option<Arc<dyn File>>>,
}

impl Shared {
    #[inline]
    pub(crate) fn end(&self) -> Offset {
        Offset::new(self.end.load(Ordering::Acquire))
    }

    pub(crate) fn log_start(&self) -> Offset {
        Offset::new(self.log_start.load(Ordering::Acquire))
    }

    pub(crate) fn durable(&self) -> Offset {
        self.syncer.durable()
    }

    /// Numbers of the log.
    pub(crate) fn stats(&self) -> Stats {
        let losses = self.checkpoint.losses();
        let overdue_consumers = self.overdue_consumers();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let appender = self.append.lock();
        Stats {
            log_start_offset: self.log_start(),
            log_end_offset: appender.next,
            durable_offset: self.durable(),
            segments: self.segments.len() as u64,
            appended_records: appender.appended_records,
            appended_bytes: appender.appended_bytes,
            failed_sends: count(&self.counters.failed_sends),
            rejected_sends: count(&self.counters.rejected_sends),
            blocked_sends: count(&self.counters.blocked_sends),
            dropped_newest: count(&self.counters.dropped_newest),
            syncs: self.syncer.syncs(),
            late_preparations: appender.late_preparations,
            lost_to_retention: losses.retention,
            lost_to_drop_oldest: losses.drop_oldest,
            lost_to_damage: losses.damage,
            lost_to_tails: losses.lost_tail,
            latched: self.latch.is_set(),
            overdue_consumers,
            overdue_batches: self.members.overdue_batches(),
        }
    }

    /// Closes the log: everything is durable then, and the next opening scans nothing. Only the
    /// first call does anything.
    ///
    /// # Errors
    ///
    /// `SyncFailed`, `Io`, `StorageFull`: the log is closed all the same, and recovers when it is
    /// opened next.
    pub(crate) fn close(&self) -> Result<()> {
        if self.counters.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // An append that saw the log open may still hold the lock; after this none comes.
        let end = self.append.lock().next;
        self.maintenance.stop();
        self.stop_cleaning();
        let result = {
            // Whoever deletes something is done then, and nobody begins to.
            let mut pace = self.maintenance.clean_pace.lock();
            let result = self.make_clean(end);
            let removed = self.remove_all_files(&mut pace);
            result.and(removed)
        };
        self.settle_commits();
        self.wake_readers();
        self.wake_all_waiters();
        *self.lock.lock() = None;
        result
    }

    fn make_clean(&self, end: Offset) -> Result<()> {
        self.latch.check()?;
        if let Some(prepared) = self.prepared.lock().take() {
            prepared.discard(&self.site);
        }
        if self.sync_kind().is_none() {
            // Without syncs there is no order in which a mark could be believed.
            return Ok(());
        }
        self.sync_until(end)?;
        self.seal_durable()?;
        self.last_snapshot()?;
        let appender = self.append.lock();
        let writer = &appender.writer;
        let path = segments::segment_path(&self.site.dir, writer.header.base);
        // Nothing is read behind the end, so mappings of the longer file do no harm.
        writer
            .file()
            .set_len(writer.position() as u64)
            .map_err(|error| Error::io("cut", &path, error))?;
        drop(appender);
        let synced = self.sync_active(&path);
        self.latch_on_failure(synced)?;
        self.write_clean_checkpoint()
    }

    fn sync_active(&self, path: &std::path::Path) -> Result<()> {
        let Some(kind) = self.sync_kind() else {
            return Ok(());
        };
        let file = Arc::clone(self.append.lock().writer.file());
        file.sync(kind).map_err(|error| {
            ErrorKind::SyncFailed {
                path: path.to_path_buf(),
                source: Arc::new(error),
            }
            .into()
        })
    }
}
