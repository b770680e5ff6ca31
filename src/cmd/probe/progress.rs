//! How far the probe has come, where somebody watches.

use std::cell::Cell;
use std::io::{self, IsTerminal as _};

use crate::cmd::out;

/// A line on the standard error that is written over and over; nothing where that is no terminal.
pub(super) struct Progress {
    total: usize,
    done: Cell<usize>,
    shown: bool,
}

impl Progress {
    pub(super) fn new(total: usize) -> Self {
        let progress = Self {
            total,
            done: Cell::new(0),
            shown: total > 0 && io::stderr().is_terminal(),
        };
        progress.show();
        progress
    }

    /// One more is done.
    pub(super) fn step(&self) {
        self.done.set(self.done.get() + 1);
        self.show();
    }

    fn show(&self) {
        if self.shown {
            out::complain(&format!(
                "\rprobing workers: {}/{}",
                self.done.get(),
                self.total
            ));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            out::complain("\r\x1b[K");
        }
    }
}
