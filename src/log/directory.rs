//! The files of a log's directory: telling a log from what is none, making a new one, locking.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::delete::Leftovers;
use crate::{
    error::{DecodeError, Error, ErrorKind, Result},
    format::{
        checkpoint::{self, Checkpoint},
        file_name,
        meta::{self, Meta, StoredOptions},
    },
    fs::{Access, DirEntry, EntryKind, File, Host, SyncKind},
    offset::Offset,
    slot_file::{self, SlotContent, SlotFile},
};

/// What is in the directory, by kind.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Base offsets of segments, in order, with the files' lengths.
    pub(crate) segments: Vec<(Offset, u64)>,
    /// Segments that were prepared and never used.
    pub(crate) prepared: Vec<String>,
    /// What was to take a segment's place, and did not come to that.
    pub(crate) cleaned: Vec<String>,
    /// Base offsets of the segments that indexes are of.
    pub(crate) indexes: Vec<Offset>,
    has_meta: bool,
    /// Something that is not left over from making a log.
    other: bool,
}

/// Lists the directory; `None` if it is not there.
///
/// # Errors
///
/// `SymbolicLink` if one stands in place of a file of the log, `NotALog` if another thing does,
/// `Io`.
pub(crate) fn list(host: &dyn Host, dir: &Path) -> Result<Option<Listing>> {
    let entries = match host.read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            let reason = "it is not a directory";
            return Err(ErrorKind::NotALog {
                path: dir.to_path_buf(),
                reason,
            }
            .into());
        }
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    let mut listing = Listing::default();
    for entry in &entries {
        listing.add(dir, entry)?;
    }
    listing.segments.sort_unstable();
    Ok(Some(listing))
}

impl Listing {
    fn add(&mut self, dir: &Path, entry: &DirEntry) -> Result<()> {
        let Some(name) = entry.name.to_str() else {
            self.other = true;
            return Ok(());
        };
        let segment = file_name::parse_segment(name);
        let mut wanted = EntryKind::File;
        match name {
            file_name::META => self.has_meta = true,
            file_name::LOCK | file_name::META_NEW | file_name::CHECKPOINT => {}
            file_name::GROUPS | file_name::QUARANTINE => wanted = EntryKind::Directory,
            _ if segment.is_some()
                || file_name::is_prepared(name)
                || file_name::is_producers(name)
                || file_name::is_cleaned(name)
                || file_name::parse_index(name).is_some() =>
            {
                self.other = true;
            }
            _ => {
                self.other = true;
                return Ok(());
            }
        }
        let path = dir.join(name);
        if entry.kind == EntryKind::Link {
            return Err(ErrorKind::SymbolicLink { path }.into());
        }
        if entry.kind != wanted {
            let reason = "a file of the log is not of the kind it should be";
            return Err(ErrorKind::NotALog { path, reason }.into());
        }
        if let Some(base) = segment {
            self.segments.push((base, entry.len));
        } else if file_name::is_prepared(name) {
            self.prepared.push(name.to_owned());
        } else if file_name::is_cleaned(name) {
            self.cleaned.push(name.to_owned());
        } else if let Some(base) = file_name::parse_index(name) {
            self.indexes.push(base);
        }
        Ok(())
    }

    /// Takes out what is below the log start: what a deletion left that was interrupted.
    pub(crate) fn take_leftovers(&mut self, log_start: Offset) -> Leftovers {
        let nexts = self.segments.iter().skip(1);
        let below = nexts.take_while(|(next, _)| *next <= log_start).count();
        let segments: Vec<_> = self.segments.drain(..below).map(|(base, _)| base).collect();
        let first = self.segments.first().map_or(log_start, |(base, _)| *base);
        let below = |base: &mut Offset| *base < first.min(log_start);
        let indexes = self.indexes.extract_if(.., below).collect();
        Leftovers { segments, indexes }
    }

    /// Whether the directory is a log.
    ///
    /// # Errors
    ///
    /// `NotALog` if there is anything in it that making a log, interrupted, does not leave.
    pub(crate) fn is_log(&self, dir: &Path) -> Result<bool> {
        if !self.has_meta && self.other {
            let reason = if self.segments.is_empty() {
                "it holds other files, and no file named meta"
            } else {
                "it holds segments, but no file named meta"
            };
            return Err(ErrorKind::NotALog {
                path: dir.to_path_buf(),
                reason,
            }
            .into());
        }
        Ok(self.has_meta)
    }
}

