//! `smg config from-flags` and `smg config import`: what other ways to configure mean in `smg.toml`.

use clap::{ArgMatches, Command};

use super::{exit, out};

pub(super) fn from_flags_command() -> Command {
    Command::new("from-flags").about("Print the smg.toml that a command line means")
}

pub(super) fn import_command() -> Command {
    Command::new("import").about("Print the smg.toml that a config file of LiteLLM means")
}

pub(super) fn from_flags(_matches: &ArgMatches) -> u8 {
    out::error("not yet");
    exit::FAILED
}

pub(super) fn import(_matches: &ArgMatches) -> u8 {
    out::error("not yet");
    exit::FAILED
}
