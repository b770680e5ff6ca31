use super::*;

fn ok(body: &str) -> Scan<'_> {
    scan(body.as_bytes()).unwrap_or_else(|err| panic!("{body}: {err}"))
}

fn err(body: &str) -> ScanError {
    scan(body.as_bytes()).expect_err(body)
}

#[test]
fn a_chat_request_gives_its_fields_and_places() {
    let body = r#" {"model": "llama", "messages":[{"role":"user","content":"a \"b\" {["}],
        "stream":true, "n" : 2, "stream_options":{"x":{},"include_usage":true}, "max_tokens":5 } "#;
    let Scan { model, fields } = ok(body);
    assert!(matches!(model, Some(Cow::Borrowed("llama"))));
    assert!(fields.streaming());
    assert_eq!(fields.n, Some(2));
    assert_eq!(fields.include_usage, Some(true));
    let at = |span: Option<Span>| std::str::from_utf8(span.unwrap().of(body.as_bytes())).unwrap();
    assert_eq!(at(fields.model), "\"llama\"");
    assert_eq!(
        at(fields.messages),
        r#"[{"role":"user","content":"a \"b\" {["}]"#
    );
    assert_eq!(at(fields.max_tokens), "5");
    assert_eq!(
        at(fields.stream_options),
        r#"{"x":{},"include_usage":true}"#
    );
    assert_eq!(body.as_bytes()[fields.object.open - 1], b'{');
    assert_eq!(body.as_bytes()[fields.object.close], b'}');
    assert!(!fields.object.empty);
}

