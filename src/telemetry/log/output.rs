//! The sinks of the process and what decides on the lines that reach them.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tracing::Level;

use super::Format;
use super::line::Style;
use super::sink::{Place, Sink};

/// The standard output and the files, each with its style.
pub(crate) struct Output {
    /// The standard output is a terminal.
    terminal: bool,
    json: AtomicBool,
    journal: AtomicBool,
    to_files: AtomicBool,
    /// Bits of the access-log levels that pass the filter.
    access: AtomicU8,
    pub(crate) stdout: Sink,
    pub(crate) files: Sink,
    pub(crate) audit: Sink,
    audits: AtomicBool,
    audits_to_file: AtomicBool,
}

impl Output {
    pub(crate) fn new(terminal: bool, stdout: Sink, files: Sink, audit: Sink) -> Self {
        Self {
            terminal,
            json: AtomicBool::new(false),
            journal: AtomicBool::new(false),
            to_files: AtomicBool::new(false),
            access: AtomicU8::new(0),
            stdout,
            files,
            audit,
            audits: AtomicBool::new(false),
            audits_to_file: AtomicBool::new(false),
        }
    }

    /// Goes over to other settings. Lines that are being written by other threads may still have
    /// the old style.
    pub(crate) fn configure(&self, format: Format, journal: bool, access: u8, files: Place) {
        self.json.store(format == Format::Json, Ordering::Relaxed);
        self.journal.store(journal, Ordering::Relaxed);
        self.access.store(access, Ordering::Relaxed);
        self.to_files
            .store(matches!(files, Place::Files(_)), Ordering::Relaxed);
        self.files.redirect(files);
    }

    /// The same for the audit log.
    pub(crate) fn configure_audit(&self, enabled: bool, place: Place) {
        self.audits.store(enabled, Ordering::Relaxed);
        self.audits_to_file
            .store(matches!(place, Place::File(_)), Ordering::Relaxed);
        self.audit.redirect(place);
    }

    /// Whether there is an audit log.
    pub(crate) fn audits(&self) -> bool {
        self.audits.load(Ordering::Relaxed)
    }

    /// Whether it has a file of its own.
    pub(crate) fn audits_to_file(&self) -> bool {
        self.audits_to_file.load(Ordering::Relaxed)
    }

    /// Whether access lines of `level` pass the filter.
    pub(crate) fn access_enabled(&self, level: Level) -> bool {
        self.access.load(Ordering::Relaxed) & access_bit(level) != 0
    }

    /// Sends one line to every sink; `render` writes it in the style it is given.
    pub(crate) fn emit(&self, render: impl Fn(&mut Vec<u8>, Style)) {
        thread_local! {
            static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        // Taken out rather than borrowed: rendering a value may log a line itself.
        let mut line = SCRATCH.try_with(Cell::take).unwrap_or_default();
        let style = self.style();
        line.clear();
        render(&mut line, style);
        self.stdout.push(&line);
        if self.to_files.load(Ordering::Relaxed) {
            if !matches!(style, Style::Json | Style::Text) {
                line.clear();
                render(&mut line, Style::Text);
            }
            self.files.push(&line);
        }
        if line.capacity() <= 16 << 10 {
            // A thread that is ending has no scratch any more.
            SCRATCH.try_with(|scratch| scratch.set(line)).ok();
        }
    }

    fn style(&self) -> Style {
        if self.json.load(Ordering::Relaxed) {
            Style::Json
        } else if self.journal.load(Ordering::Relaxed) {
            Style::Journal
        } else if self.terminal {
            Style::Colour
        } else {
            Style::Text
        }
    }
}

/// The bit of `level` among those of [`Output::configure`].
pub(crate) fn access_bit(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 4,
        Level::DEBUG => 8,
        _ => 16,
    }
}
