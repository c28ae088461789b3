//! Just enough of Rust's grammar to tell code from comments and literals, and to find names,
//! functions and statements in it. All of it works on text alone.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// The text in pieces of one kind each, in order.
fn pieces(text: &str) -> Vec<(Kind, &str)> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < text.len() {
        let Some((kind, len)) = opaque(&text[at..], text[..at].chars().next_back()) else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        pieces.push((Kind::Code, &text[start..at]));
        pieces.push((kind, &text[at..at + len]));
        at += len;
        start = at;
    }
    pieces.push((Kind::Code, &text[start..]));
    pieces
}

/// The comment or literal that `rest` starts with, and its length.
fn opaque(rest: &str, before: Option<char>) -> Option<(Kind, usize)> {
    if rest.starts_with("//") {
        return Some((Kind::Comment, rest.find('\n').unwrap_or(rest.len())));
    }
    if rest.starts_with("/*") {
        return Some((Kind::Comment, block_comment_len(rest)));
    }
    if rest.starts_with('"') {
        return Some((Kind::Literal, quoted_len(rest, '"')));
    }
    if rest.starts_with('\'') {
        let mut chars = rest.chars().skip(1);
        let escaped = chars.next() == Some('\\');
        // Else it is a lifetime.
        let is_char = escaped || chars.next() == Some('\'');
        return is_char.then(|| (Kind::Literal, quoted_len(rest, '\'')));
    }
    if before.is_none_or(|c| !is_word(c)) {
        return raw_string_len(rest).map(|len| (Kind::Literal, len));
    }
    None
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string_len(rest: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix))?;
    let opening = &rest[prefix.len()..];
    let hashes = opening.len() - opening.trim_start_matches('#').len();
    if !opening[hashes..].starts_with('"') {
        return None;
    }
    let body = prefix.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    let len = rest[body..].find(&close).map(|at| body + at + close.len());
    Some(len.unwrap_or(rest.len()))
}

/// The text with everything but code blanked out; lines stay lines.
pub fn code_of(text: &str) -> String {
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    pieces(text)
        .into_iter()
        .map(|(kind, piece)| match kind {
            Kind::Code => piece.to_owned(),
            Kind::Comment | Kind::Literal => piece.chars().map(blank).collect(),
        })
        .collect()
}

/// The contents of the string literals, each with its line.
pub fn literals(text: &str) -> Vec<(usize, String)> {
    let mut line = 1;
    let mut found = Vec::new();
    for (kind, piece) in pieces(text) {
        if kind == Kind::Literal {
            let quote = if piece.starts_with('\'') { '\'' } else { '"' };
            let behind = piece.split_once(quote).map_or("", |(_, behind)| behind);
            let content = behind
                .rsplit_once(quote)
                .map_or(behind, |(content, _)| content);
            found.push((line, content.to_owned()));
        }
        line += piece.matches('\n').count();
    }
    found
}

/// The code before the module of unit tests, which by habit ends a file.
pub fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]\nmod ")
        .map_or(code, |at| &code[..at])
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub fn line_at(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where `word` stands as a word of its own.
pub fn word_positions<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(|&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The lines on which `word` stands as a word of its own.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    word_positions(code, word).map(|at| line_at(code, at))
}

/// The first names of the paths that start with `root`, as in `root::name` and
/// `root::{name, name}`, each with its line.
pub fn names_behind(code: &str, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in word_positions(code, root) {
        let Some(rest) = code[at + root.len()..].strip_prefix("::") else {
            continue;
        };
        let start = code.len() - rest.len();
        if rest.starts_with('{') {
            found.extend(
                group_names(rest)
                    .into_iter()
                    .map(|(inside, name)| (line_at(code, start + inside), name)),
            );
        } else {
            found.push((line_at(code, at), first_word(rest)));
        }
    }
    found
}

/// The first names in a group of imports, each with its position.
fn group_names(group: &str) -> Vec<(usize, String)> {
    let mut depth = 0_usize;
    let mut awaited = false;
    let mut names = Vec::new();
    for (at, c) in group.char_indices() {
        if awaited && is_word(c) {
            names.push((at, first_word(&group[at..])));
            awaited = false;
        }
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        awaited |= depth == 1 && matches!(c, '{' | ',');
    }
    names
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|&c| is_word(c)).collect()
}

/// Name, line and number of lines of each function that has a body.
pub fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for at in word_positions(code, "fn") {
        let name = first_word(code[at + 2..].trim_start());
        if let (false, Some(len)) = (name.is_empty(), item_len(&code[at..])) {
            let lines = code[at..at + len].matches('\n').count() + 1;
            found.push((name, line_at(code, at), lines));
        }
    }
    found
}

/// Length of the item that `code` starts with, up to the brace that closes its body; `None` if it
/// has none.
fn item_len(code: &str) -> Option<usize> {
    let mut nested = 0_usize;
    let mut braces = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => nested += 1,
            ')' | ']' => nested = nested.saturating_sub(1),
            ';' if nested == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' if braces == 1 => return Some(at + 1),
            '}' => braces = braces.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// The part of the statement that stands before position `end`.
pub fn statement_before(code: &str, end: usize) -> &str {
    let mut depth = 0_usize;
    let start = code[..end].char_indices().rev().find(|&(at, c)| {
        let outside = depth == 0;
        match c {
            // A block that no method is called on ends a statement of its own.
            '}' if outside && !code[at + 1..].trim_start().starts_with('.') => return true,
            ')' | ']' | '}' => depth += 1,
            '(' | '[' | '{' => depth = depth.saturating_sub(1),
            _ => {}
        }
        outside && matches!(c, ';' | '(' | '[' | '{')
    });
    code[start.map_or(0, |(at, _)| at + 1)..end].trim_start()
}

/// Whether a statement does something with the value that its expression has.
pub fn uses_value(statement: &str) -> bool {
    let outer = outside_brackets(statement);
    let first = first_word(statement);
    let assigns = outer.contains(" = ") || outer.contains(" += ");
    assigns || matches!(first.as_str(), "let" | "return" | "break")
}

fn outside_brackets(code: &str) -> String {
    let mut depth = 0_usize;
    let mut outer = String::new();
    for c in code.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => outer.push(c),
            _ => {}
        }
    }
    outer
}
