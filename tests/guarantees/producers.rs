//! DESIGN 2.1 and 2.3: what a buffered producer takes ends in one acknowledgement or one error.

#[path = "producers/common.rs"]
mod common;

#[path = "producers/buffer.rs"]
mod buffer;
#[path = "producers/ends.rs"]
mod ends;
#[path = "producers/linger.rs"]
mod linger;
#[path = "producers/model.rs"]
mod model;
#[path = "producers/receipts.rs"]
mod receipts;
#[path = "producers/retries.rs"]
mod retries;
