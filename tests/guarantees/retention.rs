//! What is kept, what goes, who is told, and what a log does that is full.

mod common;

mod crashes;
mod limits;
