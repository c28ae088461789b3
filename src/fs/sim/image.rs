//! A disk between two machines: what a crash left, to be looked at, damaged, and booted from.

use std::{
    collections::hash_map::DefaultHasher,
    hash::Hasher,
    path::{Path, PathBuf},
};

use super::{Choices, storage::Storage};

/// What a machine left: its disk, and after the end of a process alone the page cache too.
#[derive(Clone, Debug)]
pub struct Disk {
    storage: Storage,
    boot: u64,
}

impl Disk {
    /// Nothing on it yet.
    pub fn empty() -> Self {
        Self::new(Storage::new(), 1)
    }

    pub(super) fn new(storage: Storage, boot: u64) -> Self {
        Self { storage, boot }
    }

    pub(super) fn into_parts(self) -> (Storage, u64) {
        (self.storage, self.boot)
    }

    /// What a power cut makes of it.
    #[must_use]
    pub fn power_cut(&self, choices: &mut Choices) -> Self {
        Self::new(self.storage.after_power_cut(choices), self.boot + 1)
    }

    /// The page cache forgets what it takes for durable; how many sectors read differently now.
    pub fn drop_cache(&mut self) -> usize {
        self.storage.drop_cache()
    }

    /// Two disks with the same number hold the same (but for one in 2^64).
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.storage.hash(&mut hasher);
        hasher.write_u64(self.boot);
        hasher.finish()
    }

    /// All files, in order of their paths.
    pub fn files(&self) -> Vec<PathBuf> {
        let walk = self.storage.walk();
        let files = walk.filter(|(_, node)| self.storage.content(*node).is_some());
        let mut paths: Vec<_> = files.map(|(path, _)| path).collect();
        paths.sort();
        paths
    }

    /// What a file holds; `None` if there is none.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let content = self.storage.content(self.storage.find(path).ok()?)?;
        let mut bytes = vec![0; content.len()];
        content.read(&mut bytes, 0);
        Some(bytes)
    }

    /// Flips a bit of what is synced; `false` if the file is not that long.
    pub fn flip_bit(&mut self, path: &Path, position: usize, bit: u8) -> bool {
        let Ok(node) = self.storage.find(path) else {
            return false;
        };
        let flip = self
            .storage
            .change(node, |content, _| content.flip(position, bit));
        flip.unwrap_or(false)
    }

    /// Puts bytes over those of a file, or behind them, as if they had been synced; makes the file
    /// if it is not there. `false` if its directory is not.
    pub fn write(&mut self, path: &Path, position: usize, bytes: &[u8]) -> bool {
        let storage = &mut self.storage;
        let node = match storage.find(path) {
            Ok(node) => node,
            Err(_) => match storage.make(path, super::storage::Kind::File) {
                Ok(node) => node,
                Err(_) => return false,
            },
        };
        let put = storage.change(node, |content, time| {
            content.allocate(position, bytes.len());
            content.write(bytes, position, time);
            content.sync(time);
        });
        self.settle(path);
        put.is_some()
    }

    /// Cuts or extends a file, durably; `false` if it is not there.
    pub fn set_len(&mut self, path: &Path, len: usize) -> bool {
        let Ok(node) = self.storage.find(path) else {
            return false;
        };
        let set = self.storage.change(node, |content, time| {
            content.set_len(len, time);
            content.sync(time);
        });
        set.is_some()
    }

    /// Removes a file, durably; `false` if it is not there.
    pub fn remove(&mut self, path: &Path) -> bool {
        let removed = self.storage.remove(path).is_ok();
        self.settle(path);
        removed
    }

    /// Makes what happened to the directory of `path` durable.
    fn settle(&mut self, path: &Path) {
        let dir = path.parent().map(|parent| self.storage.find(parent));
        if let Some(Ok(dir)) = dir {
            let now = self.storage.now();
            self.storage.sync_dir(dir, now);
        }
    }
}
