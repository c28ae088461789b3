//! The names of producers, for those who read. Frames have ids; the name is in the producer's first
//! frame of each segment, which whoever starts in the middle has not seen.

use std::{collections::HashMap, sync::Arc};

use super::{
    Shared,
    cursor::{Cursor, Limits, Span},
    read_only::ReadOnly,
    snapshots,
    source::Source,
};
use crate::{
    error::Result,
    format::frame,
    fs::{Mutex, RwLock},
    offset::Offset,
};

/// How much is searched at once.
const SEARCH_RECORDS: usize = 4096;
const SEARCH_BYTES: usize = 1 << 20;

/// The named producer that sent a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SentBy {
    /// `None` if nothing that is left says it.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) id: u32,
    pub(crate) epoch: u32,
    /// Of the frame's first record, removed or not.
    pub(crate) first_sequence: u64,
}

/// The names of a log's producers, as far as they were asked for. An id is one name's for ever.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// By id; `None` if it was looked for in vain.
    known: RwLock<HashMap<u32, Option<Arc<str>>>>,
    /// Frames below were searched for names.
    searched: Mutex<Offset>,
}

impl Names {
    /// The name of `id`, which the frame itself may tell, else `find` finds. Errors are none's fault
    /// who only asks for a name: it is not known then, and looked for again.
    fn resolve(
        &self,
        id: u32,
        told: &str,
        find: impl FnOnce() -> Result<Option<Arc<str>>>,
    ) -> Option<Arc<str>> {
        let known = self.known.read().get(&id).cloned();
        match known {
            Some(Some(name)) => return Some(name),
            Some(None) if told.is_empty() => return None,
            _ => {}
        }
        let name = if told.is_empty() {
            find().ok()?
        } else {
            Some(told.into())
        };
        self.known.write().insert(id, name.clone());
        name
    }

    fn add(&self, id: u32, name: &str) {
        if !name.is_empty() {
            self.known.write().insert(id, Some(name.into()));
        }
    }

    fn get(&self, id: u32) -> Option<Arc<str>> {
        self.known.read().get(&id).cloned().flatten()
    }
}

impl Cursor {
    /// The named producer that sent a frame that was read last, if one did.
    pub(crate) fn sent_by(&self, span: &Span) -> Option<SentBy> {
        let sender = frame::trusted(self.bytes(span))?.sender?;
        let source = self.source();
        let find = || Arc::clone(source).find_name(sender.id);
        Some(SentBy {
            name: source.names().resolve(sender.id, sender.name, find),
            id: sender.id,
            epoch: sender.epoch,
            first_sequence: sender.sequence,
        })
    }
}

impl Shared {
    /// The name of a producer, from the table of those who append.
    pub(super) fn name_of(&self, id: u32) -> Option<Arc<str>> {
        self.append.lock().producers.name_of(id)
    }
}

impl ReadOnly {
    /// Looks for the name of a producer where opening the log for writing does: in the snapshot of
    /// what is known, and in the frames that it does not have. Each of those is read once.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`.
    pub(super) fn search_name(self: Arc<Self>, id: u32) -> Result<Option<Arc<str>>> {
        let names = &self.names;
        // Whoever comes second finds what the first has found.
        let mut searched = names.searched.lock();
        if let Some(name) = names.get(id) {
            return Ok(Some(name));
        }
        let mark = self.checkpoint()?.producers;
        let found = snapshots::find(&**self.host(), &self.dir, self.meta.id, mark)?;
        for known in &found.snapshot.producers {
            names.add(known.id, &known.name);
        }
        let from = found.from.max(*searched).max(self.start());
        let mut cursor = Cursor::new(Arc::clone(&self) as Arc<dyn Source>, from);
        let limits = Limits {
            records: SEARCH_RECORDS,
            bytes: SEARCH_BYTES,
            end: Offset::MAX,
            unpack: false,
        };
        while names.get(id).is_none() {
            let before = cursor.position();
            cursor.advance(limits)?;
            for span in cursor.spans() {
                let frame = frame::trusted(cursor.bytes(span));
                if let Some(sender) = frame.and_then(|frame| frame.sender) {
                    names.add(sender.id, sender.name);
                }
            }
            *searched = cursor.position();
            if cursor.position() == before {
                break;
            }
        }
        Ok(names.get(id))
    }
}
