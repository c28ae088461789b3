//! Makes room ahead of the writer: allocates blocks, and touches the pages of a mapping.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::fs::{File, Mutex, Preparer};

/// Blocks are allocated in multiples of this.
const GRAIN: usize = 64 << 10;
/// The least that is worth an attempt when space is short: a page.
const PAGE: usize = 4096;
/// Populated in one go; the writer may go on as soon as each is done.
const STEP: usize = 1 << 20;

/// The room of one segment. The writer and the maintenance thread share it.
#[derive(Debug)]
pub(crate) struct Preparation {
    file: Arc<dyn File>,
    /// The mapping, if the segment is written through one.
    map: Option<Preparer>,
    capacity: usize,
    /// Blocks are allocated up to here.
    allocated: AtomicUsize,
    /// Held while more is allocated.
    working: Mutex<()>,
}

impl Preparation {
    pub(crate) fn new(
        file: Arc<dyn File>,
        map: Option<Preparer>,
        capacity: usize,
        allocated: usize,
    ) -> Self {
        let allocated = AtomicUsize::new(allocated);
        Self {
            file,
            map,
            capacity,
            allocated,
            working: Mutex::new(()),
        }
    }

    /// How far the writer may write.
    pub(crate) fn prepared(&self) -> usize {
        self.allocated.load(Ordering::Acquire)
    }

    /// Prepares up to `end`, in steps; where space is short, as near to it as can be if that is
    /// at least `least`.
    ///
    /// # Errors
    ///
    /// What the allocation returned. The file is no longer than what is prepared then.
    pub(crate) fn extend(&self, least: usize, end: usize) -> io::Result<()> {
        let end = end.next_multiple_of(GRAIN).min(self.capacity);
        while self.prepared() < end {
            let _working = self.working.lock();
            let from = self.prepared();
            if from >= end {
                break;
            }
            let to = end.min(from.next_multiple_of(GRAIN) + STEP);
            match self.step(from, to) {
                Ok(()) => {}
                Err(_) if from >= least => break,
                Err(error) => {
                    let short = least.next_multiple_of(PAGE).min(self.capacity);
                    if short >= to || self.step(from, short).is_err() {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn step(&self, from: usize, to: usize) -> io::Result<()> {
        match (
            self.file.allocate(from as u64, (to - from) as u64),
            &self.map,
        ) {
            (Ok(()), Some(map)) => map.prepare(to)?,
            (Ok(()), None) => {}
            // Without a mapping, a full disk is an error of the write and no signal.
            (Err(error), None) if error.kind() == io::ErrorKind::Unsupported => {}
            (Err(error), _) => return Err(error),
        }
        self.allocated.store(to, Ordering::Release);
        Ok(())
    }
}
