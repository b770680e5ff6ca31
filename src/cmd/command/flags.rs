//! The flags of the gateway as clap knows them.

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, ArgAction, Command};
use toml::Value;

use crate::config::cli::default::default_of;
use crate::config::cli::flag::{Flag, Kind};
use crate::config::cli::table::FLAGS;
use crate::config::cli::value::{self, ValueError};

/// Whether a command's help lists the flags of the gateway.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// It lists them.
    Yes,
    /// It takes them, but is not about them.
    No,
}

/// The command with every flag of the gateway.
pub(super) fn with_flags(command: Command, shown: Shown) -> Command {
    FLAGS
        .iter()
        .enumerate()
        .fold(command, |command, (order, flag)| {
            let arg = arg(flag).display_order(order + 1);
            // A command that looks at a file takes all flags, but is not about them.
            let arg = match shown {
                Shown::Yes => arg,
                Shown::No if flag.name == "config" => arg
                    .help_heading(None)
                    .help("Config file of the gateway")
                    .long_help("Config file of the gateway"),
                Shown::No => arg.help_heading(None).hide(true),
            };
            command.arg(arg)
        })
}

/// The first clause of a help, and the default.
pub(super) fn short_help(flag: &Flag) -> String {
    let clause = flag.help.split(';').next().unwrap_or_default();
    match default_of(flag) {
        Some(default) => format!("{clause} [default: {default}]"),
        None => clause.to_owned(),
    }
}

fn arg(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .aliases(flag.aliases.iter().copied())
        .value_name(flag.kind.placeholder())
        .action(ArgAction::Append)
        .help_heading(flag.group.heading())
        .hide_short_help(!flag.common)
        .hide_possible_values(true)
        .help(flag.help)
        .long_help(long_help(flag));
    let arg = match flag.short {
        Some(short) => arg.short(short),
        None => arg,
    };
    match flag.kind {
        Kind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Kind::Number | Kind::Long | Kind::Limit | Kind::Float => arg.allow_negative_numbers(true),
        kind if kind.is_many() => arg.num_args(1..),
        _ => arg,
    }
    .value_parser(Text(flag.kind))
}

/// The line of the help, and below it what the flag takes and sets.
fn long_help(flag: &Flag) -> String {
    let mut facts = Vec::new();
    if let Some(words) = flag.kind.words() {
        facts.push(format!("one of {}", words.join(", ")));
    }
    if let Some(default) = default_of(flag) {
        facts.push(format!("default {default}"));
    }
    facts.extend(flag.target.shown().map(|key| format!("key {key}")));
    if !flag.aliases.is_empty() {
        let names: Vec<String> = flag
            .aliases
            .iter()
            .map(|name| format!("--{name}"))
            .collect();
        facts.push(format!("also {}", names.join(", ")));
    }
    match facts.is_empty() {
        true => flag.help.to_owned(),
        false => format!("{}\n[{}]", flag.help, facts.join("; ")),
    }
}

/// Reads one value; completions learn the words from it.
#[derive(Clone)]
struct Text(Kind);

impl TypedValueParser for Text {
    type Value = Value;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Value, clap::Error> {
        let text = value.to_str().ok_or_else(|| {
            clap::Error::new(clap::error::ErrorKind::InvalidUtf8).with_cmd(command)
        })?;
        value::parse(self.0, text).map_err(|error| invalid(command, arg, self.0, text, &error))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words = self.0.words()?;
        Some(Box::new(words.iter().map(PossibleValue::new)))
    }
}

fn invalid(
    command: &Command,
    arg: Option<&Arg>,
    kind: Kind,
    text: &str,
    error: &ValueError,
) -> clap::Error {
    let name = arg
        .map(|arg| format!("--{}", arg.get_id()))
        .unwrap_or_default();
    let shown = if kind.is_secret() {
        String::new()
    } else {
        format!(" `{text}`")
    };
    let message = format!("invalid value{shown} for `{name}`: {error}");
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, message).format(&mut command.clone())
}
