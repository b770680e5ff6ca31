//! `/generate`. Source: SGLang's native API; each event of a stream repeats the text so far.

use super::super::answer::{Answer, Finish};
use super::super::job::{Asked, Job};
use super::Put;

pub(super) fn whole(job: &Job, out: &mut Vec<u8>) {
    out.put(if job.batch { "[" } else { "" });
    for (index, answer) in job.answers.iter().enumerate() {
        out.put(if index == 0 { "" } else { "," });
        object(job, index, answer, answer.tokens(), out);
    }
    out.put(if job.batch { "]" } else { "" });
}

/// The event after `tokens` tokens of answer `index`.
pub(super) fn event(job: &Job, index: usize, tokens: u32, out: &mut Vec<u8>) {
    let Some(answer) = job.answers.get(index) else {
        return;
    };
    out.put("data: ");
    object(job, index, answer, tokens, out);
    out.put("\n\n");
}

fn object(job: &Job, index: usize, answer: &Answer, tokens: u32, out: &mut Vec<u8>) {
    let (prompt, cached) = job
        .prompt_of(index)
        .map_or((0, 0), |Asked { tokens, cached, .. }| (*tokens, *cached));
    out.put(r#"{"text":""#);
    answer.write_first(tokens, out);
    out.put(r#"","meta_info":{"id":""#)
        .hex(job.id.wrapping_add(index as u64));
    out.put(r#"","finish_reason":"#);
    if tokens < answer.tokens() {
        out.put("null");
    } else {
        match answer.finish {
            Finish::Stop => out.put(r#"{"type":"stop","matched":0}"#),
            Finish::Length => out
                .put(r#"{"type":"length","length":"#)
                .num(u64::from(tokens))
                .put("}"),
        };
    }
    out.put(r#","prompt_tokens":"#).num(prompt);
    out.put(r#","weight_version":"default","completion_tokens":"#)
        .num(u64::from(tokens));
    out.put(r#","cached_tokens":"#).num(cached).put("}}");
}
