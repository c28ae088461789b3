//! What is kept, what goes, who is told, and what a log does that is full.

mod common;

mod compacted;
mod crashes;
mod deleting;
mod disk_full;
mod full;
mod groups;
mod limits;
mod senders;
mod warnings;
