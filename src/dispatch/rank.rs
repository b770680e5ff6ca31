//! Telling an engine which of its ranks a request is for.

use bytes::Bytes;

use super::Job;
use crate::api::members::{Changes, Outline};
use crate::api::scan::{Fields, Object};
use crate::api::{Payload, Span};

/// A member that names a rank.
struct Member {
    name: &'static str,
    /// The rank; `None` where there is none to tell.
    rank: Option<u32>,
    /// Where the client wrote it.
    at: Option<Span>,
}

/// The members that name the rank `own` of a worker that serves alone. What a client wrote in their place
/// never stands: engines that know the newer name prefer it, so a client's must not win over ours.
fn members(fields: &Fields, own: u32) -> Vec<Member> {
    let newer = fields.routed_dp_rank.map(|at| Member {
        name: "routed_dp_rank",
        rank: Some(own),
        at: Some(at),
    });
    let other = fields.disagg_prefill_dp_rank.map(|at| Member {
        name: "disagg_prefill_dp_rank",
        rank: None,
        at: Some(at),
    });
    let own = Member {
        name: "data_parallel_rank",
        rank: Some(own),
        at: fields.data_parallel_rank,
    };
    [Some(own), newer, other].into_iter().flatten().collect()
}

/// The body of `job` for the rank `own` of an engine; as it is where there is no rank to tell.
pub(super) fn body(job: &Job, own: Option<u32>) -> Payload {
    let Some(own) = own else {
        return job.body.clone();
    };
    let Some(fields) = in_body(job) else {
        return anew(&job.body, own);
    };
    told(&job.body, fields.object, &members(&fields, own))
}

/// `payload` with `members` written in place or, where they are new, at the end of `object`.
fn told(payload: &Payload, object: Object, members: &[Member]) -> Payload {
    let mut edits: Vec<(Span, String)> = Vec::with_capacity(members.len());
    let mut added = String::new();
    for Member { name, rank, at } in members {
        let value = rank.map_or_else(|| "null".to_owned(), |rank| rank.to_string());
        if let Some(at) = at {
            edits.push((*at, value));
        } else {
            let comma = if object.empty && added.is_empty() {
                ""
            } else {
                ","
            };
            added.push_str(&format!("{comma}\"{name}\":{value}"));
        }
    }
    if !added.is_empty() {
        edits.push((Span::new(object.close, object.close), added));
    }
    // From the end, so that each place is still where it was.
    edits.sort_by_key(|(at, _)| std::cmp::Reverse(at.start));
    edits
        .into_iter()
        .fold(payload.clone(), |payload, (at, text)| {
            payload.replaced(at, Bytes::from(text))
        })
}

/// The same for a body whose members have moved.
fn anew(body: &Payload, own: u32) -> Payload {
    const NAMES: &[&str] = &[
        "data_parallel_rank",
        "routed_dp_rank",
        "disagg_prefill_dp_rank",
    ];
    let Ok(outline) = Outline::of(body, NAMES) else {
        return body.clone();
    };
    let mut changes = Changes::new(&outline);
    changes.set("data_parallel_rank", own.to_string());
    for (name, value) in [
        ("routed_dp_rank", own.to_string()),
        ("disagg_prefill_dp_rank", "null".to_owned()),
    ] {
        if outline.value(name).is_some() {
            changes.set(name, value);
        }
    }
    changes.apply(body)
}

/// The places of the body that goes out: it is the client's with another model name at most. `None`
/// where the client gave none, and one was put in.
fn in_body(job: &Job) -> Option<Fields> {
    let (from, to) = (job.original.len(), job.body.len());
    if from == to {
        return Some(job.fields);
    }
    let model = job.fields.model?;
    let place = |at: usize| {
        if at >= model.end { at + to - from } else { at }
    };
    let span = |span: Span| Span::new(place(span.start), place(span.end));
    Some(job.fields.moved(place, span))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderMap;

    use super::*;
    use crate::api::Endpoint;
    use crate::api::scan::scan;
    use crate::config::spec::MemoryBudget;
    use crate::plan::RouteIx;
    use crate::state::Allowance;

    fn job(client: &str, sent: &str) -> Job {
        Job {
            endpoint: Endpoint::Chat,
            route: RouteIx(0),
            model: "m".into(),
            headers: HeaderMap::new(),
            body: Bytes::from(sent.to_owned()).into(),
            original: Bytes::from(client.to_owned()).into(),
            fields: scan(client.as_bytes()).unwrap().fields,
            streaming: false,
            memory: Arc::new(Allowance::new(&Arc::default(), MemoryBudget::Percent(1)).none()),
        }
    }

    fn sent(client: &str, renamed: &str, own: Option<u32>) -> String {
        let body = body(&job(client, renamed), own);
        String::from_utf8(body.pieces().concat()).unwrap()
    }

    #[test]
    fn a_rank_is_added_or_replaced() {
        for (client, expected) in [
            ("{}", r#"{"data_parallel_rank":3}"#),
            (r#"{"a":1 } "#, r#"{"a":1 ,"data_parallel_rank":3} "#),
            (
                r#"{"data_parallel_rank": 9,"a":1}"#,
                r#"{"data_parallel_rank": 3,"a":1}"#,
            ),
            (
                r#"{"routed_dp_rank":9,"disagg_prefill_dp_rank":[1],"a":1}"#,
                r#"{"routed_dp_rank":3,"disagg_prefill_dp_rank":null,"a":1,"data_parallel_rank":3}"#,
            ),
        ] {
            assert_eq!(sent(client, client, Some(3)), expected);
            assert_eq!(sent(client, client, None), client);
        }
    }

    #[test]
    fn places_follow_a_model_name_that_was_replaced() {
        let client = r#"{"data_parallel_rank":1,"model":"also-m","routed_dp_rank":2,"x":{}}"#;
        let renamed = r#"{"data_parallel_rank":1,"model":"m","routed_dp_rank":2,"x":{}}"#;
        let expected = r#"{"data_parallel_rank":0,"model":"m","routed_dp_rank":0,"x":{}}"#;
        assert_eq!(sent(client, renamed, Some(0)), expected);
        let (client, renamed) = (r#"{"model":"m"}"#, r#"{"model":"longer"}"#);
        let expected = r#"{"model":"longer","data_parallel_rank":0}"#;
        assert_eq!(sent(client, renamed, Some(0)), expected);
    }

    #[test]
    fn places_follow_a_model_name_that_was_put_in() {
        for (client, renamed, expected) in [
            (
                "{}",
                r#"{"model":"m"}"#,
                r#"{"model":"m","data_parallel_rank":2}"#,
            ),
            (
                r#"{"routed_dp_rank":[9],"x":"y","disagg_prefill_dp_rank":1}"#,
                r#"{"model":"m","routed_dp_rank":[9],"x":"y","disagg_prefill_dp_rank":1}"#,
                r#"{"model":"m","routed_dp_rank":2,"x":"y","disagg_prefill_dp_rank":null,"data_parallel_rank":2}"#,
            ),
        ] {
            assert_eq!(sent(client, renamed, Some(2)), expected);
        }
    }
}
