//! What is true of every answer, whatever happened to the workers.

use serde_json::Value;

use crate::client::{End, Told};
use crate::dialect::{Events, Terminal};
use crate::ledger::{Attempt, read_stamps};
use crate::worker::Mood;

/// What a client may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A whole answer.
    Well,
    /// A whole answer, or an end by the rules.
    Sick,
    /// As `Sick`; the workers are sample workers, which do not stamp their tokens.
    Mortal,
}

/// How a request went that broke no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Whole,
    /// Ended with a status.
    Refused,
    /// Ended with a terminal frame or, where there is none, an aborted connection.
    CutShort,
}

/// What the gateway may say when workers fail.
const CODES: &[(u16, &str)] = &[
    (408, "admission_queue_timeout"),
    (429, "admission_queue_full"),
    (429, "rate_limit_exceeded"),
    (502, "call_upstream_connection_failed"),
    (502, "call_upstream_request_error"),
    (502, "call_upstream_body_error"),
    (502, "call_upstream_decode_error"),
    (502, "no_worker_response"),
    (502, "read_response_failed"),
    (502, "read_response_body_failed"),
    (502, "stream_error"),
    (503, "memory_budget_exhausted"),
    (503, "no_available_workers"),
    (503, "server_selection_failed"),
    (504, "call_upstream_timeout"),
];

/// `reliability.retry.max_retries` of every configuration here.
pub(crate) const ATTEMPTS: usize = 3;

/// Judges one answer; `attempts` is what the workers know about it.
pub(crate) fn judge(told: &Told, attempts: &[Attempt]) -> Result<Verdict, String> {
    match &told.end {
        End::TooLate => return Err("no end in time".to_owned()),
        End::None(_) if told.rule != Rule::Well && began_raw(told, attempts) => {
            return Ok(Verdict::CutShort);
        }
        End::None(why) => return Err(format!("no answer: {why}")),
        End::Clean | End::Broken(_) => {}
    }
    if told.echoed != told.ask.id {
        return Err(format!("answered under the id {:?}", told.echoed));
    }
    if let Some(first) = told.first
        && let Some(late) = attempts
            .iter()
            // What prefill is asked runs beside decode's answer.
            .find(|attempt| attempt.at > first && !attempt.worker.starts_with("prefill"))
    {
        return Err(format!(
            "{} was asked {:?} after a byte of an answer had been sent",
            late.worker,
            late.at - first
        ));
    }
    let decided = attempts
        .iter()
        .filter(|attempt| !attempt.worker.starts_with("prefill"))
        .count();
    if decided > ATTEMPTS {
        return Err(format!("{decided} attempts"));
    }
    let verdict = if told.status != 200 {
        refused(told)?
    } else if told.content_type.starts_with("text/event-stream") {
        streamed(told, attempts)?
    } else {
        whole(told, attempts)?
    };
    if told.rule == Rule::Well && verdict != Verdict::Whole {
        return Err(format!("a healthy pool had {verdict:?}"));
    }
    Ok(verdict)
}

/// Whether a worker broke off an answer that is no stream, so that the connection had to be aborted.
/// It may be so before the head has left.
fn began_raw(told: &Told, attempts: &[Attempt]) -> bool {
    let raw = [
        Mood::ResetMidway,
        Mood::StallMidway,
        Mood::Garbage,
        Mood::NoTerminator,
        Mood::TruncatedChunk,
        Mood::LengthTooLong,
        Mood::CloseAfterHead,
    ];
    !told.ask.stream
        && (told.rule == Rule::Mortal || raw.into_iter().any(|mood| has(attempts, mood)))
}

fn refused(told: &Told) -> Result<Verdict, String> {
    if told.end != End::Clean {
        return Err("an error whose body breaks off".to_owned());
    }
    let Ok(body) = serde_json::from_str::<Value>(&told.body) else {
        return Err("an error that is no JSON".to_owned());
    };
    let code = told.code.as_str();
    if code.is_empty() {
        // A worker's own words.
        let own = body["error"]["code"] == told.status
            && body["error"]["message"] == "worker says no"
            && matches!(told.status, 429 | 500 | 503);
        return if own {
            Ok(Verdict::Refused)
        } else {
            Err("an error of nobody".to_owned())
        };
    }
    let of_a_leg = ["prefill_", "decode_"]
        .iter()
        .any(|leg| code.starts_with(leg));
    let known = CODES.contains(&(told.status, code)) || (of_a_leg && told.status >= 429);
    if !known {
        return Err("an error that does not follow from what happened".to_owned());
    }
    if body["error"]["code"] != code {
        return Err("the code of the head is not that of the body".to_owned());
    }
    Ok(Verdict::Refused)
}

