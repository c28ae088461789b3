//! What the machine allows: the least that has to be done to bytes so that they survive and can be
//! checked, with nothing around it that makes a log of them.
//!
//! A floor frame is a length, a checksum over what follows it, and the values. There is no lock,
//! no offset, no time, no end that a reader could see.

use std::{
    fs::{File, OpenOptions},
    hint::black_box,
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use memmap2::{Advice, MmapMut, MmapOptions};

const CHECKSUM_LEN: usize = 4;
const LENGTH_LEN: usize = 4;
const FRAME_HEADER_LEN: usize = CHECKSUM_LEN + LENGTH_LEN;
/// Bytes in front of each value of a frame that has several.
const VALUE_HEADER_LEN: usize = 2;
/// Size of a file, as of a segment by default.
pub const FILE_BYTES: usize = 64 << 20;
/// Prepared in one step, as the log does.
const CHUNK: usize = 1 << 20;
/// Chunks that are prepared ahead of the writer at most, as the log does.
const CHUNKS_AHEAD: usize = 32;

/// A frame to be written again and again.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    pub value: &'a [u8],
    pub values: usize,
}

impl Frame<'_> {
    pub fn len(&self) -> usize {
        let values = match self.values {
            1 => self.value.len(),
            values => values * (VALUE_HEADER_LEN + self.value.len()),
        };
        FRAME_HEADER_LEN + values
    }

    /// Fills `into`, which is as long as this frame.
    fn write(&self, into: &mut [u8]) {
        let length = u32::try_from(into.len()).expect("a frame is smaller than 4 GiB");
        let (checksum, covered) = into.split_at_mut(CHECKSUM_LEN);
        let (header, values) = covered.split_at_mut(LENGTH_LEN);
        header.copy_from_slice(&length.to_le_bytes());
        if self.values == 1 {
            values.copy_from_slice(black_box(self.value));
        } else {
            self.write_values(values);
        }
        checksum.copy_from_slice(&crc32fast::hash(covered).to_le_bytes());
    }

    fn write_values(&self, into: &mut [u8]) {
        for into in into.chunks_exact_mut(VALUE_HEADER_LEN + self.value.len()) {
            let value = black_box(self.value);
            let length = u16::try_from(value.len()).expect("a value in a batch is small");
            let (header, body) = into.split_at_mut(VALUE_HEADER_LEN);
            header.copy_from_slice(&length.to_le_bytes());
            body.copy_from_slice(value);
        }
    }
}

/// Maps `len` bytes at `position` of a file, once their blocks are allocated and their pages are
/// there to be written.
#[expect(
    unsafe_code,
    reason = "memmap2 can't know who else has the file: here, nobody"
)]
fn map_prepared(file: &File, position: usize, len: usize) -> MmapMut {
    fs2::FileExt::allocate(file, (position + len) as u64).expect("allocate");
    let mut options = MmapOptions::new();
    options.offset(position as u64).len(len);
    // SAFETY: the file was made by this process, in a directory of its own; nobody else writes it
    // or cuts it, and each of its bytes is mapped once.
    let map = unsafe { options.map_mut(file) }.expect("map");
    map.advise(Advice::PopulateWrite).expect("populate");
    map
}

fn new_file(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("make a file in the directory that the benchmark made")
}

/// A prepared mapping of `len` bytes of a new file.
pub fn prepared_map(path: &Path, len: usize) -> MmapMut {
    map_prepared(&new_file(path), 0, len)
}

/// Appends `count` frames to a mapping that was prepared before, from its start again when it is
/// full; returns how long that took.
pub fn append_in_place(map: &mut [u8], frame: Frame<'_>, count: usize) -> Duration {
    let len = frame.len();
    let start = Instant::now();
    let mut position = 0;
    for _ in 0..count {
        if position + len > map.len() {
            position = 0;
        }
        frame.write(&mut map[position..position + len]);
        position += len;
    }
    black_box(map);
    start.elapsed()
}

/// Appends `count` frames to new files, of which a second thread prepares chunk after chunk;
/// returns how long that took from when the first chunk was there.
pub fn append_fresh(dir: &Path, frame: Frame<'_>, count: usize) -> Duration {
    let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
    thread::scope(|scope| {
        scope.spawn(move || prepare_chunks(dir, &sender));
        let len = frame.len();
        let mut chunk: MmapMut = chunks.recv().expect("the first chunk");
        // Kept until the time is taken: a log does not unmap as it goes either.
        let mut written = Vec::new();
        let start = Instant::now();
        let mut position = 0;
        for _ in 0..count {
            if position + len > chunk.len() {
                let next = chunks.recv().expect("chunks without end");
                written.push(std::mem::replace(&mut chunk, next));
                position = 0;
            }
            frame.write(&mut chunk[position..position + len]);
            position += len;
        }
        let elapsed = start.elapsed();
        drop(chunks);
        elapsed
    })
}

/// Prepares chunks until nobody takes them any more.
fn prepare_chunks(dir: &Path, chunks: &SyncSender<MmapMut>) {
    for number in 0.. {
        let file = new_file(&dir.join(format!("floor-{number}")));
        for position in (0..FILE_BYTES).step_by(CHUNK) {
            if chunks.send(map_prepared(&file, position, CHUNK)).is_err() {
                return;
            }
        }
    }
}

/// Appends to a file that was filled with zeros and synced, so that a sync has nothing to bring to
/// the device but the bytes appended.
pub struct DurableFile {
    file: File,
    position: u64,
    buffer: Vec<u8>,
}

impl DurableFile {
    pub fn create(path: &Path) -> Self {
        let file = new_file(path);
        // Page by page: after larger writes the kernel keeps larger units, and writes one of them
        // back as a whole for each sync.
        for position in (0..FILE_BYTES).step_by(4096) {
            file.write_all_at(&[0; 4096], position as u64)
                .expect("fill the file");
        }
        file.sync_all().expect("sync the file");
        Self {
            file,
            position: 0,
            buffer: Vec::new(),
        }
    }

    /// Appends a frame; it is on the device then.
    pub fn append(&mut self, frame: Frame<'_>) {
        self.buffer.resize(frame.len(), 0);
        frame.write(&mut self.buffer);
        if self.position + self.buffer.len() as u64 > FILE_BYTES as u64 {
            self.position = 0;
        }
        self.file
            .write_all_at(&self.buffer, self.position)
            .expect("write");
        self.file.sync_data().expect("sync");
        self.position += self.buffer.len() as u64;
    }
}

/// Checks each of the frames that fill `bytes`; returns how many there are.
pub fn scan(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some((checksum, covered)) = bytes.split_first_chunk::<CHECKSUM_LEN>() {
        let length = covered.first_chunk().expect("a frame has a length");
        let length = usize::try_from(u32::from_le_bytes(*length)).expect("at least 32 bits");
        let (frame, rest) = bytes.split_at(length);
        let actual = crc32fast::hash(&frame[CHECKSUM_LEN..]);
        assert_eq!(actual, u32::from_le_bytes(*checksum), "frame {count}");
        black_box(&frame[FRAME_HEADER_LEN..]);
        count += 1;
        bytes = rest;
    }
    count
}
