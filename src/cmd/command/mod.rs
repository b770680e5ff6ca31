//! The command line: what clap is told, made from the table of flags.

mod flags;

use clap::{Arg, ArgAction, Command, value_parser};
use clap_complete::Shell;

use crate::config::cli::table::FLAGS;

use self::flags::{Shown, short_help, with_flags};
use super::{migrate, top, upgrade, version};

/// What stands under the short help.
const SHORT_AFTER: &str = "More: `smg help`, `smg help COMMAND`, `man smg`, `man smg.toml`.";

/// Commands that the short help leaves to the long one, so that it fits a screen of 80 by 24.
const LONG_ONLY: [&str; 5] = ["launch", "schema", "completions", "man", "help"];

/// The short help: as few lines as it can have.
const SHORT: &str = "{about}\n{usage-heading} {usage}\n\n{all-args}{after-help}";

/// What stands under the long help.
const LONG_AFTER: &str = "\
A flag overrides one key of the file, and so does its variable: SMG_ and the name of the flag, as
in SMG_WORKER_URLS for --worker-urls. A flag comes before a variable, a variable before the file.
A flag of several values takes them after one occurrence, after several, or both; its variable has
them between commas. --prefill takes one worker, and the number behind it is its bootstrap port.
TIME is a number with ms, s, m or h, or a bare number of seconds (of milliseconds where the flag
ends in -ms); SIZE is a number of bytes or has a unit, as in 512MiB.";

/// The whole command line.
pub(super) fn command() -> Command {
    let launch = with_flags(Command::new("launch"), Shown::Yes)
        .visible_alias("start")
        .about("Run the gateway, like smg without a command");
    let schema = Command::new("schema").about("Print the JSON schema of smg.toml");
    let documented = [
        launch,
        check_config(),
        reload(),
        with_flags(upgrade::command(), Shown::No),
        explain(),
        with_flags(top::command(), Shown::No),
        config(),
        key(),
        sample_worker(),
        schema,
        completions(),
        man(),
        help(),
    ];
    with_flags(root(), Shown::Yes)
        .subcommands(documented.map(with_help))
        .subcommand(engines("server"))
        .subcommand(engines("serve"))
}

/// The help flag of a command and of those inside of it: clap has none for them, as the one of the
/// root is our own.
fn with_help(command: Command) -> Command {
    let help = Arg::new("help")
        .short('h')
        .long("help")
        .action(ArgAction::Help)
        .help("Print help")
        .display_order(999);
    command.arg(help).mut_subcommands(with_help)
}

/// The command line as the short help shows it: what most need, under one heading.
pub(super) fn short() -> Command {
    let command = command()
        .mut_args(
            |arg| match FLAGS.iter().find(|flag| arg.get_id() == flag.name) {
                Some(flag) => arg
                    .help_heading(None)
                    .hide(!flag.common)
                    .help(short_help(flag)),
                None => arg,
            },
        )
        .override_usage("smg [OPTIONS] | smg COMMAND …")
        .help_template(SHORT)
        .after_help(SHORT_AFTER);
    LONG_ONLY.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |sub| sub.hide(true))
    })
}

fn root() -> Command {
    Command::new("smg")
        .version(version::SHORT)
        .about("LLM gateway: one smg.toml in front of many inference workers")
        .long_about(
            "LLM gateway: one smg.toml in front of many inference workers.\n\n\
             Without a command it runs the gateway.",
        )
        .override_usage("smg [OPTIONS]\n       smg COMMAND …")
        .after_long_help(LONG_AFTER)
        .subcommand_help_heading("Commands")
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .arg(
            Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::SetTrue)
                .help("Print a short help"),
        )
        .arg(
            Arg::new("version-verbose")
                .long("version-verbose")
                .action(ArgAction::SetTrue)
                .hide_short_help(true)
                .help("Print version, revision, build date, features and compiler"),
        )
}

