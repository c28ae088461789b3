//! A group that is held by its one live consumer, and commits.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{GroupSite, Known, is_blank, journal, pending::Pending, shared::GroupShared};
use crate::{
    error::{DecodeError, Error, ErrorKind, Result},
    format::{
        file_name,
        group::{GroupLosses, GroupState, KIND},
    },
    fs::{self, Access, File, Host, SyncKind},
    offset::Offset,
    slot_file::{self, SlotFile},
};

/// A group's file, held by its one live consumer.
#[derive(Debug)]
pub(crate) struct GroupFile {
    file: SlotFile,
    state: GroupState,
    /// What the next commit says, and its bytes: here so that a commit allocates nothing.
    next: GroupState,
    payload: Vec<u8>,
    shared: Arc<GroupShared>,
}

/// Why a group has no offset to go on from.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// It is new.
    New,
    /// All slots of its file are damaged.
    Damaged(Error),
}

/// What a commit changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit<'a> {
    pub(crate) offset: Offset,
    /// In milliseconds since the Unix epoch.
    pub(crate) time: u64,
    pub(crate) metadata: &'a [u8],
    pub(crate) losses: GroupLosses,
    pub(crate) counted: Offset,
}

/// Locks a group's file for one consumer.
///
/// # Errors
///
/// `GroupInUse`, `Io`.
pub(super) fn lock(file: &dyn File, path: &Path, name: &str) -> Result<()> {
    match file.try_lock() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let group = name.to_owned();
            Err(ErrorKind::GroupInUse { group }.into())
        }
        Err(error) => Err(Error::io("lock", path, error)),
    }
}

impl GroupFile {
    /// Holds the group `name`. One that has no offset to go on from begins at what `begin` says;
    /// a damaged file is kept in the quarantine. The file and its name are durable when this
    /// returns.
    ///
    /// # Errors
    ///
    /// `InvalidName`, `GroupInUse`, `Corrupt`, `UnsupportedVersion`, `Io`, `StorageFull`,
    /// `SyncFailed`; what `begin` returns.
    pub(crate) fn hold(
        site: &GroupSite<'_>,
        name: &str,
        begin: impl FnOnce(Beginning) -> Result<Offset>,
    ) -> Result<Self> {
        file_name::check_name(name)?;
        let path = site.path(name);
        let opened = match site.host.open(&path, Access::Write) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                check_case(site.host, &site.groups(), name)?;
                site.host.open(&path, Access::Create)
            }
            opened => opened,
        };
        let file = opened.map_err(|error| Error::io("open", &path, error))?;
        lock(&*file, &path, name)?;
        let begin_at = |committed| GroupState {
            log_id: site.log_id,
            id: site.host.random(),
            committed,
            commit_time: site.host.wall_millis(),
            ..GroupState::default()
        };
        let (mut file, state) = if is_blank(&*file, &path)? {
            let state = begin_at(begin(Beginning::New)?);
            let file = SlotFile::fill(file, path, KIND, &state.encode(), site.sync)?;
            (file, state)
        } else {
            match adopt(site, &file, &path) {
                Ok((mut file, state)) => {
                    if state.log_id != site.log_id {
                        let other_log = DecodeError::Field { field: "log id" };
                        return Err(Error::decode(&path, 0, other_log));
                    }
                    // Its making may have been interrupted before it was durable, as a whole or by
                    // name.
                    file.write_again(site.sync)?;
                    (file, state)
                }
                Err(error) if error.is_corruption() => {
                    let state = begin_at(begin(Beginning::Damaged(error))?);
                    keep_damaged(site, &*file, &path, name)?;
                    let file = SlotFile::refill(file, path, KIND, &state.encode(), site.sync)?;
                    (file, state)
                }
                Err(error) => return Err(error),
            }
        };
        site.sync_names()?;
        if site.mapped {
            file.map();
        }
        let shared = GroupShared::new(state.id, &file, state.committed);
        Ok(Self {
            file,
            next: state.clone(),
            state,
            payload: Vec::new(),
            shared,
        })
    }

    pub(crate) fn state(&self) -> &GroupState {
        &self.state
    }

    /// Commits. It is in the page cache then; on the device if told how. A sync that fails is
    /// final: the group takes no more commits until it is held again.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`: the commit is as before. `SyncFailed`.
    pub(crate) fn commit(&mut self, commit: &Commit<'_>, sync: Option<SyncKind>) -> Result<()> {
        let next = &mut self.next;
        next.committed = commit.offset;
        next.commit_time = commit.time;
        next.counted = commit.counted;
        next.losses = commit.losses;
        next.metadata.clear();
        next.metadata.extend_from_slice(commit.metadata);
        next.encode_into(&mut self.payload);
        self.shared
            .write(&mut self.file, &self.payload, commit.offset, sync)?;
        std::mem::swap(&mut self.state, &mut self.next);
        Ok(())
    }

    /// Writes both pages alike, so that one bit that flips later takes neither.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub(crate) fn close(&mut self, sync: Option<SyncKind>) -> Result<()> {
        self.state.encode_into(&mut self.payload);
        let committed = self.state.committed;
        self.shared
            .write_both(&mut self.file, &self.payload, committed, sync)
    }

    /// The group, for those who sync on its behalf.
    pub(crate) fn shared(&self) -> &Arc<GroupShared> {
        &self.shared
    }

    /// The last commit, to be made durable by others.
    pub(crate) fn pending(&self) -> Arc<Pending> {
        Pending::new(
            Arc::clone(&self.shared),
            self.file.generation(),
            self.file.payload().to_vec(),
            self.state.committed,
        )
    }
}

