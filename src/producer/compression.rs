//! Compressing what is sent, before the append lock is taken.

use std::cell::Cell;

use crate::{
    format::{
        body::{FrameBody, RecordsBody},
        compressed::{CompressedBody, Memory, compress},
    },
    options::Compression,
    record::AsRecord,
};

thread_local! {
    /// A send takes it and gives it back: so one within another, from a waker say, finds nothing
    /// here, and not the memory that is in use.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Memory of a thread that compresses.
#[derive(Debug, Default)]
struct Scratch {
    records: Memory,
    block: Memory,
}

/// Calls `append` with these records, compressed; or with `None` where that makes them no smaller
/// than `body`, which they are otherwise.
pub(super) fn with_compressed<R: AsRecord, T>(
    records: &[R],
    body: &impl FrameBody,
    codec: Compression,
    append: impl FnOnce(Option<CompressedBody<'_>>) -> T,
) -> T {
    // Where the thread ends and its memory is gone already, there is new one.
    let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
    let encoded = RecordsBody::new(records).encode_into(&mut scratch.records);
    let count = records.len() as u64;
    let appended = append(compress(
        encoded,
        count,
        codec,
        body.len(),
        &mut scratch.block,
    ));
    scratch.records.trim();
    scratch.block.trim();
    // What a send within this one gave back is dropped; so is this, where the thread ends.
    drop(SCRATCH.try_with(|kept| kept.replace(scratch)));
    appended
}
