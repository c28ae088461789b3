//! Where records are read from: the log of this process, or one that another process may write.

use std::{sync::Arc, task::Waker};

use super::{
    Shared,
    names::Names,
    report::{Gap, GapReason},
    segments::Spot,
};
use crate::{
    error::Result,
    fs::{Host, WaitId},
    offset::Offset,
};

/// What a reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A record at or above this offset.
    Written(Offset),
    /// The same, and it is durable.
    Durable(Offset),
    /// The end of the log: it is closed, or latched with this offset not durable.
    End(Offset),
}

/// Where a reader waits for news.
#[derive(Debug, Default)]
pub(crate) struct NewsPlace {
    /// Among those who wait for an append, or for what another process writes.
    pub(super) written: Option<WaitId>,
    /// Among those who wait for a sync.
    pub(super) durable: Option<WaitId>,
}

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
    /// The names of producers that were asked for.
    fn names(&self) -> &Names;
    /// The name of a producer, if anything that is left tells it.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`.
    fn find_name(self: Arc<Self>, id: u32) -> Result<Option<Arc<str>>>;
    /// Whether there may be such news; else `waker` is called once there may be, or once waiting
    /// for them would be an error. It may be called sooner. Asks for no sync.
    ///
    /// # Errors
    ///
    /// `SyncFailed`, `Closed`, `Io`.
    fn poll_news(self: Arc<Self>, news: News, waker: &Waker, place: &mut NewsPlace)
    -> Result<bool>;
    /// Whoever has that place waits no longer.
    fn forget(&self, place: NewsPlace);
    /// Whether offsets below `below` may be acted on.
    ///
    /// # Errors
    ///
    /// `SyncFailed` if the log is latched and they are not all durable.
    fn check_below(&self, below: Offset) -> Result<()>;
    /// Makes the records below `below` durable.
    ///
    /// # Errors
    ///
    /// `DurabilityOff`, `SyncFailed`, `Io`.
    fn make_durable(&self, below: Offset) -> Result<()>;
    /// Where the frames of the segment at `base` end, as of now: its position in the file, or a
    /// little more. `None` if there is no such segment.
    ///
    /// # Errors
    ///
    /// `Io`.
    fn frames_end(&self, base: Offset) -> Result<Option<u64>>;
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

    fn names(&self) -> &Names {
        &self.snapshots.names
    }

    fn find_name(self: Arc<Self>, id: u32) -> Result<Option<Arc<str>>> {
        Ok(self.name_of(id))
    }

    fn poll_news(
        self: Arc<Self>,
        news: News,
        waker: &Waker,
        place: &mut NewsPlace,
    ) -> Result<bool> {
        match news {
            News::Written(offset) => self.poll_records(offset, waker, &mut place.written),
            News::Durable(offset) => self.watch_durable(offset.next(), waker, &mut place.durable),
            News::End(offset) => {
                self.watch_end(offset.next(), waker, &mut place.durable)?;
                Ok(false)
            }
        }
    }

    fn forget(&self, place: NewsPlace) {
        if let Some(place) = place.written {
            self.forget_reader(&place);
        }
        if let Some(place) = place.durable {
            self.forget_waiter(&place);
        }
    }

    fn check_below(&self, below: Offset) -> Result<()> {
        Shared::check_below(self, below)
    }

    fn make_durable(&self, below: Offset) -> Result<()> {
        self.sync_until(below)
    }

    fn frames_end(&self, base: Offset) -> Result<Option<u64>> {
        Ok(self.segments.frames_end(base))
    }
}
