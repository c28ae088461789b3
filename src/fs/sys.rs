//! The system calls that no library of ours has.

#![expect(unsafe_code, reason = "calls into the C library")]

#[cfg(target_os = "linux")]
use std::ffi::CString;
use std::{fs::File, io, os::fd::AsRawFd, path::Path};

/// Allocates blocks for a range and extends the file over it. On failure the file may be longer
/// than before: ext4 leaves what it had got by then.
#[cfg(target_os = "linux")]
pub(super) fn allocate(file: &File, position: u64, len: u64) -> io::Result<()> {
    let too_far = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let position = libc::off_t::try_from(position).map_err(too_far)?;
    let len = libc::off_t::try_from(len).map_err(too_far)?;
    loop {
        // SAFETY: takes no pointers; the descriptor is open as long as `file` is borrowed.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, position, len) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, error));
            }
            _ => return Err(error),
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Has the device begin with what is dirty of the file. That is all: nothing is durable by it, and
/// an error on the way is told by the next sync.
#[cfg(target_os = "linux")]
pub(super) fn begin_writeback(file: &File) {
    const TO_THE_END: libc::off64_t = 0;

    // SAFETY: takes no pointers; the descriptor is open as long as `file` is borrowed.
    let _result = unsafe {
        libc::sync_file_range(file.as_raw_fd(), 0, TO_THE_END, libc::SYNC_FILE_RANGE_WRITE)
    };
}

#[cfg(not(target_os = "linux"))]
pub(super) fn begin_writeback(_: &File) {}

/// Renames to a name that nothing has yet.
#[cfg(target_os = "linux")]
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (old, new) = (c_path(from)?, c_path(to)?);
    let cwd = libc::AT_FDCWD;
    // SAFETY: both paths end with a zero byte and live until the call returns.
    let result =
        unsafe { libc::renameat2(cwd, old.as_ptr(), cwd, new.as_ptr(), libc::RENAME_NOREPLACE) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // The file system does not know the flag.
        Some(libc::EINVAL | libc::ENOSYS) => rename_checked(from, to),
        _ => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_checked(from, to)
}

/// The log's lock keeps other writers out between the look and the rename.
fn rename_checked(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(to) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::rename(from, to),
        Err(error) => Err(error),
    }
}

#[cfg(target_os = "linux")]
fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;

    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Whether the file system overwrites allocated blocks in place. btrfs does not, network and user
/// space file systems promise nothing.
#[cfg(target_os = "linux")]
pub(super) fn overwrites_in_place(path: &Path) -> bool {
    use std::mem::MaybeUninit;

    // The numbers are those of statfs(2).
    const EXT: i64 = 0xef53;
    const XFS: i64 = 0x5846_5342;
    const TMPFS: i64 = 0x0102_1994;

    let Ok(path) = c_path(path) else {
        return false;
    };
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` ends with a zero byte, `found` has room for what the call writes.
    let result = unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) };
    if result != 0 {
        return false;
    }
    // SAFETY: the call succeeded, so it filled the structure; and all zeros are valid for it.
    let found = unsafe { found.assume_init() };
    matches!(found.f_type, EXT | XFS | TMPFS)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn overwrites_in_place(_: &Path) -> bool {
    false
}

/// Milliseconds since the Unix epoch; on Linux by the coarse clock, which costs 3 ns where the
/// precise one costs 21 and moves every 1 to 10 ms.
#[cfg(target_os = "linux")]
pub(super) fn wall_millis() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` has room for what the call writes.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut time) };
    debug_assert_eq!(result, 0, "the coarse clock is there since Linux 2.6.32");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000)
        .saturating_add(nanos / 1_000_000)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn wall_millis() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};

    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
