//! Dead letters go back to where they are from.

use super::{
    CommitOptions, Consumer,
    dead_letter::{DeadLetter, Outlet, dead_letter_headers::REPLAY_OF},
};
use crate::{
    error::{Error, ErrorKind, Result},
    fs::contain,
};

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
        while self.poll_pending(end)? {
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
                    Some(letter) => match send_back(&letter, outlet, &mut filter) {
                        Ok(true) => replayed.replayed += 1,
                        Ok(false) => replayed.filtered += 1,
                        Err(error) => {
                            failed = Some(error);
                            break;
                        }
                    },
                }
                upto = offset.next();
            }
            if failed.is_none() {
                upto = reader.position();
            }
            // One sync for all letters of a batch; without it none of them counts.
            if let Err(error) = outlet.sync() {
                upto = batch.start();
                failed.get_or_insert(error);
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

/// Sends a letter back, if the filter wants it; whether it does. A panic of the filter is an error,
/// so that what was polled behind the letter is not lost with it.
fn send_back(
    letter: &DeadLetter<'_>,
    outlet: &dyn Outlet,
    filter: &mut impl FnMut(&DeadLetter<'_>) -> bool,
) -> Result<bool> {
    let is_wanted = contain(|| filter(letter)).map_err(|panic| ErrorKind::ProcessingFailed {
        offset: letter.offset(),
        attempts: 1,
        reason: format!("panicked: {panic}"),
    })?;
    if is_wanted {
        let from = format!("{}:{}", letter.group(), letter.offset());
        let record = letter.record().without_header(REPLAY_OF);
        outlet.hand_in(&record.header(REPLAY_OF, from))?;
    }
    Ok(is_wanted)
}
