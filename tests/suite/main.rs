//! The behaviour of the library through its public API, on the real file system of the machine
//! and on one that fails when told to.
#![cfg(feature = "testing")]

mod append_read;
mod common;
mod compression;
mod concurrency;
mod faults;
mod index;
mod maintenance;
mod names;
mod opening;
mod real_disks;
mod receipts;
mod recovery;
mod waiting;
