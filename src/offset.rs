//! The number of a record.

use std::fmt;

/// The number of a record in its log: dense, from 0, never reused.
///
/// An offset counts records. A byte in a file is a *position*, which is another thing.
///
/// ```
/// use duralog::Offset;
///
/// let first = Offset::new(41);
/// assert_eq!(first.next(), Offset::new(42));
/// assert_eq!(first.to_string(), "41");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Offset = Offset(0);
    /// Above every record: no log reaches it.
    pub(crate) const MAX: Offset = Offset(u64::MAX);

    /// The offset with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.advance(1)
    }

    /// The offset `records` further on. Saturates at `u64::MAX`, which no log reaches.
    #[must_use]
    pub const fn advance(self, records: u64) -> Self {
        Self(self.0.saturating_add(records))
    }

    /// How many records lie from `earlier` (included) to this one (excluded); 0 if none do.
    pub const fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<u64> for Offset {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<Offset> for u64 {
    fn from(offset: Offset) -> Self {
        offset.0
    }
}

impl PartialEq<u64> for Offset {
    fn eq(&self, other: &u64) -> bool {
        self.0 == *other
    }
}
