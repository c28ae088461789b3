//! Bytes as a frame: as they are, which tests what comes before the checksum; with a checksum that
//! holds, which tests the bodies behind it; and as compressed records, in a block that is one and in
//! a block of those very bytes, behind numbers that say anything.
#![no_main]

use duralog::testing::{decode_frame, seal_frame};
use duralog_fuzz::forge;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, u32, u16, u32, &[u8])| {
    let (id, position, count, len, bytes) = input;
    check(bytes, id, position);
    let mut sealed = bytes.to_vec();
    seal_frame(&mut sealed, id, position);
    check_sealed(&sealed, id, position);
    let block = forge::lz4_block(bytes);
    for (block, len) in [(&block, bytes.len() as u64), (&block, len.into())] {
        let body = forge::compressed_body(count.into(), len, block);
        check_sealed(&forge::compressed_frame(id, position, &body), id, position);
    }
    let body = forge::compressed_body(count.into(), len.into(), bytes);
    check_sealed(&forge::compressed_frame(id, position, &body), id, position);
});

fn check(bytes: &[u8], id: u64, position: u32) -> Option<usize> {
    let count = decode_frame(bytes, id, position);
    let is_zeros = bytes.iter().all(|&byte| byte == 0);
    assert!(!(is_zeros && count.is_some()), "zeros are no frame");
    // A record takes a byte at least, but for the one of a plain frame; and a byte of a block
    // stands for 255 at most.
    let most = 255 * bytes.len();
    assert!(count.is_none_or(|count| (1..=most).contains(&count)));
    count
}

fn check_sealed(sealed: &[u8], id: u64, position: u32) {
    if check(sealed, id, position).is_some() {
        assert_eq!(decode_frame(sealed, id, position.wrapping_add(1)), None);
        assert_eq!(decode_frame(sealed, id.wrapping_add(1), position), None);
    }
}
