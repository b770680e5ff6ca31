//! Request bodies: the scan agrees with a parser of JSON about what routing reads, whole and in
//! pieces, and an exchanged model name changes nothing else.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use smg::api::members::{Changes, Outline, renamed};
use smg::api::scan::{ScanError, scan};
use smg::api::skim::Skimmer;
use smg::api::{Payload, Span};

/// The members at the top as written, those given twice included.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Members;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Members(pairs))
            }
        }

        from.deserialize_map(Pairs)
    }
}

impl Members {
    fn last(&self, name: &str) -> Option<&Value> {
        let mut named = self.0.iter().rev().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value)
    }

    /// Whether a scan must take it, and with which model and stream.
    fn verdict(&self) -> Option<(Option<&str>, Option<bool>)> {
        if self.0.iter().filter(|(key, _)| key == "model").count() > 1 {
            return None;
        }
        let model = match self.last("model") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(name.as_str()),
            Some(_) => return None,
        };
        let stream = match self.last("stream") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(stream)) => Some(*stream),
            Some(_) => return None,
        };
        match self.last("n") {
            None | Some(Value::Null) => {}
            // The scan has its own idea of what is an integer, such as `-0`.
            Some(n) if n.is_i64() || n.is_u64() => {}
            Some(_) => return None,
        }
        Some((model, stream))
    }
}

pub(crate) fn run(input: &[u8]) {
    let parsed = serde_json::from_slice::<Members>(input).ok();
    let scanned = scan(input);
    if let Some(members) = &parsed {
        match (&scanned, members.verdict()) {
            (Ok(scan), Some((model, stream))) => {
                assert_eq!(scan.model.as_deref(), model);
                assert_eq!(scan.fields.stream, stream);
            }
            // A negative zero, or a number that is none to one of the two.
            (Ok(scan), None) => assert!(scan.fields.n.is_some(), "taken, though it may not be"),
            (Err(ScanError::TooDeep { .. }), _) => {}
            (Err(error), Some(_)) => panic!("refused: {error}"),
            (Err(_), None) => {}
        }
    }
    in_pieces(
        input,
        &scanned
            .as_ref()
            .map(|scan| scan.fields)
            .map_err(|error| *error),
    );
    let Ok(scan) = scanned else { return };
    let payload = Payload::from(Bytes::copy_from_slice(input));
    let edited = renamed(&payload, &scan.fields, "another \"name\"")
        .pieces()
        .concat();
    let kept = scan
        .fields
        .model
        .map_or(scan.fields.object.open..scan.fields.object.open, |span| {
            span.range()
        });
    assert!(edited.starts_with(&input[..kept.start]) && edited.ends_with(&input[kept.end..]));
    let again = smg::api::scan::scan(&edited).expect("what was edited is taken");
    assert_eq!(again.model, Some(Cow::Borrowed("another \"name\"")));
    if parsed.is_some() {
        let mut meant: Value = serde_json::from_slice(input).expect("it has been parsed");
        meant["model"] = "another \"name\"".into();
        let sent: Value = serde_json::from_slice(&edited).expect("an edited body is JSON");
        assert_eq!(sent, meant);
        set(&payload, input);
    }
}

/// Setting members by splicing equals setting them in a tree.
fn set(payload: &Payload, input: &[u8]) {
    let outline = Outline::of(payload, &["stream", "added"]).expect("what is taken has an outline");
    let mut changes = Changes::new(&outline);
    changes.set("added", "[1,{}]");
    changes.set("stream", "false");
    let edited = changes.apply(payload).pieces().concat();
    let mut meant: Value = serde_json::from_slice(input).expect("it has been parsed");
    meant["added"] = serde_json::json!([1, {}]);
    meant["stream"] = false.into();
    let sent: Value = serde_json::from_slice(&edited).expect("a changed body is JSON");
    assert_eq!(sent, meant);
}

/// However it is cut, what is found of it is the same.
fn in_pieces(input: &[u8], whole: &Result<smg::api::scan::Fields, ScanError>) {
    let size = 1 + input.len() / 3;
    let pieces: Vec<Bytes> = input.chunks(size).map(Bytes::copy_from_slice).collect();
    let mut skimmer = Skimmer::default();
    for piece in &pieces {
        skimmer.feed(piece);
    }
    let mut cut = false;
    let skimmed = skimmer.skeleton(&pieces).and_then(|(skeleton, cuts)| {
        cut = skeleton.len() < input.len();
        let scanned = scan(&skeleton).map_err(|error| cuts.error(error))?;
        Ok(cuts.fields(&scanned.fields))
    });
    match (whole, &skimmed) {
        (Ok(whole), Ok(skimmed)) => {
            let places = |fields: &smg::api::scan::Fields| {
                [fields.model, fields.messages, fields.prompt, fields.input]
                    .map(|span: Option<Span>| span.map(|span| span.range()))
            };
            assert_eq!(places(whole), places(skimmed));
            assert_eq!(whole.stream, skimmed.stream);
        }
        (Err(_), Err(_)) => {}
        // The inside of a long name is not looked at; none of those that count is so long.
        (Err(ScanError::InvalidJson { .. }), Ok(_)) if cut => {}
        // Both look at structure only, and at not quite the same of what is no JSON.
        (Ok(_), Err(ScanError::InvalidJson { .. }))
            if serde_json::from_slice::<serde::de::IgnoredAny>(input).is_err() => {}
        (whole, skimmed) => panic!("whole {whole:?}, in pieces {skimmed:?}"),
    }
}
