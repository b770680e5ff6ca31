//! `smg config diff`: what a change of the file means.

use std::path::PathBuf;

use clap::ArgMatches;
use http::Method;
use serde_json::{Map, Value};

use super::given::Invocation;
use super::reload::{status_of, unexpected};
use super::{client, exit, out};
use crate::base::secret::Secret;
use crate::config::reload::{Class, class_of};
use crate::config::spec::{Leg, Policy, PolicyName, Spec, Worker};
use crate::config::{Environment, Format, Input, load, render};

/// Compares two files, or a file with the running gateway, and prints what differs.
pub(super) fn run(matches: &[&ArgMatches], environment: &Environment) -> u8 {
    let Some(own) = matches.last() else {
        return exit::USAGE;
    };
    let spec = |argument: &str| {
        let invocation = Invocation::new(matches, environment).map_err(|error| {
            out::error(error);
            exit::USAGE
        })?;
        let input = Input {
            file: own.get_one::<PathBuf>(argument).cloned(),
            overlay: invocation.overlay,
            environment: environment.clone(),
            ..Input::default()
        };
        let loaded = load(&input);
        let text = render(&loaded.diagnostics, Format::Human);
        out::complain_diagnostics(text, environment);
        loaded.spec.ok_or(exit::INVALID)
    };
    let changes = match own.get_one::<String>("live") {
        None => spec("a")
            .and_then(|a| Ok((a, spec("b")?)))
            .map(|(a, b)| between(&a, &b)),
        Some(url) => spec("a").and_then(|a| {
            let live = live(matches, url, environment)?;
            Ok(compare(&live, &form(&a)))
        }),
    };
    match changes {
        Ok(changes) if changes.is_empty() => {
            out::print("no difference\n");
            exit::OK
        }
        Ok(changes) => {
            out::print(&written(&changes));
            exit::FAILED
        }
        Err(status) => status,
    }
}

/// The configuration that the running gateway has.
fn live(matches: &[&ArgMatches], url: &str, environment: &Environment) -> Result<Value, u8> {
    let invocation = Invocation::new(matches, environment).map_err(|error| {
        out::error(error);
        exit::USAGE
    })?;
    let mut invocation = invocation;
    let Some(own) = matches.last() else {
        return Err(exit::USAGE);
    };
    if let Some(file) = own.get_one::<PathBuf>("a") {
        // The file that is compared is that of the gateway, unless another one is named.
        invocation.file.get_or_insert_with(|| file.clone());
    }
    let url = (!url.is_empty()).then_some(url);
    let answer = client::ways(url, invocation, environment.clone())
        .and_then(|ways| {
            let shown = client::credentials(own, environment)?;
            client::ask(ways, &Method::GET, "/admin/config", shown, Vec::new())
        })
        .map_err(|error| {
            out::error(&error);
            status_of(&error)
        })?;
    match answer.body.get("config") {
        Some(config) if answer.status == 200 => Ok(config.clone()),
        _ => {
            out::error(unexpected(&answer));
            Err(exit::FAILED)
        }
    }
}

/// One thing that differs.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    /// The key, with names in place of indices.
    key: String,
    /// The key, with `[]` for elements.
    pattern: String,
    /// What happens to it.
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Added(String),
    Removed,
    Changed(String, String),
    /// The value is a secret, or nothing but that it differs can be said.
    Replaced,
}

/// What differs between two configurations, secrets included.
fn between(old: &Spec, new: &Spec) -> Vec<Change> {
    let mut changes = compare(&form(old), &form(new));
    for new in &new.pools {
        let Some(old) = old.pools.iter().find(|old| old.name == new.name) else {
            continue;
        };
        let key = format!("pools[{}]", new.name);
        changes.extend(replaced(
            old.api_key.as_ref(),
            new.api_key.as_ref(),
            &key,
            "pools[]",
        ));
        for (list, old, new) in [
            ("workers", &old.workers[..], &new.workers[..]),
            (
                "prefill.workers",
                of(old.prefill.as_ref()),
                of(new.prefill.as_ref()),
            ),
            (
                "decode.workers",
                of(old.decode.as_ref()),
                of(new.decode.as_ref()),
            ),
        ] {
            for new in new {
                let Some(old) = old.iter().find(|old| old.url == new.url) else {
                    continue;
                };
                changes.extend(replaced(
                    old.api_key.as_ref(),
                    new.api_key.as_ref(),
                    &format!("{key}.{list}[{}]", new.url),
                    &format!("pools[].{list}[]"),
                ));
            }
        }
    }
    changes
}

