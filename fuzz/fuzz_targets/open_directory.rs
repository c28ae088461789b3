//! A directory of files that say anything at all, most of them with checksums that hold, opened
//! and used as a log.
#![no_main]

use duralog_fuzz::directory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: directory::Input| directory::run(&input));
