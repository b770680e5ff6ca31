//! `smg upgrade`: has the running gateway hand its sockets to a new process of the installed binary.

use clap::{Arg, ArgMatches, Command, value_parser};
use http::Method;
use serde_json::Value;

use super::client::{self, Answer};
use super::given::Invocation;
use super::reload::{status_of, unexpected};
use super::{exit, out};
use crate::config::Environment;

pub(super) fn command() -> Command {
    Command::new("upgrade")
        .about("Have the running gateway hand over to the installed binary")
        .long_about(
            "Have the running gateway hand over to the installed binary, without losing a request.\n\n\
             Install the new binary in place of the old one first. The running gateway starts it \
             with its own arguments and all its listening sockets. Once the new process serves it \
             reports itself to the service manager, and the old one accepts nothing more, lets its \
             requests end within server.shutdown_grace_period, and exits. If the new process does \
             not start (its configuration is invalid, it crashes, it takes too long), the old one \
             serves on as before, and this command says why.\n\n\
             Workers that were added or changed over the API go over to the new process. Prefix \
             trees, circuit breakers, rate limits and counters begin anew, as at any start.\n\n\
             A gateway that is the first process of a container refuses, since the container would \
             end with it.\n\n\
             SIGUSR2 asks for the same; its outcome is in the log. The gateway is found as by smg \
             reload: by the control socket of its config file, else by $RUNTIME_DIRECTORY, else by \
             the first of its listeners that serves admin.\n\n\
             Exit status: 0 the new process serves, 1 failed or unreachable.",
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .value_parser(value_parser!(u32).range(1..=3600))
                .default_value("60")
                .help("How long the new process may take until it serves"),
        )
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .help("Listener that serves admin, such as http://127.0.0.1:30000"),
        )
        .arg(
            Arg::new("key")
                .long("key")
                .value_name("KEY")
                .help("Key of the control plane; SMG_KEY, which other users cannot see, says it too"),
        )
        .arg(
            Arg::new("ca")
                .long("ca")
                .value_name("PATH")
                .value_parser(value_parser!(std::path::PathBuf))
                .help("Authorities that vouch for an https:// gateway, in place of the system's"),
        )
}

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
    let seconds = own.get_one::<u32>("timeout").copied().unwrap_or(60);
    let path = format!("/admin/upgrade?timeout={seconds}");
    let url = own.get_one::<String>("url").map(String::as_str);
    let ways = client::ways(url, invocation, environment.clone());
    let shown = client::credentials(own, environment);
    let asked = ways.and_then(|ways| client::ask(ways, &Method::POST, &path, shown?, Vec::new()));
    match asked {
        Ok(answer) => report(&answer),
        Err(error) => {
            out::error(&error);
            status_of(&error)
        }
    }
}

fn report(answer: &Answer) -> u8 {
    let body = &answer.body;
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    match (answer.status, text("result")) {
        (200, Some(_)) => {
            out::print(&done(body));
            exit::OK
        }
        (422, Some(_)) => {
            if let Some(said) = text("text").filter(|said| !said.is_empty()) {
                out::complain(&format!("{}\n", said.trim_end()));
            }
            out::error(format_args!(
                "{}; the process before serves on",
                text("reason").unwrap_or("the new process failed")
            ));
            exit::FAILED
        }
        _ => {
            out::error(unexpected(answer));
            exit::FAILED
        }
    }
}

/// The line for an upgrade that went well.
fn done(body: &Value) -> String {
    let process = |name: &str| {
        let of = |member: &str| body.get(name).and_then(|process| process.get(member));
        let version = of("version").and_then(Value::as_str).unwrap_or("unknown");
        let pid = of("pid").and_then(Value::as_u64).unwrap_or_default();
        format!("{version} (pid {pid})")
    };
    let generation = body.get("generation").and_then(Value::as_u64);
    format!(
        "upgraded: {} -> {}, configuration {}\n",
        process("old"),
        process("new"),
        generation.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_line_says_who_served_and_who_serves() {
        let body = json!({
            "result": "upgraded", "generation": 1,
            "old": { "version": "0.1.0", "pid": 123 }, "new": { "version": "0.2.0", "pid": 456 },
        });
        assert_eq!(
            done(&body),
            "upgraded: 0.1.0 (pid 123) -> 0.2.0 (pid 456), configuration 1\n"
        );
    }
}
