//! The locks of this crate. They are `parking_lot`'s; but a thread of a simulated machine that
//! meets a held lock lets the machine choose who runs next, as the holder may be waiting for its
//! turn.

use std::fmt;

pub(crate) use parking_lot::MutexGuard;
use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

/// Takes a lock by trying, if this is a thread of a simulated machine; else `None`.
#[inline]
fn take_in_turn<G>(attempt: impl FnMut() -> Option<G>) -> Option<G> {
    #[cfg(feature = "testing")]
    return super::sim::take_in_turn(attempt);
    #[cfg(not(feature = "testing"))]
    {
        drop(attempt);
        None
    }
}

/// A lock that one thread has at a time.
#[derive(Default)]
pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        take_in_turn(|| self.0.try_lock()).unwrap_or_else(|| self.0.lock())
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lock that many readers have at a time, or one writer.
#[derive(Default)]
pub(crate) struct RwLock<T>(parking_lot::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::RwLock::new(value))
    }

    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        take_in_turn(|| self.0.try_read()).unwrap_or_else(|| self.0.read())
    }

    #[inline]
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        take_in_turn(|| self.0.try_write()).unwrap_or_else(|| self.0.write())
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
