//! What the machine allows: the least that has to be done to bytes so that they survive and can be
//! checked, with nothing around it that makes a log of them.
//!
//! There is no lock, no offset, no time, no end that a reader could see.

use std::{
    fs::File,
    hint::black_box,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use memmap2::MmapMut;

#[path = "../harness/background.rs"]
mod background;
mod frame;
mod fresh;

pub use frame::Frame;
use frame::{CHECKSUM_LEN, FRAME_HEADER_LEN};
pub use fresh::FILE_BYTES;
use fresh::{Fresh, ROOM_MAX, map_prepared, new_file};

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

/// Appends `count` frames to new files; returns how long that took from when there was memory.
pub fn append_fresh(dir: &Path, frame: Frame<'_>, count: usize) -> Duration {
    let mut fresh = Fresh::create(dir, ROOM_MAX);
    let start = Instant::now();
    for _ in 0..count {
        fresh.append(frame);
    }
    let elapsed = start.elapsed();
    fresh.close();
    elapsed
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
