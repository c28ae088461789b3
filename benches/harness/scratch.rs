//! A directory for one measurement.

use std::{path::Path, process::Command};

use crate::arguments::Anyhow;

/// Measures in a new directory below `dir`. Returns once the directory is gone and the file system
/// has nothing more to write, so that the next measurement is not disturbed.
pub fn in_scratch<T>(dir: &Path, measure: impl FnOnce(&Path) -> Anyhow<T>) -> Anyhow<T> {
    let scratch = tempfile::tempdir_in(dir)?;
    let measured = measure(scratch.path())?;
    scratch.close()?;
    let synced = Command::new("sync").arg("-f").arg(dir).status()?;
    if !synced.success() {
        return Err("cannot sync the file system".into());
    }
    Ok(measured)
}
