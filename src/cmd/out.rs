//! Where commands write to. A reader that has gone away is no mistake of ours.

use std::io::{self, IsTerminal, Write};

use crate::config::{Diagnostic, Environment, Format, render};

/// Writes `text` to standard output.
pub(super) fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// Writes bytes to standard output.
pub(super) fn print_bytes(bytes: &[u8]) {
    write(&mut io::stdout().lock(), bytes);
}

/// Writes diagnostics for reading to standard output.
pub(super) fn print_diagnostics(diagnostics: &[Diagnostic], environment: &Environment) {
    let text = render(diagnostics, Format::Human);
    print(&painted(text, io::stdout().is_terminal(), environment));
}

/// Writes `text` to standard error.
pub(super) fn complain(text: &str) {
    write(&mut io::stderr().lock(), text.as_bytes());
}

/// Writes diagnostics for reading, or text that looks like them, to standard error.
pub(super) fn complain_diagnostics(text: String, environment: &Environment) {
    complain(&painted(text, io::stderr().is_terminal(), environment));
}

/// Writes an error in one line.
pub(super) fn error(message: impl std::fmt::Display) {
    complain(&format!("error: {message}\n"));
}

fn painted(text: String, terminal: bool, environment: &Environment) -> String {
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let plain = set("NO_COLOR").is_some() || set("TERM").as_deref() == Some("dumb");
    if !terminal || plain {
        return text;
    }
    text.lines().map(paint).collect()
}

/// A line of a diagnostic in colours: what it is, and what is marked.
fn paint(line: &str) -> String {
    const KINDS: [(&str, &str); 3] = [
        ("error[", "\x1b[1;31m"),
        ("warning[", "\x1b[1;33m"),
        ("note[", "\x1b[1;36m"),
    ];
    for (start, colour) in KINDS {
        if line.starts_with(start)
            && let Some((head, rest)) = line.split_once(": ")
        {
            return format!("{colour}{head}\x1b[0m: \x1b[1m{rest}\x1b[0m\n");
        }
    }
    if let Some((gutter, marks)) = line.split_once(" | ")
        && gutter.trim().is_empty()
        && marks.trim_start().starts_with(['^', '-'])
    {
        return format!("{gutter} | \x1b[1;31m{marks}\x1b[0m\n");
    }
    match line.split_once("= help: ") {
        Some((gutter, help)) if gutter.trim().is_empty() => {
            format!("{gutter}= \x1b[1;36mhelp\x1b[0m: {help}\n")
        }
        _ => format!("{line}\n"),
    }
}

fn write(to: &mut dyn Write, bytes: &[u8]) {
    if to.write_all(bytes).is_ok() {
        to.flush().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_change_nothing_else() {
        let text = "error[x]: no `y`\n --> f:1:1\n  |\n1 | y = 2\n  | ^\n  = help: say z\n";
        let painted: String = text.lines().map(paint).collect();
        assert_ne!(painted, text);
        let mut plain = painted;
        for code in ["\x1b[1;31m", "\x1b[1;36m", "\x1b[1m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, text);
        let environment: Environment = [("NO_COLOR", "1")].into_iter().collect();
        assert_eq!(super::painted(text.to_owned(), true, &environment), text);
        let environment: Environment = [("NO_COLOR", "")].into_iter().collect();
        assert_eq!(super::painted(text.to_owned(), false, &environment), text);
    }
}
