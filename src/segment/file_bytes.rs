//! Reads a file as [`Bytes`], a window at a time.

use std::io;

use super::scan::Bytes;
use crate::fs::{self, File};

/// Bytes read ahead.
const WINDOW: usize = 256 << 10;

/// A file's bytes, by `pread` into private memory. What was handed out by one call is what the
/// file held when it was read: a window is not read twice unless it was left.
#[derive(Debug)]
pub(crate) struct FileBytes<'f> {
    file: &'f dyn File,
    end: usize,
    window: Vec<u8>,
    start: usize,
}

impl<'f> FileBytes<'f> {
    /// The first `end` bytes.
    pub(crate) fn new(file: &'f dyn File, end: usize) -> Self {
        Self {
            file,
            end,
            window: Vec::new(),
            start: 0,
        }
    }
}

impl Bytes for FileBytes<'_> {
    fn end(&self) -> usize {
        self.end
    }

    fn at(&mut self, position: usize, want: usize) -> io::Result<&[u8]> {
        let left = self.end.saturating_sub(position);
        let need = want.min(left);
        let have = (self.start + self.window.len()).saturating_sub(position);
        if position < self.start || have < need {
            let len = need.max(WINDOW.min(left));
            self.window.resize(len, 0);
            self.start = position;
            let read = fs::read_full(self.file, &mut self.window, position as u64)?;
            self.window.truncate(read);
        }
        Ok(self.window.get(position - self.start..).unwrap_or_default())
    }
}
