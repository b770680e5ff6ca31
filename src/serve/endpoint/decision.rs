//! The header that says how the worker of an answer was found.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};

use crate::dispatch::Call;

/// A dictionary of structured fields (RFC 9651): model, pool, policy, reason, worker, attempts.
pub(super) const X_SMG_DECISION: HeaderName = HeaderName::from_static("x-smg-decision");

/// The header of the answer to `call`, if a worker was chosen.
pub(super) fn header(call: &Call) -> Option<HeaderValue> {
    let routed = call.routed.as_ref()?;
    let placed = routed.placed.as_ref()?;
    let (route, _) = call.snapshot.route(routed.route)?;
    let worker = call.snapshot.worker(routed.worker?)?;
    let mut text = String::with_capacity(192);
    quote(&mut text, "model", &routed.label);
    text.push_str(", ");
    quote(&mut text, "pool", &call.snapshot.plan.pool(route.pool).name);
    // Writing to memory cannot fail.
    write!(
        text,
        ", policy={}, reason={}, worker=\"{}\", attempts={}",
        placed.policy,
        placed.reason,
        worker.parts.id_str(),
        routed.attempts
    )
    .ok();
    HeaderValue::try_from(text).ok()
}

/// A member with a string, which holds visible ASCII only; what is none becomes a question mark.
fn quote(text: &mut String, key: &str, value: &str) {
    text.push_str(key);
    text.push_str("=\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            ' '..='~' => text.push(c),
            _ => text.push('?'),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn strings_of_structured_fields() {
        let mut text = String::new();
        quote(&mut text, "model", "a\"b\\c é\n");
        assert_eq!(text, r#"model="a\"b\\c ??""#);
    }
}
