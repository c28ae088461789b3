//! Appending to the active segment.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    FRAMES_START,
    index::{Indexer, LiveIndex},
    prepare::Preparation,
    scan::Shape,
    view::{End, View},
};
use crate::{
    format::{
        body::FrameBody,
        checksum::Seed,
        frame::{self, Stamp},
        segment::SegmentHeader,
        wire::narrow,
    },
    fs::{self, File, MapWriter},
    offset::Offset,
};

/// Whether the next frame fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slack {
    /// It can be appended at once.
    Fits,
    /// Room must be prepared first, up to this position.
    Prepare(usize),
    /// The segment is full.
    Full,
}

/// The one writer of a segment.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    pub(crate) header: SegmentHeader,
    seed: Seed,
    file: Arc<dyn File>,
    sink: Sink,
    room: Arc<Preparation>,
    indexer: Indexer,
    position: usize,
    /// Frames end here at the latest.
    limit: usize,
}

#[derive(Debug)]
enum Sink {
    Mapped(MapWriter),
    /// One `pwrite` a frame. The bytes are gathered in `scratch` first.
    Buffered {
        published: Arc<AtomicUsize>,
        scratch: Vec<u8>,
    },
}

impl SegmentWriter {
    /// Takes over a file whose frames end at `position`, with blocks up to there and zeros (or
    /// nothing) behind. `limit` is where frames must end, `capacity` where the footer ends.
    pub(crate) fn new(
        file: Arc<dyn File>,
        header: SegmentHeader,
        mapped: bool,
        position: usize,
        limit: usize,
        capacity: usize,
    ) -> io::Result<Self> {
        let (sink, preparer) = if mapped {
            let writer = file.map_writer(capacity, position)?;
            let preparer = writer.preparer();
            (Sink::Mapped(writer), Some(preparer))
        } else {
            let published = Arc::new(AtomicUsize::new(position));
            (
                Sink::Buffered {
                    published,
                    scratch: Vec::new(),
                },
                None,
            )
        };
        let room = Arc::new(Preparation::new(
            Arc::clone(&file),
            preparer,
            capacity,
            position,
        ));
        let seed = header.seed();
        Ok(Self {
            header,
            seed,
            file,
            sink,
            room,
            indexer: Indexer::new(position, capacity),
            position,
            limit,
        })
    }

    /// Gives a prepared segment, in which nothing is published yet, its place in the log: writes
    /// the header.
    pub(crate) fn begin(
        &mut self,
        base: Offset,
        previous_end: Offset,
        created: u64,
    ) -> io::Result<()> {
        self.header = SegmentHeader {
            base,
            previous_end,
            created,
            ..self.header
        };
        let bytes = self.header.encode();
        match &mut self.sink {
            Sink::Mapped(writer) => {
                let tail = writer.tail(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                tail.copy_from_slice(&bytes);
                writer.publish(bytes.len());
            }
            Sink::Buffered { published, .. } => {
                fs::write_full(&*self.file, &bytes, 0)?;
                published.store(bytes.len(), Ordering::Release);
            }
        }
        self.position = FRAMES_START;
        Ok(())
    }

    #[inline]
    pub(crate) fn slack(&self, len: usize) -> Slack {
        let end = self.position + len;
        if end > self.limit {
            Slack::Full
        } else if end > self.room.prepared() {
            Slack::Prepare(end)
        } else {
            Slack::Fits
        }
    }

    /// Appends a frame of `len` bytes that [fits](Slack::Fits). It is published when this returns.
    ///
    /// # Errors
    ///
    /// What the write returned; the segment is as before then.
    #[inline]
    pub(crate) fn append(
        &mut self,
        body: &impl FrameBody,
        len: usize,
        stamp: Stamp,
    ) -> io::Result<()> {
        let position = self.position;
        let seed = self.seed.at(narrow(position));
        match &mut self.sink {
            Sink::Mapped(writer) => {
                let tail = writer.tail(len).ok_or(io::ErrorKind::StorageFull)?;
                if !frame::encode(tail, seed, stamp, body) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                writer.publish(len);
            }
            Sink::Buffered { published, scratch } => {
                scratch.resize(len, 0);
                if !frame::encode(scratch, seed, stamp, body) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if let Err(error) = fs::write_full(&*self.file, scratch, position as u64) {
                    roll_back(&*self.file, scratch, position);
                    return Err(error);
                }
                published.store(position + len, Ordering::Release);
            }
        }
        self.indexer
            .note(position, stamp.relative_offset, stamp.append_time);
        self.position += len;
        Ok(())
    }

    /// The published end.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn has_frames(&self) -> bool {
        self.position > FRAMES_START
    }

    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(crate) fn room(&self) -> &Arc<Preparation> {
        &self.room
    }

    /// The index of what this has published, now and later.
    pub(crate) fn index(&self) -> LiveIndex {
        self.indexer.live().clone()
    }

    /// Reads what this has published, now and later.
    pub(crate) fn view(&self, copy: bool) -> View {
        let shape = Shape::from(&self.header);
        match &self.sink {
            Sink::Mapped(writer) if !copy => View::mapped(shape, writer.reader()),
            Sink::Mapped(writer) => {
                let (file, end) = (Arc::clone(&self.file), End::Mapped(writer.reader()));
                View::copied(shape, file, end)
            }
            Sink::Buffered { published, .. } => {
                let (file, end) = (Arc::clone(&self.file), End::Shared(Arc::clone(published)));
                View::copied(shape, file, end)
            }
        }
    }
}

/// Puts zeros over what a failed write may have left behind the end. Best effort: if this fails
/// too, the next frame is written over it, and recovery takes what is behind that for a torn tail.
fn roll_back(file: &dyn File, scratch: &mut [u8], position: usize) {
    scratch.fill(0);
    drop(fs::write_full(file, scratch, position as u64));
}
