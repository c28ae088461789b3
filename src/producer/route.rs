//! How the frames of a producer get into the log: under its name, if it has one.

use super::named::Name;
use crate::{
    error::Result,
    format::body::FrameBody,
    log::{Shared, Waiter},
    offset::Offset,
    options::Compression,
};

/// What the frames of a producer have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Route {
    pub(super) name: Option<Name>,
    pub(super) compression: Compression,
    pub(super) waiter: Waiter,
}

impl Route {
    /// Appends a frame; with a name it takes the sequences that are next.
    ///
    /// # Errors
    ///
    /// Those of [`Shared::append`], and `Fenced`.
    #[inline]
    pub(super) fn append(&self, log: &Shared, body: &impl FrameBody) -> Result<Offset> {
        match &self.name {
            None => log.append(body, self.waiter),
            Some(name) => name.append(log, body, self.waiter),
        }
    }

    /// Bytes that a frame takes at most beside its body.
    pub(super) fn overhead(&self) -> u64 {
        self.name.as_ref().map_or(0, |name| name.overhead() as u64)
    }
}
