//! `/v1/completions`. Source: OpenAI API reference, completion object.

use super::super::answer::Finish;
use super::super::job::Job;
use super::{Put, head, usage};

pub(super) fn whole(job: &Job, out: &mut Vec<u8>) {
    out.put(r#"{"id":"cmpl-"#);
    head(job, "text_completion", out);
    for (index, answer) in job.answers.iter().enumerate() {
        out.put(if index == 0 { "" } else { "," });
        out.put(r#"{"index":"#)
            .num(index as u64)
            .put(r#","text":""#);
        answer.write(out);
        out.put(r#"","logprobs":null,"finish_reason":""#)
            .put(answer.finish.word())
            .put(r#""}"#);
    }
    out.put("],");
    usage(job, out);
    out.put("}");
}

pub(super) fn stem(job: &Job, out: &mut Vec<u8>) {
    out.put(r#"data: {"id":"cmpl-"#);
    head(job, "text_completion", out);
}

pub(super) fn token(stem: &[u8], index: usize, piece: &str, out: &mut Vec<u8>) {
    out.bytes(stem)
        .put(r#"{"index":"#)
        .num(index as u64)
        .put(r#","text":""#)
        .put(piece);
    out.put("\",\"logprobs\":null,\"finish_reason\":null}]}\n\n");
}

pub(super) fn finish(stem: &[u8], index: usize, finish: Finish, out: &mut Vec<u8>) {
    out.bytes(stem).put(r#"{"index":"#).num(index as u64);
    out.put(r#","text":"","logprobs":null,"finish_reason":""#)
        .put(finish.word());
    out.put("\"}]}\n\n");
}
