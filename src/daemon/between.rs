//! The process between an old one and the new one.
//!
//! A service manager notices the end of its own children only. The new process is to be one, though
//! its predecessor starts it: so that one starts the program as a process that does nothing but start
//! the program once more. When it is ended, its child goes to the first process of the system, or to
//! the service manager that has asked for orphans.
//!
//! Until then each of the three ends with the one before it: the system sees to that. The process
//! between has no other thread, since it is the thread that starts a process whose end counts.

use std::io::{self, Write};
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getppid, set_parent_process_death_signal,
    waitid,
};

use super::FAILED;
use crate::config::Environment;

/// The variable that says which of the two a process is, and who has started it.
pub(super) const VARIABLE: &str = "SMG_STAGE";

/// Added to the number of a signal, as shells do it.
const KILLED: i32 = 128;

/// What the variable says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Between,
    New,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Between => "between",
            Self::New => "new",
        }
    }

    fn read(text: &str) -> Option<(Self, Pid)> {
        let (name, parent) = text.split_once(' ')?;
        let stages = [Self::Between, Self::New];
        let stage = stages.into_iter().find(|stage| stage.name() == name)?;
        Some((stage, Pid::from_raw(parent.parse().ok()?)?))
    }

    /// What the variable says to a child of this process.
    fn of_a_child(self) -> String {
        format!("{} {}", self.name(), std::process::id())
    }
}

/// What the variable says to the process between, which this one starts.
pub(super) fn first() -> String {
    Stage::Between.of_a_child()
}

/// Does what has to be done before all else. In a process between, that is everything: it returns the
/// exit status, which is that of the new process if that one ends first.
pub fn stage(environment: &Environment) -> Option<u8> {
    let (stage, parent) = Stage::read(&environment.get(VARIABLE)?)?;
    let done = match (depend_on(parent), stage) {
        (Ok(()), Stage::New) => return None,
        (Ok(()), Stage::Between) => stand_between(),
        (Err(error), _) => Err(error),
    };
    Some(done.unwrap_or_else(|error| {
        // If this fails, nobody listens.
        writeln!(io::stderr(), "smg: error: cannot take over: {error}").ok();
        FAILED
    }))
}

/// From now on this process outlives whoever has started it. To be called by the first thread, whose
/// setting it is.
pub(super) fn stand_alone() -> io::Result<()> {
    Ok(set_parent_process_death_signal(None)?)
}

/// This process ends with `parent`.
fn depend_on(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before.
    if getppid() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::other("the process before is gone"))
    }
}

/// Starts the program once more, with all that was inherited, and waits for its end.
fn stand_between() -> io::Result<u8> {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(arguments.next().unwrap_or_default());
    command
        .args(arguments)
        .env(VARIABLE, Stage::New.of_a_child());
    let child = command.spawn()?;
    let id = WaitId::Pid(Pid::from_child(&child));
    // It is left for the system to reap: while this process lives, the number stays that of the child,
    // also after its end.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    loop {
        match waitid(id.clone(), options) {
            Ok(Some(status)) => return Ok(exit_status(&status)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn exit_status(status: &WaitIdStatus) -> u8 {
    let killed = || status.terminating_signal().map(|signal| KILLED + signal);
    let code = status.exit_status().or_else(killed);
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stage_says_to_its_child_is_read_by_that() {
        let me = Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(Stage::read(&first()), Some((Stage::Between, me)));
        let second = Stage::New.of_a_child();
        assert_eq!(Stage::read(&second), Some((Stage::New, me)));
        for strange in ["", "new", "new x", "new 0", "other 1"] {
            assert_eq!(Stage::read(strange), None, "{strange}");
        }
    }

    #[test]
    fn without_the_variable_nothing_happens() {
        let none = Environment::from_iter([("OTHER", "between 1")]);
        assert_eq!(stage(&none), None);
    }
}
