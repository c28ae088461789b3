//! The two ways out: results to standard output, all else to standard error.

use std::{
    fmt,
    io::{self, BufWriter, StdoutLock, Write},
};

const BUFFER_BYTES: usize = 64 << 10;

/// Standard output, for results. What must have reached it is flushed.
pub fn results() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock())
}

/// A line on standard error. If nobody listens there, nobody is told.
pub fn note(message: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr().lock(), "duralog: {message}"));
}
