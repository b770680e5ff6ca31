//! A reader of Rust source that is just good enough to tell which paths a file names: it knows
//! comments, literals, `use` trees, inline modules and items under `#[cfg(test)]`, nothing else.

/// A path as written, `use` trees taken apart: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
    /// How many inline modules (`mod x { … }`) of the file the path stands in.
    pub(crate) inline_modules: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Sep,
    Other(char),
}

type Placed = (usize, Token);

/// Every path of the source, single words included; code for tests left out.
pub(crate) fn paths(source: &str) -> Vec<Path> {
    let tokens = without_test_items(&tokens(&blank_out(source)));
    let mut found = Vec::new();
    let mut braces: Vec<bool> = Vec::new(); // of each open `{`: does it belong to a module
    let mut at = 0;
    while let Some((_, token)) = tokens.get(at) {
        match token {
            Token::Other('{') => braces.push(opens_module(&tokens, at)),
            Token::Other('}') => {
                braces.pop();
            }
            Token::Word(_) => {
                let inline_modules = braces.iter().filter(|module| **module).count();
                at = read_tree(&tokens, at, &[], inline_modules, &mut found);
                continue;
            }
            Token::Sep | Token::Other(_) => {}
        }
        at += 1;
    }
    found
}

/// Reads the path (or the tree of paths) that starts at `at`, and returns where it ends.
fn read_tree(
    tokens: &[Placed],
    mut at: usize,
    prefix: &[String],
    inline_modules: usize,
    found: &mut Vec<Path>,
) -> usize {
    let mut segments = prefix.to_vec();
    let mut line = 0;
    while let Some((word_line, Token::Word(word))) = tokens.get(at) {
        segments.push(word.clone());
        line = *word_line;
        at += 1;
        if !matches!(tokens.get(at), Some((_, Token::Sep))) {
            break;
        }
        at += 1;
        if matches!(tokens.get(at), Some((_, Token::Other('{')))) {
            at += 1;
            while let Some((_, token)) = tokens.get(at) {
                match token {
                    Token::Other('}') => return at + 1,
                    Token::Word(word) if word == "as" => at += 2,
                    Token::Word(_) => {
                        at = read_tree(tokens, at, &segments, inline_modules, found);
                    }
                    Token::Sep | Token::Other(_) => at += 1,
                }
            }
            return at;
        }
    }
    found.push(Path {
        line,
        segments,
        inline_modules,
    });
    at
}

/// Is the `{` at this place that of `mod name {`?
fn opens_module(tokens: &[Placed], at: usize) -> bool {
    matches!(
        at.checked_sub(2).and_then(|start| tokens.get(start..at)),
        Some([(_, Token::Word(keyword)), (_, Token::Word(_))]) if keyword == "mod"
    )
}

/// Leaves out each item under `#[cfg(test)]`, to the end of its block or its semicolon.
fn without_test_items(tokens: &[Placed]) -> Vec<Placed> {
    let marker: Vec<Token> = "#[cfg(test)]"
        .split_inclusive(|c: char| !c.is_alphanumeric())
        .flat_map(|part| self::tokens(part).into_iter().map(|(_, token)| token))
        .collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let here = tokens.iter().skip(at).map(|(_, token)| token);
        if here.take(marker.len()).eq(marker.iter()) {
            at = end_of_item(tokens, at + marker.len());
        } else {
            kept.push(token.clone());
            at += 1;
        }
    }
    kept
}

fn end_of_item(tokens: &[Placed], start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, (_, token)) in tokens.iter().enumerate().skip(start) {
        match token {
            Token::Other('{' | '(' | '[') => depth += 1,
            Token::Other(closing @ ('}' | ')' | ']')) => {
                depth = depth.saturating_sub(1);
                if depth == 0 && *closing == '}' {
                    return at + 1;
                }
            }
            Token::Other(';') if depth == 0 => return at + 1,
            Token::Word(_) | Token::Sep | Token::Other(_) => {}
        }
    }
    tokens.len()
}

fn tokens(source: &str) -> Vec<Placed> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = source.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '\n' {
            line += 1;
        } else if c.is_alphanumeric() || c == '_' {
            let mut word = String::from(c);
            while let Some(more) = rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                word.push(more);
            }
            found.push((line, Token::Word(word)));
        } else if c == ':' && rest.next_if_eq(&':').is_some() {
            found.push((line, Token::Sep));
        } else if !c.is_whitespace() {
            found.push((line, Token::Other(c)));
        }
    }
    found
}

