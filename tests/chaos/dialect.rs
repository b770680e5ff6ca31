//! The APIs that are spoken: how each asks, how each answers word by word, and what can be read from
//! an answer.

use serde_json::{Value, json};

/// An API with streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Chat,
    Completions,
    Generate,
    Responses,
}

impl Api {
    pub(crate) const ALL: [Self; 4] = [
        Self::Chat,
        Self::Completions,
        Self::Generate,
        Self::Responses,
    ];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Generate => "/generate",
            Self::Responses => "/v1/responses",
        }
    }

    pub(crate) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.path() == path)
    }

    /// A request for so many tokens. The workers know it again by `user`.
    pub(crate) fn ask(self, model: &str, id: &str, tokens: usize, stream: bool) -> Value {
        let mut ask = json!({
            "model": model, "user": id, "max_tokens": tokens, "stream": stream,
        });
        let (key, prompt) = match self {
            Self::Chat => (
                "messages",
                json!([{ "role": "user", "content": format!("words for {id}") }]),
            ),
            Self::Completions => ("prompt", json!(format!("words for {id}"))),
            Self::Generate => ("text", json!(format!("words for {id}"))),
            Self::Responses => ("input", json!(format!("words for {id}"))),
        };
        ask[key] = prompt;
        ask
    }

    /// What a stream begins with, before its first token.
    pub(crate) fn opening(self) -> String {
        match self {
            Self::Chat => {
                let role = json!({
                    "id": "c", "object": "chat.completion.chunk",
                    "choices": [{
                        "index": 0, "delta": { "role": "assistant", "content": "" },
                        "finish_reason": null,
                    }],
                });
                format!("data: {role}\n\n")
            }
            Self::Responses => {
                let created = json!({
                    "type": "response.created", "sequence_number": 0,
                    "response": { "id": "resp_1", "status": "in_progress" },
                });
                format!("event: response.created\ndata: {created}\n\n")
            }
            Self::Completions | Self::Generate => String::new(),
        }
    }

    /// The event of one token.
    pub(crate) fn token(self, sequence: usize, text: &str) -> String {
        match self {
            Self::Chat => {
                let chunk = json!({
                    "id": "c", "object": "chat.completion.chunk",
                    "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }],
                });
                format!("data: {chunk}\n\n")
            }
            Self::Completions => {
                let chunk = json!({
                    "id": "c", "object": "text_completion",
                    "choices": [{ "index": 0, "text": text, "finish_reason": null }],
                });
                format!("data: {chunk}\n\n")
            }
            Self::Generate => format!("data: {}\n\n", json!({ "text": text, "meta_info": {} })),
            Self::Responses => {
                let delta = json!({
                    "type": "response.output_text.delta",
                    "sequence_number": sequence + 1, "delta": text,
                });
                format!("event: response.output_text.delta\ndata: {delta}\n\n")
            }
        }
    }

    /// What a stream ends with.
    pub(crate) fn closing(self, sequence: usize) -> String {
        match self {
            Self::Responses => {
                let done = json!({
                    "type": "response.completed", "sequence_number": sequence + 1,
                    "response": { "id": "resp_1", "status": "completed" },
                });
                format!("event: response.completed\ndata: {done}\n\n")
            }
            Self::Chat | Self::Completions | Self::Generate => "data: [DONE]\n\n".to_owned(),
        }
    }

    /// An error event of a worker.
    pub(crate) fn failure(self) -> String {
        match self {
            Self::Responses => {
                let failed = json!({
                    "type": "response.failed", "sequence_number": 1,
                    "response": {
                        "id": "resp_1", "status": "failed",
                        "error": { "code": "server_error", "message": "worker says no" },
                    },
                });
                format!("event: response.failed\ndata: {failed}\n\n")
            }
            Self::Chat | Self::Completions | Self::Generate => {
                let error = json!({ "error": { "message": "worker says no", "code": 500 } });
                format!("data: {error}\n\ndata: [DONE]\n\n")
            }
        }
    }

    /// A whole answer with this text.
    pub(crate) fn whole(self, text: &str) -> Value {
        match self {
            Self::Chat => json!({
                "id": "c", "object": "chat.completion",
                "choices": [{
                    "index": 0, "message": { "role": "assistant", "content": text },
                    "finish_reason": "stop",
                }],
                "usage": { "prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4 },
            }),
            Self::Completions => json!({
                "id": "c", "object": "text_completion",
                "choices": [{ "index": 0, "text": text, "finish_reason": "stop" }],
            }),
            Self::Generate => json!({ "text": text, "meta_info": {} }),
            Self::Responses => json!({
                "id": "resp_1", "object": "response", "status": "completed",
                "output": [{ "type": "message", "content": [{ "type": "output_text", "text": text }] }],
            }),
        }
    }

    /// The text of an event of a stream; none in events that carry no token.
    pub(crate) fn text_of(self, event: &Value) -> Option<&str> {
        let choice = &event["choices"][0];
        match self {
            Self::Chat => choice["delta"]["content"].as_str(),
            Self::Completions => choice["text"].as_str(),
            Self::Generate => event["text"].as_str(),
            Self::Responses if event["type"] == "response.output_text.delta" => {
                event["delta"].as_str()
            }
            Self::Responses => None,
        }
    }

    /// The text of a whole answer.
    pub(crate) fn whole_text(self, answer: &Value) -> Option<&str> {
        let choice = &answer["choices"][0];
        match self {
            Self::Chat => choice["message"]["content"].as_str(),
            Self::Completions => choice["text"].as_str(),
            Self::Generate => answer["text"].as_str(),
            Self::Responses => answer["output"][0]["content"][0]["text"].as_str(),
        }
    }
}