/// Locks the log for one writer.
///
/// # Errors
///
/// `Locked`, `Io`.
pub(crate) fn lock(host: &dyn Host, dir: &Path) -> Result<Arc<dyn File>> {
    let path = dir.join(file_name::LOCK);
    let file = host
        .open(&path, Access::Create)
        .map_err(|error| Error::io("open", &path, error))?;
    match file.try_lock() {
        Ok(true) => Ok(file),
        Ok(false) => Err(ErrorKind::Locked {
            path: dir.to_path_buf(),
        }
        .into()),
        Err(error) => Err(Error::io("lock", &path, error)),
    }
}

/// Makes a log in a directory that is there and locked. The last step, the renaming of `meta`, is
/// what makes it one; interrupted before, it is begun again.
///
/// # Errors
///
/// `Io`, `StorageFull`, `SyncFailed`.
pub(crate) fn make(
    host: &dyn Host,
    dir: &Path,
    options: StoredOptions,
    created: u64,
    sync: Option<SyncKind>,
) -> Result<()> {
    let fill = |name: &str, kind, payload: &[u8]| {
        let path = dir.join(name);
        let file = host
            .open(&path, Access::Create)
            .map_err(|error| Error::io("create", &path, error))?;
        SlotFile::fill(file, path, kind, payload, sync)
    };
    let groups = dir.join(file_name::GROUPS);
    host.create_dir_all(&groups)
        .map_err(|error| Error::io("create", &groups, error))?;
    fill(
        file_name::CHECKPOINT,
        checkpoint::KIND,
        &Checkpoint::default().encode(),
    )?;
    let meta = Meta {
        id: host.random(),
        created,
        options,
    };
    fill(file_name::META_NEW, meta::KIND, &meta.encode())?;
    let sync_dir = || match sync {
        Some(_) => slot_file::sync_dir(host, dir),
        None => Ok(()),
    };
    sync_dir()?;
    let (from, to) = (dir.join(file_name::META_NEW), dir.join(file_name::META));
    host.rename(&from, &to)
        .map_err(|error| Error::io("rename", &from, error))?;
    sync_dir()
}

/// Reads `meta`.
///
/// # Errors
///
/// `NotALog`, `UnsupportedVersion`, `Corrupt`, `Io`.
pub(crate) fn read_meta(host: &dyn Host, dir: &Path) -> Result<(Meta, SlotContent, PathBuf)> {
    let path = dir.join(file_name::META);
    let file = host
        .open(&path, Access::Read)
        .map_err(|error| Error::io("open", &path, error))?;
    let content = match slot_file::read(&*file, &path, meta::KIND) {
        Err(error) if error.is_foreign() => {
            let reason = "it does not start as a log's meta does";
            return Err(ErrorKind::NotALog { path, reason }.into());
        }
        read => read?,
    };
    let meta = Meta::decode(&content.payload).map_err(|e| Error::decode(&path, 0, e))?;
    Ok((meta, content, path))
}

/// A checkpoint as read: what it says, and what is wrong with a slot of it.
pub(crate) type ReadCheckpoint = (Option<Checkpoint>, Option<(u64, DecodeError)>);

/// Reads `checkpoint`. Where both slots are damaged, or the file is missing, there is none: then
/// everything is scanned.
///
/// # Errors
///
/// `UnsupportedVersion`, `Io`.
pub(crate) fn read_checkpoint(host: &dyn Host, dir: &Path) -> Result<ReadCheckpoint> {
    let path = dir.join(file_name::CHECKPOINT);
    let file = match host.open(&path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((None, Some((0, DecodeError::Missing))));
        }
        Err(error) => return Err(Error::io("open", &path, error)),
    };
    let bytes = slot_file::read_bytes(&*file, &path)?;
    match checkpoint::KIND.pick(&bytes) {
        Ok(picked) => match Checkpoint::decode(picked.payload) {
            Ok(content) => Ok((Some(content), picked.fallback)),
            Err(error) => Ok((None, Some((picked.slot.position() as u64, error)))),
        },
        Err(error @ DecodeError::Version { .. }) => Err(Error::decode(&path, 0, error)),
        Err(error) => Ok((None, Some((0, error)))),
    }
}
