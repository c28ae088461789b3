//! Putting a compacted segment in the place of the one that it was made from.
//!
//! The new file is durable before it gets the name, and it gets it by one renaming: whatever is
//! interrupted, the name stands for one of the two, whole. What is left of the other name is removed
//! when the log is opened. The index of the old segment goes first, durably, so that it never stands
//! beside the new one.
//!
//! Who reads the old segment goes on with its file, which has no name any more: in this process by
//! the view that was made before, in another one by the descriptor it holds.

use std::{io, sync::Arc};

use super::rewrite::Finished;
use crate::{
    error::{Error, Result},
    log::{Shared, segments::Segment},
};

impl Shared {
    /// Replaces `old`; whether it was done: not if it is no segment of the log any more.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`: the old segment has its place. `SyncFailed` latches the log.
    pub(super) fn swap_segment(&self, old: &Arc<Segment>, new: &Finished) -> Result<bool> {
        let host = &*self.site.host;
        let _guard = self.cleaner.files.lock();
        if !self.segments.is_current(old) {
            drop(host.remove_file(&new.path));
            return Ok(false);
        }
        let index = old.index_path();
        match host.remove_file(&index) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &index, error));
            }
            _ => self.sync_directory()?,
        }
        old.retire(host, self.copies())?;
        if let Err(error) = host.replace(&new.path, &old.path) {
            old.unretire();
            return Err(Error::io("replace", &old.path, error));
        }
        let bytes = new.frames_end;
        let path = old.path.clone();
        let segment = Segment::at_rest(path, old.base, old.previous_end, Some(new.header), bytes);
        let synced = self.sync_directory();
        if synced.is_ok() {
            // Without one, it is made when it is needed.
            let stored = segment.put_entries(host, &new.entries, self.sync_kind());
            self.latch_on_failure(stored)?;
        }
        self.segments.replace(old, segment);
        self.counters.note_room();
        synced.map(|()| true)
    }
}
