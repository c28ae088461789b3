//! Bytes as a file of two slots: as they are; as a payload; as a payload in slots that are intact.
#![no_main]

use duralog::testing::{SlotContent, decode_payload, decode_slots};
use duralog_fuzz::forge;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, u64, &[u8])| {
    let (first, second, bytes) = input;
    for (content, magic) in [
        (SlotContent::Meta, forge::META),
        (SlotContent::Checkpoint, forge::CHECKPOINT),
        (SlotContent::Group, forge::GROUP),
    ] {
        decode_slots(bytes, content);
        let says = decode_payload(bytes, content);
        let mut file = forge::slots(magic, [first, second], bytes);
        if bytes.len() <= 4096 - 28 {
            assert_eq!(decode_slots(&file, content), says);
        }
        // What one slot says, the other does not change.
        file[usize::from(bytes.first().copied().unwrap_or(0))] ^= 1;
        let fallen_back = decode_slots(&file, content);
        assert!(fallen_back == says || bytes.len() > 4096 - 28);
    }
});
