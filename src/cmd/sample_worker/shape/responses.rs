//! `/v1/responses`. Source: OpenAI API reference, response object and streaming events.

use super::super::answer::Finish;
use super::super::job::Job;
use super::{FAULT, Put};

/// Events before the first delta; their numbers are 0 to 3.
const OPENING: u32 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Ended,
    Failed,
}

pub(super) fn whole(job: &Job, out: &mut Vec<u8>) {
    response(job, State::Ended, out);
}

pub(super) fn open(job: &Job, out: &mut Vec<u8>) {
    for (number, kind) in [(0, "response.created"), (1, "response.in_progress")] {
        event(kind, number, out);
        out.put(r#","response":"#);
        response(job, State::Running, out);
        out.put("}\n\n");
    }
    event("response.output_item.added", 2, out);
    out.put(r#","output_index":0,"item":"#);
    item(job, State::Running, out);
    out.put("}\n\n");
    event("response.content_part.added", 3, out);
    place(job, out);
    out.put(",\"part\":{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[]}}\n\n");
}

pub(super) fn token(job: &Job, step: u32, piece: &str, out: &mut Vec<u8>) {
    event("response.output_text.delta", OPENING + step, out);
    place(job, out);
    out.put(r#","delta":""#)
        .put(piece)
        .put("\",\"logprobs\":[]}\n\n");
}

pub(super) fn tail(job: &Job, out: &mut Vec<u8>) {
    let number = OPENING + job.answers.first().map_or(0, |answer| answer.tokens());
    event("response.output_text.done", number, out);
    place(job, out);
    out.put(r#","text":""#);
    text(job, out);
    out.put("\",\"logprobs\":[]}\n\n");
    event("response.content_part.done", number + 1, out);
    place(job, out);
    out.put(r#","part":{"type":"output_text","text":""#);
    text(job, out);
    out.put("\",\"annotations\":[]}}\n\n");
    event("response.output_item.done", number + 2, out);
    out.put(r#","output_index":0,"item":"#);
    item(job, State::Ended, out);
    out.put("}\n\n");
    let limited = job
        .answers
        .iter()
        .any(|answer| answer.finish == Finish::Length);
    let kind = if limited {
        "response.incomplete"
    } else {
        "response.completed"
    };
    event(kind, number + 3, out);
    out.put(r#","response":"#);
    response(job, State::Ended, out);
    out.put("}\n\n");
}

/// The event of a failure after `step` tokens.
pub(super) fn failed(job: &Job, step: u32, out: &mut Vec<u8>) {
    event("response.failed", OPENING + step, out);
    out.put(r#","response":"#);
    response(job, State::Failed, out);
    out.put("}\n\n");
}

fn event(kind: &str, number: u32, out: &mut Vec<u8>) {
    out.put("event: ")
        .put(kind)
        .put("\ndata: {\"type\":\"")
        .put(kind);
    out.put(r#"","sequence_number":"#).num(u64::from(number));
}

/// The members that say where in the response a part of the text stands.
fn place(job: &Job, out: &mut Vec<u8>) {
    out.put(r#","item_id":"msg_"#)
        .hex(job.id)
        .put(r#"","output_index":0,"content_index":0"#);
}

fn text(job: &Job, out: &mut Vec<u8>) {
    for answer in &job.answers {
        answer.write(out);
    }
}

fn item(job: &Job, state: State, out: &mut Vec<u8>) {
    out.put(r#"{"id":"msg_"#)
        .hex(job.id)
        .put(r#"","type":"message","role":"assistant","status":""#);
    if state == State::Running {
        out.put(r#"in_progress","content":[]}"#);
        return;
    }
    out.put(r#"completed","content":[{"type":"output_text","text":""#);
    text(job, out);
    out.put(r#"","annotations":[]}]}"#);
}

fn response(job: &Job, state: State, out: &mut Vec<u8>) {
    let limited = job
        .answers
        .iter()
        .any(|answer| answer.finish == Finish::Length);
    let status = match state {
        State::Running => "in_progress",
        State::Failed => "failed",
        State::Ended if limited => "incomplete",
        State::Ended => "completed",
    };
    out.put(r#"{"id":"resp_"#)
        .hex(job.id)
        .put(r#"","object":"response","created_at":"#);
    out.num(job.created)
        .put(r#","status":""#)
        .put(status)
        .put(r#"","model":"#)
        .put(&job.model);
    out.put(r#","output":["#);
    if state == State::Ended {
        item(job, state, out);
    }
    out.put(r#"],"error":"#);
    if state == State::Failed {
        out.put(r#"{"code":"server_error","message":""#)
            .put(FAULT)
            .put(r#""}"#);
    } else {
        out.put("null");
    }
    out.put(r#","incomplete_details":"#);
    out.put(if status == "incomplete" {
        r#"{"reason":"max_output_tokens"}"#
    } else {
        "null"
    });
    out.put(r#","instructions":null,"metadata":{},"parallel_tool_calls":true,"#);
    out.put(r#""temperature":1.0,"top_p":1.0,"tool_choice":"auto","tools":[],"usage":"#);
    if state != State::Ended {
        out.put("null}");
        return;
    }
    let (input, output) = (job.prompt_tokens(), job.completion_tokens());
    out.put(r#"{"input_tokens":"#).num(input);
    out.put(r#","input_tokens_details":{"cached_tokens":"#)
        .num(job.cached_tokens());
    out.put(r#"},"output_tokens":"#).num(output);
    out.put(r#","output_tokens_details":{"reasoning_tokens":0},"total_tokens":"#);
    out.num(input + output).put("}}");
}
