//! `[[tests]]`: each is explained in a gateway of its own and compared with what it expects.

use super::SEED;
use super::offline;
use crate::config::spec::{Spec, Test};
use crate::config::{Diagnostic, Origins, Severity};
use crate::plan::WorkerKey;
use crate::serve::explain::{Explanation, LegExplained, explain};

/// A finding for every expectation of `spec` that does not hold.
pub(crate) fn verify(spec: &Spec, origins: &Origins) -> Vec<Diagnostic> {
    let tests = spec.tests.iter().enumerate();
    tests
        .flat_map(|(index, test)| {
            let told = explain(&offline::snapshot(spec), &test.request, SEED);
            failures(test, &told).into_iter().map(move |failure| {
                let key = format!("tests[{index}].expect.{}", failure.key);
                let message = format!(
                    "test `{}`: expected {} {}, got {}",
                    test.name, failure.key, failure.expected, failure.got
                );
                Diagnostic::new(Severity::Error, "test-failed", message)
                    .about(&key)
                    .at(origins.place(&key))
                    .help(summary(&told))
            })
        })
        .collect()
}

/// An expectation that does not hold.
struct Failure {
    key: &'static str,
    expected: String,
    got: String,
}

fn failures(test: &Test, told: &Explanation) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut differs = |key, expected: String, got: String| {
        failures.push(Failure { key, expected, got });
    };
    let expect = &test.expect;
    // Where several are expected, the workers are those of the leg whose answer the client gets.
    let leg = told.legs.last();
    let quoted = |text: &str| format!("`{text}`");
    let or_none = |text: Option<&str>| text.map_or_else(|| "none".to_owned(), quoted);
    let texts = [
        ("model", expect.model.as_deref(), told.model.as_deref()),
        ("pool", expect.pool.as_deref(), told.pool.as_deref()),
        ("code", expect.code.as_deref(), told.code.as_deref()),
        (
            "policy",
            expect.policy.map(|policy| policy.as_str()),
            leg.map(|leg| leg.policy.as_str()),
        ),
    ];
    for (key, expected, got) in texts {
        if let Some(expected) = expected
            && got != Some(expected)
        {
            differs(key, quoted(expected), or_none(got));
        }
    }
    if let Some(status) = expect.status
        && status != told.status
    {
        differs("status", status.to_string(), told.status.to_string());
    }
    let worker = leg.and_then(|leg| leg.worker.as_deref());
    let key = worker.map(WorkerKey::named);
    // The URL of an engine stands for each of its ranks.
    let is = |url: &String| {
        let expected = WorkerKey::named(url);
        key.as_ref()
            .is_some_and(|key| *key == expected || key.base() == expected)
    };
    if let Some(expected) = &expect.worker
        && !is(expected)
    {
        differs("worker", quoted(expected), or_none(worker));
    }
    if let Some(expected) = &expect.worker_in
        && !expected.iter().any(is)
    {
        let names: Vec<String> = expected.iter().map(|url| quoted(url)).collect();
        differs(
            "worker_in",
            format!("one of {}", names.join(", ")),
            or_none(worker),
        );
    }
    failures
}

/// The decision in one line.
fn summary(told: &Explanation) -> String {
    if let (Some(code), Some(message)) = (&told.code, &told.message) {
        return format!(
            "the request is refused with {} {code}: {message}",
            told.status
        );
    }
    let legs = told.legs.iter().map(|leg| {
        let LegExplained {
            policy,
            worker,
            reason,
            ..
        } = leg;
        format!(
            "{policy} chose {} ({})",
            worker.as_deref().unwrap_or("nobody"),
            reason.as_deref().unwrap_or("no reason")
        )
    });
    let legs: Vec<String> = legs.collect();
    format!(
        "the request goes to model {} in pool {}; {}",
        told.model.as_deref().unwrap_or("none"),
        told.pool.as_deref().unwrap_or("none"),
        legs.join(", ")
    )
}
