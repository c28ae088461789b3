//! Consumer groups: the file that holds a group's committed offset. Knows no segments.

use std::path::{Path, PathBuf};

mod hold;
mod journal;
mod pending;
mod shared;

pub(crate) use hold::{Beginning, Commit, GroupFile};
pub(crate) use journal::{Journal, settle};
pub(crate) use pending::Pending;

use journal::Known;

use crate::{
    error::{DecodeError, Error, ErrorKind, Result},
    format::{
        file_name,
        group::{GroupState, KIND},
    },
    fs::{Access, EntryKind, File, Host, SyncKind},
    slot_file,
};

/// A log, as far as its groups need to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupSite<'a> {
    pub(crate) host: &'a dyn Host,
    /// The directory of the log.
    pub(crate) dir: &'a Path,
    pub(crate) log_id: u64,
    /// How the log syncs; `None` if it does not.
    pub(crate) sync: Option<SyncKind>,
    /// The file of a group that is held may be written through mapped memory.
    pub(crate) mapped: bool,
    /// Groups' files have all that there is: [`settle`] was called since the machine was started.
    pub(crate) is_settled: bool,
}

impl GroupSite<'_> {
    fn groups(&self) -> PathBuf {
        self.dir.join(file_name::GROUPS)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.groups().join(file_name::group(name))
    }

    /// Makes names in the directory of the groups durable.
    fn sync_names(&self) -> Result<()> {
        match self.sync {
            Some(_) => slot_file::sync_dir(self.host, &self.groups()),
            None => Ok(()),
        }
    }
}

/// A group as found in the directory.
#[derive(Debug)]
pub(crate) struct FoundGroup {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// What it has committed, or why that can't be read.
    pub(crate) state: Result<GroupState>,
    /// A slot that is damaged, though another one is not.
    pub(crate) fallback: Option<(u64, DecodeError)>,
}

/// All groups of the log in `dir`, by name.
///
/// # Errors
///
/// `Io`, `SymbolicLink`. A file that can't be decoded is a group with an error.
pub(crate) fn list(host: &dyn Host, dir: &Path) -> Result<Vec<FoundGroup>> {
    let known = journal::read(host, dir)?;
    list_with(host, dir, &known)
}

/// All groups of a log that is open for writing: their files have all that there is.
///
/// # Errors
///
/// As [`list`].
pub(crate) fn list_settled(host: &dyn Host, dir: &Path) -> Result<Vec<FoundGroup>> {
    list_with(host, dir, &Known::new())
}

fn list_with(host: &dyn Host, dir: &Path, known: &Known) -> Result<Vec<FoundGroup>> {
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
        found.extend(look(host, name, path, known));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The group `name` of the log in `dir`; `None` if there is none.
///
/// # Errors
///
/// `InvalidName`. A file that can't be read or decoded is a group with an error.
pub(crate) fn find(host: &dyn Host, dir: &Path, name: &str) -> Result<Option<FoundGroup>> {
    file_name::check_name(name)?;
    let path = dir.join(file_name::GROUPS).join(file_name::group(name));
    Ok(look(host, name, path, &journal::read(host, dir)?))
}

/// The group whose file is at `path`; `None` if it is not there, or if its making was interrupted
/// before it had a commit: then it is none yet.
fn look(host: &dyn Host, name: &str, path: PathBuf, known: &Known) -> Option<FoundGroup> {
    let read = match host.open(&path, Access::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => Err(Error::io("open", &path, error)),
        Ok(file) if is_blank(&*file, &path).unwrap_or(false) => return None,
        Ok(file) => read(&*file, &path, known),
    };
    let (state, fallback) = match read {
        Ok((state, fallback)) => (Ok(state), fallback),
        Err(error) => (Err(error), None),
    };
    Some(FoundGroup {
        name: name.to_owned(),
        path,
        state,
        fallback,
    })
}

fn read(
    file: &dyn File,
    path: &Path,
    known: &Known,
) -> Result<(GroupState, Option<(u64, DecodeError)>)> {
    let content = slot_file::read(file, path, KIND)?;
    let state = GroupState::decode(&content.payload).map_err(|e| Error::decode(path, 0, e))?;
    match known.get(&state.id) {
        Some((generation, newer)) if *generation > content.generation => {
            Ok((newer.clone(), content.fallback))
        }
        _ => Ok((state, content.fallback)),
    }
}

/// What the file of the group `name` says by now, once it is on the device as well, where it is
/// synced.
///
/// # Errors
///
/// `Corrupt`, `UnsupportedVersion`, `Io`, `SyncFailed`.
pub(crate) fn read_durably(
    host: &dyn Host,
    dir: &Path,
    name: &str,
    sync: SyncKind,
) -> Result<GroupState> {
    let path = dir.join(file_name::GROUPS).join(file_name::group(name));
    let file = host
        .open(&path, Access::Read)
        .map_err(|error| Error::io("open", &path, error))?;
    // In this order: what was read is there when it is synced.
    let state = read(&*file, &path, &Known::new())?.0;
    file.sync(sync)
        .map_err(|error| slot_file::sync_failed(&path, error))?;
    Ok(state)
}

/// Whether a file was never filled: new, or its making was interrupted.
fn is_blank(file: &dyn File, path: &Path) -> Result<bool> {
    let bytes = slot_file::read_bytes(file, path)?;
    Ok(bytes.iter().all(|&byte| byte == 0))
}

/// Deletes the group `name`. It is durably gone when this returns.
///
/// # Errors
///
/// `InvalidName`, `GroupNotFound`, `GroupInUse`, `Io`, `SyncFailed`.
pub(crate) fn delete(site: &GroupSite<'_>, name: &str) -> Result<()> {
    file_name::check_name(name)?;
    let path = site.path(name);
    let not_found = || ErrorKind::GroupNotFound {
        group: name.to_owned(),
    };
    let file = match site.host.open(&path, Access::Write) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(not_found().into());
        }
        opened => opened.map_err(|error| Error::io("open", &path, error))?,
    };
    hold::lock(&*file, &path, name)?;
    site.host
        .remove_file(&path)
        .map_err(|error| Error::io("remove", &path, error))?;
    site.sync_names()
}
