//! An open file of a simulated machine, and its mapped memory.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use super::{
    Call, Effect,
    content::{Content, SECTOR},
    fault::Struck,
    machine::{Inner, State},
    storage::{NodeId, Storage},
};
use crate::fs::{
    File, MapCells, MapReader, MapWriter, SyncKind,
    mapping::{MapWatch, Word},
};

#[derive(Debug)]
pub(super) struct SimFile {
    place: Arc<Place>,
    handle: u64,
    writable: bool,
}

/// Where the file is, for its handle and its mappings.
#[derive(Debug)]
struct Place {
    machine: Arc<Inner>,
    node: NodeId,
    /// The path that it was opened by.
    path: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.machine.state().storage.release(self.node);
    }
}

impl Place {
    fn call<R>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut State, Option<Struck>) -> io::Result<R>,
    ) -> io::Result<R> {
        let path = |storage: &Storage| self.name(storage);
        self.machine.call(call, path, effect)
    }

    /// Its path now, or the last that it had.
    fn name(&self, storage: &Storage) -> PathBuf {
        let named = storage.name_of(self.node);
        named.unwrap_or_else(|| self.path.clone())
    }

    fn look<R>(&self, state: &State, look: impl FnOnce(&Content) -> R) -> io::Result<R> {
        let content = state.storage.content(self.node);
        Ok(look(content.ok_or(io::ErrorKind::NotFound)?))
    }

    fn put(&self, state: &mut State, bytes: &[u8], position: usize) {
        if !bytes.is_empty() {
            state.storage.change(self.node, |content, time| {
                content.write(bytes, position, time);
            });
        }
    }
}

impl SimFile {
    pub(super) fn new(
        machine: Arc<Inner>,
        node: NodeId,
        handle: u64,
        path: PathBuf,
        writable: bool,
    ) -> Self {
        let place = Arc::new(Place {
            machine,
            node,
            path,
        });
        Self {
            place,
            handle,
            writable,
        }
    }

    /// # Errors
    ///
    /// `EBADF` if the file was opened to be read.
    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EBADF))
        }
    }

    /// Writes as much as there are blocks for.
    fn write_some(&self, state: &mut State, bytes: &[u8], position: usize) -> io::Result<usize> {
        let node = self.place.node;
        let fits = state.storage.allocate(node, position, bytes.len());
        if fits == 0 && !bytes.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.place
            .put(state, bytes.get(..fits).unwrap_or_default(), position);
        Ok(fits)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.place.machine.state();
        if state.locks.get(&self.place.node) == Some(&self.handle) {
            state.locks.remove(&self.place.node);
        }
    }
}

/// Of a write of several sectors, the part that is there first: a kill may come between them.
fn first_part(len: usize, position: usize) -> usize {
    let first = position / SECTOR;
    let sectors = (position + len).div_ceil(SECTOR) - first;
    if sectors < 2 {
        return len;
    }
    (first + sectors / 2) * SECTOR - position
}

