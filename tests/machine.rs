//! The seam between the library and the machine: what both implementations of it promise, and what
//! the simulated one can do to a program.
#![cfg(feature = "testing")]

#[path = "machine/conformance.rs"]
mod conformance;
#[path = "machine/faults.rs"]
mod faults;
#[path = "machine/memory.rs"]
mod memory;
#[path = "machine/schedule.rs"]
mod schedule;
#[path = "machine/storage.rs"]
mod storage;
#[path = "machine/waiting.rs"]
mod waiting;
