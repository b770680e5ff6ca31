//! Whether a command printed what the page says.

/// Why `actual` is not what was expected, if it is not.
pub(crate) fn difference(expected: &str, actual: &str) -> Option<String> {
    let wanted: Vec<_> = expected.trim_end().lines().map(normal).collect();
    let printed: Vec<_> = actual.trim_end().lines().map(normal).collect();
    if lines_match(&wanted, &printed) {
        return None;
    }
    Some(format!(
        "the page says:\n{}\nit printed:\n{}",
        indented(expected),
        indented(actual)
    ))
}

/// Lines one by one, of which `…` alone stands for any number.
fn lines_match(wanted: &[String], printed: &[String]) -> bool {
    match wanted.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "…" => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        Some((first, rest)) => printed
            .split_first()
            .is_some_and(|(line, printed)| line_matches(first, line) && lines_match(rest, printed)),
    }
}

/// One line, in which `…` stands for any text.
fn line_matches(wanted: &str, line: &str) -> bool {
    match wanted.split_once('…') {
        None => wanted == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| line_matches(after, rest.split_at(at).1))
        }),
    }
}

/// The line with one blank between words, and with what differs from run to run replaced: times,
/// hashes, ids, durations and the version of this build. Whether `smg reload` is the first to see
/// a changed file, or the watcher was, is chance, too.
fn normal(line: &str) -> String {
    let line = line
        .replace("...", "…")
        .replace(env!("CARGO_PKG_VERSION"), "<version>")
        .replace("unchanged: generation", "applied: generation");
    let words: Vec<_> = line.split_whitespace().map(normal_word).collect();
    words.join(" ")
}

fn normal_word(word: &str) -> String {
    let mut normal = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let length = |fits: fn(char) -> bool| rest.find(|c| !fits(c)).unwrap_or(rest.len());
        let hex = length(|c| c.is_ascii_hexdigit() || c == '-');
        let time = length(|c| c.is_ascii_digit() || "-:.TZ+".contains(c));
        let figure = length(|c| c.is_ascii_digit() || c == '.');
        if time >= 8
            && rest.split_at(time).0.matches([':', '-']).count() >= 2
            && rest.starts_with(|c: char| c.is_ascii_digit())
        {
            normal.push_str("<time>");
            rest = rest.split_at(time).1;
        } else if hex >= 12
            && !rest.starts_with('-')
            && rest.split_at(hex).0.contains(|c: char| c.is_ascii_digit())
        {
            normal.push_str("<hash>");
            rest = rest.split_at(hex).1;
        } else if let Some(unit) = unit(rest, figure) {
            normal.push_str("<duration>");
            rest = rest.split_at(figure + unit).1;
        } else {
            // A run of letters and figures, or one sign.
            let end = match length(|c| c.is_ascii_alphanumeric()) {
                0 => rest.chars().next().map_or(0, char::len_utf8),
                end => end,
            };
            let (run, after) = rest.split_at(end);
            normal.push_str(run);
            rest = after;
        }
    }
    normal
}

/// The length of the unit of time behind a figure.
fn unit(rest: &str, figure: usize) -> Option<usize> {
    let after = rest.get(figure..).filter(|_| figure > 0)?;
    ["ms", "µs"].into_iter().find_map(|unit| {
        let beyond = after.strip_prefix(unit)?;
        (!beyond.starts_with(char::is_alphanumeric)).then_some(unit.len())
    })
}

fn indented(text: &str) -> String {
    let lines: Vec<_> = text
        .trim_end()
        .lines()
        .map(|line| format!("  | {line}"))
        .collect();
    lines.join("\n")
}

#[test]
fn what_varies_may_vary() {
    let hash = "c61f440eac228c84b39c1a538c68d8eef98f2d0b9a79b8ddc2b4a770d2ecc7bb";
    for (wanted, printed) in [
        (
            format!("sha256 {hash}"),
            format!("sha256 {}", hash.replace('c', "d")),
        ),
        (
            "took 12ms  at 2026-01-02 10:11:12".into(),
            "took 3.4ms at 2027-01-02 00:11:12".into(),
        ),
        (
            format!("{{ sha256 = \"{hash}\" }}"),
            format!("{{ sha256 = \"{}\" }}", hash.replace('c', "d")),
        ),
        ("a … c".into(), "a b b c".into()),
        ("a\n…\nc".into(), "a\nx\ny\nc".into()),
        (
            "at 2026-01-02T10:11:12Z".into(),
            "at 2027-11-22T11:11:12.123Z".into(),
        ),
    ] {
        assert_eq!(difference(&wanted, &printed), None);
    }
    for (wanted, printed) in [
        ("generation 2", "generation 3"),
        ("", "error"),
        ("a\nb", "a"),
        ("a …", "b c"),
        ("http://127.0.0.1:30000", "http://127.0.0.1:30001"),
    ] {
        assert!(difference(wanted, printed).is_some(), "{wanted} {printed}");
    }
}
