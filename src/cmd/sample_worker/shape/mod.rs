//! How answers are written, one file per API: whole, or as the events of a stream.
//!
//! A stream is `open`, then per step a `token` of each answer that still runs and a `finish` of
//! each that ends with it, then `tail`.

mod chat;
mod completion;
mod generate;
mod responses;

use super::job::{Api, Job};

const DONE: &str = "data: [DONE]\n\n";
const FAULT: &str = "sample fault: error event";

/// A job being written out as events.
#[derive(Debug)]
pub(super) struct Script {
    /// What is written.
    pub(super) job: Job,
    /// What all events of the stream begin with.
    stem: Vec<u8>,
}

impl Script {
    /// Prepares the stream of `job`.
    pub(super) fn new(job: Job) -> Self {
        let mut stem = Vec::new();
        match job.api {
            Api::Chat => chat::stem(&job, &mut stem),
            Api::Completion => completion::stem(&job, &mut stem),
            Api::Generate | Api::Responses => {}
        }
        Self { job, stem }
    }

    /// The events before the first token.
    pub(super) fn open(&self, out: &mut Vec<u8>) {
        match self.job.api {
            Api::Chat => chat::open(&self.job, &self.stem, out),
            Api::Responses => responses::open(&self.job, out),
            Api::Completion | Api::Generate => {}
        }
    }

    /// Token `step` of answer `index`.
    pub(super) fn token(&self, index: usize, step: u32, out: &mut Vec<u8>) {
        let Some(answer) = self.job.answers.get(index) else {
            return;
        };
        match self.job.api {
            Api::Chat => chat::token(&self.stem, index, answer.piece(step), out),
            Api::Completion => completion::token(&self.stem, index, answer.piece(step), out),
            Api::Generate => generate::event(&self.job, index, step + 1, out),
            Api::Responses => responses::token(&self.job, step, answer.piece(step), out),
        }
    }

    /// The end of answer `index`.
    pub(super) fn finish(&self, index: usize, out: &mut Vec<u8>) {
        let Some(answer) = self.job.answers.get(index) else {
            return;
        };
        match self.job.api {
            Api::Chat => chat::finish(&self.stem, index, answer.finish, out),
            Api::Completion => completion::finish(&self.stem, index, answer.finish, out),
            // The last token of /generate tells that it is the last.
            Api::Generate if answer.tokens() == 0 => generate::event(&self.job, index, 0, out),
            Api::Generate | Api::Responses => {}
        }
    }

    /// What follows the last answer: usage if asked for, and the terminator.
    pub(super) fn tail(&self, out: &mut Vec<u8>) {
        match self.job.api {
            Api::Chat | Api::Completion => {
                if self.job.include_usage {
                    out.bytes(&self.stem).put("],");
                    usage(&self.job, out);
                    out.put("}\n\n");
                }
                out.put(DONE);
            }
            Api::Generate => {
                out.put(DONE);
            }
            Api::Responses => responses::tail(&self.job, out),
        }
    }

    /// The event of an engine that failed after `step` tokens, and the terminator.
    pub(super) fn error(&self, step: u32, out: &mut Vec<u8>) {
        match self.job.api {
            Api::Chat | Api::Completion | Api::Generate => {
                out.put("data: ").put(ERROR).put("\n\n").put(DONE);
            }
            Api::Responses => responses::failed(&self.job, step, out),
        }
    }
}

/// The body of an engine that failed after it had begun to answer.
pub(super) const ERROR: &str = r#"{"error":{"object":"error","message":"sample fault: error event","type":"InternalServerError","param":null,"code":500}}"#;

/// The whole answer to `job`.
pub(super) fn whole(job: &Job) -> Vec<u8> {
    let text = job.completion_tokens() as usize * 10;
    let mut out = Vec::with_capacity(512 + text);
    match job.api {
        Api::Chat => chat::whole(job, &mut out),
        Api::Completion => completion::whole(job, &mut out),
        Api::Generate => generate::whole(job, &mut out),
        Api::Responses => responses::whole(job, &mut out),
    }
    out
}

/// `"usage":{…}` as chat and completions have it.
fn usage(job: &Job, out: &mut Vec<u8>) {
    let (prompt, completion) = (job.prompt_tokens(), job.completion_tokens());
    out.put(r#""usage":{"prompt_tokens":"#).num(prompt);
    out.put(r#","completion_tokens":"#).num(completion);
    out.put(r#","total_tokens":"#).num(prompt + completion);
    out.put(r#","prompt_tokens_details":{"cached_tokens":"#)
        .num(job.cached_tokens())
        .put("}}");
}

/// The members before `choices`, after the id's prefix.
fn head(job: &Job, object: &str, out: &mut Vec<u8>) {
    out.hex(job.id).put(r#"","object":""#).put(object);
    out.put(r#"","created":"#).num(job.created);
    out.put(r#","model":"#).put(&job.model);
    out.put(r#","system_fingerprint":"sample-"#)
        .num(u64::from(job.port));
    out.put(r#"","choices":["#);
}

/// Appending to JSON.
trait Put {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self;

    fn put(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// `number` in decimal.
    fn num(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [b'0'; 20];
        let mut start = digits.len();
        for (place, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            start = place;
            if number == 0 {
                break;
            }
        }
        self.bytes(&digits[start..])
    }

    /// `number` as 16 hexadecimal digits.
    fn hex(&mut self, number: u64) -> &mut Self {
        let digit = |place: u32| b"0123456789abcdef"[(number >> (4 * place)) as usize & 15];
        let digits: [u8; 16] = std::array::from_fn(|index| digit(15 - index as u32));
        self.bytes(&digits)
    }
}

impl Put for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_std_writes_them() {
        for number in [0, 7, 10, 99, 1_234_567_890, u64::MAX] {
            let mut out = Vec::new();
            out.num(number).put(" ").hex(number);
            assert_eq!(
                String::from_utf8(out).unwrap(),
                format!("{number} {number:016x}")
            );
        }
    }
}
