//! Bytes as a segment's header: as they are, and put over a header that is intact, so that
//! either copy may have to stand in for the other.
#![no_main]

use duralog::testing::decode_segment_header;
use duralog_fuzz::forge;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, u64, u16, &[u8])| {
    let (id, base, position, bytes) = input;
    decode_segment_header(bytes);
    let intact = forge::segment_header(id, base, base, 0, 0);
    assert_eq!(decode_segment_header(&intact), Some((id, base)));

    let mut edited = intact.clone();
    let position = usize::from(position) % edited.len();
    for (old, new) in edited[position..].iter_mut().zip(bytes) {
        *old = *new;
    }
    let found = decode_segment_header(&edited);
    let is_intact = |copy: usize| edited[copy..copy + 56] == intact[copy..copy + 56];
    assert!(found.is_some() || !is_intact(0) && !is_intact(512));
});
