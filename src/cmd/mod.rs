//! The commands of the binary: arguments in, exit status out.
//!
//! Whatever a command prints goes through [`out`]. Nothing here ends the process.

mod arguments;
mod check;
mod client;
mod command;
mod config;
mod diff;
mod exit;
mod explain;
mod generate;
mod given;
mod key;
mod migrate;
mod out;
mod probe;
mod reload;
mod run;
pub mod sample_worker;
mod top;
mod upgrade;
mod version;

use std::ffi::OsString;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::Environment;
use crate::config::cli::absent;
use crate::daemon;

/// Runs the command that `args` ask for, program name first, and returns the exit status.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let environment = Environment::Process;
    if let Some(status) = daemon::stage(&environment) {
        return status;
    }
    let command = command::command();
    let matches = match command
        .clone()
        .try_get_matches_from(arguments::joined(args))
    {
        Ok(matches) => matches,
        Err(error) => return refuse(&error),
    };
    if matches.get_flag("help") {
        command::short().print_help().ok();
        return exit::OK;
    }
    if matches.get_flag("version-verbose") {
        out::print(&version::verbose());
        return exit::OK;
    }
    let Some((name, sub)) = matches.subcommand() else {
        return run::run(&[&matches], environment);
    };
    match name {
        "launch" => run::run(&[&matches, sub], environment),
        "check-config" => check::run(&[&matches, sub], environment),
        "explain" => explain::run(&[&matches, sub], environment),
        "reload" => reload::run(&[&matches, sub], &environment),
        "upgrade" => upgrade::run(&[&matches, sub], &environment),
        "top" => top::run(&[&matches, sub], &environment),
        "config" => match sub.subcommand() {
            Some(("dump", inner)) => config::dump(&[&matches, inner], environment),
            Some(("diff", inner)) => diff::run(&[&matches, inner], &environment),
            Some(("from-flags", inner)) => migrate::from_flags(inner),
            Some(("import", inner)) => migrate::import(inner),
            _ => exit::USAGE,
        },
        "help" => help(sub, command),
        "server" | "serve" => {
            out::error(format_args!(
                "`smg {name}` would start engines, which this program does not do; start them \
                 yourself and run `smg launch --worker-urls URL`"
            ));
            exit::USAGE
        }
        name => match alone(name, &matches) {
            Some(status) => status,
            None => without_gateway(name, sub, &command),
        },
    }
}

/// The long help of the command that is named, or of the gateway.
fn help(matches: &ArgMatches, mut command: clap::Command) -> u8 {
    command.build();
    let mut found = &mut command;
    for name in matches.get_many::<String>("command").into_iter().flatten() {
        found = match found.find_subcommand_mut(name) {
            Some(inner) => inner,
            None => {
                out::error(format_args!(
                    "there is no command {}; see `smg help`",
                    quoted(name)
                ));
                return exit::USAGE;
            }
        };
    }
    found.print_long_help().ok();
    exit::OK
}

/// Commands that know nothing of a gateway or its file.
fn without_gateway(name: &str, matches: &ArgMatches, command: &clap::Command) -> u8 {
    match name {
        "schema" => out::print(&generate::schema()),
        "completions" => {
            if let Some(shell) = matches.get_one::<clap_complete::Shell>("shell") {
                out::print_bytes(&generate::completions(command, *shell));
            }
        }
        "man" if matches.get_flag("markdown") => out::print(&generate::markdown()),
        "man" => match matches.get_one::<std::path::PathBuf>("dir") {
            None => out::print(&generate::man(command)),
            Some(dir) => {
                if let Err(error) = generate::write_pages(command, dir) {
                    out::error(error);
                    return exit::FAILED;
                }
            }
        },
        "sample-worker" => return sample(matches),
        "key" => return key::run(matches),
        _ => return exit::USAGE,
    }
    exit::OK
}

fn sample(matches: &ArgMatches) -> u8 {
    use clap::FromArgMatches as _;
    let args = match sample_worker::Args::from_arg_matches(matches) {
        Ok(args) => args,
        Err(error) => return refuse(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(sample_worker::run(args)),
        Err(error) => {
            out::error(format_args!("cannot start threads: {error}"));
            return exit::FAILED;
        }
    };
    match ended {
        Ok(()) => exit::OK,
        Err(error) => {
            out::error(with_causes(&error));
            exit::FAILED
        }
    }
}

/// Flags of the gateway in front of a command that has no use for them are a mistake.
fn alone(name: &str, matches: &ArgMatches) -> Option<u8> {
    let flags = given::flags(&[matches]);
    let setting = flags.first()?;
    out::error(format_args!(
        "{} means nothing to `smg {name}`",
        quoted(&setting.flag.dashed())
    ));
    Some(exit::USAGE)
}

/// Prints why the arguments were not understood, or the help that they ask for.
fn refuse(error: &clap::Error) -> u8 {
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg)
    {
        let typed = arg.split('=').next().unwrap_or(arg);
        if let Some(reason) = absent::reason(typed.trim_start_matches('-')) {
            out::error(format_args!("{} {reason}", quoted(typed)));
            return exit::USAGE;
        }
    }
    error.print().ok();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return exit::OK,
        // Clap says so itself where the help flag is its own.
        _ if !error.render().to_string().contains("--help") => {
            out::complain("\nFor more information, try 'smg --help'.\n");
        }
        _ => {}
    }
    exit::USAGE
}

fn quoted(text: &str) -> String {
    format!("`{text}`")
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
