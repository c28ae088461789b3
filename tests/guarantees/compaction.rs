//! Compaction: of each key the last record is kept, and nothing else that it promises is broken.

#[path = "compaction/common.rs"]
mod common;

#[path = "compaction/crashes.rs"]
mod crashes;
#[path = "compaction/damage.rs"]
mod damage;
#[path = "compaction/keys.rs"]
mod keys;
#[path = "compaction/model.rs"]
mod model;
#[path = "compaction/options.rs"]
mod options;
#[path = "compaction/passes.rs"]
mod passes;
#[path = "compaction/producers.rs"]
mod producers;
#[path = "compaction/readers.rs"]
mod readers;
#[path = "compaction/tombstones.rs"]
mod tombstones;