fn check_config() -> Command {
    let command = Command::new("check-config")
        .about("Report every mistake in a config file; nothing takes effect")
        .long_about(
            "Report every mistake in a config file, without effect on anything.\n\n\
             It does what a reload would do, short of taking effect: it neither binds nor \
             connects. Flags and variables of the gateway are taken into account as at its start.\n\n\
             With --probe it does: it asks every worker what the gateway would ask it (its health, \
             its models, its load where the policy looks at that), looks at the time, order and \
             names of certificates, binds every address and lets go of it, and looks whether \
             folders can be written. A worker, issuer or collector that does not answer is a \
             warning, since the gateway starts all the same; a certificate that has expired, and an \
             address that is in use by anyone but the running gateway, is an error. Nothing but \
             GET requests is sent, and redirects are not followed.\n\n\
             Exit status: 0 valid, 78 invalid or unreadable, 3 warnings with --deny-warnings.",
        )
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .value_parser(value_parser!(std::path::PathBuf))
                .help("Config file [default: --config, SMG_CONFIG or /etc/smg/smg.toml]"),
        )
        .arg(switch("test").help("Run the [[tests]] of the file, too"))
        .arg(switch("deny-warnings").help("Fail on warnings, too"))
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(["human", "json", "github", "sarif"])
                .default_value("human")
                .help("Form of the report"),
        )
        .arg(switch("probe").conflicts_with("no-environment").help(
            "Dial the workers and look at certificates and sockets, too; nothing else does",
        ))
        .arg(switch("no-environment").help(
            "Judge the file alone: no variables are read, and secrets or files that are absent \
             here are notes",
        ));
    with_flags(command, Shown::No).mut_arg("config", |arg| arg.hide(true))
}

fn reload() -> Command {
    let command = Command::new("reload")
        .about("Have the running gateway take over its file")
        .long_about(
            "Have the running gateway take over its file, and print the outcome.\n\n\
             The gateway is found by the control socket of its config file, else by \
             $RUNTIME_DIRECTORY or, for /etc/smg/smg.toml, at /run/smg/control.sock, else by the \
             first of its listeners that serves admin.\n\n\
             Exit status: 0 applied or unchanged, 78 rejected, 1 unreachable.",
        )
        .arg(switch("wait").help("Wait until requests of the old configuration have ended, too"))
        .arg(url(
            "url",
            "Listener that serves admin, such as http://127.0.0.1:30000 or https://gw.example",
        ))
        .arg(key_of(None))
        .arg(ca_of(None));
    with_flags(command, Shown::No)
}

fn explain() -> Command {
    let command = Command::new("explain")
        .about("Say where a request would go, and why")
        .long_about(
            "Say where a request would go, and why: listener, model, pool, policy, every candidate \
             with the figures that the policy looked at, and the choice. Nothing is sent.\n\n\
             Without --live it is a gateway that has just started on the file, whose workers are \
             all ready; what is left to chance falls the same way each time. With --live the \
             running gateway decides as it stands now, and remembers nothing of it.\n\n\
             Exit status: 0 a worker would be asked, 1 the request is refused or the gateway \
             unreachable, 78 invalid configuration.",
        )
        .arg(
            Arg::new("request")
                .long("request")
                .short('r')
                .value_name("FILE")
                .required(true)
                .help("The request as JSON: a body, or `path`, `headers`, `body`; - for stdin"),
        )
        .arg(
            url(
                "live",
                "Ask the running gateway; found as by smg reload, or at URL",
            )
            .num_args(0..=1)
            .default_missing_value(""),
        )
        .arg(key_of(Some("live")))
        .arg(ca_of(Some("live")))
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(["human", "json"])
                .default_value("human")
                .help("Form of the explanation"),
        );
    with_flags(command, Shown::No)
}

