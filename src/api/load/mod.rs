//! What engines say of their load.
//!
//! Sources, as of 2026-11: SGLang `GET /v1/loads` (`loads` with one entry per rank), `GET /get_load` (a
//! list) and its metrics; vLLM `GET /load` (`server_load`) and its metrics; TensorRT-LLM `GET /metrics`
//! (a list of iterations) and its metrics at `/prometheus/metrics`.

mod json;
mod text;

/// Entries of one report that are read; an engine with more ranks than this does not exist.
const MAX_RANKS: usize = 1024;

/// The load of one rank of an engine, or of a whole engine. What it does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// The rank, where the engine names it.
    pub dp_rank: Option<u32>,
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
    /// Share of the cache in use, 0 to 1.
    pub token_usage: Option<f64>,
    /// Tokens generated per second.
    pub gen_throughput: Option<f64>,
    /// Share of prompt tokens found in the cache, 0 to 1.
    pub cache_hit_rate: Option<f64>,
    /// How busy the engine is, 0 to 1.
    pub utilization: Option<f64>,
    /// Requests that may run at once.
    pub max_running_requests: Option<u64>,
}

impl Load {
    /// Works out what follows from the rest. `capacity` is how many tokens the cache of one rank holds,
    /// where that is known from elsewhere.
    pub fn complete(&mut self, capacity: Option<u64>) {
        self.max_total_tokens = self.max_total_tokens.or(capacity).filter(|most| *most > 0);
        let Some(most) = self.max_total_tokens else {
            return;
        };
        match (self.used_tokens, self.token_usage) {
            (Some(used), None) => {
                self.token_usage = Some((used as f64 / most as f64).min(1.0));
            }
            (None, Some(usage)) => {
                self.used_tokens = count(usage.clamp(0.0, 1.0) * most as f64);
            }
            _ => {}
        }
    }

    /// Whether there is anything to go by.
    fn tells(&self) -> bool {
        self.running.is_some() || self.waiting.is_some() || self.token_usage.is_some()
    }
}

/// The report in `body`, which is JSON or metrics in text form: one entry per rank. Empty where an
/// engine says that it has done nothing since it was last asked; `None` where there is no report that we
/// know how to read.
pub fn parse(body: &[u8]) -> Option<Vec<Load>> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace())?;
    let mut ranks = match first {
        b'[' | b'{' => json::parse(body)?,
        _ => text::parse(std::str::from_utf8(body).ok()?)?,
    };
    let told = ranks.len();
    ranks.retain(Load::tells);
    if told > 0 && ranks.is_empty() {
        return None;
    }
    tell_apart(&mut ranks);
    Some(ranks)
}

/// Sorts `ranks` and leaves no two with one name: ranks of an engine that names none of them are
/// numbered as they stand, and beside named ones what has no name, or that of another, says nothing.
fn tell_apart(ranks: &mut Vec<Load>) {
    if ranks.len() < 2 {
        return;
    }
    if ranks.iter().all(|rank| rank.dp_rank.is_none()) {
        for (name, rank) in (0..).zip(ranks) {
            rank.dp_rank = Some(name);
        }
        return;
    }
    ranks.retain(|rank| rank.dp_rank.is_some());
    ranks.sort_by_key(|rank| rank.dp_rank);
    ranks.dedup_by_key(|rank| rank.dp_rank);
}

/// All ranks in one: counts are added, ratios averaged.
pub fn whole(ranks: &[Load]) -> Load {
    let sum = |of: fn(&Load) -> Option<u64>| -> Option<u64> {
        let told = ranks.iter().filter_map(of);
        told.reduce(u64::saturating_add)
    };
    let total = |of: fn(&Load) -> Option<f64>| -> Option<f64> {
        ranks.iter().filter_map(of).reduce(|a, b| a + b)
    };
    let mean = |of: fn(&Load) -> Option<f64>| -> Option<f64> {
        let told = ranks.iter().filter_map(of).count();
        Some(total(of)? / told as f64)
    };
    Load {
        dp_rank: match ranks {
            [one] => one.dp_rank,
            _ => None,
        },
        running: sum(|rank| rank.running),
        waiting: sum(|rank| rank.waiting),
        waiting_uncached_tokens: sum(|rank| rank.waiting_uncached_tokens),
        used_tokens: sum(|rank| rank.used_tokens),
        max_total_tokens: sum(|rank| rank.max_total_tokens),
        token_usage: mean(|rank| rank.token_usage),
        gen_throughput: total(|rank| rank.gen_throughput),
        cache_hit_rate: mean(|rank| rank.cache_hit_rate),
        utilization: mean(|rank| rank.utilization),
        max_running_requests: sum(|rank| rank.max_running_requests),
    }
}

