//! What engines say of their load.
//!
//! Sources: SGLang `GET /v1/loads` (`loads` with one entry per rank) and `GET /get_load` (a list),
//! vLLM `GET /load` (`server_load`), as of 2026-11.

use serde::Deserialize;

/// A load report of one worker, sums over its ranks. What the engine does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Rank of the first entry.
    pub dp_rank: Option<u64>,
    /// Requests being computed.
    pub running: Option<u64>,
    /// Requests waiting.
    pub waiting: Option<u64>,
    /// Prompt tokens of waiting requests that are in no cache.
    pub waiting_uncached_tokens: Option<u64>,
    /// Tokens held in the cache for running requests.
    pub used_tokens: Option<u64>,
    /// Tokens that the cache can hold.
    pub max_total_tokens: Option<u64>,
    /// Share of the cache in use, 0 to 1; the mean over ranks.
    pub token_usage: Option<f64>,
    /// Tokens generated per second.
    pub gen_throughput: Option<f64>,
    /// Share of prompt tokens found in the cache, 0 to 1; the mean over ranks.
    pub cache_hit_rate: Option<f64>,
    /// How busy the engine is, 0 to 1; the mean over ranks.
    pub utilization: Option<f64>,
    /// Requests that may run at once.
    pub max_running_requests: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Report {
    Ranks { loads: Vec<Rank> },
    List(Vec<Rank>),
    Server { server_load: u64 },
    One(Rank),
}

#[derive(Deserialize)]
struct Rank {
    dp_rank: Option<u64>,
    #[serde(alias = "num_running_reqs", alias = "num_reqs")]
    running: Option<u64>,
    #[serde(alias = "num_waiting_reqs")]
    waiting: Option<u64>,
    num_waiting_uncached_tokens: Option<u64>,
    #[serde(alias = "num_used_tokens", alias = "num_tokens")]
    used: Option<u64>,
    max_total_num_tokens: Option<u64>,
    token_usage: Option<f64>,
    gen_throughput: Option<f64>,
    cache_hit_rate: Option<f64>,
    utilization: Option<f64>,
    max_running_requests: Option<u64>,
}

/// The report in `body`; `None` where there is none that we know how to read.
pub fn parse(body: &[u8]) -> Option<Load> {
    let ranks = match serde_json::from_slice(body).ok()? {
        Report::Ranks { loads } | Report::List(loads) => loads,
        Report::Server { server_load } => {
            return Some(Load {
                running: Some(server_load),
                ..Load::default()
            });
        }
        Report::One(rank) => vec![rank],
    };
    let first = ranks.first()?;
    if ranks
        .iter()
        .all(|rank| rank.running.is_none() && rank.waiting.is_none())
    {
        return None;
    }
    let sum = |of: fn(&Rank) -> Option<u64>| -> Option<u64> {
        ranks
            .iter()
            .filter_map(of)
            .reduce(|a, b| a.saturating_add(b))
    };
    let total = |of: fn(&Rank) -> Option<f64>| -> Option<f64> {
        ranks.iter().filter_map(of).reduce(|a, b| a + b)
    };
    let mean = |of: fn(&Rank) -> Option<f64>| -> Option<f64> {
        let count = u32::try_from(ranks.iter().filter_map(of).count()).ok()?;
        Some(total(of)? / f64::from(count))
    };
    Some(Load {
        dp_rank: first.dp_rank,
        running: sum(|rank| rank.running),
        waiting: sum(|rank| rank.waiting),
        waiting_uncached_tokens: sum(|rank| rank.num_waiting_uncached_tokens),
        used_tokens: sum(|rank| rank.used),
        max_total_tokens: sum(|rank| rank.max_total_num_tokens),
        token_usage: mean(|rank| rank.token_usage),
        gen_throughput: total(|rank| rank.gen_throughput),
        cache_hit_rate: mean(|rank| rank.cache_hit_rate),
        utilization: mean(|rank| rank.utilization),
        max_running_requests: sum(|rank| rank.max_running_requests),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_summed_and_ratios_averaged() {
        let body = br#"{"loads":[{"dp_rank":0,"num_running_reqs":2,"num_waiting_reqs":1,"token_usage":0.5,"gen_throughput":10},
                                 {"dp_rank":1,"num_running_reqs":3,"num_waiting_reqs":0,"token_usage":0.3,"gen_throughput":20}]}"#;
        let load = parse(body).unwrap();
        assert_eq!((load.running, load.waiting), (Some(5), Some(1)));
        assert!((load.token_usage.unwrap() - 0.4).abs() < 1e-9);
        assert!((load.gen_throughput.unwrap() - 30.0).abs() < 1e-9);
    }

    #[test]
    fn the_older_list_and_the_other_engine() {
        let list = br#"[{"dp_rank":0,"num_reqs":4,"num_waiting_reqs":2,"num_tokens":99}]"#;
        let load = parse(list).unwrap();
        assert_eq!(
            (load.running, load.waiting, load.used_tokens),
            (Some(4), Some(2), Some(99))
        );
        assert_eq!(parse(br#"{"server_load":7}"#).unwrap().running, Some(7));
    }

    #[test]
    fn what_is_no_report_is_none() {
        for body in [
            &b"OK"[..],
            b"{}",
            b"[]",
            br#"{"detail":"Not Found"}"#,
            b"[{}]",
        ] {
            assert_eq!(parse(body), None, "{}", String::from_utf8_lossy(body));
        }
    }
}
