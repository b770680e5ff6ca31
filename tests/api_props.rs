//! Properties of the wire layer: it agrees with a real JSON parser, edits only what it is told to,
//! and reads streams alike however they are cut.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use smg::api::logprobs::{Lines, Logprobs};
use smg::api::members::{Changes, Outline, batch, renamed};
use smg::api::scan::{ScanError, scan};
use smg::api::sse::{Dialect, Reader, Seen};
use smg::api::usage::{Finder, Usage};
use smg::api::{Payload, Span};

/// Runs as many cases and writes no file of failures into the tree.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

// --- bodies -------------------------------------------------------------------------------------

/// Top-level members as written, duplicates included.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Members(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Members {
    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, value)| value)
    }

    fn last<'a>(&'a self, key: &'a str) -> Option<&'a Value> {
        self.all(key).last().filter(|value| !value.is_null())
    }

    /// What a scan must say of these members.
    fn verdict(&self) -> Verdict {
        if self.all("model").count() > 1 {
            return Err("duplicate");
        }
        let model = match self.last("model") {
            None => None,
            Some(Value::String(name)) => Some(name.clone()),
            Some(_) => return Err("model"),
        };
        let stream = match self.last("stream") {
            None => None,
            Some(Value::Bool(stream)) => Some(*stream),
            Some(_) => return Err("stream"),
        };
        let n = match self.last("n") {
            None => None,
            Some(n) => match n.as_i64().or_else(|| n.as_u64().map(|_| i64::MAX)) {
                Some(n) => Some(n),
                None => return Err("n"),
            },
        };
        let options = self.all("stream_options").last();
        let include_usage = options.and_then(|options| options.get("include_usage")?.as_bool());
        Ok((model, stream, n, include_usage))
    }
}

type Verdict = Result<(Option<String>, Option<bool>, Option<i64>, Option<bool>), &'static str>;

fn scanned(body: &[u8]) -> Verdict {
    match scan(body) {
        Ok(scan) => {
            let f = scan.fields;
            Ok((
                scan.model.map(Cow::into_owned),
                f.stream,
                f.n,
                f.include_usage,
            ))
        }
        Err(ScanError::InvalidJson { .. } | ScanError::TooDeep { .. }) => Err("syntax"),
        Err(ScanError::DuplicateModel) => Err("duplicate"),
        Err(ScanError::WrongType { field, .. }) => Err(field),
    }
}

