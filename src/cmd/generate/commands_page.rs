//! The manual page `smg(1)`.

use clap::{Arg, ArgAction, Command};

use super::prose::{ENVIRONMENT, EXAMPLES, EXIT_STATUS, FILES, OPTIONS, SIGNALS};
use super::roff::{Page, bold, italic};
use crate::config::cli::default::default_of;
use crate::config::cli::flag::{Flag, Group, Kind};
use crate::config::cli::table::FLAGS;

/// The page, in roff. `command` is the whole command line, built.
pub(super) fn page(command: &Command) -> String {
    let mut page = Page::new("SMG", 1, "User commands");
    page.section("NAME");
    page.paragraph("smg - LLM gateway: one smg.toml in front of many inference workers");
    page.section("SYNOPSIS");
    page.verbatim("smg [--config FILE] [OPTIONS]\nsmg COMMAND [...]");
    page.section("DESCRIPTION");
    for paragraph in super::prose::DESCRIPTION {
        page.paragraph(paragraph);
    }
    page.section("OPTIONS");
    for paragraph in OPTIONS {
        page.paragraph(paragraph);
    }
    for group in Group::ALL {
        page.subsection(group.heading());
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
            let facts = facts(flag);
            page.item(&tag_of_flag(flag), &[&format!("{}.", flag.help), &facts]);
        }
    }
    page.subsection("Other");
    page.item("\\fB\\-h\\fR, \\fB\\-\\-help\\fR", &["Print a short help."]);
    page.item(
        "\\fB\\-V\\fR, \\fB\\-\\-version\\fR",
        &["Print the version."],
    );
    page.item(
        "\\fB\\-\\-version\\-verbose\\fR",
        &["Print version, revision, build date, features and compiler, one per line."],
    );
    page.section("COMMANDS");
    page.paragraph("Without a command, `smg` runs the gateway.");
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        commands(&mut page, "smg", sub);
    }
    list(&mut page, "EXIT STATUS", EXIT_STATUS);
    list(&mut page, "FILES", FILES);
    list(&mut page, "ENVIRONMENT", ENVIRONMENT);
    list(&mut page, "SIGNALS", SIGNALS);
    page.section("EXAMPLES");
    for (text, lines) in EXAMPLES {
        page.paragraph(text);
        page.verbatim(lines);
    }
    page.section("SEE ALSO");
    page.paragraph("`smg.toml`(5), `systemctl`(1), `systemd.service`(5), `systemd.socket`(5)");
    page.finish()
}

fn list(page: &mut Page, name: &str, items: &[(&str, &str)]) {
    page.section(name);
    for (tag, text) in items {
        page.item(&bold(tag), &[text]);
    }
}

fn tag_of_flag(flag: &Flag) -> String {
    let value = match flag.kind {
        Kind::Switch => String::new(),
        kind if kind.is_many() => format!(" {}...", italic(kind.placeholder())),
        kind => format!(" {}", italic(kind.placeholder())),
    };
    let short = flag.short.map(|short| bold(&format!("-{short}")));
    let long = std::iter::once(&flag.name).chain(flag.aliases);
    let long = long.map(|name| bold(&format!("--{name}")));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    format!("{}{value}", names.join(", "))
}

fn facts(flag: &Flag) -> String {
    let mut facts = Vec::new();
    if let Some(words) = flag.kind.words() {
        facts.push(format!("One of {}.", words.join(", ")));
    }
    if let Some(default) = default_of(flag) {
        facts.push(format!("Default: {default}."));
    }
    if let Some(key) = flag.target.shown() {
        facts.push(format!("Key: `{key}`."));
    }
    facts.push(match flag.legacy {
        Some(legacy) => format!("Variables: `{}`, `{legacy}`.", flag.variable()),
        None => format!("Variable: `{}`.", flag.variable()),
    });
    facts.join(" ")
}

/// A command, and the commands inside of it.
fn commands(page: &mut Page, before: &str, command: &Command) {
    let name = format!("{before} {}", command.get_name());
    let own: Vec<&Arg> = command.get_arguments().filter(|arg| is_own(arg)).collect();
    if !command.has_subcommands() {
        page.subsection(&synopsis(&name, command, &own));
        let about = command.get_long_about().or_else(|| command.get_about());
        for paragraph in about
            .map(ToString::to_string)
            .unwrap_or_default()
            .split("\n\n")
        {
            page.paragraph(&sentence(paragraph));
        }
        for arg in own {
            let help = help_of(arg);
            page.item(&tag(arg), &[&help]);
        }
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        if sub.get_name() != "help" {
            commands(page, &name, sub);
        }
    }
}

/// What an argument is for, which words it takes, and which one it has by itself.
fn help_of(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let mut out = sentence(&help.map(ToString::to_string).unwrap_or_default());
    if !arg.get_action().takes_values() {
        return out;
    }
    let words: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|word| !word.is_hide_set())
        .map(|word| format!("`{}`", word.get_name()))
        .collect();
    if !words.is_empty() {
        out.push_str(&format!(" One of {}.", words.join(", ")));
    }
    let defaults = arg.get_default_values().iter();
    let defaults: Vec<_> = defaults.filter_map(|value| value.to_str()).collect();
    if !defaults.is_empty() {
        out.push_str(&format!(" Default: {}.", defaults.join(" ")));
    }
    out
}

/// Whether an argument belongs to its command alone: flags of the gateway stand under headings.
fn is_own(arg: &Arg) -> bool {
    let id = arg.get_id().as_str();
    !arg.is_hide_set()
        && id != "help"
        && id != "version"
        && id != "config"
        && arg.get_help_heading().is_none()
}

fn synopsis(name: &str, command: &Command, own: &[&Arg]) -> String {
    let aliases: Vec<&str> = command.get_visible_aliases().collect();
    let mut out = match aliases.is_empty() {
        true => name.to_owned(),
        false => format!("{name}, {}", aliases.join(", ")),
    };
    if own.iter().any(|arg| !arg.is_positional()) {
        out.push_str(" [OPTIONS]");
    }
    for arg in own.iter().filter(|arg| arg.is_positional()) {
        let many = match arg.get_num_args() {
            Some(range) if range.max_values() > 1 => "...",
            _ => "",
        };
        let dashes = if arg.is_last_set() { "-- " } else { "" };
        let value = format!("{dashes}{}{many}", placeholder(arg));
        match arg.is_required_set() {
            true => out.push_str(&format!(" {value}")),
            false => out.push_str(&format!(" [{value}]")),
        }
    }
    out
}

fn tag(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| bold(&format!("-{short}")));
    let long = arg.get_long().map(|long| bold(&format!("--{long}")));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let takes = !matches!(
        arg.get_action(),
        ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count
    );
    match (names.is_empty(), takes) {
        (true, _) => italic(&placeholder(arg)),
        (false, true) => format!("{} {}", names.join(", "), italic(&placeholder(arg))),
        (false, false) => names.join(", "),
    }
}

fn placeholder(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let value = match names.is_empty() {
        true => arg.get_id().as_str().to_uppercase(),
        false => names.join(" "),
    };
    let least = arg.get_num_args().map_or(1, |range| range.min_values());
    if least == 0 && !arg.is_positional() {
        format!("[{value}]")
    } else {
        value
    }
}

fn sentence(text: &str) -> String {
    match text.ends_with(['.', ':']) || text.is_empty() {
        true => text.to_owned(),
        false => format!("{text}."),
    }
}