fn config() -> Command {
    let dump = Command::new("dump")
        .about("Print the effective configuration, secrets masked")
        .long_about(
            "Print the effective configuration, secrets masked: defaults, file, variables and \
             flags put together. It takes every option of the gateway.",
        )
        .arg(switch("origins").help("Say of each value where it comes from"));
    let diff = Command::new("diff")
        .about("Print what a change of the file means: workers, routes, listeners, limits")
        .long_about(
            "Print what a change of the file means: workers, routes, listeners, limits, each with \
             its reload class.\n\n\
             Exit status: 0 same, 1 differs, 78 invalid.",
        )
        .arg(
            Arg::new("a")
                .value_name("A")
                .required(true)
                .value_parser(value_parser!(std::path::PathBuf))
                .help("The file as it is; with --live, the file to compare with"),
        )
        .arg(
            Arg::new("b")
                .value_name("B")
                .required_unless_present("live")
                .conflicts_with("live")
                .value_parser(value_parser!(std::path::PathBuf))
                .help("The file as it will be"),
        )
        .arg(
            url(
                "live",
                "Compare the running gateway with A; found as by smg reload, or at URL",
            )
            .num_args(0..=1)
            .default_missing_value(""),
        )
        .arg(key_of(Some("live")))
        .arg(ca_of(Some("live")));
    Command::new("config")
        .about("Show the effective configuration, compare two, or convert one")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_flags(dump, Shown::No))
        .subcommand(with_flags(diff, Shown::No))
        .subcommand(migrate::from_flags_command())
        .subcommand(migrate::import_command())
}

fn key() -> Command {
    let new = Command::new("new")
        .about("Make a key, and print it with its hash for the file")
        .long_about(
            "Make a key, and print it with its hash for the file.\n\n\
             The key, of 256 random bits, is for whoever is to use it and is kept nowhere. The line \
             below it stands for the key in `auth.tenants[].keys`, or as the `key` of \
             `auth.control_plane.api_keys`.",
        )
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("TENANT")
                .help("Print a whole [[auth.tenants]] of this name"),
        );
    let hash = Command::new("hash")
        .about("Read a key from standard input, and print its hash for the file");
    Command::new("key")
        .about("Make a key for the file, or hash one")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(new)
        .subcommand(hash)
}

fn sample_worker() -> Command {
    use clap::Args as _;
    super::sample_worker::Args::augment_args(Command::new("sample-worker"))
}

fn completions() -> Command {
    Command::new("completions")
        .about("Print a completion script for a shell")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell))
                .help("The shell"),
        )
}

fn man() -> Command {
    Command::new("man")
        .about("Print the manual page smg(1), or write all pages to a directory")
        .arg(
            Arg::new("dir")
                .long("dir")
                .value_name("DIR")
                .value_parser(value_parser!(std::path::PathBuf))
                .help("Write smg.1 and smg.toml.5 here"),
        )
        .arg(
            switch("markdown")
                .conflicts_with("dir")
                .help("Print the reference of smg.toml as Markdown"),
        )
}

fn help() -> Command {
    Command::new("help")
        .about("Print every option of the gateway, or the help of a command")
        .arg(
            Arg::new("command")
                .value_name("COMMAND")
                .num_args(0..)
                .help("The command"),
        )
}

/// A command of similar programs, which gets a line that says where to go.
fn engines(name: &'static str) -> Command {
    Command::new(name).hide(true).arg(
        Arg::new("rest")
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .hide(true),
    )
}

fn switch(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}

pub(super) fn url(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("URL").help(help)
}

/// The key for the running gateway; it means nothing without the argument `of`.
pub(super) fn key_of(of: Option<&'static str>) -> Arg {
    let key = Arg::new("key")
        .long("key")
        .value_name("KEY")
        .help("Key of the control plane; SMG_KEY, which other users cannot see, says it too");
    match of {
        Some(of) => key.requires(of),
        None => key,
    }
}

/// Authorities that vouch for a gateway that is asked over https; `of` as for the key.
pub(super) fn ca_of(of: Option<&'static str>) -> Arg {
    let ca = Arg::new("ca")
        .long("ca")
        .value_name("PATH")
        .value_parser(clap::value_parser!(std::path::PathBuf))
        .help("Authorities that vouch for an https:// gateway, in place of the system's");
    match of {
        Some(of) => ca.requires(of),
        None => ca,
    }
}