fn parsed(body: &[u8]) -> Verdict {
    match serde_json::from_slice::<Members>(body) {
        Ok(members) => members.verdict(),
        Err(_) => Err("syntax"),
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-zA-Z0-9 ]{0,60}",
        2 => "[\"\\\\\\[\\]{}:,a]{0,40}",
        1 => any::<String>(),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(json!(u64::MAX)),
        Just(json!(1.5)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((key(), inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "model",
        "stream",
        "n",
        "messages",
        "prompt",
        "input",
        "stream_options",
        "include_usage",
        "usage",
        "response",
        "prompt_tokens",
        "completion_tokens",
    ];
    prop_oneof![6 => select(KNOWN).prop_map(str::to_owned), 1 => text()]
}

/// A key as JSON, plain or with some characters written as `\u` escapes.
fn spelled(key: &str, escape: u8) -> String {
    if escape > 40 || !key.is_ascii() {
        return Value::from(key).to_string();
    }
    let nth = usize::from(escape);
    let inner: String = key
        .bytes()
        .enumerate()
        .map(|(at, byte)| {
            let plain = byte.is_ascii_alphanumeric() || byte == b'_';
            if plain && at % 7 != nth % 7 {
                char::from(byte).to_string()
            } else {
                format!("\\u{byte:04X}")
            }
        })
        .collect();
    format!("\"{inner}\"")
}

fn space() -> impl Strategy<Value = &'static str> {
    select(&["", "", "", " ", "\n", "\t \r\n"][..])
}

prop_compose! {
    /// An object with members of any kind, keys perhaps twice, in any spelling and spacing.
    fn body()(
        members in vec((key(), any::<u8>(), value(), any::<bool>(), space(), space()), 0..8),
        before in space(),
        after in space(),
    ) -> String {
        let members: Vec<_> = members
            .iter()
            .map(|(key, escape, value, pretty, a, b)| {
                let value = if *pretty { format!("{value:#}") } else { value.to_string() };
                format!("{a}{}{b}:{a}{value}{b}", spelled(key, *escape))
            })
            .collect();
        format!("{before}{{{before}{}{after}}}{after}", members.join(","))
    }
}

prop_compose! {
    /// An object of scalars with a few bytes changed, such that nothing nests and no string has an
    /// escape: here the scan must agree with the parser on every text.
    fn broken()(
        members in vec((select(&["model", "stream", "n", "a"][..]), select(&["1", "-7", "0.5", "true", "false", "null", "\"x\"", "\"\""][..])), 0..5),
        edits in vec((any::<Index>(), select(&b"}],:\"tfnl0- .x"[..]), 0..3u8), 0..4),
    ) -> Vec<u8> {
        let members: Vec<_> = members.iter().map(|(k, v)| format!("\"{k}\": {v}")).collect();
        let mut text = format!("{{{}}}", members.join(", ")).into_bytes();
        for (at, byte, kind) in edits {
            if text.is_empty() {
                break;
            }
            let at = at.index(text.len());
            match kind {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => {
                    text.remove(at);
                }
            }
        }
        text
    }
}

/// Duplicates of other keys do not disturb a comparison by value: the last one counts everywhere.
#[expect(
    clippy::unwrap_used,
    reason = "what the scan took, or an edit made, must parse"
)]
fn dom(body: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(body).unwrap()
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_scan_agrees_with_the_parser(body in body()) {
        prop_assert_eq!(scanned(body.as_bytes()), parsed(body.as_bytes()));
    }

    #[test]
    fn a_scan_refuses_what_the_parser_refuses_at_the_top(body in broken()) {
        let shown = String::from_utf8_lossy(&body).into_owned();
        // To the parser a negative zero is no integer.
        if shown.contains("-0") {
            return Ok(());
        }
        let (ours, theirs) = (scanned(&body), parsed(&body));
        // Of several faults either may come first.
        if ours.is_ok() || theirs.is_ok() {
            prop_assert_eq!(ours, theirs, "{}", shown);
        }
    }

    #[test]
    fn a_scan_never_refuses_as_json_what_the_parser_takes(
        body in body(),
        edits in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = body.into_bytes();
        for (at, byte) in edits {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let theirs = parsed(&body);
        if theirs != Err("syntax") {
            prop_assert_eq!(scanned(&body), theirs);
        }
    }

    #[test]
    fn no_bytes_make_a_scan_panic(body in vec(prop_oneof![select(&b"{}[]\":,\\mode1tn "[..]), any::<u8>()], 0..200)) {
        if let Ok(scan) = scan(&body) {
            prop_assert_eq!(body[scan.fields.object.close], b'}');
        }
        let figures = Finder::find(&body);
        prop_assert!(figures.is_none() || body.len() > 20, "no figures without their names");
    }

    #[test]
    fn places_hold_the_values(body in body()) {
        if let Ok(scan) = scan(body.as_bytes()) {
            let dom = dom(body.as_bytes());
            let f = scan.fields;
            for (key, place) in [("messages", f.messages), ("prompt", f.prompt), ("input", f.input), ("stream_options", f.stream_options), ("model", f.model)] {
                let found = place.map(|span| serde_json::from_slice::<Value>(span.of(body.as_bytes())).unwrap());
                prop_assert_eq!(found.as_ref(), dom.get(key));
            }
        }
    }

    #[test]
    fn a_new_model_name_changes_nothing_else(body in body(), name in text()) {
        let Ok(scan) = scan(body.as_bytes()) else { return Ok(()) };
        let payload = Payload::from(Bytes::from(body.clone()));
        let edited = renamed(&payload, &scan.fields, &name).pieces().concat();
        let mut expected = dom(body.as_bytes());
        expected.insert("model".into(), name.into());
        prop_assert_eq!(&dom(&edited), &expected);
        let kept = scan.fields.model.map_or(scan.fields.object.open..scan.fields.object.open, |span| span.range());
        prop_assert_eq!(&edited[..kept.start], &body.as_bytes()[..kept.start]);
        prop_assert!(edited.ends_with(&body.as_bytes()[kept.end..]));
    }

    #[test]
    fn changes_equal_those_of_a_tree(
        body in body(),
        sets in proptest::collection::btree_map(key(), value(), 0..5),
    ) {
        let Ok(_) = scan(body.as_bytes()) else { return Ok(()) };
        let payload = Payload::from(Bytes::from(body.clone()));
        let names: Vec<&'static str> = sets.keys().map(|key| &*key.to_string().leak()).collect();
        let outline = Outline::of(&payload, &names).unwrap();
        let mut changes = Changes::new(&outline);
        for (name, value) in names.iter().zip(sets.values()).rev() {
            changes.set(name, value.to_string());
        }
        let edited = changes.apply(&payload).pieces().concat();
        let mut expected = dom(body.as_bytes());
        expected.extend(sets.clone());
        prop_assert_eq!(dom(&edited), expected);
    }
}

// --- bodies in pieces ---------------------------------------------------------------------------

fn pieces(text: &[u8], cuts: &[Index]) -> Payload {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    let pieces = cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]);
    Payload::new(pieces.map(Bytes::copy_from_slice).collect())
}

