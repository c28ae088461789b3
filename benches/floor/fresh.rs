//! What a writer can come near to that goes on and on: new memory, which a second thread prepares
//! ahead of it, while a third one syncs what was written, as the log does by default.

use std::{
    fs::{File, OpenOptions},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, TryRecvError, TrySendError, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use memmap2::{Advice, MmapMut, MmapOptions};

use super::{background::Background, frame::Frame};

/// Size of a file, as of a segment by default.
pub const FILE_BYTES: usize = 64 << 20;
/// Prepared in one step at most, as the log does.
const CHUNK_MAX: usize = 1 << 20;
/// Memory kept ready ahead of a writer at full speed, as the log does at most.
pub const ROOM_MAX: usize = 32 << 20;
/// Time until the thread that prepares looks again whether the writer has got on.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Time from the start of a sync to that of the next, as of the log by default.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The end of what was appended to files that follow one another.
pub struct Fresh {
    chunk: Chunk,
    position: usize,
    chunks: Receiver<Chunk>,
    /// What the writer has left, to the thread that syncs.
    written: Sender<Chunk>,
    rolls: u64,
    late: u64,
    preparing: JoinHandle<()>,
    syncing: JoinHandle<u64>,
}

/// Prepared memory, and the file that it is part of.
struct Chunk {
    map: MmapMut,
    file: Arc<File>,
}

impl Fresh {
    /// Starts the threads, and waits until there is memory to be written. `room` bytes, a power of
    /// two, are kept ready: what is ready when a sync comes is write-protected by it, so that more
    /// than needed makes it slower.
    pub fn create(dir: &Path, room: usize) -> Self {
        let chunk = (room / 4).min(CHUNK_MAX);
        // One more waits to be taken in.
        let (sender, chunks) = sync_channel(room / chunk - 1);
        let (written, left) = channel();
        let dir = dir.to_path_buf();
        let preparing = thread::spawn(move || prepare_chunks(&dir, chunk, &sender));
        let syncing = thread::spawn(move || sync_files(&left));
        Self {
            chunk: chunks.recv().expect("the first chunk"),
            position: 0,
            chunks,
            written,
            rolls: 0,
            late: 0,
            preparing,
            syncing,
        }
    }

    #[inline]
    pub fn append(&mut self, frame: Frame<'_>) {
        let len = frame.len();
        if self.position + len > self.chunk.map.len() {
            self.next_chunk();
        }
        frame.write(&mut self.chunk.map[self.position..self.position + len]);
        self.position += len;
    }

    #[cold]
    fn next_chunk(&mut self) {
        let next = self.chunks.try_recv().unwrap_or_else(|_| {
            self.late += 1;
            self.chunks.recv().expect("chunks without end")
        });
        let left = std::mem::replace(&mut self.chunk, next);
        self.rolls += u64::from(!Arc::ptr_eq(&left.file, &self.chunk.file));
        self.written.send(left).expect("the thread that syncs runs");
        self.position = 0;
    }

    /// Ends the threads; a sync that goes on is waited for.
    pub fn close(self) -> Background {
        drop((self.chunks, self.written));
        self.syncing.thread().unpark();
        self.preparing
            .join()
            .expect("the thread that prepares panicked");
        Background {
            rolls: self.rolls,
            syncs: self.syncing.join().expect("the thread that syncs panicked"),
            late: self.late,
        }
    }
}

/// Prepares chunks of `len` bytes until nobody takes them any more.
fn prepare_chunks(dir: &Path, len: usize, chunks: &SyncSender<Chunk>) {
    for number in 0.. {
        let file = Arc::new(new_file(&dir.join(format!("floor-{number}"))));
        for position in (0..FILE_BYTES).step_by(len) {
            let chunk = Chunk {
                map: map_prepared(&file, position, len),
                file: Arc::clone(&file),
            };
            if !hand_over(chunk, chunks) {
                return;
            }
        }
    }
}

/// Hands over a chunk when there is a place for it; whether somebody is there to take it. To wait
/// in the channel would have the writer wake this thread, with a system call for each chunk.
fn hand_over(mut chunk: Chunk, chunks: &SyncSender<Chunk>) -> bool {
    loop {
        match chunks.try_send(chunk) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(back)) => chunk = back,
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Syncs what the writer has left, every so often until it goes away; returns how often. Looks into
/// the channel, but does not wait there: the writer would have to wake this thread each time.
fn sync_files(left: &Receiver<Chunk>) -> u64 {
    let mut syncs = 0;
    let mut unsynced = Vec::new();
    let mut due = Instant::now() + SYNC_EVERY;
    while take_in(left, &mut unsynced) {
        let now = Instant::now();
        if now < due {
            thread::park_timeout(due - now);
            continue;
        }
        due = now + SYNC_EVERY;
        syncs += 1;
        // The last one is still written, so the next sync takes it again.
        let whole = unsynced.len().saturating_sub(1);
        for number in 0..unsynced.len() {
            unsynced[number].sync_data().expect("sync");
            if !take_in(left, &mut unsynced) {
                return syncs;
            }
        }
        unsynced.drain(..whole);
    }
    syncs
}

/// Unmaps the chunks that were left, and adds their files; whether there can be more.
///
/// To write back a page that is mapped takes an interrupt of each processor that runs this process,
/// the writer's too, so that none writes to it unseen. Unmapping takes a few for thousands of pages.
fn take_in(left: &Receiver<Chunk>, files: &mut Vec<Arc<File>>) -> bool {
    loop {
        match left.try_recv() {
            Ok(Chunk { map, file }) => {
                drop(map);
                if !files.last().is_some_and(|last| Arc::ptr_eq(last, &file)) {
                    files.push(file);
                }
            }
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
}

/// Maps `len` bytes at `position` of a file, once their blocks are allocated and their pages are
/// there to be written.
#[expect(
    unsafe_code,
    reason = "memmap2 can't know who else has the file: here, nobody"
)]
pub fn map_prepared(file: &File, position: usize, len: usize) -> MmapMut {
    fs2::FileExt::allocate(file, (position + len) as u64).expect("allocate");
    let mut options = MmapOptions::new();
    options.offset(position as u64).len(len);
    // SAFETY: the file was made by this process, in a directory of its own; nobody else writes it
    // or cuts it, and each of its bytes is mapped once.
    let map = unsafe { options.map_mut(file) }.expect("map");
    map.advise(Advice::PopulateWrite).expect("populate");
    map
}

pub fn new_file(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("make a file in the directory that the benchmark made")
}
