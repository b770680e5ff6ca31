//! `smg explain`: where a request would go, and why.

pub(super) mod offline;
mod print;
pub(super) mod verify;

use std::path::Path;

use clap::ArgMatches;
use http::Method;
use serde_json::{Map, Value};

use super::given::{self, Invocation};
use super::{client, exit, out, reload};
use crate::base::file::{FileError, read_to_string};
use crate::config::Environment;
use crate::config::spec::Request;
use crate::serve::explain::{Explanation, explain};

/// Chance falls the same way each time.
const SEED: u64 = 1;

/// Why a request could not be read.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    /// The file cannot be read.
    #[error("cannot read the request: {0}")]
    File(#[from] FileError),
    /// Nothing can be read from standard input.
    #[error("cannot read the request from standard input: {0}")]
    Stdin(#[from] std::io::Error),
    /// It is no JSON object.
    #[error("the request `{0}` is no JSON object: {1}")]
    Json(String, serde_json::Error),
    /// It is a JSON object of another kind.
    #[error(
        "the request `{0}` has neither a `path` nor a member that tells which path it is for \
         (`messages`, `prompt`, `text`, `input`, `query`)"
    )]
    Unknown(String),
}

/// Explains, prints and judges.
pub(super) fn run(matches: &[&ArgMatches], environment: Environment) -> u8 {
    let Some(own) = matches.last() else {
        return exit::USAGE;
    };
    let named = own.get_one::<String>("request").map_or("-", String::as_str);
    let request = match read(named) {
        Ok(request) => request,
        Err(error) => {
            out::error(error);
            return exit::USAGE;
        }
    };
    let explained = match own.get_one::<String>("live") {
        Some(url) => live(matches, own, environment, url, &request),
        None => here(matches, environment, &request),
    };
    let explanation = match explained {
        Ok(explanation) => explanation,
        Err(status) => return status,
    };
    if own.get_one::<String>("format").map(String::as_str) == Some("json") {
        let text = serde_json::to_string_pretty(&explanation).unwrap_or_default();
        out::print(&format!("{text}\n"));
    } else {
        out::print(&print::human(&explanation));
    }
    match explanation.status {
        200..=299 => exit::OK,
        _ => exit::FAILED,
    }
}

/// In a gateway that has just started on the file, whose workers are all ready.
fn here(
    matches: &[&ArgMatches],
    environment: Environment,
    request: &Request,
) -> Result<Explanation, u8> {
    let opened = given::open(matches, environment)?;
    let spec = opened.loaded.spec.ok_or(exit::INVALID)?;
    Ok(explain(&offline::snapshot(&spec), request, SEED))
}

/// In the running gateway.
fn live(
    matches: &[&ArgMatches],
    own: &ArgMatches,
    environment: Environment,
    url: &str,
    request: &Request,
) -> Result<Explanation, u8> {
    let invocation = Invocation::new(matches, &environment).map_err(|error| {
        out::error(error);
        exit::USAGE
    })?;
    let url = (!url.is_empty()).then_some(url);
    let body = serde_json::to_vec(request).unwrap_or_default();
    let shown = client::credentials(own, &environment);
    let ways = client::ways(url, invocation, environment);
    let answer = ways
        .and_then(|ways| client::ask(ways, &Method::POST, "/admin/explain", shown?, body))
        .map_err(|error| {
            out::error(&error);
            reload::status_of(&error)
        })?;
    let explanation = match answer.status {
        200 => serde_json::from_value(answer.body.clone()).ok(),
        _ => None,
    };
    explanation.ok_or_else(|| {
        out::error(reload::unexpected(&answer));
        exit::FAILED
    })
}

/// A request as `[[tests]]` have it, or the bare body of one.
fn read(named: &str) -> Result<Request, RequestError> {
    let text = match named {
        "-" => std::io::read_to_string(std::io::stdin())?,
        file => read_to_string(Path::new(file))?,
    };
    let json = |error| RequestError::Json(named.to_owned(), error);
    let object: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
    if object.contains_key("path") {
        return serde_json::from_value(Value::Object(object)).map_err(json);
    }
    let path = path_of(&object).ok_or_else(|| RequestError::Unknown(named.to_owned()))?;
    let whole = serde_json::json!({ "path": path, "body": object });
    serde_json::from_value(whole).map_err(json)
}

/// The path that takes a body like this.
fn path_of(body: &Map<String, Value>) -> Option<&'static str> {
    let has = |key: &str| body.contains_key(key);
    Some(match () {
        () if has("messages") => "/v1/chat/completions",
        () if has("prompt") => "/v1/completions",
        () if has("query") => "/v1/rerank",
        () if has("text") || has("input_ids") => "/generate",
        () if has("input") => "/v1/responses",
        () => return None,
    })
}
