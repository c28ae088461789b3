//! DESIGN 2.4: consumers, every way to commit and every way to fail.

mod beside;
mod commits;
mod groups;
mod kills;
mod model;
mod modes;
mod overdue;
mod parallel;
mod positions;
mod process;
mod sequences;
mod shared_commits;
mod stores;
mod waiting;
mod workers;
