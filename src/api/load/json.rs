//! Load reports in JSON.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::{Load, MAX_RANKS, count, measure};

/// What an object may hold: entries, or one figure for everything.
#[derive(Deserialize)]
struct Outer {
    loads: Option<Entries>,
    server_load: Option<f64>,
}

/// One rank as SGLang tells of it, or one iteration of TensorRT-LLM.
#[derive(Deserialize, Default)]
struct Entry {
    dp_rank: Option<u32>,
    num_running_reqs: Option<f64>,
    /// Running and waiting together.
    num_reqs: Option<f64>,
    num_waiting_reqs: Option<f64>,
    num_waiting_uncached_tokens: Option<f64>,
    #[serde(alias = "num_tokens")]
    num_used_tokens: Option<f64>,
    max_total_num_tokens: Option<f64>,
    token_usage: Option<f64>,
    gen_throughput: Option<f64>,
    cache_hit_rate: Option<f64>,
    utilization: Option<f64>,
    max_running_requests: Option<f64>,

    #[serde(rename = "numActiveRequests")]
    active: Option<f64>,
    #[serde(rename = "numQueuedRequests")]
    queued: Option<f64>,
    #[serde(rename = "maxNumActiveRequests")]
    max_active: Option<f64>,
    #[serde(rename = "kvCacheStats")]
    cache: Option<Cache>,
    #[serde(rename = "inflightBatchingStats")]
    batch: Option<Batch>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Cache {
    max_num_blocks: Option<f64>,
    used_num_blocks: Option<f64>,
    tokens_per_block: Option<f64>,
    cache_hit_rate: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Batch {
    num_paused_requests: Option<f64>,
}

/// The entries of a list: every rank, or of iterations the latest. Read one by one, so that a long list
/// costs no memory.
struct Entries(Vec<Load>);

pub(super) fn parse(body: &[u8]) -> Option<Vec<Load>> {
    if let Ok(Entries(loads)) = serde_json::from_slice(body) {
        return Some(loads);
    }
    let outer: Outer = serde_json::from_slice(body).ok()?;
    if let Some(Entries(loads)) = outer.loads {
        return (!loads.is_empty()).then_some(loads);
    }
    if let Some(load) = outer.server_load {
        return Some(vec![Load {
            running: count(load),
            ..Load::default()
        }]);
    }
    let one: Entry = serde_json::from_slice(body).ok()?;
    Some(vec![one.load()])
}

impl Entry {
    fn is_iteration(&self) -> bool {
        self.active.is_some() || self.cache.is_some()
    }

    fn load(&self) -> Load {
        if self.is_iteration() {
            self.iteration()
        } else {
            self.rank()
        }
    }

    fn rank(&self) -> Load {
        let waiting = self.num_waiting_reqs.and_then(count);
        let all = self.num_reqs.and_then(count);
        let rest = all.map(|all| all.saturating_sub(waiting.unwrap_or(0)));
        Load {
            dp_rank: self.dp_rank,
            running: self.num_running_reqs.and_then(count).or(rest),
            waiting,
            waiting_uncached_tokens: self.num_waiting_uncached_tokens.and_then(count),
            used_tokens: self.num_used_tokens.and_then(count),
            max_total_tokens: self.max_total_num_tokens.and_then(count),
            token_usage: self.token_usage.and_then(measure),
            gen_throughput: self.gen_throughput.and_then(measure),
            cache_hit_rate: self.cache_hit_rate.and_then(measure),
            utilization: self.utilization.and_then(measure),
            max_running_requests: self.max_running_requests.and_then(count),
        }
    }

    fn iteration(&self) -> Load {
        let none = Cache::default();
        let cache = self.cache.as_ref().unwrap_or(&none);
        let paused = self
            .batch
            .as_ref()
            .and_then(|batch| batch.num_paused_requests)
            .unwrap_or(0.0);
        let tokens = |blocks: Option<f64>| count(blocks? * cache.tokens_per_block?);
        let usage = cache
            .used_num_blocks
            .zip(cache.max_num_blocks)
            .filter(|(_, most)| *most > 0.0)
            .map(|(used, most)| used / most);
        Load {
            running: self.active.and_then(count),
            waiting: self.queued.and_then(|queued| count(queued + paused)),
            used_tokens: tokens(cache.used_num_blocks),
            max_total_tokens: tokens(cache.max_num_blocks),
            token_usage: usage.and_then(measure),
            cache_hit_rate: cache.cache_hit_rate.and_then(measure),
            max_running_requests: self.max_active.and_then(count),
            ..Load::default()
        }
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut ranks = Vec::new();
                let mut latest = None;
                while let Some(entry) = list.next_element::<Entry>()? {
                    if entry.is_iteration() {
                        latest = Some(entry);
                    } else if ranks.len() < MAX_RANKS {
                        ranks.push(entry.load());
                    } else {
                        return Err(A::Error::custom("too many ranks"));
                    }
                }
                ranks.extend(latest.map(|entry| entry.load()));
                Ok(Entries(ranks))
            }
        }
        from.deserialize_seq(Visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(body: &str) -> Load {
        let loads = super::super::parse(body.as_bytes()).unwrap();
        assert_eq!(loads.len(), 1, "{body}");
        loads[0]
    }

    #[test]
    fn sglang_with_its_sections() {
        let body = r#"{"timestamp":"2026-11-01T00:00:00Z","version":"0.5.6","dp_rank_count":1,"loads":[{
            "dp_rank":0,"timestamp":1.5,"num_running_reqs":4,"num_waiting_reqs":2,"num_used_tokens":8192,
            "max_total_num_tokens":16384,"token_usage":0.5,"gen_throughput":312.5,"cache_hit_rate":0.75,
            "utilization":0.25,"max_running_requests":64,"memory":{"weight_gb":15.1,"kv_cache_gb":40},
            "queues":{"waiting":2,"grammar":0},"disaggregation":{"mode":"null"}}],
            "aggregate":{"total_running_reqs":4}}"#;
        let load = one(body);
        assert_eq!((load.dp_rank, load.running), (Some(0), Some(4)));
        assert_eq!((load.waiting, load.used_tokens), (Some(2), Some(8192)));
        assert_eq!(load.max_total_tokens, Some(16384));
        assert_eq!(
            (load.token_usage, load.utilization),
            (Some(0.5), Some(0.25))
        );
        assert_eq!(load.gen_throughput, Some(312.5));
        assert_eq!(load.max_running_requests, Some(64));
    }

    #[test]
    fn in_the_older_list_waiting_requests_are_part_of_all() {
        let load = one(r#"[{"dp_rank":0,"num_reqs":4,"num_waiting_reqs":3,"num_tokens":99}]"#);
        assert_eq!((load.running, load.waiting), (Some(1), Some(3)));
        assert_eq!(load.used_tokens, Some(99));
    }

    #[test]
    fn vllm_has_one_figure() {
        assert_eq!(one(r#"{"server_load":7}"#).running, Some(7));
    }

    #[test]
    fn of_iterations_the_latest_counts() {
        let body = r#"[{"numActiveRequests":9,"iter":1},
            {"gpuMemUsage":1,"iter":2,"numActiveRequests":5,"numQueuedRequests":3,"maxNumActiveRequests":10,
             "kvCacheStats":{"cacheHitRate":0.85,"maxNumBlocks":1000,"freeNumBlocks":400,"usedNumBlocks":600,
                             "tokensPerBlock":64},
             "inflightBatchingStats":{"numContextRequests":2,"numPausedRequests":1}}]"#;
        let load = one(body);
        assert_eq!((load.running, load.waiting), (Some(5), Some(4)));
        assert_eq!(load.token_usage, Some(0.6));
        assert_eq!(load.used_tokens, Some(38_400));
        assert_eq!(load.max_total_tokens, Some(64_000));
        assert_eq!(load.cache_hit_rate, Some(0.85));
        // An engine that has not worked since it was last asked has nothing to tell.
        assert_eq!(super::super::parse(b"[]"), Some(Vec::new()));
    }

    #[test]
    fn figures_that_make_no_sense_are_left_out() {
        let load = one(r#"[{"num_running_reqs":-1,"num_waiting_reqs":2.0,"token_usage":null}]"#);
        assert_eq!((load.running, load.waiting), (None, Some(2)));
    }
}
