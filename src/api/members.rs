//! The top-level members of a request body in pieces, found again and changed in place, for requests
//! of which more than the model has to be different at a worker.

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::lex::{Members, Span, key_is, skip_space};
use super::quote::{quote, quoted};
use super::scan::{Fields, ScanError};
use super::skim::{Cuts, Skimmer};
use super::{Payload, lex};

/// Where the top-level members of a body stand.
#[derive(Clone, Debug)]
pub struct Outline {
    close: usize,
    /// Members in all.
    count: usize,
    /// Those with a wanted name.
    wanted: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: &'static str,
    /// Where the key begins.
    key: usize,
    value: Span,
    /// Where the member before it ends.
    before: Option<usize>,
    /// Where the member behind it begins.
    behind: Option<usize>,
}

impl Outline {
    /// Of `body`, a JSON object; members are told apart as far as they are in `wanted`.
    ///
    /// # Errors
    /// When `body` is no object, as far as this looks.
    pub fn of(body: &Payload, wanted: &[&'static str]) -> Result<Self, ScanError> {
        let mut skimmer = Skimmer::default();
        for piece in body.pieces() {
            skimmer.feed(piece);
        }
        let (text, cuts) = skimmer.skeleton(body.pieces())?;
        Self::read(&text, &cuts, wanted).map_err(|fault| cuts.error(fault.into()))
    }

    fn read(text: &[u8], cuts: &Cuts, wanted: &[&'static str]) -> Result<Self, lex::Fault> {
        let mut walk = Members::new(text, skip_space(text, 0), 1)?;
        let mut members: Vec<Entry> = Vec::new();
        let (mut count, mut previous) = (0, None);
        // Whether the member before is the last of those above.
        let mut follows = false;
        for member in walk.by_ref() {
            let member = member?;
            let raw = member.key.of(text);
            let key = Span::new(member.key.start - 1, member.key.end + 1);
            if let Some(last) = members.last_mut().filter(|_| follows) {
                last.behind = Some(cuts.span(key).start);
            }
            let mut names = wanted.iter().copied();
            let name = names.find(|name| key_is(raw, member.escaped, name));
            follows = name.is_some();
            members.extend(name.map(|name| Entry {
                name,
                key: cuts.span(key).start,
                value: cuts.span(member.value),
                before: previous.map(|value| cuts.span(value).end),
                behind: None,
            }));
            count += 1;
            previous = Some(member.value);
        }
        let close = cuts.span(Span::new(walk.at() - 1, walk.at())).start;
        Ok(Self {
            close,
            count,
            wanted: members,
        })
    }

    /// Where the value of `name` stands; the last one where there are several.
    pub fn value(&self, name: &str) -> Option<Span> {
        self.named(name).last().map(|entry| entry.value)
    }

    fn named(&self, name: &str) -> impl DoubleEndedIterator<Item = &Entry> {
        let members = self.wanted.iter();
        members.filter(move |entry| entry.name == name)
    }
}

/// Changes of a body that has an [`Outline`].
#[derive(Debug, Clone)]
pub struct Changes<'a> {
    outline: &'a Outline,
    edits: Vec<(Span, Bytes)>,
    /// New members, each with a comma in front.
    added: Vec<u8>,
    /// Members of the body that stay.
    left: usize,
}

impl<'a> Changes<'a> {
    /// No change yet of the body of `outline`, which was told every name that is used here.
    pub fn new(outline: &'a Outline) -> Self {
        Self {
            outline,
            edits: Vec::new(),
            added: Vec::new(),
            left: outline.count,
        }
    }

    /// Gives `name` the value `json`: wherever it stands, so that every reader sees the same, else as
    /// a new member.
    pub fn set(&mut self, name: &'static str, json: impl Into<Bytes>) {
        let json: Bytes = json.into();
        let before = self.edits.len();
        let places = self.outline.named(name);
        self.edits
            .extend(places.map(|entry| (entry.value, json.clone())));
        if self.edits.len() == before {
            self.added.push(b',');
            quote(&mut self.added, name);
            self.added.push(b':');
            self.added.extend_from_slice(&json);
        }
    }

    /// Gives `name` the value `json` wherever it stands; where it does not, nothing is added.
    pub fn amend(&mut self, name: &'static str, json: impl Into<Bytes>) {
        if self.outline.value(name).is_some() {
            self.set(name, json);
        }
    }

    /// Takes `name` out. Where it is written more than once, the others become null.
    pub fn remove(&mut self, name: &'static str) {
        let mut places = self.outline.named(name).rev();
        let Some(entry) = places.next() else {
            return;
        };
        let span = match (entry.before, entry.behind) {
            (Some(before), _) => Span::new(before, entry.value.end),
            (None, Some(behind)) => Span::new(entry.key, behind),
            (None, None) => Span::new(entry.key, entry.value.end),
        };
        self.left -= 1;
        self.edits.push((span, Bytes::new()));
        let null = Bytes::from_static(b"null");
        self.edits
            .extend(places.map(|entry| (entry.value, null.clone())));
    }

