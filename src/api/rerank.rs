//! Rerank: what is asked of a request, and the answer made from a worker's ranking.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ErrorCode;
use super::lex::{self, Span};
use super::scan::Fields;

/// What of a rerank request shapes its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How many results the client wants; at least 1.
    pub top_k: Option<usize>,
    /// Whether results carry their documents. True unless refused.
    pub return_documents: bool,
    /// The client's own id for the request.
    pub rid: Option<String>,
}

/// Why a rerank request is refused. All of these are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field that must be there is not, or is null.
    #[error("`{0}` is required")]
    Missing(&'static str),
    /// The query has nothing but white space.
    #[error("`query` must not be blank")]
    BlankQuery,
    /// There is nothing to rank.
    #[error("`documents` must have at least one element")]
    NoDocuments,
    /// `top_k` is below 1.
    #[error("`top_k` must be at least 1")]
    TopKTooSmall,
    /// A field has a value of another type.
    #[error("`{field}` must be {expected}")]
    WrongType {
        /// Name of the field.
        field: &'static str,
        /// What it may be, in words.
        expected: &'static str,
    },
}

impl Refusal {
    /// The code that the client gets.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Missing(_) | Self::BlankQuery => ErrorCode::MissingRequiredParameter,
            Self::NoDocuments => ErrorCode::EmptyArray,
            Self::TopKTooSmall => ErrorCode::DecimalBelowMinValue,
            Self::WrongType { .. } => ErrorCode::InvalidType,
        }
    }

    /// The field that is at fault.
    pub fn param(&self) -> &'static str {
        match self {
            Self::Missing(field) | Self::WrongType { field, .. } => field,
            Self::BlankQuery => "query",
            Self::NoDocuments => "documents",
            Self::TopKTooSmall => "top_k",
        }
    }
}

impl Request {
    /// Checks a scanned request.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies; the fields are looked at in the order query, documents,
    /// top_k, return_documents, rid.
    pub fn check(body: &[u8], fields: &Fields) -> Result<Self, Refusal> {
        let query: String = required(body, fields.query, "query", "a string")?;
        if query.trim().is_empty() {
            return Err(Refusal::BlankQuery);
        }
        let documents: Vec<IgnoredAny> =
            required(body, fields.documents, "documents", "an array of documents")?;
        if documents.is_empty() {
            return Err(Refusal::NoDocuments);
        }
        let start = fields.object.open.saturating_sub(1);
        let object = Span::new(start, fields.object.close);
        let member = |name| lex::member(body, object, name);
        let top_k: Option<i64> = optional(body, member("top_k"), "top_k", "an integer")?;
        let top_k = match top_k {
            Some(..1) => return Err(Refusal::TopKTooSmall),
            Some(k) => Some(usize::try_from(k).unwrap_or(usize::MAX)),
            None => None,
        };
        let return_documents = optional(
            body,
            member("return_documents"),
            "return_documents",
            "a boolean",
        )?;
        let rid = optional(body, member("rid"), "rid", "a string")?;
        Ok(Self {
            top_k,
            return_documents: return_documents.unwrap_or(true),
            rid,
        })
    }

    /// Turns a worker's answer into the client's: best score first (equal ones by index), cut to
    /// `top_k`, without documents where the client wants none. `created` is in Unix seconds.
    ///
    /// A worker answers with an array of results, or with an object that has them in `results`.
    ///
    /// # Errors
    /// [`BadRanking`] where the worker's answer is neither.
    pub fn answer(&self, ranking: &[u8], model: &str, created: u64) -> Result<Vec<u8>, BadRanking> {
        let array = ranking.trim_ascii_start().first() == Some(&b'[');
        let mut results: Vec<Ranked> = if array {
            serde_json::from_slice(ranking)?
        } else {
            serde_json::from_slice::<Wrapped>(ranking)?.results
        };
        results.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.index.cmp(&b.index)));
        results.truncate(self.top_k.unwrap_or(usize::MAX));
        if !self.return_documents {
            results.iter_mut().for_each(|result| result.document = None);
        }
        let id = self.rid.as_deref();
        let answer = Answer {
            results,
            model,
            usage: (),
            object: "rerank",
            id,
            created,
        };
        Ok(serde_json::to_vec(&answer)?)
    }
}

/// A worker's ranking cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the worker's ranking is malformed")]
pub struct BadRanking(#[from] serde_json::Error);

impl BadRanking {
    /// The code that the client gets.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::RerankResponseBuildFailed
    }
}

#[derive(Deserialize, Serialize)]
struct Ranked {
    #[serde(alias = "relevance_score")]
    score: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    document: Option<Value>,
    index: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta_info: Option<Value>,
}

#[derive(Deserialize)]
struct Wrapped {
    results: Vec<Ranked>,
}

#[derive(Serialize)]
struct Answer<'a> {
    results: Vec<Ranked>,
    model: &'a str,
    usage: (),
    object: &'static str,
    id: Option<&'a str>,
    created: u64,
}

fn required<T: DeserializeOwned>(
    body: &[u8],
    place: Option<Span>,
    field: &'static str,
    expected: &'static str,
) -> Result<T, Refusal> {
    optional(body, place, field, expected)?.ok_or(Refusal::Missing(field))
}