fn too_far<T>(_: T) -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let place = &self.place;
        place.call(Call::Len, |state, _| {
            place.look(state, |content| content.len() as u64)
        })
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let position = usize::try_from(position).map_err(too_far)?;
        let place = &self.place;
        place.call(Call::Read, |state, struck| {
            let mut wanted = into.len();
            if let Some(struck) = struck.filter(|s| s.is(Effect::Short) && wanted > 1) {
                struck.happened();
                wanted /= 2;
            }
            let into = into.get_mut(..wanted).unwrap_or_default();
            place.look(state, |content| content.read(into, position))
        })
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.check_writable()?;
        let position = usize::try_from(position).map_err(too_far)?;
        let (first, rest) = bytes.split_at(first_part(bytes.len(), position));
        let begin = |state: &mut State, struck: Option<Struck>| match struck {
            Some(struck) if struck.is(Effect::Short) => {
                struck.happened();
                let part = bytes.get(..bytes.len() / 2).unwrap_or_default();
                Ok((self.write_some(state, part, position)?, true))
            }
            _ => Ok((self.write_some(state, first, position)?, false)),
        };
        let (done, is_short) = self.place.call(Call::Write, begin)?;
        if is_short || done < first.len() || rest.is_empty() {
            return Ok(done);
        }
        self.place.call(Call::HalfWritten, |state, _| {
            let more = self.write_some(state, rest, position + done);
            Ok(done + more.unwrap_or(0))
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let len = usize::try_from(len).map_err(too_far)?;
        self.place.call(Call::SetLen, |state, _| {
            if state.is_mapped_behind(self.place.node, len) {
                let path = self.place.path.display();
                state.problem(format!(
                    "SIGBUS: {path} is cut to {len} and read behind that"
                ));
            }
            let set = |content: &mut Content, time| content.set_len(len, time);
            state.storage.change(self.place.node, set);
            Ok(())
        })
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let position = usize::try_from(position).map_err(too_far)?;
        let len = usize::try_from(len).map_err(too_far)?;
        if len == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.place.call(Call::Allocate, |state, _| {
            let node = self.place.node;
            // What did fit stays with the file, as blocks that nothing is written to.
            if state.storage.allocate(node, position, len) < len {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            state.storage.change(node, |content, time| {
                if content.len() < position + len {
                    content.set_len(position + len, time);
                }
            });
            Ok(())
        })
    }

    fn sync(&self, _: SyncKind) -> io::Result<()> {
        let place = &self.place;
        let begin = |state: &mut State, _| Ok(state.storage.now());
        let time = place.call(Call::Sync, begin)?;
        place.call(Call::Synced, |state, struck| {
            let node = place.node;
            match struck {
                Some(struck) if struck.is(Effect::FailedSync) => {
                    struck.happened();
                    let mut random = state.random.fork();
                    state.storage.fail_sync(node, time, &mut random);
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                Some(struck) if struck.is(Effect::Misdirect) => {
                    let mut random = state.random.fork();
                    let misdirect = |content: &mut Content, _| content.misdirect(time, &mut random);
                    if state.storage.change(node, misdirect) == Some(true) {
                        struck.happened();
                    }
                }
                _ => {}
            }
            state.storage.change(node, |content, _| content.sync(time));
            Ok(())
        })
    }

    fn try_lock(&self) -> io::Result<bool> {
        let place = &self.place;
        place.call(Call::Lock, |state, _| {
            let holder = *state.locks.entry(place.node).or_insert(self.handle);
            if holder != self.handle {
                return Ok(false);
            }
            Ok(state.storage.find(&place.path)? == place.node)
        })
    }

    fn map_writer(&self, capacity: usize, published: usize) -> io::Result<MapWriter> {
        self.check_writable()?;
        let memory = self.memory(capacity)?;
        Ok(MapWriter::watched(
            memory,
            published,
            self.mapping(published),
        ))
    }

    fn map_cells(&self, len: usize) -> io::Result<MapCells> {
        self.check_writable()?;
        let memory = self.memory(len)?;
        Ok(MapCells::watched(memory, self.mapping(len)))
    }

    fn map_reader(&self, len: usize) -> io::Result<MapReader> {
        let memory = self.memory(len)?;
        Ok(MapReader::watched(memory, len, self.mapping(len)))
    }
}

impl SimFile {
    /// Memory with what the file holds. The file learns what is written to it by being told.
    fn memory(&self, len: usize) -> io::Result<MmapRaw> {
        let mut memory: MmapMut = MmapOptions::new().len(len).map_anon()?;
        let place = &self.place;
        place.call(Call::Map, |state, _| {
            place.look(state, |content| content.read(&mut memory, 0))
        })?;
        Ok(MmapRaw::from(memory))
    }

    fn mapping(&self, readable: usize) -> Arc<Mapping> {
        let readable = Arc::new(AtomicUsize::new(readable));
        let place = Arc::clone(&self.place);
        place.machine.state().map(place.node, &readable);
        Arc::new(Mapping { place, readable })
    }
}

/// A mapping. It keeps the file as long as it lives.
#[derive(Debug)]
struct Mapping {
    place: Arc<Place>,
    /// So many bytes may be read at any time.
    readable: Arc<AtomicUsize>,
}

impl Mapping {
    fn tell(&self, call: Call, effect: impl FnOnce(&mut State)) {
        let path = |storage: &Storage| self.place.name(storage);
        self.place.machine.pass_moment(call, path, effect);
    }
}

impl MapWatch for Mapping {
    fn before_copy(&self, position: usize, len: usize) {
        self.tell(Call::BeforeCopy, |state| {
            let content = state.storage.content(self.place.node);
            let is_safe = content.is_some_and(|content| {
                content.missing_pages(position, len) == 0 && position + len <= content.len()
            });
            if !is_safe {
                let path = self.place.path.display();
                state.problem(format!(
                    "SIGBUS: {len} bytes at {position} of {path} have no blocks, or are behind the end"
                ));
            }
        });
    }

    fn after_copy(&self, position: usize, bytes: &[u8]) {
        let mut state = self.place.machine.state();
        let split = state.random.below(bytes.len() + 1);
        let (front, back) = bytes.split_at(split.min(bytes.len()));
        let mut halves = [(front, position), (back, position + front.len())];
        // A frame's checksum is its first field, and stored last; and who knows what `memcpy` does.
        if state.random.chance(128) {
            halves.reverse();
        }
        let [first, last] = halves;
        self.place.put(&mut state, first.0, first.1);
        drop(state);
        self.tell(Call::HalfCopied, |state| {
            self.place.put(state, last.0, last.1);
        });
        self.tell(Call::Copied, |_| ());
    }

    fn after_publish(&self, end: usize) {
        self.readable.store(end, Ordering::Relaxed);
        self.tell(Call::Published, |_| ());
    }

    fn after_word(&self, position: usize, word: Word) {
        self.place
            .put(&mut self.place.machine.state(), &word, position);
        self.tell(Call::Stored, |_| ());
    }
}
