//! Where commands write to.

use std::io::{self, IsTerminal, Write};

/// Writes `text` to standard output. A reader that has gone away is no mistake of ours.
pub(super) fn print(text: &str) {
    write(&mut io::stdout().lock(), text.as_bytes());
}

/// Writes bytes to standard output.
pub(super) fn print_bytes(bytes: &[u8]) {
    write(&mut io::stdout().lock(), bytes);
}

/// Writes `text` to standard error.
pub(super) fn complain(text: &str) {
    write(&mut io::stderr().lock(), text.as_bytes());
}

/// Writes an error in one line.
pub(super) fn error(message: impl std::fmt::Display) {
    complain(&format!("error: {message}\n"));
}

/// Whether standard error shows colours: it is a terminal, and `NO_COLOR` is not set.
pub(super) fn stderr_has_colour(no_color: Option<&str>) -> bool {
    no_color.is_none_or(str::is_empty) && io::stderr().is_terminal()
}

/// Whether standard output shows colours: it is a terminal, and `NO_COLOR` is not set.
pub(super) fn stdout_has_colour(no_color: Option<&str>) -> bool {
    no_color.is_none_or(str::is_empty) && io::stdout().is_terminal()
}

fn write(to: &mut dyn Write, bytes: &[u8]) {
    if to.write_all(bytes).is_ok() {
        to.flush().ok();
    }
}
