//! Dead letters go back to where they are from.

use std::time::Duration;

use super::{
    CommitOptions, Consumer,
    dead_letter::{DeadLetter, Outlet, dead_letter_headers::REPLAY_OF},
};
use crate::error::{Error, Result};

/// What [`Consumer::replay`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Letters that were sent back.
    pub replayed: u64,
    /// Letters that the filter did not want.
    pub filtered: u64,
    /// Letters of records from another log.
    pub foreign: u64,
    /// Records that are no dead letters.
    pub others: u64,
}

impl Consumer {
    /// Sends dead letters back through `outlet`; see [`replay`](Consumer::replay).
    pub(crate) fn replay_to(
        &mut self,
        outlet: &dyn Outlet,
        mut filter: impl FnMut(&DeadLetter<'_>) -> bool,
    ) -> Result<Replayed> {
        if self.commits.is_before_processing() {
            let reason = "replay commits what was sent back";
            return Err(Error::option("commit_before_processing", reason));
        }
        let end = self.reader.end()?;
        let mut replayed = Replayed::default();
        while self.reader.position() < end {
            if self.poll(Duration::ZERO)?.is_idle() {
                break;
            }
            let (reader, commits) = (&mut self.reader, &mut self.commits);
            let batch = reader.batch();
            let mut upto = batch.start();
            let mut failed = None;
            for record in &batch {
                let offset = record.offset().unwrap_or_default();
                match DeadLetter::of(&record) {
                    None => replayed.others += 1,
                    Some(letter) if letter.source_log() != outlet.log_id() => {
                        replayed.foreign += 1;
                    }
                    Some(letter) if !filter(&letter) => replayed.filtered += 1,
                    Some(letter) => {
                        let from = format!("{}:{}", letter.group(), letter.offset());
                        let record = letter.record().header(REPLAY_OF, from);
                        if let Err(error) = outlet.send(&record) {
                            failed = Some(error);
                            break;
                        }
                        replayed.replayed += 1;
                    }
                }
                upto = offset.next();
            }
            if failed.is_none() {
                upto = reader.position();
            }
            let committed = if upto > commits.committed() || commits.reset.is_some() {
                commits.commit(reader, upto, &CommitOptions::new())
            } else {
                Ok(())
            };
            if let Some(error) = failed {
                reader.return_to(upto);
                return Err(error);
            }
            committed?;
        }
        Ok(replayed)
    }
}
