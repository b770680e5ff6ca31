//! Telling an engine which of its ranks a request is for.

use bytes::Bytes;

use super::Job;
use crate::api::scan::{Fields, Object};
use crate::api::{Payload, Span};
use crate::plan::Role;

/// A member that names a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    /// Name of the member.
    pub(super) name: &'static str,
    /// The rank; `None` where the engine is to choose.
    pub(super) rank: Option<u32>,
    /// Where the client wrote it.
    pub(super) at: Option<Span>,
}

/// The members that the body of a request to the rank `own` must have when its worker does `role`, and
/// the prompt was read by the rank `prefill`. What a client wrote in their place never stands.
///
/// Nothing for a worker that is no rank of an engine, beside one that is none.
pub(super) fn members(
    fields: &Fields,
    role: Role,
    own: Option<u32>,
    prefill: Option<u32>,
) -> impl Iterator<Item = Member> {
    let ranked = own.is_some() || prefill.is_some();
    let [first, second, third] = match role {
        Role::Regular => [own, None, None],
        Role::Prefill => [None, own, None],
        Role::Decode => [None, own, prefill],
    };
    // Engines that know the newer name prefer it, so a client's must not win over ours.
    let newer = second.or_else(|| fields.routed_dp_rank.and(own));
    [
        ("data_parallel_rank", first, fields.data_parallel_rank),
        ("routed_dp_rank", newer, fields.routed_dp_rank),
        (
            "disagg_prefill_dp_rank",
            third,
            fields.disagg_prefill_dp_rank,
        ),
    ]
    .into_iter()
    .filter(move |(_, rank, at)| ranked && (rank.is_some() || at.is_some()))
    .map(|(name, rank, at)| Member { name, rank, at })
}

/// The body of `job` for the rank `own` of an engine; as it is where there is no rank to tell.
pub(super) fn body(job: &Job, role: Role, own: Option<u32>) -> Payload {
    if own.is_none() {
        return job.body.clone();
    }
    let fields = in_body(job);
    let members: Vec<Member> = members(&fields, role, own, None).collect();
    told(&job.body, fields.object, &members)
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

/// The places of the body that goes out: it is the client's with another model name at most.
fn in_body(job: &Job) -> Fields {
    let (from, to) = (job.original.len(), job.body.len());
    let Some(model) = job.fields.model.filter(|_| from != to) else {
        return job.fields;
    };
    let place = |at: usize| {
        if at >= model.end { at + to - from } else { at }
    };
    job.fields
        .moved(place, |span| Span::new(place(span.start), place(span.end)))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::api::Endpoint;
    use crate::api::scan::scan;
    use crate::plan::RouteIx;

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
        }
    }

    fn sent(client: &str, renamed: &str, role: Role, own: Option<u32>) -> String {
        let body = body(&job(client, renamed), role, own);
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
            assert_eq!(sent(client, client, Role::Regular, Some(3)), expected);
            assert_eq!(sent(client, client, Role::Regular, None), client);
        }
    }

    #[test]
    fn places_follow_a_model_name_that_was_replaced() {
        let client = r#"{"data_parallel_rank":1,"model":"also-m","routed_dp_rank":2,"x":{}}"#;
        let renamed = r#"{"data_parallel_rank":1,"model":"m","routed_dp_rank":2,"x":{}}"#;
        let expected = r#"{"data_parallel_rank":0,"model":"m","routed_dp_rank":0,"x":{}}"#;
        assert_eq!(sent(client, renamed, Role::Regular, Some(0)), expected);
        let (client, renamed) = (r#"{"model":"m"}"#, r#"{"model":"longer"}"#);
        let expected = r#"{"model":"longer","data_parallel_rank":0}"#;
        assert_eq!(sent(client, renamed, Role::Regular, Some(0)), expected);
    }

    #[test]
    fn each_leg_of_a_pair_names_its_rank_and_decode_the_other_too() {
        let fields = scan(b"{}").unwrap().fields;
        let of = |role, own, prefill| -> Vec<(&str, Option<u32>)> {
            members(&fields, role, own, prefill)
                .map(|member| (member.name, member.rank))
                .collect()
        };
        assert_eq!(
            of(Role::Prefill, Some(2), Some(2)),
            [("routed_dp_rank", Some(2))]
        );
        assert_eq!(
            of(Role::Decode, Some(1), Some(2)),
            [
                ("routed_dp_rank", Some(1)),
                ("disagg_prefill_dp_rank", Some(2))
            ]
        );
        assert_eq!(
            of(Role::Decode, None, Some(2)),
            [("disagg_prefill_dp_rank", Some(2))]
        );
        assert_eq!(of(Role::Decode, None, None), []);
    }
}
