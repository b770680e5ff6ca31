//! How long an answer may become, as the client says.

use super::lex::{self, Span};
use super::members::batch;
use super::scan::Fields;
use super::{Endpoint, Payload};

/// The most bytes of a value that is looked at.
const LONGEST: usize = 64 * 1024;

/// Tokens of the answer at most, where the body says; of several figures that the engines read in
/// different order, the greatest.
pub fn ceiling(endpoint: Endpoint, body: &Payload, fields: &Fields) -> Option<u64> {
    let number = |span: Option<Span>| number(&raw(body, span?)?);
    match endpoint {
        Endpoint::Chat => number(fields.max_completion_tokens).max(number(fields.max_tokens)),
        Endpoint::Completions => number(fields.max_tokens),
        Endpoint::Responses => number(fields.max_output_tokens),
        Endpoint::Generate => parameter(body, fields, "max_new_tokens"),
        Endpoint::Embeddings | Endpoint::Rerank | Endpoint::Classify => None,
    }
}

/// How many answers a body asks for whose usage no one figure tells, at least one: those of
/// `/generate` come as a list, each with figures of its own.
pub fn answers(endpoint: Endpoint, body: &Payload, fields: &Fields) -> u64 {
    if endpoint != Endpoint::Generate {
        return 1;
    }
    let many = |span: Option<Span>| span.and_then(|span| batch(body, span));
    let prompts = many(fields.text).or_else(|| many(fields.input_ids));
    let prompts = prompts.map_or(1, |prompts| prompts as u64);
    let each = parameter(body, fields, "n").unwrap_or(1);
    prompts.saturating_mul(each.max(1))
}

/// The number `name` among the parameters of `/generate`.
fn parameter(body: &Payload, fields: &Fields, name: &str) -> Option<u64> {
    let parameters = raw(body, fields.sampling_params?)?;
    if !parameters.starts_with(b"{") {
        return None;
    }
    let whole = Span::new(0, parameters.len());
    number(lex::member(&parameters, whole, name)?.of(&parameters))
}

fn raw(body: &Payload, span: Span) -> Option<Vec<u8>> {
    (span.len() <= LONGEST).then(|| body.raw(span)).flatten()
}

/// A whole number; one that is larger than any counts as the largest.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    };
    Some(text.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::api::scan::scan;

    fn of(endpoint: Endpoint, body: &'static str) -> Option<u64> {
        let fields = scan(body.as_bytes()).unwrap().fields;
        ceiling(
            endpoint,
            &Bytes::from_static(body.as_bytes()).into(),
            &fields,
        )
    }

    #[test]
    fn every_api_has_a_name_of_its_own_for_it() {
        use Endpoint::{Chat, Classify, Completions, Embeddings, Generate, Responses};
        for (endpoint, body, expected) in [
            (Chat, r#"{"max_tokens":7}"#, Some(7)),
            (
                Chat,
                r#"{"max_tokens":7,"max_completion_tokens": 9}"#,
                Some(9),
            ),
            (Chat, r#"{"max_tokens":null,"max_output_tokens":9}"#, None),
            (Chat, r#"{"max_tokens":"7"}"#, None),
            (Chat, r#"{"max_tokens":-7}"#, None),
            (Chat, r#"{"max_tokens":7.5}"#, None),
            (
                Chat,
                r#"{"max_tokens":99999999999999999999999}"#,
                Some(u64::MAX),
            ),
            (
                Completions,
                r#"{"max_tokens":0,"max_completion_tokens":9}"#,
                Some(0),
            ),
            (
                Responses,
                r#"{"max_tokens":7,"max_output_tokens":8}"#,
                Some(8),
            ),
            (
                Generate,
                r#"{"max_tokens":7,"sampling_params":{"n":[1], "max_new_tokens" : 5 }}"#,
                Some(5),
            ),
            (
                Generate,
                r#"{"sampling_params":[{"max_new_tokens":5}]}"#,
                None,
            ),
            (Generate, r#"{"sampling_params":{}}"#, None),
            (Generate, "{}", None),
            (Embeddings, r#"{"max_tokens":7}"#, None),
            (Classify, r#"{"max_tokens":7}"#, None),
        ] {
            assert_eq!(of(endpoint, body), expected, "{body}");
        }
    }

    #[test]
    fn answers_that_come_as_a_list_are_counted() {
        for (endpoint, body, expected) in [
            (Endpoint::Generate, r#"{"text":"a"}"#, 1),
            (Endpoint::Generate, r#"{"text":["a","b","c"]}"#, 3),
            (Endpoint::Generate, r#"{"input_ids":[1,2]}"#, 1),
            (Endpoint::Generate, r#"{"input_ids":[[1],[2]]}"#, 2),
            (
                Endpoint::Generate,
                r#"{"text":["a","b"],"sampling_params":{"n":4}}"#,
                8,
            ),
            (
                Endpoint::Generate,
                r#"{"text":"a","sampling_params":{"n":0}}"#,
                1,
            ),
            (
                Endpoint::Generate,
                r#"{"text":["a","b"],"sampling_params":{"n":99999999999999999999999}}"#,
                u64::MAX,
            ),
            // One figure tells what they cost together.
            (Endpoint::Completions, r#"{"prompt":["a","b"],"n":4}"#, 1),
        ] {
            let fields = scan(body.as_bytes()).unwrap().fields;
            let body = Bytes::from_static(body.as_bytes()).into();
            assert_eq!(answers(endpoint, &body, &fields), expected);
        }
    }
}
