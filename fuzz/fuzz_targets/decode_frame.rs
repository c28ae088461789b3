//! Bytes as a frame: as they are, which tests what comes before the checksum, and with a checksum
//! that holds, which tests the bodies behind it.
#![no_main]

use duralog::testing::{decode_frame, seal_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, u32, &[u8])| {
    let (id, position, bytes) = input;
    let check = |bytes: &[u8]| {
        let count = decode_frame(bytes, id, position);
        let is_zeros = bytes.iter().all(|&byte| byte == 0);
        assert!(!(is_zeros && count.is_some()), "zeros are no frame");
        // A record takes a byte at least, but for the one of a plain frame.
        assert!(count.is_none_or(|count| (1..=bytes.len()).contains(&count)));
        count
    };
    check(bytes);
    let mut sealed = bytes.to_vec();
    seal_frame(&mut sealed, id, position);
    if check(&sealed).is_some() {
        assert_eq!(decode_frame(&sealed, id, position.wrapping_add(1)), None);
        assert_eq!(decode_frame(&sealed, id.wrapping_add(1), position), None);
    }
});