fn streamed(told: &Told, attempts: &[Attempt]) -> Result<Verdict, String> {
    if let End::Broken(why) = &told.end {
        return Err(format!("a stream without a terminal frame: {why}"));
    }
    if !told.ask.stream {
        return Err("a stream that nobody asked for".to_owned());
    }
    let events = Events::of(told.ask.api, &told.body);
    if events.trailing {
        return Err("data behind the terminal frame".to_owned());
    }
    let Some(terminal) = events.terminal else {
        return Err("a stream without a terminal frame".to_owned());
    };
    // Half an event is cut off, not taken back.
    let halves = [
        Mood::Garbage,
        Mood::TruncatedChunk,
        Mood::LengthTooLong,
        Mood::LengthTooShort,
        Mood::Trickle,
    ];
    if events.garbage > 0 && !halves.into_iter().any(|mood| has(attempts, mood)) {
        return Err("events that no worker sent".to_owned());
    }
    if told.rule == Rule::Mortal {
        return Ok(match terminal {
            Terminal::Done => Verdict::Whole,
            Terminal::Failed => Verdict::CutShort,
        });
    }
    let text = events.texts.concat();
    let tokens = read_stamps(&told.ask.id, text.split_whitespace())?;
    match terminal {
        Terminal::Done if tokens == told.ask.tokens => Ok(Verdict::Whole),
        Terminal::Done => Err(format!("{tokens} tokens and then a good end")),
        Terminal::Failed => Ok(Verdict::CutShort),
    }
}

fn whole(told: &Told, attempts: &[Attempt]) -> Result<Verdict, String> {
    let cut = attempts.iter().any(|attempt| !attempt.whole);
    if let End::Broken(_) = told.end {
        // Raw bytes have no frame for a failure: the connection says it.
        return if cut || told.rule == Rule::Mortal {
            Ok(Verdict::CutShort)
        } else {
            Err("broken off although no worker did so".to_owned())
        };
    }
    let Ok(body) = serde_json::from_str::<Value>(&told.body) else {
        return if has(attempts, Mood::Html) || has(attempts, Mood::LengthTooShort) {
            Ok(Verdict::CutShort)
        } else {
            Err("a whole answer that is no JSON".to_owned())
        };
    };
    if told.ask.stream {
        return Err("JSON where a stream was asked for".to_owned());
    }
    let Some(text) = told.ask.api.whole_text(&body) else {
        return Err("an answer without a text".to_owned());
    };
    if told.rule == Rule::Mortal {
        return Ok(Verdict::Whole);
    }
    let tokens = read_stamps(&told.ask.id, text.split_whitespace())?;
    if tokens != told.ask.tokens {
        return Err(format!("{tokens} tokens in a whole answer"));
    }
    Ok(Verdict::Whole)
}

fn has(attempts: &[Attempt], mood: Mood) -> bool {
    attempts
        .iter()
        .any(|attempt| attempt.harm == Some(mood.name()))
}

/// What to say about an answer that breaks a rule.
pub(crate) fn tell(told: &Told, attempts: &[Attempt], wrong: &str) -> String {
    let mut body: String = told.body.chars().take(1500).collect();
    if body.len() < told.body.len() {
        body.push('…');
    }
    let attempts: Vec<_> = attempts
        .iter()
        .map(|a| (&a.worker, a.serial, a.harm, a.whole))
        .collect();
    format!(
        "{wrong}\n  asked: {:?}\n  told: {} {:?} {:?} in {:?}, {:?}\n  attempts: {attempts:?}\n  {body:?}",
        told.ask, told.status, told.code, told.content_type, told.took, told.end
    )
}
