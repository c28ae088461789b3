//! What a group's consumer shares with those who sync on its behalf.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use crate::{
    error::{Error, Result},
    fs::{File, Mutex, SyncKind},
    offset::Offset,
    slot_file::{SlotFile, sync_failed},
};

/// A group's file, to be synced from any thread.
///
/// Nothing is written to it meanwhile: a page that is written to while it is on its way to the
/// device may arrive torn, and then what the sync was to make durable is gone.
#[derive(Debug)]
pub(crate) struct GroupShared {
    /// The group's id, not the log's.
    pub(super) id: u64,
    path: PathBuf,
    latch: OnceLock<Error>,
    reached: Mutex<Reached>,
}

/// How far commits have come: their generation, and the offset.
#[derive(Debug)]
struct Reached {
    /// Until the consumer is gone, and all it has committed is durable. The group is locked by it,
    /// so it must not be kept by somebody who may have something to sync.
    file: Option<Arc<dyn File>>,
    written: (u64, Offset),
    synced: (u64, Offset),
}

impl Reached {
    fn note_written(&mut self, generation: u64, committed: Offset, is_synced: bool) {
        self.written = (generation, committed);
        if is_synced {
            self.synced = self.written;
        }
    }
}

impl GroupShared {
    /// Of a file whose newest state is durable.
    pub(super) fn new(id: u64, file: &SlotFile, committed: Offset) -> Arc<Self> {
        let reached = (file.generation(), committed);
        Arc::new(Self {
            id,
            path: file.path().to_path_buf(),
            latch: OnceLock::new(),
            reached: Mutex::new(Reached {
                file: Some(Arc::clone(file.file())),
                written: reached,
                synced: reached,
            }),
        })
    }

    /// A sync failed: the group takes no more commits until it is held again.
    pub(super) fn latch(&self, error: &Error) {
        self.latch.get_or_init(|| error.clone());
    }

    /// # Errors
    ///
    /// `SyncFailed` once a sync has failed.
    pub(super) fn check(&self) -> Result<()> {
        match self.latch.get() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Writes a commit to the group's file.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`: the commit is as before. `SyncFailed`: the group is latched.
    pub(super) fn write(
        &self,
        file: &mut SlotFile,
        payload: &[u8],
        committed: Offset,
        sync: Option<SyncKind>,
    ) -> Result<()> {
        let mut reached = self.reached.lock();
        self.check()?;
        if reached.synced.0 >= file.generation() {
            // By somebody else: the page must not be written to.
            file.note_synced();
        }
        let written = file.write(payload, sync);
        if let Err(error) = &written
            && error.is_latched()
        {
            self.latch(error);
        }
        written?;
        reached.note_written(file.generation(), committed, sync.is_some());
        Ok(())
    }

    /// Writes both pages alike.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(super) fn write_both(
        &self,
        file: &mut SlotFile,
        payload: &[u8],
        committed: Offset,
        sync: Option<SyncKind>,
    ) -> Result<()> {
        let mut reached = self.reached.lock();
        self.check()?;
        if reached.synced.0 >= file.generation() {
            file.note_synced();
        }
        file.write_both(payload, sync)?;
        reached.note_written(file.generation(), committed, sync.is_some());
        Ok(())
    }

    /// The consumer is gone. Waits for a sync that is under way.
    pub(super) fn let_go(&self) {
        let mut reached = self.reached.lock();
        if reached.synced.0 >= reached.written.0 {
            reached.file = None;
        }
    }

    /// Syncs the group's file; returns the committed offset, which is durable then.
    ///
    /// # Errors
    ///
    /// `SyncFailed`: the group is latched.
    pub(crate) fn sync(&self, kind: SyncKind) -> Result<Offset> {
        let mut reached = self.reached.lock();
        self.check()?;
        if reached.synced.0 < reached.written.0
            && let Some(file) = &reached.file
        {
            file.sync(kind).map_err(|error| {
                let error = sync_failed(&self.path, error);
                self.latch(&error);
                error
            })?;
            reached.synced = reached.written;
        }
        Ok(reached.synced.1)
    }
}