/// How a stream said that it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    Done,
    Failed,
}

/// An event stream taken apart.
#[derive(Debug)]
pub(crate) struct Events {
    /// The texts of the events that carry a token, in order.
    pub(crate) texts: Vec<String>,
    /// Data that is no JSON.
    pub(crate) garbage: usize,
    pub(crate) terminal: Option<Terminal>,
    /// Data behind the terminal event.
    pub(crate) trailing: bool,
}

impl Events {
    pub(crate) fn of(api: Api, stream: &str) -> Self {
        let mut all = Self {
            texts: Vec::new(),
            garbage: 0,
            terminal: None,
            trailing: false,
        };
        let mut failed = false;
        // Any of the three ends a line, also for the gateway.
        let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
        for event in stream.split("\n\n") {
            let payloads = event
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .map(str::trim_start);
            let payload = payloads.collect::<Vec<_>>().join("\n");
            if payload.is_empty() {
                continue;
            }
            if all.terminal.is_some() {
                all.trailing = true;
                continue;
            }
            if payload == "[DONE]" {
                all.terminal = Some(if failed {
                    Terminal::Failed
                } else {
                    Terminal::Done
                });
                continue;
            }
            let Ok(payload) = serde_json::from_str::<Value>(&payload) else {
                all.garbage += 1;
                continue;
            };
            match payload["type"].as_str() {
                Some("response.completed") => all.terminal = Some(Terminal::Done),
                Some("response.failed") => all.terminal = Some(Terminal::Failed),
                _ if payload.get("error").is_some() => failed = true,
                _ => {}
            }
            if let Some(text) = api.text_of(&payload)
                && !text.is_empty()
            {
                all.texts.push(text.to_owned());
            }
        }
        all
    }
}

#[test]
fn what_a_worker_says_can_be_read_again() {
    for api in Api::ALL {
        assert_eq!(Api::of(api.path()), Some(api));
        let mut stream = api.opening();
        for (sequence, text) in ["one ", "two "].into_iter().enumerate() {
            stream.push_str(&api.token(sequence, text));
        }
        let cut = Events::of(api, &stream);
        assert_eq!(cut.texts, ["one ", "two "], "{api:?}");
        assert_eq!((cut.terminal, cut.garbage), (None, 0), "{api:?}");
        let done = Events::of(api, &format!(": hello\n\n{stream}{}", api.closing(2)));
        assert_eq!(
            (done.terminal, done.trailing),
            (Some(Terminal::Done), false)
        );
        let failed = Events::of(
            api,
            &format!("{stream}\u{fffd}data: {{x\n\n{}", api.failure()),
        );
        assert_eq!(failed.terminal, Some(Terminal::Failed), "{api:?}");
        assert!(!failed.trailing);
        assert_eq!(api.whole_text(&api.whole("a b")), Some("a b"));
    }
}
