//! Telling an engine which of its ranks a request is for.

use super::Job;
use crate::api::Payload;
use crate::api::members::{Changes, Outline};

/// Names by which engines are told of ranks.
const NAMES: &[&str] = &[
    "data_parallel_rank",
    "routed_dp_rank",
    "disagg_prefill_dp_rank",
];

/// The body of `job` for the rank `own` of an engine; as it is where there is no rank to tell.
/// `outline` keeps where its members stand, for further attempts.
///
/// What a client wrote of ranks never stands: engines that know the newer name prefer it, so a client's
/// must not win over ours.
pub(super) fn body(job: &Job, own: Option<u32>, outline: &mut Option<Box<Outline>>) -> Payload {
    let Some(own) = own else {
        return job.body.clone();
    };
    if outline.is_none() {
        *outline = Outline::of(&job.body, NAMES).ok().map(Box::new);
    }
    let Some(outline) = outline else {
        return job.body.clone();
    };
    let mut changes = Changes::new(outline);
    changes.set("data_parallel_rank", own.to_string());
    changes.amend("routed_dp_rank", own.to_string());
    changes.amend("disagg_prefill_dp_rank", "null");
    changes.apply(&job.body)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::api::Endpoint;
    use crate::api::scan::scan;
    use crate::config::spec::MemoryBudget;
    use crate::plan::RouteIx;
    use crate::state::Allowance;

    fn job(client: &str) -> Job {
        Job {
            endpoint: Endpoint::Chat,
            route: RouteIx(0),
            model: "m".into(),
            headers: HeaderMap::new(),
            body: Bytes::from(client.to_owned()).into(),
            original: Bytes::from(client.to_owned()).into(),
            fields: scan(client.as_bytes()).unwrap().fields,
            streaming: false,
            hides_usage: false,
            memory: Arc::new(Allowance::new(&Arc::default(), MemoryBudget::Percent(1)).none()),
        }
    }

    fn sent(client: &str, own: Option<u32>) -> String {
        let job = job(client);
        let mut outline = None;
        let [first, again] = [(); 2].map(|()| body(&job, own, &mut outline).pieces().concat());
        assert_eq!(first, again);
        String::from_utf8(first).unwrap()
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
            assert_eq!(sent(client, Some(3)), expected);
            assert_eq!(sent(client, None), client);
        }
    }
}
