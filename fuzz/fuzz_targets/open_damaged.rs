//! A log of known content, damaged: bytes changed, files cut, extended, removed, put in place of
//! others. Whatever is done, no record is served that was not written, nothing is missing unsaid,
//! and no offset is used again.
#![no_main]

use duralog_fuzz::damage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: damage::Input| damage::run(&input));
