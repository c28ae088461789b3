//! What compaction asks of a segment, and does with it.

use std::sync::{Arc, atomic::Ordering};

use super::{FooterState, Segment, Segments};
use crate::{
    error::Result,
    format::segment::{Compacted, FOOTER_LEN},
    fs::{Access, Host},
    log::recover,
};

impl Segment {
    /// Whether it is durable as a whole, and has its footer.
    pub(in crate::log) fn is_sealed(&self) -> bool {
        let state = self.state.lock();
        let written = !matches!(state.footer, Some(FooterState::Unwritten(_)));
        state.frames_end.is_some() && written
    }

    /// Bytes of its file, once it is sealed.
    pub(in crate::log) fn file_bytes(&self) -> u64 {
        let frames_end = self.state.lock().frames_end;
        frames_end.map_or(0, |end| (end + FOOTER_LEN) as u64)
    }

    pub(in crate::log) fn compacted(&self) -> Option<Compacted> {
        self.header?.compacted
    }

    /// The append time of the last frame of a sealed segment, if it can be read.
    pub(in crate::log) fn last_time(&self, host: &dyn Host) -> Option<u64> {
        if let Some(compacted) = self.compacted() {
            return Some(compacted.last_time);
        }
        let end = self.state.lock().frames_end?;
        let file = host.open(&self.path, Access::Read).ok()?;
        let end = end + FOOTER_LEN;
        let footer = recover::read_footer(&*file, &self.path, end, &self.header?);
        Some(footer.ok()??.0.last_time)
    }

    /// Its file is about to lose its name to another one: from now on whoever comes with this
    /// segment in hand is served by a view of its own file.
    ///
    /// # Errors
    ///
    /// `Io` if it can't be opened; nothing is changed then.
    pub(in crate::log) fn retire(&self, host: &dyn Host, copy: bool) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(header) = self.header {
            self.view_in(&mut state, header, host, copy)?;
            state.retired = true;
        }
        Ok(())
    }

    /// It kept its name.
    pub(in crate::log) fn unretire(&self) {
        self.state.lock().retired = false;
        self.release_view();
    }
}

impl Segments {
    /// Puts a segment in the place of another one. Who reads that one goes on.
    pub(in crate::log) fn replace(&self, old: &Arc<Segment>, new: Arc<Segment>) {
        // It is as old as the other one.
        new.set_newest(old.newest());
        self.rolled_bytes.fetch_add(new.bytes(), Ordering::Relaxed);
        self.rolled_bytes.fetch_sub(old.bytes(), Ordering::Relaxed);
        self.table.write().insert(new.base, new);
        let mut cached = self.cached.lock();
        cached.retain(|segment| !Arc::ptr_eq(segment, old));
    }
}
