//! What goes on beside the appends.

use std::fmt;

use duralog::Stats;

/// How often what happened while something was measured.
pub struct Background {
    /// Files that were begun behind the first one.
    pub rolls: u64,
    pub syncs: u64,
    /// Appends that met memory that was not prepared yet.
    pub late: u64,
}

/// Of a log that has appended nothing but what was measured.
impl From<Stats> for Background {
    fn from(stats: Stats) -> Self {
        Self {
            rolls: stats.segments - 1,
            syncs: stats.syncs,
            late: stats.late_preparations,
        }
    }
}

impl fmt::Display for Background {
    /// Members of a JSON object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rolls, syncs, late } = self;
        write!(f, r#""rolls":{rolls},"syncs":{syncs},"late":{late}"#)
    }
}
