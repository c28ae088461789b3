//! Logs for dead letters, and the way back from there.

use super::Log;
use crate::{
    consumer::{Consumer, ConsumerBuilder, DeadLetter, Outlet, Replayed},
    error::{Error, Result},
    offset::Offset,
    options::Acks,
    producer::Producer,
    record::Record,
};

/// A log that records are sent to durably.
#[derive(Debug)]
struct LogOutlet {
    log: Log,
    durable: Producer,
    written: Producer,
}

impl LogOutlet {
    /// # Errors
    ///
    /// `DurabilityOff`, `Closed`.
    fn new(log: &Log) -> Result<Self> {
        Ok(Self {
            log: log.clone(),
            durable: log.producer().acks(Acks::Durable).build()?,
            written: log.producer().acks(Acks::Written).build()?,
        })
    }
}

impl Outlet for LogOutlet {
    fn log_id(&self) -> u64 {
        self.log.handle.site.log_id
    }

    fn send(&self, record: &Record) -> Result<Offset> {
        self.durable.send(record)?.wait()
    }

    fn hand_in(&self, record: &Record) -> Result<()> {
        drop(self.written.send(record)?);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.log.sync().map(drop)
    }
}

/// # Errors
///
/// `InvalidOption` if the log does not keep all that is sent to it.
fn check_kept(log: &Log) -> Result<()> {
    let site = &log.handle.site;
    if site.config.compaction.policy.compacts() {
        let path = site.dir.display();
        let reason =
            format!("{path} is compacted, and would keep the last letter of each key alone");
        return Err(Error::option("dead_letters", reason));
    }
    Ok(())
}

impl ConsumerBuilder {
    /// Where [`process`](Consumer::process) sends records that it gives up: any log but the one
    /// that is consumed, one that syncs and is not [compacted](crate::CleanupPolicy): letters keep
    /// the keys of their records, so the later ones of a key would take the place of the others.
    /// Several groups, of several logs, may share it. Without one, processing ends with an error
    /// where a record can't be processed.
    pub fn dead_letters(self, log: &Log) -> Self {
        let outlet = check_kept(log).and_then(|()| LogOutlet::new(log));
        self.outlet(outlet.map(|outlet| Box::new(outlet) as Box<dyn Outlet>))
    }
}

impl Consumer {
    /// Of a log of [dead letters](ConsumerBuilder::dead_letters): sends those that `filter` wants
    /// back to the log `to`, which they are from, up to where this log ends as it is called. What
    /// was added to their headers is taken off; one header says that it is a
    /// [replay](crate::dead_letter_headers::REPLAY_OF), so that other groups than the one that
    /// failed can pass it by. All that was looked at is committed; letters of records from another
    /// log, and records that are no dead letters, are counted and left alone.
    ///
    /// A letter is committed once its record is durable in `to`: *at least once*. A crash in
    /// between may send it twice. What is sent back is behind all that was sent meanwhile: on a
    /// compacted log it becomes the last record of its key, also of one that was changed or removed
    /// since, so look at the key in `filter` there.
    ///
    /// ```
    /// use duralog::{Log, Record, RetryPolicy};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::open(dir.path().join("orders"))?;
    /// let dead = Log::open(dir.path().join("dead-letters"))?;
    /// log.producer().build()?.send(Record::new("17"))?.wait()?;
    /// let once = RetryPolicy::new().attempts(1);
    /// let mut billing = log.consumer("billing").retry(once).dead_letters(&dead).build()?;
    /// billing.process_pending(|_| Err("the bank is closed"))?;
    ///
    /// let mut again = dead.consumer("replay").build()?;
    /// let replayed = again.replay(&log, |letter| letter.error() == "the bank is closed")?;
    /// assert_eq!(replayed.replayed, 1);
    /// assert_eq!(billing.process_pending(|_| Ok::<_, String>(()))?.records, 1);
    /// # drop((billing, again));
    /// # log.close()?;
    /// # dead.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`poll`](Consumer::poll), [`commit`](Consumer::commit) and a durable
    /// [`send`](crate::Producer::send): what was sent back is committed, and the next call begins
    /// with what was not. [`ProcessingFailed`](crate::ErrorKind::ProcessingFailed) if `filter`
    /// panicked. [`InvalidOption`](crate::ErrorKind::InvalidOption) for a consumer that
    /// [commits before processing](ConsumerBuilder::commit_before_processing).
    pub fn replay(
        &mut self,
        to: &Log,
        filter: impl FnMut(&DeadLetter<'_>) -> bool,
    ) -> Result<Replayed> {
        self.replay_to(&LogOutlet::new(to)?, filter)
    }
}
