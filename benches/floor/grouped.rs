//! What several threads can come near to that each want their record on the device: one of them
//! syncs for all that wait.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Condvar, Mutex},
};

/// Size of the file: what is appended starts again at its front when it is full.
const FILE_BYTES: u64 = 64 << 20;

/// A file that was filled with zeros and synced, to which many threads append.
pub struct GroupedFile {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    position: u64,
    written: u64,
    synced: u64,
    syncing: bool,
    syncs: u64,
}

impl GroupedFile {
    pub fn create(path: &Path) -> Self {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .expect("make a file in the directory that the benchmark made");
        // Page by page, so that the kernel keeps small units and each sync writes little.
        for position in (0..FILE_BYTES).step_by(4096) {
            file.write_all_at(&[0; 4096], position)
                .expect("fill the file");
        }
        file.sync_all().expect("sync the file");
        Self {
            file,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Appends a checksum, a length and the value; they are on the device then.
    pub fn append(&self, value: &[u8]) {
        let length = u32::try_from(value.len()).expect("a value is small");
        let mut frame = vec![0; 4];
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(value);
        let checksum = crc32fast::hash(&frame[4..]);
        frame[..4].copy_from_slice(&checksum.to_le_bytes());

        let mut state = self.state.lock().expect("no thread panicked");
        if state.position + frame.len() as u64 > FILE_BYTES {
            state.position = 0;
        }
        self.file
            .write_all_at(&frame, state.position)
            .expect("write");
        state.position += frame.len() as u64;
        state.written += 1;
        let mine = state.written;
        while state.synced < mine {
            if state.syncing {
                state = self.changed.wait(state).expect("no thread panicked");
                continue;
            }
            state.syncing = true;
            let target = state.written;
            drop(state);
            self.file.sync_data().expect("sync");
            state = self.state.lock().expect("no thread panicked");
            state.syncing = false;
            state.synced = target;
            state.syncs += 1;
            self.changed.notify_all();
        }
    }

    pub fn syncs(&self) -> u64 {
        self.state.lock().expect("no thread panicked").syncs
    }
}
