//! A stream in chunks, read by a thread of its own: a reader that blocks can't notice a pause.

use std::{
    io::{self, Read},
    iter,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    thread,
    time::Duration,
};

/// Most bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Chunks that go round between the two threads: one is read into, one is worked on, the others
/// wait.
const CHUNKS: usize = 6;

/// Bytes that were read, with room before them for what is left of the chunk before.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Chunk {
    /// The bytes.
    pub fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Drops the first `count` bytes, or all if there are fewer.
    pub fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// Puts `more` behind the bytes if there is room; whether there was.
    pub fn append(&mut self, more: &[u8]) -> bool {
        let end = self.end + more.len();
        let Some(room) = self.bytes.get_mut(self.end..end) else {
            return false;
        };
        room.copy_from_slice(more);
        self.end = end;
        true
    }

    /// Puts `left` before the bytes, and makes room if there is too little.
    pub fn prepend(&mut self, left: &[u8]) {
        let missing = left.len().saturating_sub(self.start);
        self.bytes.splice(..0, iter::repeat_n(0, missing));
        self.end += missing;
        let first = self.start + missing - left.len();
        if let Some(room) = self.bytes.get_mut(first..first + left.len()) {
            room.copy_from_slice(left);
        }
        self.start = first;
    }

    /// Reads once; nothing is read at the end of the stream.
    fn fill(&mut self, source: &mut impl Read, room: usize) -> io::Result<()> {
        self.bytes.resize(room + READ_BYTES, 0);
        let free = self.bytes.get_mut(room..).unwrap_or_default();
        let count = loop {
            match source.read(free) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        (self.start, self.end) = (room, room + count);
        Ok(())
    }
}

/// What came of a look at the stream.
#[derive(Debug)]
pub enum Arrival {
    Chunk(Chunk),
    /// Nothing yet.
    Nothing,
    /// The end.
    End,
}

/// A stream, read ahead by a bounded number of chunks.
#[derive(Debug)]
pub struct Input {
    filled: Receiver<io::Result<Chunk>>,
    spent: Sender<Chunk>,
}

impl Input {
    /// Starts to read `source`, with `room` bytes before each chunk.
    pub fn read(source: impl Read + Send + 'static, room: usize) -> Self {
        let (to_main, filled) = mpsc::channel();
        let (spent, to_reader) = mpsc::channel();
        let pool = (0..CHUNKS).map(|_| Chunk::default());
        thread::spawn(move || read_all(source, room, pool.chain(to_reader), &to_main));
        Self { filled, spent }
    }

    /// What is there now.
    pub fn look(&self) -> io::Result<Arrival> {
        match self.filled.try_recv() {
            Ok(read) => arrival(read),
            Err(TryRecvError::Empty) => Ok(Arrival::Nothing),
            Err(TryRecvError::Disconnected) => Err(reader_is_gone()),
        }
    }

    /// What comes within `pause`.
    pub fn wait_for(&self, pause: Duration) -> io::Result<Arrival> {
        match self.filled.recv_timeout(pause) {
            Ok(read) => arrival(read),
            Err(RecvTimeoutError::Timeout) => Ok(Arrival::Nothing),
            Err(RecvTimeoutError::Disconnected) => Err(reader_is_gone()),
        }
    }

    /// What comes next, however long that takes.
    pub fn wait(&self) -> io::Result<Arrival> {
        arrival(self.filled.recv().map_err(|_| reader_is_gone())?)
    }

    /// Gives a chunk back, to be read into again.
    pub fn recycle(&self, chunk: Chunk) {
        // After the end of the stream the reader is gone, and takes none.
        drop(self.spent.send(chunk));
    }
}

/// Reads until the end, which is an empty chunk, or an error.
fn read_all(
    mut source: impl Read,
    room: usize,
    chunks: impl Iterator<Item = Chunk>,
    filled: &Sender<io::Result<Chunk>>,
) {
    for mut chunk in chunks {
        let read = chunk.fill(&mut source, room).map(|()| chunk);
        let more = read.as_ref().is_ok_and(|chunk| !chunk.filled().is_empty());
        if filled.send(read).is_err() || !more {
            return;
        }
    }
}

fn arrival(read: io::Result<Chunk>) -> io::Result<Arrival> {
    let chunk = read?;
    Ok(if chunk.filled().is_empty() {
        Arrival::End
    } else {
        Arrival::Chunk(chunk)
    })
}

/// Without this, a reader that died would look like the end of the stream.
fn reader_is_gone() -> io::Error {
    io::Error::other("the thread that reads has ended")
}
