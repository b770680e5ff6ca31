//! The form of a token: three parts, the first of which says how it is signed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::Value;

use super::TokenError;

/// How tokens may be signed. Nothing that a public key, or nobody's, could sign as well.
const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
];

/// A token in its parts. Nothing of it has been verified.
#[derive(Debug)]
pub(super) struct Form<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: String,
    /// What the signature is of.
    pub(super) signed: &'a str,
    pub(super) payload: &'a str,
    pub(super) signature: &'a str,
}

/// The members that count; a key or an address of one that the token brings along does not.
#[derive(Deserialize)]
struct Header {
    alg: Option<String>,
    kid: Option<String>,
    /// What a reader must understand. Nothing of it is understood here.
    crit: Option<Value>,
}

impl<'a> Form<'a> {
    /// Takes `token` apart.
    pub(super) fn read(token: &'a str) -> Result<Self, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if payload.contains('.') {
            return Err(TokenError::Malformed);
        }
        let header: Header = json(header)?;
        let alg = header.alg.ok_or(TokenError::Malformed)?;
        let accepted = ALGORITHMS.iter().find(|(name, _)| *name == alg);
        let (_, algorithm) = *accepted.ok_or(TokenError::Algorithm)?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let kid = header.kid.filter(|kid| !kid.is_empty());
        Ok(Self {
            algorithm,
            kid: kid.ok_or(TokenError::Malformed)?,
            signed,
            payload,
            signature,
        })
    }
}

/// A part of a token as what it stands for.
pub(super) fn json<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part);
    let bytes = bytes.map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(header: &str) -> Result<(Algorithm, String), TokenError> {
        let token = format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(header));
        Form::read(&token).map(|form| (form.algorithm, form.kid))
    }

    #[test]
    fn headers() {
        for (name, algorithm) in ALGORITHMS {
            let header = format!(r#"{{"alg":"{name}","kid":"k","typ":"at+jwt","jwk":{{}}}}"#);
            assert_eq!(read(&header), Ok((algorithm, "k".to_owned())));
        }
        for alg in [
            "none", "None", "HS256", "PS256", "EdDSA", "rs256", "ES512", "",
        ] {
            let header = format!(r#"{{"alg":"{alg}","kid":"k"}}"#);
            assert_eq!(read(&header), Err(TokenError::Algorithm), "{alg}");
        }
        for header in [
            "",
            "{}",
            "[]",
            r#""RS256""#,
            r#"{"kid":"k"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"RS256","kid":""}"#,
            r#"{"alg":"RS256","kid":null}"#,
            r#"{"alg":"RS256","kid":7}"#,
            r#"{"alg":["RS256"],"kid":"k"}"#,
            r#"{"alg":"RS256","alg":"none","kid":"k"}"#,
            r#"{"alg":"RS256","kid":"k","kid":"l"}"#,
            r#"{"alg":"RS256","kid":"k","crit":["exp"]}"#,
            r#"{"alg":"RS256","kid":"k"}x"#,
        ] {
            assert_eq!(read(header), Err(TokenError::Malformed), "{header}");
        }
        let path = r#"{"alg":"RS256","kid":"../../../../dev/null"}"#;
        assert_eq!(read(path).unwrap().1, "../../../../dev/null");
    }

    #[test]
    fn three_parts_and_no_padding() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"k"}"#);
        let good = format!("{header}.cGF5.c2ln");
        let form = Form::read(&good).unwrap();
        assert_eq!((form.payload, form.signature), ("cGF5", "c2ln"));
        assert_eq!(form.signed, format!("{header}.cGF5"));
        for bad in [
            String::new(),
            "..".to_owned(),
            header.clone(),
            format!("{header}.cGF5"),
            format!("{header}.cGF5.c2ln.x"),
            format!("{header}=.cGF5.c2ln"),
            format!(" {header}.cGF5.c2ln"),
        ] {
            assert_eq!(
                Form::read(&bad).unwrap_err(),
                TokenError::Malformed,
                "{bad}"
            );
        }
    }

    #[test]
    fn deep_headers_end_early() {
        let deep = format!(r#"{{"alg":"RS256","kid":"k","x":{}"#, "[".repeat(8_000));
        assert_eq!(read(&deep), Err(TokenError::Malformed));
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "\\PC{0,200}") {
            prop_assert!(Form::read(&text).is_err());
        }

        #[test]
        fn any_header_is_judged(header in "[{}\\[\\]\":,a-z0-9]{0,80}") {
            // No alg of the list can be spelled without capitals.
            prop_assert!(read(&header).is_err());
        }
    }
}
