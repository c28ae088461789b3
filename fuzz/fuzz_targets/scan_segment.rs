//! Bytes as a segment: as they are, and made of frames whose checksums hold, footers, zeros and
//! garbage.
#![no_main]

use duralog::testing::scan_segment;
use duralog_fuzz::forge::Segment;
use libfuzzer_sys::{
    arbitrary::{Arbitrary, Unstructured},
    fuzz_target,
};

fuzz_target!(|bytes: &[u8]| {
    scan_segment(bytes);
    let Ok(segment) = Segment::arbitrary(&mut Unstructured::new(bytes)) else {
        return;
    };
    let bytes = segment.bytes();
    let (frames, holes) = scan_segment(&bytes).expect("its header is intact");
    let room = bytes.len() as u64 / 24;
    assert!(frames <= room && holes as u64 <= room);
});
