//! A small file that is rewritten in place and whole at any moment: [slots] on disk.
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
    fs::{self, Access, File, Host, MapCells, SyncKind},
};

/// So often a file is read again that somebody writes meanwhile.
const READS: usize = 10;

/// The file, open for writing.
///
/// A write goes to the page that was *not* synced last. So however many writes stay unsynced, the
/// last synced state survives a power cut. The file keeps its size, so a write works on a full
/// disk. Where nothing is ever synced, the state that was there first stays in its page.
#[derive(Debug)]
pub(crate) struct SlotFile {
    /// Through this what is not the first behind a sync is written, if it can be.
    cells: Option<MapCells>,
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
    /// The bytes of a slot.
    scratch: Vec<u8>,
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
/// [`DecodeError`] put to its path if no slot is whole, `Io`.
pub(crate) fn read(file: &dyn File, path: &Path, kind: SlotKind) -> Result<SlotContent> {
    let mut bytes = read_bytes(file, path)?;
    for _ in 1..READS {
        if matches!(kind.pick(&bytes), Ok(picked) if picked.is_settled) {
            break;
        }
        // What is not whole may be damaged, or on its way: somebody writes it right now.
        let again = read_bytes(file, path)?;
        if again == bytes {
            break;
        }
        bytes = again;
    }
    let picked = kind
        .pick(&bytes)
        .map_err(|error| Error::decode(path, 0, error))?;
    Ok(SlotContent {
        payload: picked.payload.to_vec(),
        fallback: picked.fallback,
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
    /// Fills a new file, both pages alike, and syncs it; its directory entry is up to the caller.
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
        let mut this = Self::without_state(file, path, kind, Slot::FIRST);
        let zeros = vec![0; slots::FILE_LEN];
        fs::write_full(&*this.file, &zeros, 0).map_err(|e| Error::io("write", &this.path, e))?;
        this.write_both(payload, sync)?;
        Ok(this)
    }

    /// Fills a file that holds nothing of use, one page after the other: interrupted in between, it
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
        let mut this = Self::without_state(file, path, kind, Slot::FIRST.other_page());
        this.write_both(payload, sync)?;
        Ok(this)
    }

    /// What is written first goes to the other page than `current`.
    fn without_state(file: Arc<dyn File>, path: PathBuf, kind: SlotKind, current: Slot) -> Self {
        Self {
            cells: None,
            file,
            path,
            kind,
            current,
            synced: true,
            generation: 0,
            payload: Vec::new(),
            scratch: Vec::new(),
        }
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
        // Not known to be synced; but the other page is not known to be whole, so it is the one
        // that may be overwritten.
        let this = Self {
            generation: content.generation,
            payload: content.payload.clone(),
            ..Self::without_state(file, path, kind, content.slot)
        };
        Ok((this, content))
    }

    /// Writes through mapped memory from now on, if that can be: no system call, and it can't fail.
    /// Not where the newest state is synced: the page is clean then, and a store would take a page
    /// fault, which costs more than a call. Of a kind that has two slots in a page, and where mappings
    /// are safe.
    pub(crate) fn map(&mut self) {
        debug_assert!(self.kind.paired, "the newest state is not stored over");
        // The file may be a copy with holes, or short.
        let allocated = self.file.allocate(0, slots::FILE_LEN as u64);
        let mapped = allocated.and_then(|()| self.file.map_cells(slots::FILE_LEN));
        // If not, there are system calls.
        self.cells = mapped.ok();
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
        let slot = self.kind.next(self.current, self.synced);
        if let Err(error) = self.put(slot, self.generation + 1, payload) {
            // Half of the new state may stand there, or over the old one. If this fails too, the
            // state that was synced last is in the other page.
            drop(if slot == self.current {
                self.put_again()
            } else {
                self.clear_spare(slot)
            });
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
        self.put_again()?;
        self.sync(sync)
    }

    /// Writes a new state into both pages, one after the other, and leaves nothing else there, so
    /// that one bit that flips later takes neither.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(crate) fn write_both(&mut self, payload: &[u8], sync: Option<SyncKind>) -> Result<()> {
        self.write(payload, None)?;
        let first = self.current.first_of_page();
        if first != self.current {
            self.put(first, self.generation, payload)?;
            self.current = first;
        }
        self.clear_spare(first.neighbour())?;
        self.sync(sync)?;
        let other = first.other_page();
        self.put(other, self.generation, payload)?;
        self.clear_spare(other.neighbour())?;
        self.sync(sync)
    }

    fn put(&mut self, slot: Slot, generation: u64, payload: &[u8]) -> Result<()> {
        self.kind
            .encode(slot, generation, payload, &mut self.scratch)
            .map_err(|error| Error::decode(&self.path, 0, error))?;
        self.store_scratch(slot)
    }

    /// Writes the newest state where it is.
    fn put_again(&mut self) -> Result<()> {
        self.kind
            .encode(
                self.current,
                self.generation,
                &self.payload,
                &mut self.scratch,
            )
            .map_err(|error| Error::decode(&self.path, 0, error))?;
        self.write_scratch(self.current)
    }

    /// Blanks a slot, if there are two in a page.
    fn clear_spare(&mut self, slot: Slot) -> Result<()> {
        if !self.kind.paired {
            return Ok(());
        }
        self.scratch.clear();
        self.scratch.resize(slots::SECTOR, 0);
        self.store_scratch(slot)
    }

    fn store_scratch(&mut self, slot: Slot) -> Result<()> {
        match &mut self.cells {
            Some(cells) if !self.synced => {
                debug_assert_ne!(slot, self.current, "a kill may come in the middle");
                cells.store(slot.position(), &self.scratch);
                Ok(())
            }
            _ => self.write_scratch(slot),
        }
    }

    fn write_scratch(&self, slot: Slot) -> Result<()> {
        fs::write_full(&*self.file, &self.scratch, slot.position() as u64)
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
