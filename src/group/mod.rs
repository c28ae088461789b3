//! Consumer groups: the file that holds a group's committed offset. Knows no segments.

use std::path::{Path, PathBuf};

use crate::{
    error::{DecodeError, Error, ErrorKind, Result},
    format::{
        file_name,
        group::{GroupState, KIND},
    },
    fs::{Access, EntryKind, File, Host, SyncKind},
    offset::Offset,
    slot_file::{self, SlotFile},
};

/// A group as found in the directory.
#[derive(Debug)]
pub(crate) struct FoundGroup {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// What it has committed, or why that can't be read.
    pub(crate) state: Result<GroupState>,
    /// A slot that is damaged, though the other one is not.
    pub(crate) fallback: Option<(u64, DecodeError)>,
}

/// All groups of the log in `dir`, by name.
///
/// # Errors
///
/// `Io`, `SymbolicLink`. A file that can't be decoded is a group with an error.
pub(crate) fn list(host: &dyn Host, dir: &Path) -> Result<Vec<FoundGroup>> {
    let groups = dir.join(file_name::GROUPS);
    let entries = match host.read_dir(&groups) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", &groups, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let Some(name) = entry.name.to_str().and_then(file_name::parse_group) else {
            continue;
        };
        let path = groups.join(&entry.name);
        if entry.kind == EntryKind::Link {
            return Err(ErrorKind::SymbolicLink { path }.into());
        }
        if is_unfilled(host, &path) {
            continue;
        }
        let (state, fallback) = match read(host, &path) {
            Ok((state, fallback)) => (Ok(state), fallback),
            Err(error) => (Err(error), None),
        };
        found.push(FoundGroup {
            name: name.to_owned(),
            path,
            state,
            fallback,
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Where the file of a group is.
pub(crate) fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(file_name::GROUPS).join(file_name::group(name))
}

/// What the file of a group says.
///
/// # Errors
///
/// `Corrupt`, `UnsupportedVersion`, `Io`.
pub(crate) fn read_state(host: &dyn Host, dir: &Path, name: &str) -> Result<GroupState> {
    Ok(read(host, &path(dir, name))?.0)
}

/// Whether a group's making was interrupted before it had a commit: then it is none yet.
fn is_unfilled(host: &dyn Host, path: &Path) -> bool {
    let file = host.open(path, Access::Read);
    file.is_ok_and(|file| is_blank(&*file, path).unwrap_or(false))
}

fn read(host: &dyn Host, path: &Path) -> Result<(GroupState, Option<(u64, DecodeError)>)> {
    let file = host
        .open(path, Access::Read)
        .map_err(|error| Error::io("open", path, error))?;
    let content = slot_file::read(&*file, path, KIND)?;
    let state = GroupState::decode(&content.payload).map_err(|e| Error::decode(path, 0, e))?;
    Ok((state, content.fallback))
}

/// A group's file, held by its one live consumer.
#[derive(Debug)]
pub(crate) struct GroupFile {
    file: SlotFile,
    state: GroupState,
}

impl GroupFile {
    /// Holds the group `name` of the log in `dir`; a new group starts at what `start` says. Its
    /// file and the file's name are durable when this returns.
    ///
    /// # Errors
    ///
    /// `InvalidName`, `GroupInUse`, `Corrupt`, `UnsupportedVersion`, `Io`, `StorageFull`,
    /// `SyncFailed`; what `start` returns.
    pub(crate) fn hold(
        host: &dyn Host,
        dir: &Path,
        log_id: u64,
        name: &str,
        sync: Option<SyncKind>,
        start: impl FnOnce() -> Result<Offset>,
    ) -> Result<Self> {
        file_name::check_name(name)?;
        let groups = dir.join(file_name::GROUPS);
        let path = groups.join(file_name::group(name));
        let opened = match host.open(&path, Access::Write) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                check_case(host, &groups, name)?;
                host.open(&path, Access::Create)
            }
            opened => opened,
        };
        let file = opened.map_err(|error| Error::io("open", &path, error))?;
        match file.try_lock() {
            Ok(true) => {}
            Ok(false) => {
                return Err(ErrorKind::GroupInUse {
                    group: name.to_owned(),
                }
                .into());
            }
            Err(error) => return Err(Error::io("lock", &path, error)),
        }
        if is_blank(&*file, &path)? {
            let commit_time = host.wall_millis();
            let state = GroupState {
                log_id,
                committed: start()?,
                commit_time,
            };
            let file = SlotFile::fill(file, path, KIND, &state.encode(), sync)?;
            sync_names(host, &groups, sync)?;
            return Ok(Self { file, state });
        }
        let (mut file, content) = SlotFile::adopt(file, path.clone(), KIND)?;
        let decode = |error| Error::decode(&path, 0, error);
        let state = GroupState::decode(&content.payload).map_err(decode)?;
        if state.log_id != log_id {
            return Err(decode(DecodeError::Field { field: "log id" }));
        }
        // Its making may have been interrupted before it was durable, as a whole or by name.
        file.write_again(sync)?;
        sync_names(host, &groups, sync)?;
        Ok(Self { file, state })
    }

    /// The committed offset: the next one to read.
    pub(crate) fn committed(&self) -> Offset {
        self.state.committed
    }

    /// Commits. It is in the page cache then; on the device if told how.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`: the commit is as before. `SyncFailed`.
    pub(crate) fn commit(
        &mut self,
        committed: Offset,
        commit_time: u64,
        sync: Option<SyncKind>,
    ) -> Result<()> {
        let state = GroupState {
            committed,
            commit_time,
            ..self.state
        };
        self.file.write(&state.encode(), sync)?;
        self.state = state;
        Ok(())
    }

    /// Writes both slots alike, so that one bit that flips later takes neither.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub(crate) fn close(&mut self, sync: Option<SyncKind>) -> Result<()> {
        self.file.write_both(&self.state.encode(), sync)
    }
}

fn sync_names(host: &dyn Host, groups: &Path, sync: Option<SyncKind>) -> Result<()> {
    match sync {
        Some(_) => slot_file::sync_dir(host, groups),
        None => Ok(()),
    }
}

/// Whether a file was never filled: new, or its making was interrupted.
fn is_blank(file: &dyn File, path: &Path) -> Result<bool> {
    let bytes = slot_file::read_bytes(file, path)?;
    Ok(bytes.iter().all(|&byte| byte == 0))
}

fn check_case(host: &dyn Host, groups: &Path, name: &str) -> Result<()> {
    let entries = host
        .read_dir(groups)
        .map_err(|error| Error::io("list", groups, error))?;
    let names = entries.iter().filter_map(|entry| entry.name.to_str());
    file_name::check_case(name, names.filter_map(file_name::parse_group))
}