    /// `body`, the one of the outline, with the changes made. A large body is not copied.
    pub fn apply(mut self, body: &Payload) -> Payload {
        let close = self.outline.close;
        let mut added = Bytes::from(self.added);
        if self.left == 0 && !added.is_empty() {
            // Nothing stands in front of the first.
            added = added.slice(1..);
        }
        self.edits.push((Span::new(close, close), added));
        self.edits.sort_by_key(|(at, _)| (at.start, at.end));
        body.edited(self.edits).joined()
    }
}

/// `body`, which `fields` describes, with the model called `name`: in place or, where it says none, as
/// its first member. A large body is not copied.
pub fn renamed(body: &Payload, fields: &Fields, name: &str) -> Payload {
    let name = quoted(name);
    let changed = match fields.model {
        Some(span) => body.replaced(span, name.into()),
        None => {
            let open = fields.object.open;
            let comma: &[u8] = if fields.object.empty { b"" } else { b"," };
            let member = [b"\"model\":", &*name, comma].concat();
            body.replaced(Span::new(open, open), member.into())
        }
    };
    changed.joined()
}

/// More options than any stream needs.
const MOST_OPTIONS: usize = 64 * 1024;

/// `body`, which `fields` describes, with another model name, if any, and with
/// `stream_options.include_usage` true. `None` where the options are of a kind that an engine refuses.
/// A large body is not copied.
pub fn told_usage(body: &Payload, fields: &Fields, name: Option<&str>) -> Option<Payload> {
    const ASKED: &str = r#"{"include_usage":true}"#;
    let close = fields.object.close;
    let comma = if fields.object.empty { "" } else { "," };
    let added = |place, text: String| (Span::new(place, place), Bytes::from(text));
    let mut edits = Vec::with_capacity(2);
    if let Some(name) = name {
        let name = quoted(name);
        edits.push(match fields.model {
            Some(span) => (span, name.into()),
            None => {
                let member = [b"\"model\":", &*name, b","].concat();
                let open = fields.object.open;
                (Span::new(open, open), member.into())
            }
        });
    }
    edits.push(match fields.stream_options {
        None => added(close, format!("{comma}\"stream_options\":{ASKED}")),
        Some(span) if span.len() > MOST_OPTIONS => return None,
        Some(span) => {
            let options = body.raw(span)?;
            let member = |name| lex::member(&options, Span::new(0, options.len()), name);
            match (options.as_slice(), member("include_usage")) {
                (b"null", _) => (span, Bytes::from_static(ASKED.as_bytes())),
                ([b'{', ..], Some(value)) => {
                    let value = Span::new(span.start + value.start, span.start + value.end);
                    (value, Bytes::from_static(b"true"))
                }
                ([b'{', between @ .., b'}'], None) => {
                    let none = between.trim_ascii().is_empty();
                    let comma = if none { "" } else { "," };
                    added(span.start + 1, format!("\"include_usage\":true{comma}"))
                }
                _ => return None,
            }
        }
    });
    edits.sort_by_key(|(at, _)| (at.start, at.end));
    Some(body.edited(edits).joined())
}

/// Parameters above this are none: a cache of millions of tokens has no more blocks to name.
const MOST_PARAMETERS: usize = 16 * 1024 * 1024;

/// The object that is the value of `name` at the top of `answer`, as it stands there. It is to become
/// part of another request, so what is no JSON is nothing.
pub fn parameters<'a>(answer: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let whole = Span::new(skip_space(answer, 0), answer.len());
    let value = lex::member(answer, whole, name)?.of(answer);
    let fits = value.starts_with(b"{") && value.len() <= MOST_PARAMETERS;
    // Text that nobody reads is not checked for its encoding by the parser.
    let text = std::str::from_utf8(value).ok().filter(|_| fits)?;
    serde_json::from_str::<IgnoredAny>(text)
        .is_ok()
        .then_some(value)
}

