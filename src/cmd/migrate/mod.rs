//! `smg config from-flags` and `smg config import`: what other ways to configure mean in `smg.toml`.
//!
//! Nothing is started, asked or written. What is printed is whole and valid, or nothing is; secrets
//! never are.

mod dialect;
mod document;
mod flags;
mod foreign;
mod from_flags;
mod hidden;
mod line;
mod litellm;
mod program;
#[cfg(test)]
mod tests;

use std::io::{Read as _, stdin};
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{exit, out};
use crate::base::file;
use dialect::Dialect;
use document::Document;
use from_flags::Typed;

/// The longest text that is read, in bytes.
const LONGEST: u64 = 4 << 20;

pub(super) fn from_flags_command() -> Command {
    Command::new("from-flags")
        .about("Print the smg.toml that a command line means")
        .long_about(
            "Print the smg.toml that a command line means: one of smg, or one of SGLang router 0.3, \
             SMG 1.13 or vLLM router 0.1, with what stands before it (variables, python -m, docker \
             run).\n\n\
             Each key has a comment that names its flag. What has no counterpart is named at the end \
             of the file and on standard error. Where the other program has another default, the \
             file says it, so that the gateway behaves as before. Secrets become variables; their \
             values are not printed.\n\n\
             Exit status: 0, or 2 if the command line cannot be understood.",
        )
        .override_usage("smg config from-flags [OPTIONS] -- COMMAND…")
        .arg(
            Arg::new("dialect")
                .long("dialect")
                .value_name("PROGRAM")
                .value_parser(Dialect::WORDS)
                .help("Whose flags they are [default: the program's that the command names, or smg]"),
        )
        .arg(
            Arg::new("strict")
                .long("strict")
                .action(ArgAction::SetTrue)
                .help("Fail on a flag that is not known"),
        )
        .arg(
            Arg::new("line")
                .value_name("COMMAND")
                .num_args(1..)
                .required(true)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .help("The command line, as words or as one text; - for stdin"),
        )
}

pub(super) fn import_command() -> Command {
    Command::new("import")
        .about("Print the smg.toml that a config file of LiteLLM means")
        .long_about(
            "Print the smg.toml that a config file of LiteLLM's proxy means.\n\n\
             What has no counterpart is named with its place, at the end of the file and on standard \
             error. Secrets become variables; their values are not printed.\n\n\
             Exit status: 0, or 2 if the file cannot be understood.",
        )
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("PROGRAM")
                .value_parser(["litellm"])
                .default_value("litellm")
                .help("Whose file it is"),
        )
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .help("The file; - for stdin"),
        )
}

pub(super) fn from_flags(matches: &ArgMatches) -> u8 {
    let words: Vec<String> = matches
        .get_many::<String>("line")
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    let typed = match words.as_slice() {
        [one] if one == "-" => match read_stdin() {
            Ok(text) => Typed::Text(text),
            Err(status) => return status,
        },
        [one] if one.contains(char::is_whitespace) => Typed::Text(one.clone()),
        _ => Typed::Words(words),
    };
    let dialect = matches.get_one::<String>("dialect");
    let dialect = dialect.and_then(|word| Dialect::named(word));
    match from_flags::convert(typed, dialect, matches.get_flag("strict")) {
        Ok(document) => show(&document),
        Err(error) => {
            out::error(error);
            exit::USAGE
        }
    }
}

pub(super) fn import(matches: &ArgMatches) -> u8 {
    let Some(path) = matches.get_one::<String>("file") else {
        return exit::USAGE;
    };
    let text = match path.as_str() {
        "-" => match read_stdin() {
            Ok(text) => text,
            Err(status) => return status,
        },
        path => match file::read_to_string(Path::new(path)) {
            Ok(text) => text,
            Err(error) => {
                out::error(error);
                return exit::USAGE;
            }
        },
    };
    match litellm::convert(&text) {
        Ok(document) => show(&document),
        Err(error) => {
            let name = if path == "-" { "stdin" } else { path };
            out::error(format_args!("{name}:{error}"));
            exit::USAGE
        }
    }
}

fn show(document: &Document) -> u8 {
    out::print(&document.render());
    out::complain(&document.warnings());
    exit::OK
}

fn read_stdin() -> Result<String, u8> {
    let mut text = String::new();
    match stdin().take(LONGEST).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => {
            out::error(format_args!("cannot read standard input: {error}"));
            Err(exit::USAGE)
        }
    }
}
