//! `smg top`: the figures of the console in a terminal.

mod clean;
mod draw;
mod feed;
mod figures;
mod look;
mod panes;
mod report;
mod screen;
mod table;
mod view;

#[cfg(test)]
mod drawn;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use self::feed::{Feed, FeedError};
use self::look::Look;
use super::client::{self, Client};
use super::given::Invocation;
use super::{command, exit, out};
use crate::base::units::{Millis, UnitError};
use crate::config::Environment;

/// Nobody reads faster.
const LEAST: Millis = Millis::new(100);

/// Nobody waits longer.
const MOST: Millis = Millis::secs(3600);

pub(super) fn command() -> Command {
    Command::new("top")
        .about("Show what the running gateway does, live")
        .long_about(
            "Show what the running gateway does, live: rates and latencies, workers with their \
             load, models and their routes, recent failures, and why a reload was refused. It is \
             the console in a terminal; the key ? tells its keys.\n\n\
             The gateway is found as by `smg reload`. Where it goes away, the last figures stay \
             until it is back. Where standard output is no terminal, one report is printed, as \
             with --once.\n\n\
             Exit status: 0 ended by a key or a signal, or reported; 1 unreachable at the start.",
        )
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("Print one report, and end"),
        )
        .arg(
            Arg::new("interval")
                .long("interval")
                .value_name("TIME")
                .value_parser(interval)
                .default_value("1s")
                .help("Time between two looks, such as 500ms or 2s"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(["human", "json"])
                .default_value("human")
                .help("Form of the report; json is what GET /admin/overview answers"),
        )
        .arg(command::url(
            "url",
            "Listener that serves admin, such as http://127.0.0.1:30000 or https://gw.example",
        ))
        .arg(command::key_of(None))
        .arg(command::ca_of(None))
}

/// Asks once; then shows it, or goes on asking.
pub(super) fn run(matches: &[&ArgMatches], environment: &Environment) -> u8 {
    let Some(own) = matches.last() else {
        return exit::USAGE;
    };
    let invocation = match Invocation::new(matches, environment) {
        Ok(invocation) => invocation,
        Err(error) => {
            out::error(error);
            return exit::USAGE;
        }
    };
    let url = own.get_one::<String>("url").map(String::as_str);
    let ways = client::ways(url, invocation, environment.clone());
    let client = ways.and_then(|ways| {
        let credentials = client::credentials(own, environment)?;
        Ok(Client::new(ways, credentials))
    });
    let feed = match client {
        Ok(client) => Feed::new(client),
        Err(error) => {
            let error = FeedError::Client(error);
            out::error(&error);
            return error.status();
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            out::error(format_args!("cannot start a client: {error}"));
            return exit::FAILED;
        }
    };
    let json = own.get_one::<String>("format").map(String::as_str) == Some("json");
    let once = own.get_flag("once") || json || !is_screen(environment);
    let every = own.get_one::<Duration>("interval").copied();
    let every = every.unwrap_or(Duration::from_secs(1));
    let shown = runtime.block_on(async {
        match (once, json) {
            (true, true) => {
                let text = serde_json::to_string_pretty(&feed.json().await?).unwrap_or_default();
                out::print(&format!("{}\n", clean::escaped(&text)));
            }
            (true, false) => out::print(&report::text(&feed.ask().await?)),
            (false, _) => {
                let first = feed.ask().await?;
                let look = Look::of(environment);
                let ended = screen::run(Arc::new(feed), first, every, look).await;
                return Ok(ended);
            }
        }
        Ok(Ok(()))
    });
    let failed: FeedError = match shown {
        Ok(Ok(())) => return exit::OK,
        Ok(Err(error)) => {
            out::error(format_args!("the terminal is gone: {error}"));
            return exit::FAILED;
        }
        Err(error) => error,
    };
    out::error(&failed);
    failed.status()
}

/// Whether there is a terminal on which text can be placed.
fn is_screen(environment: &Environment) -> bool {
    io::stdout().is_terminal() && environment.get("TERM").as_deref() != Some("dumb")
}

/// Why a text is no time between two looks.
#[derive(Debug, thiserror::Error)]
enum IntervalError {
    /// No duration.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// Too short or too long.
    #[error("expected a time from {LEAST} to {MOST}")]
    Range,
}

/// A number of seconds, or a duration with its unit.
fn interval(text: &str) -> Result<Duration, IntervalError> {
    let is_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let time: Millis = match is_number {
        true => format!("{text}s").parse()?,
        false => text.parse()?,
    };
    match time >= LEAST && time <= MOST {
        true => Ok(time.get()),
        false => Err(IntervalError::Range),
    }
}
