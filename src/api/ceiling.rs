//! How long an answer may become, as the client says.

use super::lex::{self, Span};
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
        Endpoint::Generate => {
            let parameters = raw(body, fields.sampling_params?)?;
            if !parameters.starts_with(b"{") {
                return None;
            }
            let whole = Span::new(0, parameters.len());
            let most = lex::member(&parameters, whole, "max_new_tokens")?;
            self::number(most.of(&parameters))
        }
        Endpoint::Embeddings | Endpoint::Rerank | Endpoint::Classify => None,
    }
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
}
