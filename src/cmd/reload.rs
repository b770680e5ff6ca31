//! `smg reload`: has the running gateway take over its file.

use clap::ArgMatches;
use http::Method;
use serde_json::Value;

use super::client::{self, Answer, ClientError, Credentials, Way};
use super::given::Invocation;
use super::{exit, out};
use crate::config::Environment;

/// The slug of the only diagnostic of a process that takes no changes any more.
const STOPPING: &str = "stopping";

/// Asks, waits and prints the outcome.
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
    let path = match own.get_flag("wait") {
        true => "/admin/reload?wait=true",
        false => "/admin/reload",
    };
    let url = own.get_one::<String>("url").map(String::as_str);
    let ways = client::ways(url, invocation, environment.clone());
    let shown = client::credentials(own, environment);
    let asked = ways.and_then(|ways| ask(&ways, path, &shown?));
    match asked {
        Ok(answer) => report(&answer, environment),
        Err(error) => {
            out::error(&error);
            status_of(&error)
        }
    }
}

/// Asks. Where another process takes over meanwhile, the one that was asked says that it takes no
/// changes any more; then the new one is asked.
fn ask(ways: &[Way], path: &str, shown: &Credentials) -> Result<Answer, ClientError> {
    let ask = || {
        client::ask(
            ways.to_vec(),
            &Method::POST,
            path,
            shown.clone(),
            Vec::new(),
        )
    };
    let answer = ask()?;
    if is_stopping(&answer.body) {
        // Where nobody has taken over, there may be nobody any more.
        return Ok(ask().unwrap_or(answer));
    }
    Ok(answer)
}

/// Whether the file was not looked at, since the process that was asked is about to end.
fn is_stopping(body: &Value) -> bool {
    let list = body.get("diagnostics").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .any(|diagnostic| diagnostic.get("slug").and_then(Value::as_str) == Some(STOPPING))
}

/// The exit status where there is no answer.
pub(super) fn status_of(error: &ClientError) -> u8 {
    match error {
        ClientError::Url(_) | ClientError::Ca(_) | ClientError::Key => exit::USAGE,
        ClientError::NoWay
        | ClientError::Unread(_)
        | ClientError::Unreachable(_)
        | ClientError::Exchange { .. }
        | ClientError::Tls(_)
        | ClientError::Start(_) => exit::FAILED,
    }
}

fn report(answer: &Answer, environment: &Environment) -> u8 {
    let body = &answer.body;
    match (answer.status, body.get("result").and_then(Value::as_str)) {
        (200, Some(result)) => {
            let generation = body
                .get("generation")
                .map(Value::to_string)
                .unwrap_or_default();
            let sha256 = body
                .get("sha256")
                .and_then(Value::as_str)
                .unwrap_or("unknown");
            out::print(&format!(
                "{result}: generation {generation} (sha256 {sha256})\n"
            ));
            exit::OK
        }
        (422, Some(_)) if is_stopping(body) => {
            out::error("the gateway is shutting down, nothing was reloaded");
            exit::FAILED
        }
        (422, Some(_)) => {
            out::complain_diagnostics(rejection(body), environment);
            exit::INVALID
        }
        _ => {
            out::error(unexpected(answer));
            exit::FAILED
        }
    }
}

/// What the gateway said instead of an outcome.
pub(super) fn unexpected(answer: &Answer) -> String {
    let error = answer.body.get("error");
    let message = error
        .and_then(|error| error.get("message"))
        .and_then(Value::as_str);
    match message {
        Some(message) => format!("the gateway answered {}: {message}", answer.status),
        None => format!("the gateway answered {}", answer.status),
    }
}

/// The diagnostics of a rejected configuration: as the gateway wrote them for reading where it
/// did, else from their members.
fn rejection(body: &Value) -> String {
    let mut text = match body.get("text").and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => {
            let list = body.get("diagnostics").and_then(Value::as_array);
            let list = list.into_iter().flatten().map(diagnostic);
            list.collect::<Vec<_>>().join("\n")
        }
    };
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str("rejected: the gateway goes on with the configuration it had\n");
    text
}

fn diagnostic(value: &Value) -> String {
    let member = |name: &str| value.get(name).and_then(Value::as_str);
    let mut text = format!(
        "{}[{}]: {}\n",
        member("severity").unwrap_or("error"),
        member("slug").unwrap_or("unknown"),
        member("message").unwrap_or_default(),
    );
    if let Some(place) = value.get("primary").and_then(place) {
        text.push_str(&format!("  --> {place}\n"));
    }
    for related in value
        .get("secondary")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if let Some(place) = related.get("place").and_then(place) {
            let label = related
                .get("label")
                .and_then(Value::as_str)
                .unwrap_or_default();
            text.push_str(&format!("  ::: {place}: {label}\n"));
        }
    }
    if let Some(help) = member("help") {
        text.push_str(&format!("  = help: {help}\n"));
    }
    text
}

fn place(value: &Value) -> Option<String> {
    if let Some(spot) = value.get("file") {
        let number = |name: &str| spot.get(name).map(Value::to_string).unwrap_or_default();
        let file = spot.get("file")?.as_str()?;
        return Some(format!("{file}:{}:{}", number("line"), number("column")));
    }
    let (kind, name) = value.as_object()?.iter().next()?;
    Some(format!("{kind} {}", name.as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rejection_reads_like_a_check() {
        let body = json!({ "result": "rejected", "diagnostics": [
            { "slug": "pool-unknown", "severity": "error", "message": "no pool `x`",
              "primary": { "file": { "file": "/etc/smg/smg.toml", "line": 3, "column": 8 } },
              "help": "did you mean `y`?" },
            { "slug": "invalid-value", "severity": "error", "message": "no port",
              "primary": { "flag": "--port" } },
        ] });
        assert_eq!(
            rejection(&body),
            "error[pool-unknown]: no pool `x`\n  --> /etc/smg/smg.toml:3:8\n  \
             = help: did you mean `y`?\n\n\
             error[invalid-value]: no port\n  --> flag --port\n\n\
             rejected: the gateway goes on with the configuration it had\n"
        );
    }
}