#[test]
fn every_named_member_has_its_place() {
    let names = [
        "messages",
        "prompt",
        "text",
        "input",
        "input_ids",
        "query",
        "documents",
        "max_tokens",
        "tools",
        "instructions",
    ];
    for name in names {
        let body = format!(r#"{{"a":[],"{name}":[1],"z":{{}}}}"#);
        let f = ok(&body).fields;
        let places = [
            f.messages,
            f.prompt,
            f.text,
            f.input,
            f.input_ids,
            f.query,
            f.documents,
            f.max_tokens,
            f.tools,
            f.instructions,
        ];
        let found: Vec<_> = names
            .iter()
            .zip(places)
            .filter(|(_, place)| place.is_some())
            .collect();
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(*found[0].0, name);
        assert_eq!(found[0].1.unwrap().of(body.as_bytes()), b"[1]");
    }
}

#[test]
fn absent_and_null_are_alike() {
    assert_eq!(
        ok("{}").fields,
        Fields {
            object: Object {
                open: 1,
                close: 1,
                empty: true
            },
            ..Fields::default()
        }
    );
    let Scan { model, fields } =
        ok(r#"{"model":null,"stream":null,"n":null,"stream_options":null}"#);
    assert_eq!(
        (model, fields.stream, fields.n, fields.include_usage),
        (None, None, None, None)
    );
    assert_eq!(fields.model, Some(Span::new(9, 13)));
}

#[test]
fn the_last_of_two_members_counts() {
    assert_eq!(
        ok(r#"{"stream":true,"stream":false}"#).fields.stream,
        Some(false)
    );
    assert_eq!(
        ok(r#"{"stream":"x","stre\u0061m":true}"#).fields.stream,
        Some(true)
    );
    assert_eq!(ok(r#"{"n":1,"n":3}"#).fields.n, Some(3));
    let body = r#"{"prompt":"a","prompt":"b"}"#;
    assert_eq!(
        ok(body).fields.prompt.unwrap().of(body.as_bytes()),
        b"\"b\""
    );
    assert_eq!(
        ok(r#"{"stream_options":{"include_usage":true,"include_usage":false}}"#)
            .fields
            .include_usage,
        Some(false)
    );
}

#[test]
fn model_stands_once_however_it_is_spelled() {
    for body in [
        r#"{"model":"a","model":"a"}"#,
        r#"{"model":"a","mod\u0065l":"b"}"#,
        r#"{"\u006dode\u006C":null,"x":[{}],"model":"b"}"#,
    ] {
        assert_eq!(err(body), ScanError::DuplicateModel);
    }
    assert_eq!(ok(r#"{"mod\u0065l":"a"}"#).model.as_deref(), Some("a"));
    assert_eq!(
        ok(r#"{"x":{"model":"b"},"model":"a","models":"c","Model":1}"#)
            .model
            .as_deref(),
        Some("a")
    );
    assert_eq!(
        ok(r#"{"model\ud800":"a","averyveryverylongkey\u0065lmodel":1}"#).model,
        None
    );
}

#[test]
fn an_escaped_model_name_is_decoded() {
    assert_eq!(
        ok(r#"{"model":"org\/m\u00e9 \"x\""}"#).model.as_deref(),
        Some("org/mé \"x\"")
    );
    assert_eq!(ok(r#"{"model":"mé"}"#).model.as_deref(), Some("mé"));
    assert_eq!(ok(r#"{"model":""}"#).model.as_deref(), Some(""));
}

#[test]
fn wrong_types_name_their_field() {
    for (body, field) in [
        (r#"{"model":1}"#, "model"),
        (r#"{"model":["a"]}"#, "model"),
        (r#"{"stream":"true"}"#, "stream"),
        (r#"{"stream":1}"#, "stream"),
        (r#"{"n":"1"}"#, "n"),
        (r#"{"n":1.0}"#, "n"),
        (r#"{"n":1e2}"#, "n"),
        (r#"{"n":true}"#, "n"),
    ] {
        let err = err(body);
        assert!(
            matches!(err, ScanError::WrongType { field: f, .. } if f == field),
            "{body}: {err:?}"
        );
        assert_eq!(
            (err.code(), err.param()),
            (ErrorCode::InvalidType, Some(field))
        );
    }
    assert_eq!(ok(r#"{"n":-3}"#).fields.n, Some(-3));
    assert_eq!(ok(r#"{"n":99999999999999999999}"#).fields.n, Some(i64::MAX));
    assert_eq!(ok(r#"{"stream_options":7}"#).fields.include_usage, None);
}

#[test]
fn broken_texts_are_refused_where_they_break() {
    for (body, offset) in [
        ("", 0),
        ("  ", 2),
        ("[]", 0),
        ("null", 0),
        ("{", 1),
        ("{}x", 2),
        ("{} {}", 3),
        (r#"{"a"}"#, 4),
        (r#"{"a":}"#, 5),
        (r#"{"a":1,}"#, 7),
        (r#"{,"a":1}"#, 1),
        (r#"{"a":1 "b":2}"#, 7),
        (r#"{"a":tru}"#, 5),
        (r#"{"a":01}"#, 6),
        (r#"{"a":"x}"#, 8),
        (r#"{"a":[1}"#, 7),
        (r#"{"a":[1]"#, 8),
        (r#"{a:1}"#, 1),
        ("{\"a\nb\":1}", 3),
        ("{\"model\":\"a\tb\"}", 11),
        (r#"{"model":"a\qb"}"#, 11),
        (r#"{"mod\xel":"ab"}"#, 5),
        (r#"{"model":"\ud800"}"#, 10),
        (r#"{"model":1,"#, 11),
    ] {
        assert_eq!(err(body), ScanError::InvalidJson { offset }, "{body}");
    }
    assert_eq!(
        scan(b"{\"a\xff\":1}"),
        Err(ScanError::InvalidJson { offset: 3 })
    );
    assert_eq!(
        scan(b"{\"model\":\"a\xff\"}"),
        Err(ScanError::InvalidJson { offset: 11 })
    );
    assert_eq!(
        scan("\u{feff}{}".as_bytes()),
        Err(ScanError::InvalidJson { offset: 0 })
    );
}

#[test]
fn depth_ends_at_the_limit() {
    let nested = |levels: usize| {
        format!(
            "{{\"a\":{}{}}}",
            "[".repeat(levels - 1),
            "]".repeat(levels - 1)
        )
    };
    assert!(scan(nested(128).as_bytes()).is_ok());
    assert_eq!(err(&nested(129)), ScanError::TooDeep { offset: 5 + 127 });
    assert_eq!(
        ScanError::TooDeep { offset: 0 }.code(),
        ErrorCode::InvalidJson
    );
    // Closed levels do not add up.
    let wide = format!("{{\"a\":[{}1]}}", "[[]],".repeat(1000));
    assert!(scan(wide.as_bytes()).is_ok());
}

#[test]
fn messages_say_what_is_wrong() {
    assert_eq!(err(r#"{"n":"1"}"#).to_string(), "`n` must be an integer");
    assert_eq!(
        err("{").to_string(),
        "the request body is not a valid JSON object (at byte 1)"
    );
}
