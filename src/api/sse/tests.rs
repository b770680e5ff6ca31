use super::super::error::{ErrorCode, response_failed_frame, stream_frame};
use super::*;

fn read(dialect: Dialect, text: &str) -> Seen {
    Reader::new(dialect).read(text.as_bytes())
}

fn chat(text: &str) -> Seen {
    read(Dialect::Completions, text)
}

fn responses(text: &str) -> Seen {
    read(Dialect::Responses, text)
}

const ROLE: &str = r#"data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#;
const WORDS: &str = r#"data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}],"usage":null}"#;

#[test]
fn a_chunk_of_text_is_content() {
    let seen = chat(&format!("{WORDS}\n\n"));
    let expected = Seen {
        boundary: true,
        events: 1,
        content: true,
        ..Seen::default()
    };
    assert_eq!(seen, expected);
}

#[test]
fn every_kind_of_line_end_is_known() {
    for end in ["\n", "\r\n", "\r"] {
        let text = format!(": hello{end}{end}event: x{end}{WORDS}{end}{end}data: [DONE]{end}{end}");
        let seen = chat(&text);
        assert_eq!(
            (seen.events, seen.done, seen.ended, seen.boundary),
            (2, true, true, true),
            "{end:?}"
        );
    }
}

#[test]
fn comments_and_pings_are_no_events() {
    for text in [
        ": ping\n\n",
        "\n\n",
        ":\n\n",
        "data:\n\n",
        "data\n\n",
        "event: ping\ndata: {}\n\n",
        "id: 1\n\n",
        "retry: 5\n\n",
    ] {
        assert_eq!(
            chat(text),
            Seen {
                boundary: true,
                ..Seen::default()
            },
            "{text:?}"
        );
    }
}

#[test]
fn the_boundary_is_behind_an_empty_line() {
    let mut reader = Reader::new(Dialect::Completions);
    assert!(reader.at_boundary());
    for (chunk, boundary) in [
        ("", true),
        ("d", false),
        ("ata: 1", false),
        ("\n", false),
        ("\n", true),
        (": c\n", false),
        ("\n: c", false),
        ("\r\n", false),
        ("\r", true),
        ("\n", true),
        ("data: 2\r", false),
        ("\n", false),
        ("\r\n", true),
    ] {
        assert_eq!(
            reader.read(chunk.as_bytes()).boundary,
            boundary,
            "{chunk:?}"
        );
    }
    assert_eq!(reader.events(), 2);
}

#[test]
fn a_leading_role_is_told_from_content() {
    let role = Seen {
        boundary: true,
        events: 1,
        role_only: true,
        ..Seen::default()
    };
    assert_eq!(chat(&format!("{ROLE}\n\n")), role);
    for delta in [
        r#"{"role":"assistant"}"#,
        r#"{"role":"assistant","content":null,"reasoning_content":null,"tool_calls":null}"#,
        r#"{ "content" : "" , "role" : "assistant", "tool_calls":[] }"#,
    ] {
        let text = format!("data: {{\"choices\":[{{\"delta\":{delta},\"index\":0}}]}}\n\n");
        assert_eq!(chat(&text), role, "{delta}");
        let two =
            format!("data: {{\"choices\":[{{\"delta\":{delta}}}, {{\"delta\":{delta}}}]}}\n\n");
        assert_eq!(chat(&two), role, "{delta}");
    }
    for choices in [
        r#"[{"delta":{"role":"assistant","content":"a"}}]"#,
        r#"[{"delta":{"role":"assistant","reasoning_content":"a"}}]"#,
        r#"[{"delta":{"role":"assistant","tool_calls":[{"index":0}]}}]"#,
        r#"[{"delta":{"role":"assistant"},"finish_reason":"stop"}]"#,
        r#"[{"delta":{"role":"assistant"}},{"delta":{"content":"a"}}]"#,
        r#"[{"delta":{"content":""}}]"#,
        r#"[{"delta":{}}]"#,
        r#"[{"text":""}]"#,
        "[]",
        "{}",
    ] {
        let seen = chat(&format!("data: {{\"choices\":{choices}}}\n\n"));
        assert!(seen.content && !seen.role_only, "{choices}");
    }
}

