//! A small file that is rewritten in place and whole at any moment: two [slots] on disk.
//!
//! [slots]: crate::format::slots

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{DecodeError, Error, ErrorKind, Result},
    format::slots::{self, Slot, SlotKind},
    fs::{self, Access, File, Host, SyncKind},
};

/// The file, open for writing.
///
/// A write goes to the slot that was *not* synced last. So however many writes stay unsynced, the
/// last synced state survives a power cut. The file keeps its size, so a write works on a full
/// disk.
#[derive(Debug)]
pub(crate) struct SlotFile {
    file: Arc<dyn File>,
    path: PathBuf,
    kind: SlotKind,
    /// Holds the newest state.
    current: Slot,
    /// Whether the newest state is synced.
    synced: bool,
    generation: u64,
    /// The newest state.
    payload: Vec<u8>,
}

/// What was read from such a file.
#[derive(Clone, Debug)]
pub(crate) struct SlotContent {
    pub(crate) payload: Vec<u8>,
    /// A slot that is damaged, so that the other one stood in: where, and what is wrong.
    pub(crate) fallback: Option<(u64, DecodeError)>,
    slot: Slot,
    /// Counts the states that the file has had.
    pub(crate) generation: u64,
}

/// Reads the newest state.
///
/// # Errors
///
/// [`DecodeError`] put to its path if neither slot is whole, `Io`.
pub(crate) fn read(file: &dyn File, path: &Path, kind: SlotKind) -> Result<SlotContent> {
    let bytes = read_bytes(file, path)?;
    let picked = kind
        .pick(&bytes)
        .map_err(|error| Error::decode(path, 0, error))?;
    Ok(SlotContent {
        payload: picked.payload.to_vec(),
        fallback: picked.fallback(),
        slot: picked.slot,
        generation: picked.generation,
    })
}

/// The bytes of the file, as far as they are ours.
pub(crate) fn read_bytes(file: &dyn File, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = vec![0; slots::FILE_LEN];
    let len = fs::read_full(file, &mut bytes, 0).map_err(|e| Error::io("read", path, e))?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Makes the entries of a directory durable.
///
/// # Errors
///
/// `Io` if it can't be opened; `SyncFailed`.
pub(crate) fn sync_dir(host: &dyn Host, dir: &Path) -> Result<()> {
    let open = host
        .open_dir(dir)
        .map_err(|error| Error::io("open", dir, error))?;
    open.sync().map_err(|error| sync_failed(dir, error))
}

/// A sync of `path` that failed.
pub(crate) fn sync_failed(path: &Path, error: io::Error) -> Error {
    let (path, source) = (path.to_path_buf(), Arc::new(error));
    ErrorKind::SyncFailed { path, source }.into()
}

impl SlotFile {
    /// Fills a new file, both slots alike, and syncs it; its directory entry is up to the caller.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`.
    pub(crate) fn fill(
        file: Arc<dyn File>,
        path: PathBuf,
        kind: SlotKind,
        payload: &[u8],
        sync: Option<SyncKind>,
    ) -> Result<Self> {
        let mut this = Self {
            file,
            path,
            kind,
            current: Slot::First,
            synced: true,
            generation: 0,
            payload: Vec::new(),
        };
        let zeros = vec![0; slots::FILE_LEN];
        fs::write_full(&*this.file, &zeros, 0).map_err(|e| Error::io("write", &this.path, e))?;
        this.write_both(payload, sync)?;
        Ok(this)
    }

    /// Fills a file that holds nothing of use, one slot after the other: interrupted in between, it
    /// holds what it is to hold, or still nothing of use.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`, `SyncFailed`.
    pub(crate) fn refill(
        file: Arc<dyn File>,
        path: PathBuf,
        kind: SlotKind,
        payload: &[u8],
        sync: Option<SyncKind>,
    ) -> Result<Self> {
        let mut this = Self {
            file,
            path,
            kind,
            current: Slot::Second,
            synced: true,
            generation: 0,
            payload: Vec::new(),
        };
        this.write_both(payload, sync)?;
        Ok(this)
    }

    /// Opens a file that is there.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub(crate) fn open(
        host: &dyn Host,
        path: PathBuf,
        kind: SlotKind,
    ) -> Result<(Self, SlotContent)> {
        let file = host
            .open(&path, Access::Write)
            .map_err(|error| Error::io("open", &path, error))?;
        Self::adopt(file, path, kind)
    }

    /// Takes over a file that is open for writing.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub(crate) fn adopt(
        file: Arc<dyn File>,
        path: PathBuf,
        kind: SlotKind,
    ) -> Result<(Self, SlotContent)> {
        let content = read(&*file, &path, kind)?;
        // Not known to be synced; but the other slot is not known to be whole, so it is the one
        // that may be overwritten.
        let this = Self {
            file,
            path,
            kind,
            current: content.slot,
            synced: true,
            generation: content.generation,
            payload: content.payload.clone(),
        };
        Ok((this, content))
    }

    /// The file, to be synced by others too.
    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The newest state.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The generation of the newest state.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Somebody else has synced the file since the newest state was written.
    pub(crate) fn note_synced(&mut self) {
        self.synced = true;
    }

    /// What is written next has a generation above this one.
    pub(crate) fn raise_generation(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Writes a new state, and syncs it if told how.
    ///
    /// # Errors
    ///
    /// `Io` and `StorageFull`: the state is as before. A failed sync is `SyncFailed`: whether the
    /// new or the old state survives a power cut is not known.
    pub(crate) fn write(&mut self, payload: &[u8], sync: Option<SyncKind>) -> Result<()> {
        let slot = if self.synced {
            self.current.other()
        } else {
            self.current
        };
        if let Err(error) = self.put(slot, self.generation + 1, payload) {
            if slot == self.current {
                // Half of the new state may stand over the old one. If putting that back fails
                // too, the state that was synced last is in the other slot.
                drop(self.put(slot, self.generation, &self.payload));
            }
            return Err(error);
        }
        self.current = slot;
        self.generation += 1;
        self.synced = false;
        self.payload.clear();
        self.payload.extend_from_slice(payload);
        self.sync(sync)
    }

    /// Writes the state that was read over itself, and syncs it if told how: what was read may be
    /// in the page cache alone, and a sync of what nobody has written since a failed one returns
    /// success without doing anything.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`, `SyncFailed`.
    pub(crate) fn write_again(&mut self, sync: Option<SyncKind>) -> Result<()> {
        self.put(self.current, self.generation, &self.payload)?;
        self.sync(sync)
    }

    /// Writes a new state into both slots, one after the other, so that one bit that flips later
    /// takes neither.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(crate) fn write_both(&mut self, payload: &[u8], sync: Option<SyncKind>) -> Result<()> {
        self.write(payload, sync)?;
        self.put(self.current.other(), self.generation, payload)?;
        self.sync(sync)
    }

    fn put(&self, slot: Slot, generation: u64, payload: &[u8]) -> Result<()> {
        let bytes = self.kind.encode(slot, generation, payload).ok_or_else(|| {
            let length = payload.len() as u64;
            Error::decode(&self.path, 0, DecodeError::Length { length })
        })?;
        fs::write_full(&*self.file, &bytes, slot.position() as u64)
            .map_err(|error| Error::io("write", &self.path, error))
    }

    fn sync(&mut self, sync: Option<SyncKind>) -> Result<()> {
        if let Some(kind) = sync {
            self.file
                .sync(kind)
                .map_err(|error| sync_failed(&self.path, error))?;
            self.synced = true;
        }
        Ok(())
    }
}
