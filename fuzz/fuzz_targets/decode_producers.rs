//! Bytes as what is known of named producers, with a checksum that holds and the log's own id.
#![no_main]

use duralog::testing::decode_producers;
use libfuzzer_sys::fuzz_target;

const VERSION: u16 = 1;

fuzz_target!(|input: (u64, &[u8])| {
    let (log_id, bytes) = input;
    let mut file = vec![0; 12];
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&[0; 2]);
    file.extend_from_slice(&log_id.to_le_bytes());
    file.extend_from_slice(bytes);
    decode_producers(&mut file, log_id);
});
