//! The files and directories of a simulated machine, with what a sync has settled of them.
//!
//! A change of a directory is pending until the directory is synced. A power cut leaves each
//! pending change or not, in order or not; a renaming may leave a file under both names.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    hash::{Hash, Hasher},
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::{
    Choices, Random,
    content::{Content, PAGE, Time},
};

pub(super) type NodeId = usize;

/// Of the root directory.
const ROOT: NodeId = 0;

/// All there is on a disk, and in the page cache over it. A clone is a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    nodes: Vec<Arc<Node>>,
    pending: Vec<Pending>,
    time: Time,
    /// Handles that keep a file whose name is gone.
    handles: BTreeMap<NodeId, usize>,
    /// Pages there are.
    capacity: Option<usize>,
}

#[derive(Clone, Debug)]
enum Node {
    File(Content),
    Directory(Directory),
}

#[derive(Clone, Debug, Default)]
struct Directory {
    entries: BTreeMap<OsString, NodeId>,
    durable: BTreeMap<OsString, NodeId>,
}

/// A change of directories that no sync has settled.
#[derive(Clone, Debug)]
struct Pending {
    time: Time,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Add(Entry),
    Remove(Entry),
    Rename { from: Entry, to: Entry },
}

/// A name in a directory, and what has it.
#[derive(Clone, Debug)]
struct Entry {
    dir: NodeId,
    name: OsString,
    node: NodeId,
}

/// An entry of a directory: its name, what it is, how long.
pub(super) type Listed = (OsString, Kind, usize);

/// What is found under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
}

impl Change {
    fn touches(&self, dir: NodeId) -> bool {
        match self {
            Self::Add(entry) | Self::Remove(entry) => entry.dir == dir,
            Self::Rename { from, to } => from.dir == dir || to.dir == dir,
        }
    }
}

