//! The id of a request: the client's, or one of ours.

use http::{HeaderMap, HeaderValue};
use std::sync::Arc;

use crate::api::Endpoint;

const LENGTH: usize = 24;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The first of `names` that holds 1 to 128 visible ASCII characters; else a new id whose prefix
/// tells the endpoint.
pub(crate) fn choose(
    headers: &HeaderMap,
    names: &[Arc<str>],
    endpoint: Option<Endpoint>,
) -> HeaderValue {
    names
        .iter()
        .filter_map(|name| headers.get(&**name))
        .find(|value| {
            let bytes = value.as_bytes();
            (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
        })
        .cloned()
        .unwrap_or_else(|| make(endpoint.map_or("req-", Endpoint::id_prefix)))
}

fn make(prefix: &str) -> HeaderValue {
    let mut id = Vec::with_capacity(prefix.len() + LENGTH);
    id.extend_from_slice(prefix.as_bytes());
    let mut rng = fastrand::Rng::new();
    id.extend((0..LENGTH).map(|_| ALPHABET[rng.usize(..ALPHABET.len())]));
    HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("req-0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<Arc<str>> {
        vec!["x-request-id".into(), "request-id".into()]
    }

    #[test]
    fn the_first_usable_header_is_taken() {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("has space"));
        headers.insert("request-id", HeaderValue::from_static("abc"));
        assert_eq!(choose(&headers, &names(), None), "abc");
    }

    #[test]
    fn without_one_an_id_is_made_by_endpoint() {
        let long = "x".repeat(129);
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::try_from(long).unwrap());
        let id = choose(&headers, &names(), Some(Endpoint::Chat));
        let text = id.to_str().unwrap();
        assert!(
            text.starts_with("chatcmpl-") && text.len() == 9 + LENGTH,
            "{text}"
        );
        assert_ne!(id, choose(&headers, &names(), Some(Endpoint::Chat)));
    }
}
