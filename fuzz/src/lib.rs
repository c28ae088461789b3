//! What the fuzz targets share: checksums that hold, a small log of known content, and everything
//! that one does with a log.

pub mod damage;
pub mod directory;
pub mod exercise;
pub mod forge;
pub mod specimen;

use std::path::Path;

use tempfile::TempDir;

/// A directory for small files, in memory where there is such a place.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        TempDir::new_in(memory)
    } else {
        TempDir::new()
    };
    made.expect("a directory for temporary files")
}