impl Storage {
    /// An empty disk.
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Arc::new(Node::Directory(Directory::default()))],
            pending: Vec::new(),
            time: 0,
            handles: BTreeMap::new(),
            capacity: None,
        }
    }

    /// A moment behind everything that happened so far. It is another one after each change.
    pub(super) fn now(&self) -> Time {
        self.time
    }

    fn tick(&mut self) -> Time {
        self.time += 1;
        self.time
    }

    /// Bounds the disk to what is in use now and `free` bytes; or lifts the bound.
    pub(super) fn set_free(&mut self, free: Option<u64>) {
        self.capacity = free.map(|free| {
            let pages = usize::try_from(free).unwrap_or(usize::MAX) / PAGE;
            self.used_pages().saturating_add(pages)
        });
    }

    /// Bytes that are left of the bound.
    pub(super) fn free(&self) -> u64 {
        let bytes = |capacity: usize| {
            let pages = capacity.saturating_sub(self.used_pages());
            u64::try_from(pages.saturating_mul(PAGE)).unwrap_or(u64::MAX)
        };
        self.capacity.map_or(u64::MAX, bytes)
    }

    fn used_pages(&self) -> usize {
        let named = |node: &NodeId| self.name_of(*node).is_some();
        let files = (0..self.nodes.len()).filter(|n| named(n) || self.handles.contains_key(n));
        files
            .filter_map(|node| self.content(node))
            .map(Content::allocated_pages)
            .sum()
    }

    /// Takes blocks for a range of a file: as many as there are, which may be too few.
    pub(super) fn allocate(&mut self, node: NodeId, position: usize, len: usize) -> usize {
        let Some(content) = self.content(node) else {
            return 0;
        };
        let mut fits = len;
        if let Some(capacity) = self.capacity {
            let free = capacity.saturating_sub(self.used_pages());
            while fits > 0 && content.missing_pages(position, fits) > free {
                let over = (position + fits - 1) % PAGE + 1;
                fits = fits.saturating_sub(over);
            }
        }
        if fits > 0 {
            self.change(node, |content, _| content.allocate(position, fits));
        }
        fits
    }

    /// Finds what has a path.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotADirectory`.
    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in names(path) {
            let dir = self.directory(node).ok_or(io::ErrorKind::NotADirectory)?;
            node = *dir.entries.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    /// The directory that a path's last component is in, and that component.
    fn split<'a>(&self, path: &'a Path) -> io::Result<(NodeId, &'a OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.find(path.parent().unwrap_or(Path::new("/")))?;
        if self.directory(dir).is_none() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok((dir, name))
    }

    fn directory(&self, node: NodeId) -> Option<&Directory> {
        match self.nodes.get(node).map(|node| &**node) {
            Some(Node::Directory(directory)) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, node: NodeId) -> Option<&mut Directory> {
        match self.nodes.get_mut(node).map(Arc::make_mut) {
            Some(Node::Directory(directory)) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn content(&self, node: NodeId) -> Option<&Content> {
        match self.nodes.get(node).map(|node| &**node) {
            Some(Node::File(content)) => Some(content),
            _ => None,
        }
    }

    /// Changes a file.
    pub(super) fn change<R>(
        &mut self,
        node: NodeId,
        change: impl FnOnce(&mut Content, Time) -> R,
    ) -> Option<R> {
        let time = self.tick();
        match self.nodes.get_mut(node).map(Arc::make_mut) {
            Some(Node::File(content)) => Some(change(content, time)),
            _ => None,
        }
    }

    /// What is in a directory.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotADirectory`.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        let node = self.find(path)?;
        let dir = self.directory(node).ok_or(io::ErrorKind::NotADirectory)?;
        let describe = |(name, node): (&OsString, &NodeId)| match self.content(*node) {
            Some(content) => (name.clone(), Kind::File, content.len()),
            None => (name.clone(), Kind::Directory, 0),
        };
        Ok(dir.entries.iter().map(describe).collect())
    }

    pub(super) fn kind(&self, node: NodeId) -> Kind {
        match self.content(node) {
            Some(_) => Kind::File,
            None => Kind::Directory,
        }
    }

    /// Makes a file or a directory.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`, `NotFound`, `NotADirectory`.
    pub(super) fn make(&mut self, path: &Path, kind: Kind) -> io::Result<NodeId> {
        let (dir, name) = self.split(path)?;
        let name = name.to_owned();
        if self
            .directory(dir)
            .is_some_and(|dir| dir.entries.contains_key(&name))
        {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = self.nodes.len();
        self.nodes.push(Arc::new(match kind {
            Kind::File => Node::File(Content::default()),
            Kind::Directory => Node::Directory(Directory::default()),
        }));
        self.perform(Change::Add(Entry { dir, name, node }));
        Ok(node)
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotADirectory`, `IsADirectory`.
    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let entry = self.entry_of_file(path)?;
        self.perform(Change::Remove(entry));
        Ok(())
    }

    fn entry_of_file(&self, path: &Path) -> io::Result<Entry> {
        let (dir, name) = self.split(path)?;
        let node = self.find(path)?;
        if self.kind(node) == Kind::Directory {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let name = name.to_owned();
        Ok(Entry { dir, name, node })
    }

    /// Renames a file to a name that nothing has.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotADirectory`, `IsADirectory`, `AlreadyExists`.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.entry_of_file(from).is_ok() && self.find(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.replace(from, to)
    }

    /// Renames a file, over another one if that has the name.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotADirectory`, `IsADirectory`.
    pub(super) fn replace(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let from = self.entry_of_file(from)?;
        if self
            .find(to)
            .is_ok_and(|found| self.kind(found) == Kind::Directory)
        {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (dir, name) = self.split(to)?;
        if (dir, name) == (from.dir, &*from.name) {
            return Ok(());
        }
        let to = Entry {
            dir,
            name: name.to_owned(),
            node: from.node,
        };
        self.perform(Change::Rename { from, to });
        Ok(())
    }

    fn perform(&mut self, change: Change) {
        let time = self.tick();
        self.apply(&change, |dir| &mut dir.entries);
        self.pending.push(Pending { time, change });
    }

    fn apply(
        &mut self,
        change: &Change,
        layer: impl Fn(&mut Directory) -> &mut BTreeMap<OsString, NodeId>,
    ) {
        let mut add = |entry: &Entry| {
            if let Some(dir) = self.directory_mut(entry.dir) {
                layer(dir).insert(entry.name.clone(), entry.node);
            }
        };
        match change {
            Change::Add(entry) | Change::Rename { to: entry, .. } => add(entry),
            Change::Remove(_) => {}
        }
        let (Change::Remove(gone) | Change::Rename { from: gone, .. }) = change else {
            return;
        };
        if let Some(dir) = self.directory_mut(gone.dir) {
            let layer = layer(dir);
            if layer.get(&gone.name) == Some(&gone.node) {
                layer.remove(&gone.name);
            }
        }
    }

    /// The device has all changes of a directory up to `time`.
    pub(super) fn sync_dir(&mut self, dir: NodeId, time: Time) {
        self.tick();
        for change in self.take_pending(dir, time) {
            self.apply(&change, |dir| &mut dir.durable);
        }
    }

    fn take_pending(&mut self, dir: NodeId, time: Time) -> Vec<Change> {
        let settled = |pending: &mut Pending| pending.time <= time && pending.change.touches(dir);
        self.pending
            .extract_if(.., settled)
            .map(|pending| pending.change)
            .collect()
    }

    /// The path of a node, if it has one.
    pub(super) fn name_of(&self, node: NodeId) -> Option<PathBuf> {
        self.walk()
            .find_map(|(path, found)| (found == node).then_some(path))
    }

    /// All paths and what has them, directories before what is in them.
    pub(super) fn walk(&self) -> impl Iterator<Item = (PathBuf, NodeId)> {
        let mut left = vec![(PathBuf::from("/"), ROOT)];
        std::iter::from_fn(move || {
            let (path, node) = left.pop()?;
            if let Some(dir) = self.directory(node) {
                let inside = dir.entries.iter().rev();
                left.extend(inside.map(|(name, node)| (path.join(name), *node)));
            }
            Some((path, node))
        })
    }

    pub(super) fn hold(&mut self, node: NodeId) {
        *self.handles.entry(node).or_default() += 1;
    }

    pub(super) fn release(&mut self, node: NodeId) {
        if let Some(count) = self.handles.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.handles.remove(&node);
            }
        }
    }

    /// What the end of the process leaves: everything, but nobody has a file open.
    pub(super) fn after_process_crash(&self) -> Self {
        let mut left = self.clone();
        left.handles.clear();
        left.capacity = None;
        left
    }

    /// What a power cut leaves: only the device counts.
    pub(super) fn after_power_cut(&self, choices: &mut Choices) -> Self {
        let mut cut = Self {
            handles: BTreeMap::new(),
            capacity: None,
            ..self.clone()
        };
        let mut pending = std::mem::take(&mut cut.pending);
        choices.order(&mut pending);
        for Pending { change, .. } in pending {
            if !choices.entry() {
                continue;
            }
            let change = match change {
                Change::Rename { to, .. } if choices.half_renamed() => Change::Add(to),
                whole => whole,
            };
            cut.apply(&change, |dir| &mut dir.durable);
        }
        for node in &mut cut.nodes {
            let left = match &**node {
                Node::File(content) => Node::File(content.after_power_cut(choices)),
                Node::Directory(dir) => Node::Directory(Directory {
                    entries: dir.durable.clone(),
                    durable: dir.durable.clone(),
                }),
            };
            *node = Arc::new(left);
        }
        cut.without_unnamed()
    }

    /// Without the files that have no name; those that stay are numbered as they are found, so
    /// that two disks which hold the same are the same.
    fn without_unnamed(self) -> Self {
        let found: Vec<_> = self.walk().map(|(_, node)| node).collect();
        let mut numbers = BTreeMap::new();
        for node in found {
            let next = numbers.len();
            numbers.entry(node).or_insert(next);
        }
        let blank = Arc::new(Node::Directory(Directory::default()));
        let mut nodes: Vec<_> = numbers.iter().map(|_| Arc::clone(&blank)).collect();
        for (old, new) in &numbers {
            let (Some(from), Some(to)) = (self.nodes.get(*old), nodes.get_mut(*new)) else {
                continue;
            };
            *to = match &**from {
                Node::File(_) => Arc::clone(from),
                Node::Directory(dir) => {
                    let renumber = |(name, node): (&OsString, &NodeId)| {
                        Some((name.clone(), *numbers.get(node)?))
                    };
                    let entries: BTreeMap<_, _> = dir.entries.iter().filter_map(renumber).collect();
                    let durable = entries.clone();
                    Arc::new(Node::Directory(Directory { entries, durable }))
                }
            };
        }
        Self { nodes, ..self }
    }

    /// The page cache forgets what it takes for durable; how many sectors read differently now.
    pub(super) fn drop_cache(&mut self) -> usize {
        self.tick();
        let mut changed = 0;
        for node in &mut self.nodes {
            if let Node::File(content) = Arc::make_mut(node) {
                changed += content.drop_cache();
            }
        }
        changed
    }

    /// A sync of a file failed at `time`.
    pub(super) fn fail_sync(&mut self, node: NodeId, time: Time, random: &mut Random) {
        self.change(node, |content, _| content.fail_sync(time, random));
    }

    /// Everything that tells two disks apart, with what only the page cache has.
    pub(super) fn hash(&self, hasher: &mut impl Hasher) {
        for (path, node) in self.walk() {
            path.hash(hasher);
            match self.nodes.get(node).map(|node| &**node) {
                Some(Node::File(content)) => content.hash(hasher),
                Some(Node::Directory(dir)) => dir.durable.keys().for_each(|n| n.hash(hasher)),
                None => {}
            }
        }
        self.pending.len().hash(hasher);
    }
}

fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}
