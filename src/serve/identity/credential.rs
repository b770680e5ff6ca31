//! Where a request carries its credential.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::plan::Digest;

/// Where clients of the Anthropic kind put theirs.
pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A credential as it stands in the headers. It has no `Debug`: nothing may print it.
#[derive(Clone, Copy)]
pub(super) struct Credential<'a>(&'a [u8]);

/// Why it cannot be said what the credential is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unclear {
    /// There is none.
    Missing,
    /// There are several, and they differ.
    Several,
}

impl<'a> Credential<'a> {
    /// What is compared with keys.
    pub(super) fn digest(self) -> Digest {
        Digest::of(self.0)
    }

    /// The credential as a token, where it has the form of one: three parts between dots. What is no
    /// text has the form and nothing in it.
    pub(super) fn token(self) -> Option<&'a str> {
        let dots = self.0.iter().filter(|byte| **byte == b'.').count();
        (dots == 2).then(|| std::str::from_utf8(self.0).unwrap_or_default())
    }
}

/// The gateway's credential: in the header `gateway` where that is present, else behind `Bearer`, else
/// in `x-api-key`.
///
/// # Errors
/// There is none, or there are several.
pub(super) fn find<'a>(headers: &'a HeaderMap, gateway: &str) -> Result<Credential<'a>, Unclear> {
    if has_own_header(headers, gateway) {
        return only(headers.get_all(gateway).iter().map(plain));
    }
    let bearers = headers.get_all(AUTHORIZATION).iter().filter_map(bearer);
    only(bearers.chain(headers.get_all(X_API_KEY).iter().map(plain)))
}

/// Whether the header that carries nothing but the gateway's credential is there.
pub(super) fn has_own_header(headers: &HeaderMap, gateway: &str) -> bool {
    gateway != AUTHORIZATION && headers.contains_key(gateway)
}

/// Whether a credential stands behind `Bearer`.
pub(super) fn has_bearer(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    values.any(|value| bearer(value).is_some())
}

/// What `authorization` says behind its scheme, whichever that is, and the whole of it.
pub(super) fn parts(value: &HeaderValue) -> [Credential<'_>; 2] {
    let whole = value.as_bytes().trim_ascii();
    let space = whole.iter().position(u8::is_ascii_whitespace);
    let behind = space.and_then(|at| whole.get(at..)).unwrap_or_default();
    [Credential(behind.trim_ascii()), Credential(whole)]
}

fn only<'a>(mut shown: impl Iterator<Item = &'a [u8]>) -> Result<Credential<'a>, Unclear> {
    let mut shown = shown.by_ref().filter(|credential| !credential.is_empty());
    let first = shown.next().ok_or(Unclear::Missing)?;
    match shown.all(|other| other == first) {
        true => Ok(Credential(first)),
        false => Err(Unclear::Several),
    }
}

fn plain(value: &HeaderValue) -> &[u8] {
    value.as_bytes().trim_ascii()
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes().trim_ascii();
    let (scheme, rest) = value.split_at_checked("bearer".len())?;
    let is_bearer =
        scheme.eq_ignore_ascii_case(b"bearer") && rest.first().is_none_or(u8::is_ascii_whitespace);
    is_bearer.then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[(&'static str, &str)]) -> Result<String, Unclear> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        find(&headers, "x-smg-api-key").map(|found| String::from_utf8(found.0.to_vec()).unwrap())
    }

    #[test]
    fn the_first_place_that_has_one() {
        for (lines, expected) in [
            (&[("authorization", "Bearer a")][..], Ok("a")),
            (&[("authorization", "bEaReR   a ")], Ok("a")),
            (&[("x-api-key", " a ")], Ok("a")),
            (
                &[("authorization", "Bearer a"), ("x-api-key", "a")],
                Ok("a"),
            ),
            (
                &[
                    ("x-smg-api-key", "a"),
                    ("authorization", "Bearer b"),
                    ("x-api-key", "c"),
                ],
                Ok("a"),
            ),
            (&[("authorization", "Basic b"), ("x-api-key", "a")], Ok("a")),
            (&[("authorization", "Bearer "), ("x-api-key", "a")], Ok("a")),
            (&[("x-api-key", "a"), ("x-api-key", "a")], Ok("a")),
            (&[], Err(Unclear::Missing)),
            (&[("authorization", "a")], Err(Unclear::Missing)),
            (&[("authorization", "Bearer")], Err(Unclear::Missing)),
            (&[("authorization", "Bearera")], Err(Unclear::Missing)),
            (&[("authorization", "Basic a")], Err(Unclear::Missing)),
            // It is the gateway's place, and there is nothing in it.
            (
                &[("x-smg-api-key", ""), ("authorization", "Bearer b")],
                Err(Unclear::Missing),
            ),
            (
                &[("authorization", "Bearer a"), ("x-api-key", "b")],
                Err(Unclear::Several),
            ),
            (
                &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
                Err(Unclear::Several),
            ),
            (
                &[("x-api-key", "a"), ("x-api-key", "b")],
                Err(Unclear::Several),
            ),
            (
                &[("x-smg-api-key", "a"), ("x-smg-api-key", "b")],
                Err(Unclear::Several),
            ),
        ] {
            assert_eq!(
                found(lines).as_deref().map_err(|why| *why),
                expected,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn three_parts_are_a_token() {
        let token = |text: &'static [u8]| Credential(text).token();
        assert_eq!(token(b"a.b.c"), Some("a.b.c"));
        assert_eq!(token(b".."), Some(".."));
        assert_eq!(token(b"\xff.b.c"), Some(""));
        for text in [&b"a.b"[..], b"a.b.c.d", b"", b"abc"] {
            assert_eq!(token(text), None);
        }
    }

    #[test]
    fn a_value_is_looked_at_with_its_scheme_and_without() {
        for (value, behind) in [
            ("Token  a b", "a b"),
            ("Bearer\ta", "a"),
            ("Bearer \ta", "a"),
            ("a", ""),
        ] {
            let value = HeaderValue::from_static(value);
            let parts = parts(&value).map(|part| part.0.to_vec());
            assert_eq!(parts, [behind.as_bytes(), value.as_bytes()]);
        }
    }
}
