//! The library on a simulated machine, and what is known there of what it promised.

pub mod examine;
pub mod kept;
pub mod neighbour;
pub mod oracle;
pub mod world;

/// Where the log is on a simulated machine.
pub const PATH: &str = "/data/log";
