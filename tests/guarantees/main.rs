//! The guarantees of the library, one after the other: each test is named by a sentence, and holds
//! it on a simulated machine that is crashed, filled, and lied to by its disk.
#![cfg(feature = "testing")]

#[path = "../common/sim/mod.rs"]
#[expect(
    dead_code,
    reason = "what only the sweep over all crashes looks at is not needed here"
)]
mod sim;

mod common;

mod acks;
mod compaction;
mod consumers;
mod failures;
mod flush;
mod losses;
mod named;
mod offsets;
mod producers;
mod recovery;
mod retention;
mod twice;