prop_compose! {
    /// A body with members so long that a skeleton leaves their insides out.
    fn long_body()(
        body in body(),
        long in text(),
        times in 0..80_usize,
        list in any::<bool>(),
    ) -> String {
        let long = long.repeat(times);
        let long = if list { json!([{ "a": long }, long]) } else { long.into() };
        let (before, members) = body.split_once('{').unwrap_or_default();
        let comma = if members.trim_start().starts_with('}') { "" } else { "," };
        format!("{before}{{\"long\":{long}{comma}{members}")
    }
}

const CHANGED: &[&str] = &["stream", "n", "stream_options", "prompt", "new", "other"];

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn changes_of_a_body_in_pieces_equal_those_of_a_tree(
        body in long_body(),
        cuts in vec(any::<Index>(), 0..6),
        sets in proptest::collection::btree_map(select(CHANGED), value(), 0..5),
        removed in proptest::option::of(select(CHANGED)),
        turn in any::<Index>(),
    ) {
        if scan(body.as_bytes()).is_err() {
            return Ok(());
        }
        let payload = pieces(body.as_bytes(), &cuts);
        let outline = Outline::of(&payload, CHANGED).unwrap();
        let mut expected = dom(body.as_bytes());
        let members: Members = serde_json::from_str(&body).unwrap();
        let removed = removed.filter(|name| !sets.contains_key(name));
        let turn = turn.index(sets.len() + 1);
        let mut changes = Changes::new(&outline);
        for at in 0..=sets.len() {
            if let Some(name) = removed.filter(|_| at == turn) {
                changes.remove(name);
                match members.all(name).count() {
                    0 | 1 => expected.remove(name),
                    _ => expected.insert(name.into(), Value::Null),
                };
            }
            if let Some((name, value)) = sets.iter().nth(at) {
                changes.set(name, value.to_string());
                expected.insert((*name).into(), value.clone());
            }
        }
        for name in CHANGED {
            let found = outline.value(name).map(|span| payload.raw(span).unwrap());
            let found = found.map(|raw| serde_json::from_slice::<Value>(&raw).unwrap());
            prop_assert_eq!(found.as_ref(), members.all(name).last());
        }
        let changed = changes.apply(&payload);
        let whole = changed.pieces().concat();
        prop_assert_eq!(whole.len(), changed.len());
        prop_assert_eq!(dom(&whole), expected);
    }

    #[test]
    fn elements_of_a_batch_are_those_of_the_array(list in value(), cuts in vec(any::<Index>(), 0..4), pretty in any::<bool>()) {
        let text = if pretty { format!("{list:#}") } else { list.to_string() };
        let payload = pieces(text.as_bytes(), &cuts);
        let many = |elements: &Vec<Value>| {
            let nested = |value: &&Value| value.is_string() || value.is_array() || value.is_object();
            let count = elements.iter().filter(nested).count();
            (count > 0 && count == elements.len()).then_some(count)
        };
        let expected = list.as_array().and_then(many);
        prop_assert_eq!(batch(&payload, Span::new(0, text.len())), expected, "{}", text);
    }

    #[test]
    fn merged_logprobs_stand_in_front(
        first in vec(value(), 0..4),
        second in vec(value(), 0..4),
        rest in body(),
        cuts in vec(any::<Index>(), 0..6),
    ) {
        let answer = |list: &Vec<Value>| {
            json!({ "text": rest, "meta_info": { "input_token_logprobs": list, "id": "x" } })
        };
        let (before, event) = (answer(&first).to_string(), answer(&second).to_string());
        let own = Logprobs::of(before.as_bytes());
        let expected = answer(&[first, second].concat());
        prop_assert_eq!(&serde_json::from_slice::<Value>(&own.merged(event.as_bytes())).unwrap(), &expected);
        let stream = format!("data: {event}\n\ndata:{event}\r\n\r\ndata: [DONE]\n\n");
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for piece in pieces(stream.as_bytes(), &cuts).pieces() {
            lines.push(piece);
            out.extend(lines.read(&own));
        }
        prop_assert!(lines.is_empty() && lines.finish().is_empty());
        let out = String::from_utf8(out).unwrap();
        let events: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("data:")).collect();
        prop_assert_eq!(events.len(), 3);
        for event in events.iter().take(2) {
            prop_assert_eq!(&serde_json::from_str::<Value>(event).unwrap(), &expected);
        }
    }
}