fn optional<T: DeserializeOwned>(
    body: &[u8],
    place: Option<Span>,
    field: &'static str,
    expected: &'static str,
) -> Result<Option<T>, Refusal> {
    let Some(place) = place else { return Ok(None) };
    serde_json::from_slice(place.of(body)).map_err(|_| Refusal::WrongType { field, expected })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scan::scan;
    use super::*;

    fn check(body: &str) -> Result<Request, Refusal> {
        Request::check(body.as_bytes(), &scan(body.as_bytes()).unwrap().fields)
    }

    #[test]
    fn a_request_needs_a_query_and_documents() {
        for (body, refusal, code) in [
            (
                r#"{"documents":["a"]}"#,
                Refusal::Missing("query"),
                "missing_required_parameter",
            ),
            (
                r#"{"query":null,"documents":["a"]}"#,
                Refusal::Missing("query"),
                "missing_required_parameter",
            ),
            (
                r#"{"query":" \n","documents":["a"]}"#,
                Refusal::BlankQuery,
                "missing_required_parameter",
            ),
            (
                r#"{"query":"q"}"#,
                Refusal::Missing("documents"),
                "missing_required_parameter",
            ),
            (
                r#"{"query":"q","documents":[]}"#,
                Refusal::NoDocuments,
                "empty_array",
            ),
            (
                r#"{"query":"q","documents":["a"],"top_k":0}"#,
                Refusal::TopKTooSmall,
                "decimal_below_min_value",
            ),
            (
                r#"{"query":"q","documents":["a"],"top_k":-4}"#,
                Refusal::TopKTooSmall,
                "decimal_below_min_value",
            ),
        ] {
            let err = check(body).expect_err(body);
            assert_eq!((err, err.code().as_str()), (refusal, code), "{body}");
        }
        for (body, field) in [
            (r#"{"query":["q"],"documents":["a"]}"#, "query"),
            (r#"{"query":"q","documents":"a"}"#, "documents"),
            (r#"{"query":"q","documents":["a"],"top_k":1.5}"#, "top_k"),
            (
                r#"{"query":"q","documents":["a"],"return_documents":"no"}"#,
                "return_documents",
            ),
            (r#"{"query":"q","documents":["a"],"rid":5}"#, "rid"),
        ] {
            let err = check(body).expect_err(body);
            assert_eq!(
                (err.code(), err.param()),
                (ErrorCode::InvalidType, field),
                "{body}"
            );
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        let plain = Request {
            top_k: None,
            return_documents: true,
            rid: None,
        };
        assert_eq!(
            check(r#"{"query":"q","documents":["a",{"text":"b"}]}"#),
            Ok(plain)
        );
        let full = Request {
            top_k: Some(2),
            return_documents: false,
            rid: Some("r".into()),
        };
        assert_eq!(
            check(
                r#"{"query":"q","documents":["a"],"top_k":2,"return_documents":false,"rid":"r"}"#
            ),
            Ok(full)
        );
    }

    const RANKING: &[u8] = br#"[{"score":0.1,"document":"a","index":0,"meta_info":{"x":1}},
        {"score":0.9,"document":"b","index":1},{"score":0.9,"document":null,"index":2},{"score":-3,"index":3}]"#;

    #[test]
    fn the_answer_is_sorted_and_cut() {
        let request = Request {
            top_k: Some(3),
            return_documents: true,
            rid: Some("r1".into()),
        };
        let answer: Value =
            serde_json::from_slice(&request.answer(RANKING, "m", 17).unwrap()).unwrap();
        let expected = json!({
            "results": [
                {"score": 0.9, "document": "b", "index": 1},
                {"score": 0.9, "index": 2},
                {"score": 0.1, "document": "a", "index": 0, "meta_info": {"x": 1}},
            ],
            "model": "m", "usage": null, "object": "rerank", "id": "r1", "created": 17,
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn documents_are_left_out_on_request() {
        let request = Request {
            top_k: None,
            return_documents: false,
            rid: None,
        };
        let answer = request.answer(RANKING, "m", 0).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), 4);
        assert!(
            results
                .iter()
                .all(|result| result.get("document").is_none())
        );
        assert_eq!(answer["id"], Value::Null);
    }

    #[test]
    fn results_may_be_wrapped() {
        let request = Request {
            top_k: None,
            return_documents: true,
            rid: None,
        };
        let ranking =
            br#"{"id":"x","results":[{"index":4,"relevance_score":0.5,"document":{"text":"d"}}]}"#;
        let answer: Value =
            serde_json::from_slice(&request.answer(ranking, "m", 0).unwrap()).unwrap();
        assert_eq!(
            answer["results"],
            json!([{"score": 0.5, "document": {"text": "d"}, "index": 4}])
        );
        for bad in [
            &b""[..],
            b"null",
            b"[1]",
            br#"{"error":"x"}"#,
            br#"[{"index":0}]"#,
        ] {
            let err = request.answer(bad, "m", 0).unwrap_err();
            assert_eq!(err.code().as_str(), "rerank_response_build_failed");
        }
    }
}
