//! Reading a segment, while it is written or later.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::scan::{Bytes, Shape};
use crate::{
    format::frame,
    fs::{self, File, MapReader},
};

/// The published bytes of a segment, to be read by any number of threads. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) shape: Shape,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Mapped(MapReader),
    Copied { file: Arc<dyn File>, end: End },
}

/// The published end of a segment that is read by copying.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Fixed(usize),
    Shared(Arc<AtomicUsize>),
    Mapped(MapReader),
}

impl End {
    fn get(&self) -> usize {
        match self {
            Self::Fixed(end) => *end,
            Self::Shared(end) => end.load(Ordering::Acquire),
            Self::Mapped(reader) => reader.bytes().len(),
        }
    }
}

/// Memory of a reader that copies.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// The position of the first byte.
    start: usize,
}

/// Bytes that a copying reader reads ahead.
const READ_AHEAD: usize = 256 << 10;

impl View {
    pub(crate) fn mapped(shape: Shape, reader: MapReader) -> Self {
        Self {
            shape,
            source: Source::Mapped(reader),
        }
    }

    /// Reads the file as far as `end` says by then.
    pub(crate) fn copied(shape: Shape, file: Arc<dyn File>, end: End) -> Self {
        Self {
            shape,
            source: Source::Copied { file, end },
        }
    }

    /// Takes what is published between the positions out of the mapping, if there is one.
    pub(crate) fn release(&self, from: usize, end: usize) {
        match &self.source {
            Source::Mapped(reader)
            | Source::Copied {
                end: End::Mapped(reader),
                ..
            } => reader.release(from, end),
            Source::Copied { .. } => {}
        }
    }

    /// The position behind the last frame published by now.
    #[inline]
    pub(crate) fn published(&self) -> usize {
        match &self.source {
            Source::Mapped(reader) => reader.bytes().len(),
            Source::Copied { end, .. } => end.get(),
        }
    }

    /// Published bytes from `position` on: `want` of them or more, fewer only where they end.
    #[inline]
    pub(crate) fn read<'a>(
        &'a self,
        position: usize,
        want: usize,
        buffer: &'a mut Buffer,
    ) -> io::Result<&'a [u8]> {
        match &self.source {
            Source::Mapped(reader) => Ok(reader.bytes().get(position..).unwrap_or_default()),
            Source::Copied { file, end } => {
                buffer.fill(&**file, position, want, end.get())?;
                Ok(buffer.from(position))
            }
        }
    }

    /// Published bytes from `position` on, if they are mapped.
    #[inline]
    pub(crate) fn in_memory(&self, position: usize) -> Option<&[u8]> {
        match &self.source {
            Source::Mapped(reader) => reader.bytes().get(position..),
            Source::Copied { .. } => None,
        }
    }

    /// Whether reading the frame at `position` replaces what the buffer holds.
    #[inline]
    pub(crate) fn must_refill(&self, position: usize, buffer: &Buffer) -> bool {
        match &self.source {
            Source::Mapped(_) => false,
            Source::Copied { .. } => {
                let bytes = buffer.from(position);
                frame::glimpse(bytes).is_none_or(|seen| seen.len > bytes.len())
            }
        }
    }

    /// Bytes that an earlier [`read`](View::read) returned, and nothing was read since.
    #[inline]
    pub(crate) fn again<'a>(&'a self, range: Range<usize>, buffer: &'a Buffer) -> &'a [u8] {
        match &self.source {
            Source::Mapped(reader) => reader.bytes().get(range).unwrap_or_default(),
            Source::Copied { .. } => buffer
                .from(range.start)
                .get(..range.len())
                .unwrap_or_default(),
        }
    }

    /// Whether nobody but the one who asks holds the mapping, if there is one.
    pub(crate) fn is_sole_holder(&self) -> bool {
        match &self.source {
            Source::Mapped(reader)
            | Source::Copied {
                end: End::Mapped(reader),
                ..
            } => reader.is_sole_holder(),
            Source::Copied { .. } => true,
        }
    }

    /// The published bytes, for a scan.
    pub(crate) fn bytes<'a>(&'a self, buffer: &'a mut Buffer) -> impl Bytes + 'a {
        ViewBytes {
            end: self.published(),
            view: self,
            buffer,
        }
    }
}

impl Buffer {
    /// Forgets what it holds, so that the file is read again.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    fn from(&self, position: usize) -> &[u8] {
        let skip = position.checked_sub(self.start);
        skip.and_then(|skip| self.bytes.get(skip..))
            .unwrap_or_default()
    }

    fn fill(
        &mut self,
        file: &dyn File,
        position: usize,
        want: usize,
        end: usize,
    ) -> io::Result<()> {
        let left = end.saturating_sub(position);
        if self.from(position).len() >= want.min(left) && left > 0 {
            return Ok(());
        }
        let len = want.max(READ_AHEAD).min(left);
        self.bytes.resize(len, 0);
        self.start = position;
        let read = fs::read_full(file, &mut self.bytes, position as u64)?;
        self.bytes.truncate(read);
        Ok(())
    }
}

struct ViewBytes<'a> {
    view: &'a View,
    buffer: &'a mut Buffer,
    end: usize,
}

impl Bytes for ViewBytes<'_> {
    fn end(&self) -> usize {
        self.end
    }

    fn at(&mut self, position: usize, want: usize) -> io::Result<&[u8]> {
        let bytes = self.view.read(position, want, self.buffer)?;
        // More may be published meanwhile; the scan is of what was there when it began.
        Ok(bytes
            .get(..self.end.saturating_sub(position))
            .unwrap_or(bytes))
    }
}
