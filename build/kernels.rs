//! The kernel files and their entry points, read from the sources. What cannot be read is an error, never skipped.

use std::collections::HashMap;
use std::path::Path;

/// One `.cu` file.
#[derive(Debug, PartialEq)]
pub struct KernelFile {
    /// Its name without the ending.
    pub name: String,
    /// Its entry points, in the order of the file.
    pub entries: Vec<Entry>,
}

/// An `extern "C" __global__` function.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The first argument of `__launch_bounds__`, in the C++ of the file.
    pub max_threads: String,
}

/// Every `.cu` file of `folder`, sorted by name.
pub fn scan(folder: &Path) -> Result<Vec<KernelFile>, String> {
    let mut files = Vec::new();
    let in_folder = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(in_folder)? {
        let path = entry.map_err(in_folder)?.path();
        if path.extension().is_none_or(|ending| ending != "cu") {
            continue;
        }
        let at = |what: String| format!("{}: {what}", path.display());
        let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| is_identifier(name));
        let name = name.ok_or_else(|| at("the file's name must be an identifier".into()))?;
        let text = std::fs::read_to_string(&path).map_err(|error| at(error.to_string()))?;
        files.push(KernelFile { name: name.into(), entries: entries_of(&text).map_err(at)? });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut owners = HashMap::new();
    for (file, entry) in files.iter().flat_map(|file| file.entries.iter().map(move |entry| (file, entry))) {
        if let Some(other) = owners.insert(&entry.name, &file.name) {
            return Err(format!(
                "the entry point `{}` is in both {other}.cu and {}.cu",
                entry.name, file.name
            ));
        }
    }
    Ok(files)
}

/// The entry points of a kernel file; an error if there is none, or if one is not written as
/// `extern "C" __global__ void __launch_bounds__(N) name(`.
pub fn entries_of(text: &str) -> Result<Vec<Entry>, String> {
    let tokens = tokens(text)?;
    let mut entries = Vec::new();
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "__global__") {
        let entry = entry(&tokens[..at], &tokens[at + 1..]).ok_or_else(|| {
            let source = text[token.at..].lines().next().unwrap_or_default();
            let wanted = "extern \"C\" __global__ void __launch_bounds__(N) name(";
            format!(
                "line {}: cannot read the entry point `{source}`: write it as `{wanted}`",
                line(text, token.at)
            )
        })?;
        entries.push(entry);
    }
    if entries.is_empty() { Err("has no entry point".into()) } else { Ok(entries) }
}

/// Reads an entry point from the tokens on either side of its `__global__`.
fn entry(before: &[Token], after: &[Token]) -> Option<Entry> {
    let is =
        |tokens: &[Token], texts: &[&str]| tokens.iter().map(|token| token.text).eq(texts.iter().copied());
    if !is(before.last_chunk::<2>()?, &["extern", "\"C\""])
        || !is(after.first_chunk::<3>()?, &["void", "__launch_bounds__", "("])
    {
        return None;
    }
    let mut rest = after[3..].iter().map(|token| token.text);
    let (mut max_threads, mut depth, mut first) = (String::new(), 1, true);
    loop {
        let text = rest.next()?;
        match text {
            "(" => depth += 1,
            ")" => depth -= 1,
            "," if depth == 1 => first = false,
            // A comma between `<` and `>` would not end the argument.
            "<" | ">" | "{" | ";" => return None,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if first {
            max_threads += text;
        }
    }
    let name = rest.next()?;
    let is_entry = is_identifier(name) && rest.next()? == "(" && !max_threads.is_empty();
    is_entry.then(|| Entry { name: name.into(), max_threads })
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(is_word)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn line(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

/// A word, a number, a quoted text or one other character, and where it starts.
struct Token<'a> {
    text: &'a str,
    at: usize,
}

/// Splits C++ into tokens, without comments and preprocessor directives.
fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens: Vec<Token> = Vec::new();
    let (mut at, mut line_starts) = (0, true);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let fail = |what: &str| Err(format!("line {}: {what}", line(text, at)));
        if let Some(length) = blank(rest) {
            line_starts |= c == '\n';
            at += length;
            continue;
        }
        if c == '#' && line_starts {
            let length = logical_line(rest);
            if rest[..length].contains("__global__") {
                return fail("`__global__` in a preprocessor directive; write the entry point out");
            }
            at += length;
            continue;
        }
        line_starts = false;
        let length = match c {
            '"' if tokens
                .last()
                .is_some_and(|last| last.text.ends_with('R') && last.at + last.text.len() == at) =>
            {
                return fail("raw strings are not read here");
            }
            '"' | '\'' => match quoted(rest, c) {
                Some(length) => length,
                None => return fail("a quote without its end"),
            },
            _ if c.is_ascii_digit() => rest.find(|c| !is_word(c) && c != '\'').unwrap_or(rest.len()),
            _ if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        tokens.push(Token { text: &rest[..length], at });
        at += length;
    }
    Ok(tokens)
}

/// The length of the whitespace character or comment that `text` starts with.
fn blank(text: &str) -> Option<usize> {
    match text.chars().next()? {
        '/' if text.starts_with("//") => Some(logical_line(text)),
        '/' if text.starts_with("/*") => Some(text.find("*/").map_or(text.len(), |end| end + 2)),
        c => c.is_whitespace().then(|| c.len_utf8()),
    }
}

/// The length of a line with the lines that a `\` at its end joins to it, without the last line break.
fn logical_line(text: &str) -> usize {
    let mut ends = text.match_indices('\n').map(|(at, _)| at);
    ends.find(|&at| !text[..at].trim_end_matches('\r').ends_with('\\')).unwrap_or(text.len())
}

/// The length of the literal that `text` starts with.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' if !escaped => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}
