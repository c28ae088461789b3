//! Writing the index of a segment.

use std::path::Path;

use super::{IndexState, Segment, build_index};
use crate::{
    error::{Error, Result},
    format::{
        file_name,
        index::{self, Entry},
        segment::SegmentHeader,
    },
    fs::{self, Access, File, Host, SyncKind},
    segment::FileBytes,
    slot_file::sync_failed,
};

impl Segment {
    /// Writes the index of a segment whose frames are all there. Where that fails there is none,
    /// and it is made anew when it is needed.
    ///
    /// # Errors
    ///
    /// `SyncFailed`.
    pub(super) fn store_index(
        &self,
        host: &dyn Host,
        file: &dyn File,
        frames_end: usize,
        header: &SegmentHeader,
        sync: Option<SyncKind>,
    ) -> Result<()> {
        let live = self.index.lock().live.clone();
        let entries = match live {
            Some(live) if live.is_whole => Ok(live.entries()),
            _ => build_index(header, &mut FileBytes::new(file, frames_end)),
        };
        let Ok(entries) = entries else { return Ok(()) };
        self.put_entries(host, &entries, sync)
    }

    /// Writes the index. Where that fails there is none.
    ///
    /// # Errors
    ///
    /// `SyncFailed`.
    pub(in crate::log) fn put_entries(
        &self,
        host: &dyn Host,
        entries: &[Entry],
        sync: Option<SyncKind>,
    ) -> Result<()> {
        let Some(header) = &self.header else {
            return Ok(());
        };
        let path = self.path.with_file_name(file_name::cleaned(self.base));
        let bytes = index::encode(header.id, header.base, entries);
        let stored = self.put_index(host, &path, &bytes, sync);
        if stored.is_err() {
            drop(host.remove_file(&path));
            // There may be one of a segment that was taken out.
            drop(host.remove_file(&self.index_path()));
        }
        match stored {
            Err(error) if error.is_latched() => Err(error),
            _ => {
                *self.index.lock() = IndexState::default();
                Ok(())
            }
        }
    }

    /// By another name first: whoever opens the index in another process finds all of it, or none.
    fn put_index(
        &self,
        host: &dyn Host,
        path: &Path,
        bytes: &[u8],
        sync: Option<SyncKind>,
    ) -> Result<()> {
        let io = |error| Error::io("write", path, error);
        let file = host.open(path, Access::Create).map_err(io)?;
        fs::write_full(&*file, bytes, 0).map_err(io)?;
        file.set_len(bytes.len() as u64).map_err(io)?;
        if let Some(kind) = sync {
            file.sync(kind).map_err(|error| sync_failed(path, error))?;
        }
        host.replace(path, &self.index_path()).map_err(io)
    }
}