/// A figure that counts something; none of a negative or unending one.
fn count(figure: f64) -> Option<u64> {
    (figure >= 0.0 && figure.is_finite()).then_some(figure as u64)
}

/// A figure that measures something.
fn measure(figure: f64) -> Option<f64> {
    (figure >= 0.0 && figure.is_finite()).then_some(figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_summed_and_ratios_averaged() {
        let body = br#"{"loads":[{"dp_rank":1,"num_running_reqs":3,"num_waiting_reqs":0,"token_usage":0.3,"gen_throughput":20},
                                 {"dp_rank":0,"num_running_reqs":2,"num_waiting_reqs":1,"token_usage":0.5,"gen_throughput":10}]}"#;
        let ranks = parse(body).unwrap();
        assert_eq!(ranks[0].dp_rank, Some(0));
        let load = whole(&ranks);
        assert_eq!((load.running, load.waiting), (Some(5), Some(1)));
        assert!((load.token_usage.unwrap() - 0.4).abs() < 1e-9);
        assert!((load.gen_throughput.unwrap() - 30.0).abs() < 1e-9);
        assert_eq!(load.dp_rank, None);
    }

    #[test]
    fn each_rank_has_a_name_of_its_own() {
        let named = |body: &str| -> Vec<(Option<u32>, Option<u64>)> {
            let ranks = parse(body.as_bytes()).unwrap();
            ranks
                .iter()
                .map(|rank| (rank.dp_rank, rank.running))
                .collect()
        };
        assert_eq!(named(r#"[{"num_running_reqs":7}]"#), [(None, Some(7))]);
        assert_eq!(
            named(r#"[{"num_running_reqs":7},{"num_running_reqs":8}]"#),
            [(Some(0), Some(7)), (Some(1), Some(8))]
        );
        assert_eq!(
            named(
                r#"[{"dp_rank":1,"num_running_reqs":7},{"num_running_reqs":8},
                    {"dp_rank":0,"num_running_reqs":9},{"dp_rank":1,"num_running_reqs":6}]"#
            ),
            [(Some(0), Some(9)), (Some(1), Some(7))]
        );
        let metrics = "sglang:num_running_reqs 15\n\
            sglang:num_running_reqs{dp_rank=\"0\"} 7\n\
            sglang:num_running_reqs{dp_rank=\"1\"} 8\n";
        assert_eq!(named(metrics), [(Some(0), Some(7)), (Some(1), Some(8))]);
    }

    #[test]
    fn usage_and_tokens_follow_from_each_other() {
        let mut load = Load {
            used_tokens: Some(50),
            ..Load::default()
        };
        load.complete(None);
        assert_eq!(load.token_usage, None);
        load.complete(Some(200));
        assert_eq!(load.token_usage, Some(0.25));
        let mut load = Load {
            token_usage: Some(0.5),
            max_total_tokens: Some(1000),
            ..Load::default()
        };
        load.complete(Some(7));
        assert_eq!(load.used_tokens, Some(500));
    }

    #[test]
    fn what_is_no_report_is_none() {
        for body in [
            &b"OK"[..],
            b"",
            b" ",
            b"{}",
            br#"{"detail":"Not Found"}"#,
            b"[{}]",
            b"[1]",
            b"[[[[",
            b"<html></html>",
            b"\xff\xfe",
            br#"{"loads":[{"num_running_reqs":"many"}]}"#,
            b"up 1\n",
        ] {
            assert_eq!(parse(body), None, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_report_of_countless_ranks_is_none() {
        let many = vec![r#"{"num_running_reqs":1}"#; MAX_RANKS + 1].join(",");
        assert_eq!(parse(format!("[{many}]").as_bytes()), None);
        assert_eq!(parse(format!("{{\"loads\":[{many}]}}").as_bytes()), None);
        let lines: String = (0..=MAX_RANKS)
            .map(|rank| format!("sglang:num_running_reqs{{dp_rank=\"{rank}\"}} 1\n"))
            .collect();
        assert_eq!(parse(lines.as_bytes()), None);
    }
}
