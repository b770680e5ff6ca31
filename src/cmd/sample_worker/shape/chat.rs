//! `/v1/chat/completions`. Source: OpenAI API reference, chat completion objects and chunks.

use super::super::answer::Finish;
use super::super::job::Job;
use super::{Put, head, usage};

pub(super) fn whole(job: &Job, out: &mut Vec<u8>) {
    out.put(r#"{"id":"chatcmpl-"#);
    head(job, "chat.completion", out);
    for (index, answer) in job.answers.iter().enumerate() {
        out.put(if index == 0 { "" } else { "," });
        out.put(r#"{"index":"#).num(index as u64);
        out.put(r#","message":{"role":"assistant","content":""#);
        answer.write(out);
        out.put(r#""},"logprobs":null,"finish_reason":""#)
            .put(answer.finish.word())
            .put(r#""}"#);
    }
    out.put("],");
    usage(job, out);
    out.put("}");
}

pub(super) fn stem(job: &Job, out: &mut Vec<u8>) {
    out.put(r#"data: {"id":"chatcmpl-"#);
    head(job, "chat.completion.chunk", out);
}

pub(super) fn open(job: &Job, stem: &[u8], out: &mut Vec<u8>) {
    for index in 0..job.answers.len() {
        out.bytes(stem).put(r#"{"index":"#).num(index as u64);
        out.put(r#","delta":{"role":"assistant","content":""},"logprobs":null,"#);
        out.put("\"finish_reason\":null}]}\n\n");
    }
}

pub(super) fn token(stem: &[u8], index: usize, piece: &str, out: &mut Vec<u8>) {
    out.bytes(stem).put(r#"{"index":"#).num(index as u64);
    out.put(r#","delta":{"content":""#).put(piece);
    out.put("\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
}

pub(super) fn finish(stem: &[u8], index: usize, finish: Finish, out: &mut Vec<u8>) {
    out.bytes(stem).put(r#"{"index":"#).num(index as u64);
    out.put(r#","delta":{},"logprobs":null,"finish_reason":""#)
        .put(finish.word());
    out.put("\"}]}\n\n");
}