#[test]
fn a_role_behind_content_is_content() {
    let mut reader = Reader::new(Dialect::Completions);
    let both = reader.read(format!("{ROLE}\n\n{WORDS}\n\n").as_bytes());
    assert!(both.role_only && both.content);
    let later = reader.read(format!("{ROLE}\n\n").as_bytes());
    assert!(!later.role_only && later.content);
}

#[test]
fn error_frames_are_seen_with_their_code() {
    for (data, code) in [
        (
            r#"{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}"#,
            Some(400),
        ),
        (r#"{"error":{"message":"no","code":"503"}}"#, Some(503)),
        (r#"{"error":{"message":"no","code":"rate_limited"}}"#, None),
        (r#"{"error":{"message":"no","code":7}}"#, None),
        (r#"{"id":"x","error":"no"}"#, None),
        (r#"{"object":"error","message":"no","code":422}"#, Some(422)),
        (r#"{"type":"error","message":"no","code":null}"#, None),
    ] {
        let seen = chat(&format!("data: {data}\n\n"));
        assert_eq!(seen.error, Some(Failure { code }), "{data}");
        assert!(!seen.content && seen.events == 1);
    }
    assert_eq!(
        chat("event: error\ndata: {\"code\":500}\n\n").error,
        Some(Failure { code: Some(500) })
    );
    assert_eq!(
        chat("event: error\ndata:\n\n").error,
        Some(Failure::default())
    );
    for data in [
        r#"{"error":null,"choices":[]}"#,
        r#"{"choices":[{"delta":{"content":"the \"error\": {}"}}]}"#,
        r#"{"choices":[{"delta":{"content":"error","error":"x"}}]}"#,
        r#"{"finish":"error"}"#,
        "\"error\"",
    ] {
        assert_eq!(chat(&format!("data: {data}\n\n")).error, None, "{data}");
    }
}

#[test]
fn our_own_terminal_frames_are_read_as_such() {
    let frame = stream_frame(ErrorCode::CallUpstreamTimeout, "late");
    let seen = Reader::new(Dialect::Completions).read(&frame);
    assert!(seen.error.is_some() && seen.done && seen.ended && seen.boundary);
    let frame = response_failed_frame(3, "resp_9", ErrorCode::CallUpstreamTimeout, "late");
    let mut reader = Reader::new(Dialect::Responses);
    let seen = reader.read(&frame);
    assert!(seen.error.is_some() && seen.ended && seen.boundary);
    assert_eq!(
        (reader.next_sequence(), reader.response_id()),
        (4, Some("resp_9"))
    );
}

#[test]
fn usage_is_taken_where_it_is_told() {
    let text = r#"data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":4}}}"#;
    let usage = Usage {
        input: 5,
        output: 7,
        cached: Some(4),
    };
    assert_eq!(chat(&format!("{text}\n\n")).usage, Some(usage));
    let text = r#"data: {"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":7,"input_tokens_details":{"cached_tokens":4}}}}"#;
    assert_eq!(responses(&format!("{text}\n\n")).usage, Some(usage));
    let text = r#"data: {"text":"a","meta_info":{"prompt_tokens":5,"completion_tokens":7,"cached_tokens":4}}"#;
    assert_eq!(chat(&format!("{text}\n\n{WORDS}\n\n")).usage, Some(usage));
}

#[test]
fn the_responses_api_names_its_events() {
    let created = "event: response.created\ndata: {\"response\":{\"id\":\"resp_1\",\"error\":null},\"sequence_number\":0,\"type\":\"response.created\"}\n\n";
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\": 12,\"delta\":\"response.completed\"}\n\n";
    let mut reader = Reader::new(Dialect::Responses);
    let seen = reader.read(format!("{created}{delta}").as_bytes());
    let expected = Seen {
        boundary: true,
        events: 2,
        content: true,
        ..Seen::default()
    };
    assert_eq!(seen, expected);
    assert_eq!(
        (reader.next_sequence(), reader.response_id()),
        (13, Some("resp_1"))
    );
    assert!(!reader.ended());
    for kind in [
        "response.completed",
        "response.incomplete",
        "response.failed",
    ] {
        for text in [
            format!("event: {kind}\ndata: {{}}\n\n"),
            format!("data: {{\"type\":\"{kind}\",\"response\":{{}}}}\n\n"),
            format!("data: {{\"response\":{{\"type\":\"x\"}},\"type\":\"{kind}\"}}\n\n"),
        ] {
            let seen = responses(&text);
            assert!(seen.ended && !seen.done, "{text}");
            assert_eq!(seen.error.is_some(), kind == "response.failed", "{text}");
        }
    }
    assert!(!responses("data: [DONE]\n\n").ended);
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"429\"}}}\n\n";
    assert_eq!(responses(failed).error, Some(Failure { code: Some(429) }));
}

#[test]
fn data_of_several_lines_is_one_payload() {
    let text = "data: {\"error\":\ndata: {\"code\":\ndata:404}}\n\n";
    assert_eq!(chat(text).error, Some(Failure { code: Some(404) }));
    assert_eq!(chat(text).events, 1);
    // An `event:` line may stand behind the data.
    assert!(chat("data: {}\nevent: error\n\n").error.is_some());
}

#[test]
fn an_unfinished_event_counts_at_the_end() {
    for text in ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r"] {
        let mut reader = Reader::new(Dialect::Completions);
        let seen = reader.read(text.as_bytes());
        assert_eq!((seen.events, seen.boundary), (0, false), "{text:?}");
        let seen = reader.finish();
        assert!(seen.done && reader.ended(), "{text:?}");
        assert_eq!(reader.finish().events, 0);
    }
    let mut reader = Reader::new(Dialect::Responses);
    reader.read(b"data: {}\nevent: response.completed");
    assert!(reader.finish().ended);
}

#[test]
fn a_large_event_is_judged_by_its_head_and_its_figures() {
    let filler = "x".repeat(3 * CAP);
    let text = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"output\":\"{filler}\",\"usage\":{{\"input_tokens\":1,\"output_tokens\":2}}}}}}\n\n"
    );
    for size in [text.len(), CAP, 1000, 7] {
        let mut reader = Reader::new(Dialect::Responses);
        let mut last = Seen::default();
        for chunk in text.as_bytes().chunks(size) {
            last = reader.read(chunk);
            assert!(reader.data.capacity() <= 2 * CAP, "memory is bounded");
        }
        assert!(last.ended && last.content && last.boundary, "{size}");
        assert_eq!(
            last.usage,
            Some(Usage {
                input: 1,
                output: 2,
                cached: None
            }),
            "{size}"
        );
        assert_eq!(reader.data.capacity(), 0, "a large buffer is given back");
    }
    // A comment may be of any length without costing memory.
    let mut reader = Reader::new(Dialect::Completions);
    for _ in 0..10 {
        reader.read(b": ");
        reader.read(filler.as_bytes());
    }
    assert_eq!(reader.data.capacity(), 0);
    assert!(reader.read(b"\n\n").boundary);
}

#[test]
fn the_edge_of_the_cap_does_not_depend_on_chunks() {
    for extra in [CAP - 1, CAP, CAP + 1, CAP + 2] {
        let start = "{\"a\":\"";
        let end = "\",\"error\":1}";
        let filler = "x".repeat(extra - start.len() - end.len());
        let text = format!("data: {start}{filler}{end}\n\n");
        let whole = chat(&text);
        // One byte above, only the closing brace is out of sight.
        assert_eq!(whole.error.is_some(), extra <= CAP + 1, "{extra}");
        for size in [1, CAP / 2 + 3, text.len() - 1] {
            let mut reader = Reader::new(Dialect::Completions);
            let seen: Vec<_> = text
                .as_bytes()
                .chunks(size)
                .map(|c| reader.read(c))
                .collect();
            assert_eq!(
                seen.iter().any(|s| s.error.is_some()),
                whole.error.is_some()
            );
            assert_eq!(seen.iter().map(|s| s.events).sum::<u32>(), 1);
        }
    }
}