/// How many texts or lists the array at `span` of `body` has; `None` where it is no array of those: a
/// prompt may be an array of prompts, or one prompt as an array of numbers.
pub fn batch(body: &Payload, span: Span) -> Option<usize> {
    let (mut depth, mut count, mut at) = (0_u32, 0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for piece in body.pieces() {
        let (from, to) = (span.start.max(at), span.end.min(at + piece.len()));
        let part = piece.get(from.saturating_sub(at)..to.saturating_sub(at));
        at += piece.len();
        for byte in part.unwrap_or_default() {
            if in_string {
                in_string = escaped || *byte != b'"';
                escaped = !escaped && *byte == b'\\';
                continue;
            }
            match byte {
                b'[' if depth == 0 => depth = 1,
                _ if depth == 0 => return None,
                b'"' | b'[' | b'{' => {
                    count += usize::from(depth == 1);
                    match byte {
                        b'"' => in_string = true,
                        _ => depth += 1,
                    }
                }
                b']' | b'}' => depth -= 1,
                b' ' | b'\n' | b'\r' | b'\t' | b',' => {}
                _ if depth == 1 => return None,
                _ => {}
            }
        }
    }
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::scan::scan;

    const NAMES: &[&str] = &["a", "b", "n"];

    fn pieces(text: &str, cut: usize) -> Payload {
        let (one, two) = text.as_bytes().split_at(cut.min(text.len()));
        Payload::new(vec![
            Bytes::copy_from_slice(one),
            Bytes::copy_from_slice(two),
        ])
    }

    fn changed(text: &str, change: impl Fn(&mut Changes<'_>)) -> String {
        let mut results: Vec<String> = (0..text.len())
            .map(|cut| {
                let body = pieces(text, cut);
                let outline = Outline::of(&body, NAMES).unwrap();
                let mut changes = Changes::new(&outline);
                change(&mut changes);
                String::from_utf8(changes.apply(&body).pieces().concat()).unwrap()
            })
            .collect();
        results.dedup();
        assert_eq!(results.len(), 1, "{results:?}");
        results.remove(0)
    }

    #[test]
    fn a_body_gets_another_model_name_whole_or_in_pieces() {
        let name = "big \"one\"";
        for (body, expected) in [
            (r#"{"model":"m","n":1}"#, r#"{"model":"big \"one\"","n":1}"#),
            (r#"{ "n":1}"#, r#"{"model":"big \"one\"", "n":1}"#),
            ("{}", r#"{"model":"big \"one\""}"#),
        ] {
            let fields = scan(body.as_bytes()).unwrap().fields;
            for cut in 1..body.len() {
                let (first, rest) = body.as_bytes().split_at(cut);
                let pieces = [first, rest].map(Bytes::copy_from_slice);
                let payload = Payload::new(pieces.into());
                let renamed = renamed(&payload, &fields, name);
                let whole = renamed.pieces().concat();
                assert_eq!(String::from_utf8(whole).unwrap(), expected, "cut at {cut}");
                assert_eq!(renamed.len(), expected.len());
                assert_eq!(
                    renamed.pieces().len(),
                    1,
                    "a small body is sent in one piece"
                );
            }
        }
    }

    #[test]
    fn the_usage_is_asked_for_in_any_spelling_of_the_options() {
        for (body, expected) in [
            ("{}", Some(r#"{"stream_options":{"include_usage":true}}"#)),
            (
                r#"{"model":"m","stream":true } "#,
                Some(r#"{"model":"m","stream":true ,"stream_options":{"include_usage":true}} "#),
            ),
            (
                r#"{"stream_options":null,"model":"m"}"#,
                Some(r#"{"stream_options":{"include_usage":true},"model":"m"}"#),
            ),
            (
                r#"{"stream_options":{ },"n":1}"#,
                Some(r#"{"stream_options":{"include_usage":true },"n":1}"#),
            ),
            (
                r#"{"stream_options": {"x":[{}]}}"#,
                Some(r#"{"stream_options": {"include_usage":true,"x":[{}]}}"#),
            ),
            (
                r#"{"stream_options":{"x":1,"include_usage" : false}}"#,
                Some(r#"{"stream_options":{"x":1,"include_usage" : true}}"#),
            ),
            (r#"{"stream_options":[]}"#, None),
            (r#"{"stream_options":true}"#, None),
        ] {
            let fields = scan(body.as_bytes()).unwrap().fields;
            for cut in 0..body.len() {
                let told = |name| {
                    let told = told_usage(&pieces(body, cut), &fields, name)?;
                    Some(String::from_utf8(told.pieces().concat()).unwrap())
                };
                assert_eq!(told(None).as_deref(), expected, "{body}");
                let named = told(Some("other"));
                assert_eq!(named.is_some(), expected.is_some());
                if let Some(named) = named {
                    let named: serde_json::Value = serde_json::from_str(&named).unwrap();
                    assert_eq!(named["model"], "other");
                    assert_eq!(named["stream_options"]["include_usage"], true);
                }
            }
        }
    }

    #[test]
    fn members_are_set_where_they_stand_or_added() {
        let set = |changes: &mut Changes<'_>| {
            changes.set("a", "1");
            changes.set("n", "[2]");
        };
        assert_eq!(changed("{}", set), r#"{"a":1,"n":[2]}"#);
        assert_eq!(
            changed(r#" { "x" : "}" } "#, set),
            r#" { "x" : "}" ,"a":1,"n":[2]} "#
        );
        assert_eq!(
            changed(r#"{"n":"x\"]","b":0,"\u0061":{"a":9},"a":null}"#, set),
            r#"{"n":[2],"b":0,"\u0061":1,"a":1}"#
        );
    }

    #[test]
    fn members_are_taken_out_with_their_comma() {
        let remove = |changes: &mut Changes<'_>| changes.remove("a");
        assert_eq!(changed(r#"{"a":1}"#, remove), "{}");
        assert_eq!(changed(r#"{ "a":1, "b":2}"#, remove), r#"{ "b":2}"#);
        assert_eq!(changed(r#"{"b":2 , "a":[1] }"#, remove), r#"{"b":2 }"#);
        assert_eq!(
            changed(r#"{"a":1,"b":2,"a":3,"x":4}"#, remove),
            r#"{"a":null,"b":2,"x":4}"#
        );
        assert_eq!(changed(r#"{"b":2}"#, remove), r#"{"b":2}"#);
        let instead = |changes: &mut Changes<'_>| {
            changes.remove("a");
            changes.set("b", "7");
        };
        assert_eq!(changed(r#"{"a":1}"#, instead), r#"{"b":7}"#);
        let afterwards = |changes: &mut Changes<'_>| {
            changes.set("b", "7");
            changes.remove("a");
            changes.set("n", "8");
        };
        assert_eq!(changed(r#"{"a":1}"#, afterwards), r#"{"b":7,"n":8}"#);
    }

    #[test]
    fn long_values_do_not_move_the_places() {
        let long = "x [{\\\"".repeat(200);
        let text = format!(r#"{{"x":"{long}","a":["{long}"],"b":1}}"#);
        let body = pieces(&text, 700);
        let outline = Outline::of(&body, NAMES).unwrap();
        let mut changes = Changes::new(&outline);
        changes.set("a", "0");
        changes.set("b", "2");
        changes.set("n", "3");
        let wanted = format!(r#"{{"x":"{long}","a":0,"b":2,"n":3}}"#);
        let found = changes.apply(&body).pieces().concat();
        assert_eq!(String::from_utf8(found).unwrap(), wanted);
    }

    /// Unoptimised and on a busy machine; what goes over the rest of the body for each would take
    /// minutes.
    #[test]
    fn countless_members_cost_no_more_than_their_length() {
        let long = "x".repeat(300);
        let members = format!(r#""a":1,"x":"{long}","b":2,"#).repeat(30_000);
        let text = format!("{{{members}\"b\":3}}");
        let body = pieces(&text, 1 << 20);
        let started = crate::base::clock::now();
        let outline = Outline::of(&body, NAMES).unwrap();
        let mut changes = Changes::new(&outline);
        changes.set("a", "7");
        changes.remove("b");
        let changed = changes.apply(&body);
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
        let expected = text
            .replace(r#""a":1"#, r#""a":7"#)
            .replace(r#""b":2"#, r#""b":null"#)
            .replace(r#","b":3"#, "");
        assert!(changed.pieces().concat() == expected.as_bytes());
    }

    #[test]
    fn parameters_are_objects() {
        let found = |answer: &'static str| parameters(answer.as_bytes(), "p");
        assert_eq!(
            found(r#" {"x":[{"p":1}],"p":{"a": "}"}}"#),
            Some(&br#"{"a": "}"}"#[..])
        );
        for answer in [
            r#"{"p":null}"#,
            r#"{"x":{"p":{}}}"#,
            "[]",
            "",
            r#"{"p":7}"#,
            r#"{"p":{"a":tru}}"#,
            r#"{"p":{"a" "b"}}"#,
            r#"{"p":{,}}"#,
            "{\"p\":{\"a\":\"\n\"}}",
        ] {
            assert_eq!(found(answer), None, "{answer}");
        }
        assert_eq!(parameters(b"{\"p\":{\"a\":\"\xff\"}}", "p"), None);
    }

    #[test]
    fn batches_are_counted() {
        for (json, expected) in [
            (r#""a""#, None),
            ("[]", None),
            ("[1, 2]", None),
            (r#"["a"]"#, Some(1)),
            (r#"[ "a,\"]" , "b\\" ]"#, Some(2)),
            ("[[1,2],[3],[]]", Some(3)),
            (r#"[{"a":["x",1]},{}]"#, Some(2)),
            ("7", None),
        ] {
            for cut in 0..json.len() {
                let body = pieces(json, cut);
                assert_eq!(batch(&body, Span::new(0, json.len())), expected, "{json}");
            }
        }
    }
}