/// The source with comments and the insides of literals replaced by spaces; lines stay lines.
pub(crate) fn blank_out(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    let mut in_word = false; // so that `r` and `b` inside a word start no literal
    while let Some(&c) = chars.get(at) {
        let rest = chars.get(at..).unwrap_or_default();
        let skipped = match rest {
            ['/', '/', ..] => rest.iter().take_while(|c| **c != '\n').count(),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => quoted(rest, '"'),
            ['b', '"', ..] if !in_word => 1 + quoted(rest.get(1..).unwrap_or_default(), '"'),
            ['r' | 'b', 'r' | '"' | '#', ..] if !in_word => raw_string(rest),
            // A quote that no quote follows soon is a lifetime.
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted(rest, '\''),
            _ => 0,
        };
        if skipped == 0 {
            out.push(c);
            in_word = c.is_alphanumeric() || c == '_';
            at += 1;
        } else {
            out.extend(
                rest.iter()
                    .take(skipped)
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            in_word = false;
            at += skipped;
        }
    }
    out
}

fn block_comment(text: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        match text.get(at..at + 2) {
            Some(['/', '*']) => (depth, at) = (depth + 1, at + 2),
            Some(['*', '/']) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn quoted(text: &[char], quote: char) -> usize {
    let mut at = 1;
    while let Some(c) = text.get(at) {
        match c {
            '\\' => at += 2,
            c if *c == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"`; 0 where it is none (`r#type`).
fn raw_string(text: &[char]) -> usize {
    let start = usize::from(text.first() == Some(&'b'));
    if text.get(start) != Some(&'r') {
        return 0;
    }
    let hashes = text
        .iter()
        .skip(start + 1)
        .take_while(|c| **c == '#')
        .count();
    let open = start + 1 + hashes;
    if text.get(open) != Some(&'"') {
        return 0;
    }
    let mut at = open + 1;
    while at < text.len() {
        let closing = text.get(at + 1..).unwrap_or_default();
        if text.get(at) == Some(&'"') && closing.iter().take_while(|c| **c == '#').count() >= hashes
        {
            return at + 1 + hashes;
        }
        at += 1;
    }
    text.len()
}

fn named(source: &str) -> Vec<(usize, String)> {
    paths(source)
        .into_iter()
        .filter(|path| path.segments.len() > 1)
        .map(|path| (path.line, path.segments.join("::")))
        .collect()
}

#[track_caller]
fn check(source: &str, expected: &[(usize, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(line, path)| (*line, path.to_string()))
        .collect();
    assert_eq!(named(source), expected, "in {source}");
}

#[test]
fn reads_plain_paths_and_use_trees() {
    check("fn f() { crate::a::b(); }", &[(1, "crate::a::b")]);
    check(
        "use crate::{a, b::{c, d::*}};",
        &[(1, "crate::a"), (1, "crate::b::c"), (1, "crate::b::d")],
    );
    check(
        "use crate::{\n    a::x,\n    b as c,\n};",
        &[(2, "crate::a::x"), (3, "crate::b")],
    );
    check("pub(crate) fn f(x: &super::T) {}", &[(1, "super::T")]);
    check(
        "let x = <crate::a::T as crate::b::U>::f();",
        &[(1, "crate::a::T"), (1, "crate::b::U")],
    );
}

#[test]
fn comments_and_literals_name_nothing() {
    check(
        "// crate::a\n/* crate::b /* crate::c */ crate::d */ crate::e::f",
        &[(2, "crate::e::f")],
    );
    check(
        r##"let s = "crate::a \" crate::b"; let r = r#"crate::c " crate::d"#;"##,
        &[],
    );
    check(
        "let c = '\"'; crate::a::b(); let d = '\\''; crate::c::d()",
        &[(1, "crate::a::b"), (1, "crate::c::d")],
    );
    check(
        "fn f<'a>(x: &'a crate::a::T) {} // 'x' crate::b",
        &[(1, "crate::a::T")],
    );
    check(
        "let b = b\"crate::a\"; let br = br\"crate::b\"; for_r\n(crate::c::d)",
        &[(2, "crate::c::d")],
    );
}

#[test]
fn code_for_tests_is_left_out_and_code_behind_it_is_not() {
    check(
        "#[cfg(test)]\nmod tests { use crate::a::b; fn f() {} }\nuse crate::c::d;",
        &[(3, "crate::c::d")],
    );
    check(
        "#[cfg(test)]\nuse crate::a::b;\nuse crate::c::d;",
        &[(3, "crate::c::d")],
    );
    check(
        "#[cfg(test)]\n#[path = \"x\"]\nfn f(a: [u8; 2]) { crate::a::b() }",
        &[],
    );
    check("#[cfg(unix)]\nuse crate::a::b;", &[(2, "crate::a::b")]);
}

#[test]
fn inline_modules_are_counted() {
    let paths = paths("mod x { use super::a; mod y { super::b(); } } if x { super::c() }");
    let supers: Vec<_> = paths
        .iter()
        .filter(|path| path.segments.first().is_some_and(|first| first == "super"))
        .map(|path| path.inline_modules)
        .collect();
    assert_eq!(supers, [1, 2, 0]);
}
