//! The `duralog` command as scripts use it: its options, what it prints, and how it ends.
#![cfg(feature = "cli")]

#[path = "common/cli.rs"]
mod cli;

#[path = "cli/compact.rs"]
mod compact;
#[path = "cli/compress.rs"]
mod compress;
#[path = "cli/consume.rs"]
mod consume;
#[path = "cli/groups.rs"]
mod groups;
#[path = "cli/look.rs"]
mod look;
#[path = "cli/produce.rs"]
mod produce;
#[path = "cli/refuse.rs"]
mod refuse;
#[path = "cli/retain.rs"]
mod retain;
#[path = "cli/wait.rs"]
mod wait;
