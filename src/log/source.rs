//! Where records are read from: the log of this process, or one that another process may write.

use std::time::Duration;

use super::{
    Shared,
    report::{Gap, GapReason},
    segments::Spot,
};
use crate::{error::Result, fs::Host, offset::Offset};

/// Where a cursor reads from.
pub(crate) trait Source: std::fmt::Debug + Send + Sync {
    /// The machine.
    fn host(&self) -> &dyn Host;
    /// The log start offset.
    fn start(&self) -> Offset;
    /// Why the record at `offset`, which is below the log start, is gone, and up to where all
    /// others are for the same reason.
    fn why_gone(&self, offset: Offset) -> (GapReason, Offset);
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
    /// The base offsets of all segments.
    ///
    /// # Errors
    ///
    /// `Io`.
    fn bases(&self) -> Result<Vec<Offset>>;
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

impl Source for Shared {
    fn host(&self) -> &dyn Host {
        &*self.site.host
    }

    fn start(&self) -> Offset {
        self.log_start()
    }

    fn why_gone(&self, offset: Offset) -> (GapReason, Offset) {
        self.checkpoint.why_gone(offset)
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

    fn bases(&self) -> Result<Vec<Offset>> {
        Ok(self.segments.bases())
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