impl Drop for GroupFile {
    fn drop(&mut self) {
        self.shared.let_go();
    }
}

fn adopt(
    site: &GroupSite<'_>,
    file: &Arc<dyn File>,
    path: &Path,
) -> Result<(SlotFile, GroupState)> {
    let known = if site.is_settled {
        Known::new()
    } else {
        journal::read(site.host, site.dir)?
    };
    let (mut file, _) = SlotFile::adopt(Arc::clone(file), path.to_path_buf(), KIND)?;
    let state = journal::bring_up(&mut file, &known, site.sync)?;
    Ok((file, state))
}

/// Copies what does not verify into the quarantine, durably.
fn keep_damaged(site: &GroupSite<'_>, file: &dyn File, path: &Path, name: &str) -> Result<()> {
    let bytes = slot_file::read_bytes(file, path)?;
    let dir = site.dir.join(file_name::QUARANTINE);
    site.host
        .create_dir_all(&dir)
        .map_err(|error| Error::io("create", &dir, error))?;
    let (kept, target) = new_copy(site.host, &dir, name)?;
    fs::write_full(&*kept, &bytes, 0).map_err(|error| Error::io("write", &target, error))?;
    let Some(kind) = site.sync else { return Ok(()) };
    kept.sync(kind)
        .map_err(|error| slot_file::sync_failed(&target, error))?;
    slot_file::sync_dir(site.host, &dir)
}

/// A new file in the quarantine, under a name that is not taken.
fn new_copy(host: &dyn Host, dir: &Path, name: &str) -> Result<(Arc<dyn File>, PathBuf)> {
    let mut copy = 0;
    loop {
        let target = dir.join(file_name::quarantined_group(name, copy));
        match host.open(&target, Access::CreateNew) {
            Ok(file) => return Ok((file, target)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => copy += 1,
            Err(error) => return Err(Error::io("create", &target, error)),
        }
    }
}

fn check_case(host: &dyn Host, groups: &Path, name: &str) -> Result<()> {
    let entries = host
        .read_dir(groups)
        .map_err(|error| Error::io("list", groups, error))?;
    let names = entries.iter().filter_map(|entry| entry.name.to_str());
    file_name::check_case(name, names.filter_map(file_name::parse_group))
}