// --- token figures ------------------------------------------------------------------------------

fn figures(dom: &Value) -> Option<Usage> {
    let objects = [
        dom.get("usage"),
        dom.get("response").and_then(|r| r.get("usage")),
    ];
    objects.into_iter().flatten().find_map(|usage| {
        let figure = |key: &str| usage.get(key).and_then(Value::as_u64);
        let (input, output) = (figure("prompt_tokens"), figure("completion_tokens"));
        let cached = usage
            .pointer("/prompt_tokens_details/cached_tokens")
            .and_then(Value::as_u64);
        (input.is_some() || output.is_some() || cached.is_some()).then_some(Usage {
            input: input.unwrap_or(0),
            output: output.unwrap_or(0),
            cached,
        })
    })
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn figures_are_found_in_any_answer_in_any_chunks(
        noise in vec((text(), value()), 0..5),
        input in any::<Option<u32>>(),
        output in any::<Option<u32>>(),
        cached in any::<Option<u16>>(),
        nested in any::<bool>(),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let usage = json!({
            "note": "_", "prompt_tokens": input, "prompt_tokens_details": {"audio": [1], "cached_tokens": cached},
            "completion_tokens": output, "total_tokens": 7,
        });
        let mut answer = Map::new();
        for (at, (key, value)) in noise.into_iter().enumerate() {
            answer.insert(format!("{at}{key}"), value);
        }
        let at = answer.len() / 2;
        if nested {
            answer.shift_insert(at, "response".into(), json!({"x": [{"usage": 1}], "usage": usage}));
        } else {
            answer.shift_insert(at, "usage".into(), usage);
        }
        let answer = Value::Object(answer);
        let text = answer.to_string();
        let mut finder = Finder::new();
        cut(text.as_bytes(), &cuts).for_each(|chunk| finder.feed(chunk));
        prop_assert_eq!(finder.usage(), figures(&answer));
    }
}

// --- event streams ------------------------------------------------------------------------------

/// The text in pieces, some of them empty.
fn cut<'a>(text: &'a [u8], cuts: &[Index]) -> impl Iterator<Item = &'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    at.sort_unstable();
    at.push(text.len());
    let mut from = 0;
    at.into_iter().map(move |to| {
        let piece = &text[from..to];
        from = to;
        piece
    })
}

/// All that a reader tells of a stream, added up.
#[derive(Debug, Default, PartialEq)]
struct Total {
    events: u32,
    content: bool,
    role_only: bool,
    done: bool,
    ended: bool,
    errors: Vec<Option<u16>>,
    usage: Option<Usage>,
    boundary: bool,
    sequence: u64,
    response_id: Option<String>,
}

fn total<'a>(dialect: Dialect, chunks: impl Iterator<Item = &'a [u8]>, finish: bool) -> Total {
    let mut reader = Reader::new(dialect);
    let mut total = Total::default();
    let mut add = |seen: Seen| {
        total.events += seen.events;
        total.content |= seen.content;
        total.role_only |= seen.role_only;
        total.done |= seen.done;
        total.ended |= seen.ended;
        // One chunk tells only its last error.
        if let Some(failure) = seen.error {
            total.errors = vec![failure.code];
        }
        total.usage = seen.usage.or(total.usage);
    };
    for chunk in chunks {
        let seen = reader.read(chunk);
        assert_eq!(seen.boundary, reader.at_boundary());
        add(seen);
    }
    if finish {
        add(reader.finish());
    }
    assert_eq!(total.ended, reader.ended());
    assert_eq!(u64::from(total.events), reader.events());
    total.boundary = reader.at_boundary();
    total.sequence = reader.next_sequence();
    total.response_id = reader.response_id().map(str::to_owned);
    total
}

