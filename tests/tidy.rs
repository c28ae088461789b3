//! Rules of the source tree that neither the compiler nor a lint checks: which layer names which,
//! where certain words may stand, how long files and functions are. Each message says what to do.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[path = "tidy/rust_text.rs"]
mod rust_text;

#[path = "tidy/planted.rs"]
mod planted;

use rust_text::{
    code_of, functions, line_at, literals, names_behind, statement_before, uses_value,
    without_tests, word_positions, words,
};

/// What each module of the crate may name with `crate::`, from the ground up. A line that has to
/// grow is a decision about the design: first look whether what is shared belongs further down.
const LAYERS: &[(&str, &[&str])] = &[
    ("offset", &[]),
    ("backoff", &[]),
    ("error", &["format", "offset"]),
    ("options", &["error", "format"]),
    ("record", &["format", "offset"]),
    ("fs", &[]),
    ("format", &["error", "offset", "options", "record"]),
    ("slot_file", &["error", "format", "fs"]),
    ("segment", &["error", "format", "fs", "offset"]),
    ("group", &["error", "format", "fs", "offset", "slot_file"]),
    ("log", LOG_NAMES),
    ("handle", &["error", "fs", "log"]),
    ("producer", PRODUCER_NAMES),
    ("consumer", CONSUMER_NAMES),
    ("api", EVERYTHING),
    ("testing", EVERYTHING),
];
const LOG_NAMES: &[&str] = &[
    "error",
    "format",
    "fs",
    "group",
    "offset",
    "options",
    "record",
    "segment",
    "slot_file",
];
const PRODUCER_NAMES: &[&str] = &[
    "backoff", "error", "format", "fs", "handle", "log", "offset", "options", "record",
];
const CONSUMER_NAMES: &[&str] = &[
    "backoff", "error", "format", "fs", "group", "handle", "log", "offset", "options", "record",
];
const EVERYTHING: &[&str] = &["*"];

/// Words that may stand in code only in files whose path starts so.
const FENCED_WORDS: &[(&str, &[&str])] = &[
    ("unsafe", &["src/fs/"]),
    ("fs2", &["src/fs/"]),
    ("memmap2", &["src/fs/"]),
    // The number of the error for a symbolic link has no `io::ErrorKind` yet.
    ("libc", &["src/fs/", "src/error.rs"]),
    ("crc32fast", &["src/format/checksum.rs"]),
    ("lz4_flex", &["src/format/lz4.rs"]),
];

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;

/// Marks of unfinished work; in two halves, so that this file passes its own check.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("db", "g!"),
];

/// What may stand at the top of the repository, beside hidden files and `LICENSE*`.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "src",
    "benches",
    "tests",
    "fuzz",
    "examples",
    "target",
];

/// Endings of files in a log's directory.
const FILE_ENDINGS: &[&str] = &[".log", ".offset", ".cleaned"];

#[test]
fn each_layer_names_only_layers_below_it() {
    pass(&sources("src"), layer_violations);
}

#[test]
fn dangerous_words_stay_inside_their_fences() {
    pass(&sources("src"), fence_violations);
}

#[test]
fn files_and_functions_fit_their_limits() {
    pass(&sources("src"), size_violations);
}

#[test]
fn text_is_ascii_without_leftovers() {
    let mut all = sources(".");
    all.extend(files(".", "toml"));
    pass(&all, text_violations);
}

#[test]
fn no_result_is_dropped_unsaid() {
    pass(&sources("."), dropped_result_violations);
}

#[test]
fn file_names_of_a_log_are_built_in_one_place() {
    pass(&sources("src"), file_name_violations);
}

#[test]
fn the_top_of_the_repository_holds_only_what_belongs_there() {
    let entries = fs::read_dir(root()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strays: Vec<_> = names.filter(|name| !belongs_at_the_top(name)).collect();
    assert!(
        strays.is_empty(),
        "move these into a folder, or add them to TOP_LEVEL: {strays:?}"
    );
}

/// A file of the repository: its path from the root, and its text.
type Source = (String, String);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(under: &str) -> Vec<Source> {
    let found = files(under, "rs");
    assert!(!found.is_empty(), "no source files under {under}");
    found
}

fn files(under: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(under), extension, &mut found);
    found.sort();
    found
}

