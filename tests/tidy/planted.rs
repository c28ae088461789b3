//! Each check finds what it is there to find, and leaves alone what only looks like it.

use super::*;

fn count(check: fn(&str, &str) -> Vec<String>, path: &str, text: &str) -> usize {
    check(path, text).len()
}

#[test]
fn a_layer_that_names_a_higher_one_is_found() {
    let planted = "use crate::{\n    error::Result,\n    log::{Log, handle},\n};\n";
    let found = layer_violations("src/group/mod.rs", planted);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("mod.rs:3: group must not name crate::log"));
    assert_eq!(count(layer_violations, "src/log/mod.rs", planted), 0);
}

#[test]
fn siblings_that_name_each_other_are_found() {
    let planted = "fn f() -> crate::consumer::Batch { crate::log::f() }";
    assert_eq!(count(layer_violations, "src/producer/mod.rs", planted), 1);
    assert_eq!(count(layer_violations, "src/api.rs", planted), 0);
}

#[test]
fn a_layer_is_not_left_by_way_of_super() {
    let planted = "use super::super::log::Log;";
    assert_eq!(count(layer_violations, "src/group/member.rs", planted), 1);
    let planted = "use super::log::Log;";
    assert_eq!(count(layer_violations, "src/group/mod.rs", planted), 1);
    assert_eq!(count(layer_violations, "src/offset.rs", planted), 1);
    let inside = "use super::segment::SegmentHeader;";
    assert_eq!(count(layer_violations, "src/format/frame.rs", inside), 0);
}

#[test]
fn a_layer_without_a_line_in_the_table_is_found() {
    let found = layer_violations("src/broker/mod.rs", "");
    assert_eq!(
        found,
        ["src/broker/mod.rs: give the layer broker a line in LAYERS"]
    );
}

#[test]
fn a_function_in_the_crate_root_is_found() {
    let planted = "pub use api::Log; // fn in a comment\nfn logic() {}\n";
    assert_eq!(count(layer_violations, "src/lib.rs", planted), 1);
    assert_eq!(
        count(layer_violations, "src/lib.rs", "pub use api::Log;"),
        0
    );
}

#[test]
fn comments_and_literals_name_nothing() {
    let text = "// crate::log::Log\n/* crate::log /* crate::log */ crate::log */\n\
                const A: &str = \"crate::log::Log\";\nconst B: &str = r#\"\" crate::log\"#;\n\
                const C: char = '\"'; /// crate::log\nfn f<'a>(_: &'a str) {}\n";
    assert_eq!(count(layer_violations, "src/group/mod.rs", text), 0);
}

#[test]
fn dangerous_words_outside_their_fence_are_found() {
    for planted in [
        "unsafe { f() }",
        "use libc::c_int;",
        "use fs2::FileExt;",
        "use memmap2::Mmap;",
        "use crc32fast::Hasher;",
        "use std::fs::File;",
        "use std::{\n    fs::File,\n    io,\n};",
    ] {
        assert_eq!(
            count(fence_violations, "src/log/mod.rs", planted),
            1,
            "{planted}"
        );
    }
    for allowed in [
        "// unsafe and std::fs",
        "#![expect(unsafe_code)]",
        "const WHY: &str = \"unsafe libc\";",
        "use std::{io, path::Path};",
    ] {
        assert_eq!(
            count(fence_violations, "src/log/mod.rs", allowed),
            0,
            "{allowed}"
        );
    }
    let inside = "use std::fs; unsafe { libc::fsync(0) }";
    assert_eq!(count(fence_violations, "src/fs/sys.rs", inside), 0);
    assert_eq!(count(fence_violations, "src/error.rs", "libc::ELOOP"), 0);
    let checksum = "use crc32fast::Hasher;";
    let allowed = count(fence_violations, "src/format/checksum.rs", checksum);
    assert_eq!(allowed, 0);
}

#[test]
fn a_file_that_is_too_long_is_found() {
    let at_limit = "// a line\n".repeat(MAX_FILE_LINES);
    assert_eq!(count(size_violations, "src/a.rs", &at_limit), 0);
    let over = at_limit + "// one more\n";
    assert_eq!(count(size_violations, "src/a.rs", &over), 1);
}