fn line() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "",
        "",
        "",
        "",
        ": keep-alive",
        ":",
        "data: [DONE]",
        "data:[DONE]",
        "data",
        "data:",
        "data: ",
        "event",
        "event: error",
        "event:response.completed",
        "event: response.failed",
        "event: ping",
        "event: something.much.longer.than.any.name.that.matters",
        "id: 7",
        "retry: 10",
        "datax: 1",
        "dat",
        r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
        r#"data: {"choices":[{"delta":{"content":"word \"usage\" \"error\""}}],"usage":null}"#,
        r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
        r#"data: {"error":{"message":"no","code":503}}"#,
        r#"data: {"error":"#,
        r#"data: {"code":"404"}}"#,
        r#"data: {"type":"response.created","response":{"id":"resp_1"},"sequence_number":0}"#,
        r#"data: {"type":"response.failed","sequence_number":9}"#,
        r#"data: {"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":2}}}"#,
    ];
    prop_oneof![12 => select(KNOWN).prop_map(str::to_owned), 1 => "[^\r\n]{0,40}"]
}

fn stream() -> impl Strategy<Value = String> {
    vec((line(), select(&["\n", "\n", "\r\n", "\r"][..])), 0..24)
        .prop_map(|lines| lines.into_iter().map(|(line, end)| line + end).collect())
}

fn dialect() -> impl Strategy<Value = Dialect> {
    select(&[Dialect::Completions, Dialect::Responses][..])
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_stream_reads_alike_however_it_is_cut(
        text in stream(),
        tail in "[^\r\n]{0,12}",
        dialect in dialect(),
        cuts in vec(any::<Index>(), 0..20),
        finish in any::<bool>(),
    ) {
        let text = (text + &tail).into_bytes();
        let whole = total(dialect, std::iter::once(&text[..]), finish);
        prop_assert_eq!(&total(dialect, cut(&text, &cuts), finish), &whole);
        prop_assert_eq!(&total(dialect, text.chunks(1), finish), &whole);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        text in vec(prop_oneof![select(&b"data: {}[]\"\n\r\\eventror"[..]), any::<u8>()], 0..300),
        dialect in dialect(),
        cuts in vec(any::<Index>(), 0..10),
    ) {
        let whole = total(dialect, std::iter::once(&text[..]), true);
        prop_assert_eq!(total(dialect, cut(&text, &cuts), true), whole);
    }
}

/// Whole transcripts, as workers of different make write them.
#[test]
fn transcripts_are_read_as_they_are_meant() {
    macro_rules! transcript {
        ($name:literal) => {
            (
                $name,
                &include_bytes!(concat!("../fixtures/sse/", $name))[..],
            )
        };
    }
    let usage = |input, output, cached| {
        Some(Usage {
            input,
            output,
            cached,
        })
    };
    let good = || Total {
        content: true,
        ended: true,
        boundary: true,
        ..Total::default()
    };
    let completions = Dialect::Completions;
    let cases = [
        (
            transcript!("chat.sse"),
            completions,
            Total {
                events: 6,
                role_only: true,
                done: true,
                usage: usage(14, 3, Some(8)),
                ..good()
            },
        ),
        (
            transcript!("chat_tool_call.sse"),
            completions,
            Total {
                events: 4,
                done: true,
                ..good()
            },
        ),
        (
            transcript!("chat_crlf.sse"),
            completions,
            Total {
                events: 3,
                role_only: true,
                done: true,
                ..good()
            },
        ),
        (
            transcript!("chat_error.sse"),
            completions,
            Total {
                events: 4,
                role_only: true,
                done: true,
                errors: vec![Some(500)],
                ..good()
            },
        ),
        (
            transcript!("chat_cut_off.sse"),
            completions,
            Total {
                events: 2,
                role_only: true,
                content: true,
                ..Total::default()
            },
        ),
        (
            transcript!("generate.sse"),
            completions,
            Total {
                events: 3,
                done: true,
                usage: usage(5, 2, Some(0)),
                ..good()
            },
        ),
        (
            transcript!("responses.sse"),
            Dialect::Responses,
            Total {
                events: 6,
                usage: usage(11, 2, Some(4)),
                sequence: 6,
                response_id: Some("resp_68af".into()),
                ..good()
            },
        ),
        (
            transcript!("responses_failed.sse"),
            Dialect::Responses,
            Total {
                events: 2,
                errors: vec![None],
                sequence: 2,
                response_id: Some("resp_68b0".into()),
                ..good()
            },
        ),
    ];
    let mut used: Vec<_> = cases
        .iter()
        .map(|((name, _), ..)| (*name).to_owned())
        .collect();
    for ((name, text), dialect, expected) in cases {
        for size in [1, 7, 100, text.len()] {
            assert_eq!(
                total(dialect, text.chunks(size), false),
                expected,
                "{name} by {size}"
            );
        }
    }
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/sse");
    let mut there: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    used.sort();
    there.sort();
    assert_eq!(used, there, "every transcript is in use");
}