fn collect(dir: &Path, extension: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_built = ["target", "corpus", "artifacts"].contains(&name);
        if path.is_dir() && !is_built && !name.starts_with('.') {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|ending| ending == extension) {
            let shown = path.strip_prefix(root()).unwrap().to_str().unwrap();
            let shown = shown.strip_prefix("./").unwrap_or(shown).to_owned();
            found.push((shown, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn pass(sources: &[Source], check: fn(&str, &str) -> Vec<String>) {
    let violations: Vec<_> = sources
        .iter()
        .flat_map(|(path, text)| check(path, text))
        .collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn layer_violations(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    if path == "src/lib.rs" {
        return words(&code, "fn")
            .map(|line| format!("{path}:{line}: lib.rs has no logic: move the function"))
            .collect();
    }
    if path.starts_with("src/bin/") {
        return Vec::new();
    }
    let layer = layer_of(path);
    let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{path}: give the layer {layer} a line in LAYERS")];
    };
    let allowed = |name: &str| name == layer || *below == EVERYTHING || below.contains(&name);
    let mut violations: Vec<_> = names_behind(&code, "crate")
        .into_iter()
        .filter(|(_, name)| !allowed(name))
        .map(|(line, name)| {
            format!(
                "{path}:{line}: {layer} must not name crate::{name}: \
                 hand in what it needs, or move it to a lower layer"
            )
        })
        .collect();
    violations.extend(
        climbs(path, &code)
            .into_iter()
            .map(|line| format!("{path}:{line}: name another layer by crate::, not by super::")),
    );
    violations
}

/// The folder or file of `src/` that a path belongs to.
fn layer_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    let first = inside.split('/').next().unwrap_or(inside);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Lines on which `super` leads out of the layer.
fn climbs(path: &str, code: &str) -> Vec<usize> {
    let code = without_tests(code);
    let is_layer_root = path.matches('/').count() == 1 || path.ends_with("/mod.rs");
    let leads_out = |name: &str| {
        name == "super" || is_layer_root && LAYERS.iter().any(|(layer, _)| *layer == name)
    };
    names_behind(code, "super")
        .into_iter()
        .filter(|(_, name)| leads_out(name))
        .map(|(line, _)| line)
        .collect()
}

fn fence_violations(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let outside = |fence: &[&str]| !fence.iter().any(|inside| path.starts_with(inside));
    let mut violations = Vec::new();
    for (word, fence) in FENCED_WORDS.iter().filter(|(_, fence)| outside(fence)) {
        for line in words(&code, word) {
            violations.push(format!("{path}:{line}: `{word}` is for {fence:?} alone"));
        }
    }
    if outside(&["src/fs/"]) {
        for (line, _) in names_behind(&code, "std")
            .iter()
            .filter(|(_, name)| name == "fs")
        {
            violations.push(format!(
                "{path}:{line}: use crate::fs::Host instead of std::fs"
            ));
        }
    }
    violations
}

fn size_violations(path: &str, text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_FILE_LINES {
        violations.push(format!(
            "{path}: {lines} lines are over {MAX_FILE_LINES}: split it by purpose"
        ));
    }
    for (name, line, lines) in functions(&code_of(text)) {
        if lines > MAX_FUNCTION_LINES {
            violations.push(format!(
                "{path}:{line}: fn {name} has {lines} lines, over {MAX_FUNCTION_LINES}: \
                 give its parts names"
            ));
        }
    }
    violations
}

fn text_violations(path: &str, text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if let Some(stray) = line.chars().find(|c| !c.is_ascii()) {
            let escape = stray.escape_unicode();
            violations.push(format!("{path}:{number}: not ASCII; write {escape}"));
        }
        for leftover in LEFTOVERS {
            if words(line, leftover).next().is_some() {
                violations.push(format!(
                    "{path}:{number}: do what {leftover} says, or file an issue"
                ));
            }
        }
    }
    violations
}

fn dropped_result_violations(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let mut violations = Vec::new();
    for (at, _) in code.match_indices(".ok();") {
        if !uses_value(statement_before(&code, at)) {
            let line = line_at(&code, at);
            violations.push(format!(
                "{path}:{line}: handle the error, or drop(..) it and say why"
            ));
        }
    }
    for at in word_positions(&code, "let") {
        if is_underscore_alone(code[at + "let".len()..].trim_start()) {
            let line = line_at(&code, at);
            violations.push(format!(
                "{path}:{line}: `let _` hides what is dropped: use drop(..) and say why"
            ));
        }
    }
    violations
}

/// Whether a pattern is `_`, and not a name that starts so.
fn is_underscore_alone(pattern: &str) -> bool {
    let behind = pattern.strip_prefix('_').map(str::trim_start);
    behind.is_some_and(|behind| behind.starts_with(['=', ':']))
}

fn file_name_violations(path: &str, text: &str) -> Vec<String> {
    if path == "src/format/file_name.rs" || path.starts_with("src/bin/") {
        return Vec::new();
    }
    let code = code_of(text);
    let end = line_at(&code, without_tests(&code).len());
    literals(text)
        .into_iter()
        .filter(|(line, _)| *line <= end)
        .filter(|(_, literal)| FILE_ENDINGS.iter().any(|ending| literal.ends_with(ending)))
        .map(|(line, literal)| {
            format!("{path}:{line}: build {literal:?} in src/format/file_name.rs")
        })
        .collect()
}

fn belongs_at_the_top(name: &str) -> bool {
    name.starts_with('.') || name.starts_with("LICENSE") || TOP_LEVEL.contains(&name)
}