/// A function of this many lines, with what may mislead a counter of braces.
fn function_of(lines: usize) -> String {
    let body = "    f('{', \"{\"); // {\n".repeat(lines - 2);
    format!("fn long<'a>(\n_: [u8; 4]) -> &'a str\n{{\n{body}}}\n").replacen("\n_", "_", 1)
}

#[test]
fn a_function_that_is_too_long_is_found() {
    let at_limit = function_of(MAX_FUNCTION_LINES - 1);
    assert_eq!(functions(&code_of(&at_limit))[0].2, MAX_FUNCTION_LINES);
    assert_eq!(count(size_violations, "src/a.rs", &at_limit), 0);
    let over = function_of(MAX_FUNCTION_LINES);
    assert_eq!(count(size_violations, "src/a.rs", &over), 1);
}

#[test]
fn a_function_without_a_body_has_no_length() {
    let text = "trait T { fn f(&self) -> [u8; 2];\n fn g(&self) {\n } }\ntype F = fn(u8);\n";
    let found = functions(&code_of(text));
    assert_eq!(found, [("g".to_owned(), 2, 2)]);
}

#[test]
fn characters_beyond_ascii_are_found() {
    let found = text_violations("src/a.rs", "// plain\n// na\u{ef}ve\n");
    assert_eq!(found, ["src/a.rs:2: not ASCII; write \\u{ef}"]);
}

#[test]
fn leftovers_are_found_as_words() {
    for leftover in LEFTOVERS {
        let planted = format!("// {leftover}: later\n");
        assert_eq!(
            count(text_violations, "src/a.rs", &planted),
            1,
            "{leftover}"
        );
    }
    let allowed = format!("// {}LIST\n", LEFTOVERS[0]);
    assert_eq!(count(text_violations, "src/a.rs", &allowed), 0);
}

#[test]
fn results_that_are_dropped_are_found() {
    for planted in [
        "fn f() { g().ok(); }",
        "fn f() { if a { b } g(|x| { x = 1; x })\n    .ok(); }",
        concat!("fn f() { l", "et _ = g(); }"),
        concat!("fn f() { l", "et _: Result<()> = g(); }"),
    ] {
        assert_eq!(
            count(dropped_result_violations, "src/a.rs", planted),
            1,
            "{planted}"
        );
    }
    for allowed in [
        "fn f() { let a = g().ok(); }",
        "fn f() { let a = match b { c => d }.ok(); }",
        "fn f() { a = b.map(|x| { x }).ok(); return c.ok(); }",
        "fn f() { let _guard = lock(); drop(g()); }",
        "// g().ok();",
    ] {
        assert_eq!(
            count(dropped_result_violations, "src/a.rs", allowed),
            0,
            "{allowed}"
        );
    }
}

#[test]
fn file_names_built_elsewhere_are_found() {
    let planted = "fn f(g: &str) { format!(\"{g}.offset\"); x(r\"a.log\"); }";
    assert_eq!(count(file_name_violations, "src/group/mod.rs", planted), 2);
    for path in ["src/format/file_name.rs", "src/bin/duralog/main.rs"] {
        assert_eq!(count(file_name_violations, path, planted), 0, "{path}");
    }
    let in_tests = format!("fn g() {{}}\n#[cfg(test)]\nmod tests {{\n{planted}\n}}\n");
    assert_eq!(count(file_name_violations, "src/log/plan.rs", &in_tests), 0);
    let prose = "//! Named `1.log`.\nconst A: &str = \"the .log file\";";
    assert_eq!(count(file_name_violations, "src/log/plan.rs", prose), 0);
}

#[test]
fn strays_at_the_top_are_found() {
    for name in ["notes.md", "scratch", "build.rs"] {
        assert!(!belongs_at_the_top(name), "{name}");
    }
    for name in ["src", "LICENSE-MIT", ".gitignore", "Cargo.toml"] {
        assert!(belongs_at_the_top(name), "{name}");
    }
}
