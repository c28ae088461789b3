//! A machine whose files are in memory and must not be changed: whatever would change one panics.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::testing::{
    Access, Clock, DirEntry, Directory, EntryKind, File, FileSystem, Joiner, MapCells, MapReader,
    MapWriter, Parker, RealHost, SyncKind, Threads,
};

#[derive(Debug)]
pub struct MemoryHost {
    files: BTreeMap<PathBuf, Arc<MemoryFile>>,
    real: RealHost,
}

#[derive(Debug)]
struct MemoryFile(Mutex<Vec<u8>>);

impl MemoryHost {
    /// With these files in the directory `dir`.
    pub fn new(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let file = |bytes: &Vec<u8>| Arc::new(MemoryFile(Mutex::new(bytes.clone())));
        let files = files
            .iter()
            .map(|(path, bytes)| (dir.join(path), file(bytes)))
            .collect();
        Self {
            files,
            real: RealHost::new(),
        }
    }

    /// Puts `byte` into a file, as a failing medium would.
    pub fn put(&self, path: &Path, position: usize, byte: u8) {
        self.files[path].0.lock().unwrap()[position] = byte;
    }
}

impl FileSystem for MemoryHost {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        panic!(
            "nothing may be changed, but {} was to be made",
            path.display()
        );
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let inside = |file: &Path| {
            file.strip_prefix(path)
                .ok()?
                .iter()
                .next()
                .map(PathBuf::from)
        };
        let mut names: Vec<_> = self.files.keys().filter_map(|file| inside(file)).collect();
        names.dedup();
        let entry = |name: PathBuf| {
            let file = self.files.get(&path.join(&name));
            DirEntry {
                name: name.into(),
                len: file.map_or(0, |file| file.0.lock().unwrap().len() as u64),
                kind: file.map_or(EntryKind::Directory, |_| EntryKind::File),
            }
        };
        Ok(names.into_iter().map(entry).collect())
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        assert_eq!(access, Access::Read, "nothing may be changed");
        let file = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::<MemoryFile>::clone(file))
    }

    fn rename(&self, from: &Path, _: &Path) -> io::Result<()> {
        panic!("nothing may be changed, but {} was renamed", from.display());
    }

    fn replace(&self, _: &Path, to: &Path) -> io::Result<()> {
        panic!("nothing may be changed, but {} was replaced", to.display());
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        panic!("nothing may be changed, but {} was removed", path.display());
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        panic!(
            "nothing may be changed, but {} was to be synced",
            path.display()
        );
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_path_buf())
    }

    fn is_mapping_safe(&self, _: &Path) -> bool {
        false
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        None
    }

    fn random(&self) -> u64 {
        self.real.random()
    }
}

impl File for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let bytes = self.0.lock().unwrap();
        let start = usize::try_from(position).unwrap().min(bytes.len());
        let len = into.len().min(bytes.len() - start);
        into[..len].copy_from_slice(&bytes[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, _: &[u8], position: u64) -> io::Result<usize> {
        panic!("nothing may be changed, but byte {position} was written");
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        panic!("nothing may be changed, but a file was cut to {len}");
    }

    fn allocate(&self, position: u64, _: u64) -> io::Result<()> {
        panic!("nothing may be changed, but byte {position} was allocated");
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        panic!("nothing may be changed, but a file was synced ({kind:?})");
    }

    fn try_lock(&self) -> io::Result<bool> {
        panic!("nothing may be changed, but a file was locked");
    }

    fn map_writer(&self, _: usize, _: usize) -> io::Result<MapWriter> {
        panic!("nothing may be changed, but a file was mapped to be written");
    }

    fn map_cells(&self, _: usize) -> io::Result<MapCells> {
        panic!("nothing may be changed, but a file was mapped to be stored into");
    }

    fn map_reader(&self, _: usize) -> io::Result<MapReader> {
        panic!("what another process may write is not mapped");
    }
}

impl Clock for MemoryHost {
    fn wall_millis(&self) -> u64 {
        self.real.wall_millis()
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic()
    }
}

impl Threads for MemoryHost {
    fn spawn(&self, name: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Joiner>> {
        panic!("there is nothing to do in the background, but {name} was started");
    }

    fn parker(&self) -> Box<dyn Parker> {
        self.real.parker()
    }
}