fn of(leg: Option<&Leg>) -> &[Worker] {
    leg.map_or(&[], |leg| &leg.workers)
}

fn replaced(
    old: Option<&Secret>,
    new: Option<&Secret>,
    key: &str,
    pattern: &str,
) -> Option<Change> {
    // One that comes or goes is seen without looking at its value.
    (old? != new?).then(|| Change {
        key: format!("{key}.api_key"),
        pattern: format!("{pattern}.api_key"),
        what: What::Replaced,
    })
}

/// The tree of a configuration, secrets masked.
fn form(spec: &Spec) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

fn compare(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    walk(old, new, "", "", &mut changes);
    changes
}

fn walk(old: &Value, new: &Value, key: &str, pattern: &str, out: &mut Vec<Change>) {
    if old == new || pattern == "include" {
        return;
    }
    if let (true, Some((was, old)), Some((is, new))) =
        (pattern.ends_with(".policy"), policy(old), policy(new))
    {
        let below = |path: &str| join(path, is.as_str());
        if was == is {
            return walk(&old, &new, &below(key), &below(pattern), out);
        }
        push(
            out,
            key,
            pattern,
            What::Changed(was.to_string(), is.to_string()),
        );
        let default = Policy::named(is).options();
        return walk(&default, &new, &below(key), &below(pattern), out);
    }
    let nothing = Map::new();
    match (old, new) {
        (Value::Object(_) | Value::Null, Value::Object(_)) | (Value::Object(_), Value::Null) => {
            let (left, right) = (
                old.as_object().unwrap_or(&nothing),
                new.as_object().unwrap_or(&nothing),
            );
            let added = right.keys().filter(|name| !left.contains_key(*name));
            for name in left.keys().chain(added) {
                let (left, right) = (left.get(name), right.get(name));
                walk(
                    left.unwrap_or(&Value::Null),
                    right.unwrap_or(&Value::Null),
                    &join(key, name),
                    &join(pattern, name),
                    out,
                );
            }
        }
        (Value::Array(left), Value::Array(right)) if named(left) && named(right) => {
            elements(left, right, key, pattern, out);
        }
        // A list that is empty may be left out.
        (Value::Null, Value::Array(right)) if !right.is_empty() && named(right) => {
            elements(&[], right, key, pattern, out);
        }
        (Value::Array(left), Value::Null) if !left.is_empty() && named(left) => {
            elements(left, &[], key, pattern, out);
        }
        (Value::Null, new) => push(out, key, pattern, What::Added(shown(new))),
        (_, Value::Null) => push(out, key, pattern, What::Removed),
        (old, new) => push(out, key, pattern, What::Changed(shown(old), shown(new))),
    }
}

/// The name of a policy and its options, in whichever form it is written.
fn policy(value: &Value) -> Option<(PolicyName, Value)> {
    match value {
        Value::String(word) => {
            let name = word.parse().ok()?;
            Some((name, Policy::named(name).options()))
        }
        Value::Object(table) => {
            let (word, options) = table.iter().next()?;
            Some((word.parse().ok()?, options.clone()))
        }
        _ => None,
    }
}

fn elements(left: &[Value], right: &[Value], key: &str, pattern: &str, out: &mut Vec<Change>) {
    let pattern = format!("{pattern}[]");
    let at = |list: &'_ [Value], name: &str| {
        list.iter()
            .find(|element| name_of(element) == Some(name))
            .cloned()
    };
    let names = |list: &[Value]| -> Vec<String> {
        list.iter().filter_map(name_of).map(str::to_owned).collect()
    };
    let (left_names, right_names) = (names(left), names(right));
    for name in &left_names {
        let key = format!("{key}[{name}]");
        match (at(left, name), at(right, name)) {
            (Some(old), Some(new)) => walk(&table(old), &table(new), &key, &pattern, out),
            _ => push(out, &key, &pattern, What::Removed),
        }
    }
    for name in right_names.iter().filter(|name| !left_names.contains(name)) {
        let size = at(right, name)
            .map(|element| size(&element))
            .unwrap_or_default();
        push(out, &format!("{key}[{name}]"), &pattern, What::Added(size));
    }
}

/// What is worth saying about an element that is new.
fn size(element: &Value) -> String {
    if let Some(address) = element.get("address").and_then(Value::as_str) {
        return address.to_owned();
    }
    let workers = |table: &Value| table.get("workers")?.as_array().map(Vec::len);
    let legs = ["prefill", "decode"].map(|leg| element.get(leg).and_then(workers));
    let counts = std::iter::once(workers(element)).chain(legs).flatten();
    match counts.reduce(|a, b| a + b) {
        Some(1) => "1 worker".to_owned(),
        Some(count) => format!("{count} workers"),
        None => String::new(),
    }
}

/// What tells an element of a list from the others: its name, or the URL of a worker.
fn name_of(element: &Value) -> Option<&str> {
    let name = element
        .get("name")
        .or_else(|| element.get("url"))
        .unwrap_or(element);
    name.as_str()
        .filter(|name| element.is_object() || name.contains("://"))
}

fn named(list: &[Value]) -> bool {
    list.iter().all(|element| name_of(element).is_some())
}

/// A worker that is written as a URL, as a table.
fn table(element: Value) -> Value {
    match element {
        Value::String(url) => Value::Object(Map::from_iter([("url".to_owned(), url.into())])),
        element => element,
    }
}

fn push(out: &mut Vec<Change>, key: &str, pattern: &str, what: What) {
    out.push(Change {
        key: key.to_owned(),
        pattern: pattern.to_owned(),
        what,
    });
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// The chapters of the report, and which keys belong to each; the first that fits counts.
const CHAPTERS: &[(&str, &[&str])] = &[
    ("workers", &["pools"]),
    ("routes", &["models", "routing"]),
    ("limits", &["listeners[].limits", "server", "reliability"]),
    ("listeners", &["listeners"]),
    ("telemetry", &["metrics", "logging"]),
    ("tests", &["tests"]),
    ("other", &[""]),
];

fn written(changes: &[Change]) -> String {
    let chapter = |change: &Change| {
        CHAPTERS.iter().position(|(_, keys)| {
            keys.iter().any(|key| {
                let rest = change.pattern.strip_prefix(key);
                rest.is_some_and(|rest| {
                    key.is_empty() || rest.is_empty() || rest.starts_with(['.', '['])
                })
            })
        })
    };
    let mut text = String::new();
    for (index, (name, _)) in CHAPTERS.iter().enumerate() {
        let changes: Vec<&Change> = changes
            .iter()
            .filter(|c| chapter(c) == Some(index))
            .collect();
        if changes.is_empty() {
            continue;
        }
        text.push_str(&format!("{name}\n"));
        for change in changes {
            let line = line(change);
            let class = class_of(&change.pattern).unwrap_or(Class::Live).as_str();
            text.push_str(&format!("  {line}  ({class})\n"));
        }
    }
    let refused = changes
        .iter()
        .filter(|c| class_of(&c.pattern) == Some(Class::Restart));
    let refused: Vec<&str> = refused.map(|change| change.key.as_str()).collect();
    if !refused.is_empty() {
        let keys = refused.join(", ");
        text.push_str(&format!(
            "a reload would be refused: only a restart can change {keys}\n"
        ));
    }
    text
}

fn line(change: &Change) -> String {
    let key = &change.key;
    match &change.what {
        What::Added(value) if value.is_empty() => format!("+ {key}"),
        What::Added(value) => format!("+ {key}: {value}"),
        What::Removed => format!("- {key}"),
        What::Changed(old, new) => format!("~ {key}: {old} -> {new}"),
        What::Replaced => format!("~ {key}: another secret"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        toml::from_str(&format!("version = 1\n{text}")).unwrap()
    }

    #[test]
    fn a_change_in_every_chapter() {
        let old = spec(
            "server.request_timeout = '1m'\n\
             [[listeners]]\nname = 'main'\naddress = '127.0.0.1:1'\nserve = ['inference']\n\
             [[pools]]\nname = 'a'\nworkers = ['http://x:1', 'http://y:1']\napi_key = 'one'\n\
             [[pools]]\nname = 'gone'\n\
             [[models]]\nname = 'm'\npool = 'a'\n",
        );
        let new = spec(
            "server.request_timeout = '2m'\nserver.worker_threads = 2\n\
             [[listeners]]\nname = 'main'\naddress = '127.0.0.1:2'\nserve = ['inference']\n\
             [listeners.limits]\nmax_headers = 50\n\
             [[pools]]\nname = 'a'\napi_key = 'two'\n\
             workers = ['http://x:1', { url = 'http://z:1', model = 'q' }]\n\
             [[models]]\nname = 'm'\npool = 'a'\npolicy = 'random'\n\
             [[models]]\nname = 'n'\npool = 'a'\n\
             [logging]\nlevel = 'debug'\n",
        );
        assert_eq!(
            written(&between(&old, &new)),
            "workers\n\
             \x20 - pools[a].workers[http://y:1]  (live)\n\
             \x20 + pools[a].workers[http://z:1]  (live)\n\
             \x20 - pools[gone]  (live)\n\
             \x20 ~ pools[a].api_key: another secret  (live)\n\
             routes\n\
             \x20 + models[m].policy: random  (live)\n\
             \x20 + models[n]  (live)\n\
             limits\n\
             \x20 ~ server.request_timeout: 1m -> 2m  (live)\n\
             \x20 ~ server.worker_threads: auto -> 2  (restart)\n\
             \x20 ~ listeners[main].limits.max_headers: 100 -> 50  (drain)\n\
             listeners\n\
             \x20 ~ listeners[main].address: 127.0.0.1:1 -> 127.0.0.1:2  (drain)\n\
             telemetry\n\
             \x20 ~ logging.level: info -> debug  (live)\n\
             a reload would be refused: only a restart can change server.worker_threads\n"
        );
        assert!(between(&new, &new).is_empty());
    }

    #[test]
    fn a_policy_is_the_same_as_a_word_and_as_a_table() {
        let old = spec("routing.policy = 'cache-aware'\n");
        let new = spec("routing.policy.cache_aware = { cache_threshold = 0.5 }\n");
        let other = spec("routing.policy.bucket = { adjust_interval = '9s' }\n");
        assert!(between(&old, &spec("routing.policy.cache_aware = {}\n")).is_empty());
        assert_eq!(
            written(&between(&old, &new)),
            "routes\n\x20 + routing.policy.cache_aware.cache_threshold: 0.5  (live)\n"
        );
        assert_eq!(
            written(&between(&new, &other)),
            "routes\n\x20 ~ routing.policy: cache_aware -> bucket  (live)\n\
             \x20 ~ routing.policy.bucket.adjust_interval: 5s -> 9s  (live)\n"
        );
    }

    #[test]
    fn legs_splits_and_tests() {
        let legs = "[[pools]]\nname = 'p'\n[pools.decode]\nworkers = ['http://d:1']\n\
                    [pools.prefill]\n";
        let old = spec(&format!(
            "{legs}workers = [{{ url = 'http://a:1', api_key = 'x' }}]\n"
        ));
        let new = spec(&format!(
            "{legs}workers = [{{ url = 'http://a:1', api_key = 'y' }}, 'http://b:1']\n\
             [[pools]]\nname = 'q'\nprefill.workers = ['http://c:1']\n\
             decode.workers = ['http://d:1']\n\
             [[tests]]\nname = 't'\nrequest.path = '/x'\nexpect.status = 404\n"
        ));
        assert_eq!(
            written(&between(&old, &new)),
            "workers\n\
             \x20 + pools[p].prefill.workers[http://b:1]  (live)\n\
             \x20 + pools[q]: 2 workers  (live)\n\
             \x20 ~ pools[p].prefill.workers[http://a:1].api_key: another secret  (live)\n\
             tests\n\
             \x20 + tests[t]  (live)\n"
        );
    }

    #[test]
    fn an_order_alone_is_no_difference() {
        let a = spec("[[pools]]\nname = 'a'\n[[pools]]\nname = 'b'\n");
        let b = spec("[[pools]]\nname = 'b'\n[[pools]]\nname = 'a'\n");
        assert!(between(&a, &b).is_empty());
    }
}
