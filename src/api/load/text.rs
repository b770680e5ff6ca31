//! Load reports in the text form of metrics. Of each line only the name is looked at, unless the name
//! is one of those below.

use std::collections::BTreeMap;

use super::{Load, MAX_RANKS, count, measure};

/// What a metric says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Figure {
    Running,
    Waiting,
    Paused,
    Used,
    Capacity,
    Usage,
    Throughput,
    HitRate,
    Utilization,
    MaxRunning,
    /// Prompt tokens looked for in the cache, and those found, since the start.
    Queries,
    Hits,
    /// Blocks of the cache: in use, all, and the tokens of each.
    BlocksUsed,
    Blocks,
    BlockTokens,
    /// Carries the size of the cache in its labels.
    CacheConfig,
}

const FIGURES: usize = Figure::CacheConfig as usize + 1;

/// The figures of one rank.
#[derive(Clone, Copy, Default)]
struct Row([Option<f64>; FIGURES]);

pub(super) fn parse(text: &str) -> Option<Vec<Load>> {
    let mut rows: BTreeMap<Option<u32>, Row> = BTreeMap::new();
    for line in text.lines() {
        let Some(sample) = Sample::read(line) else {
            continue;
        };
        if rows.len() >= MAX_RANKS && !rows.contains_key(&sample.rank) {
            return None;
        }
        let row = rows.entry(sample.rank).or_default();
        sample.enter(row);
    }
    let loads: Vec<Load> = rows
        .into_iter()
        .map(|(rank, row)| row.load(rank))
        .filter(Load::tells)
        .collect();
    (!loads.is_empty()).then_some(loads)
}

/// A line of interest.
struct Sample<'a> {
    figure: Figure,
    rank: Option<u32>,
    labels: &'a str,
    value: f64,
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
        let (name, rest) = line.split_at(end);
        let (figure, ranked_by) = figure(name)?;
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(inner) => inner.split_at(labels_end(inner)?),
            None => ("", rest),
        };
        let value = rest
            .trim_start_matches('}')
            .split_ascii_whitespace()
            .next()?
            .parse()
            .ok()?;
        let rank = label(labels, ranked_by).and_then(|rank| rank.parse().ok());
        Some(Self {
            figure,
            rank,
            labels,
            value,
        })
    }

    /// Notes the figure. Where several processes of one rank tell it, the highest counts: they tell the
    /// same, or one of them nothing.
    fn enter(&self, row: &mut Row) {
        if self.figure == Figure::CacheConfig {
            for (figure, name) in [
                (Figure::Blocks, "num_gpu_blocks"),
                (Figure::BlockTokens, "block_size"),
            ] {
                let told = label(self.labels, name).and_then(|text| text.parse().ok());
                if let Some(value) = told {
                    row.raise(figure, value);
                }
            }
        } else {
            row.raise(self.figure, self.value);
        }
    }
}

/// What the metric called `name` says, and the label that names the rank.
fn figure(name: &str) -> Option<(Figure, &'static str)> {
    if let Some(name) = strip(name, "sglang") {
        let figure = match name {
            "num_running_reqs" => Figure::Running,
            "num_queue_reqs" => Figure::Waiting,
            "num_used_tokens" => Figure::Used,
            "max_total_num_tokens" => Figure::Capacity,
            "token_usage" => Figure::Usage,
            "gen_throughput" => Figure::Throughput,
            "cache_hit_rate" => Figure::HitRate,
            "utilization" => Figure::Utilization,
            "max_running_requests" => Figure::MaxRunning,
            _ => return None,
        };
        return Some((figure, "dp_rank"));
    }
    if let Some(name) = strip(name, "vllm") {
        let figure = match name {
            "num_requests_running" => Figure::Running,
            "num_requests_waiting" => Figure::Waiting,
            "kv_cache_usage_perc" | "gpu_cache_usage_perc" => Figure::Usage,
            "gpu_prefix_cache_hit_rate" => Figure::HitRate,
            "prefix_cache_queries_total" | "gpu_prefix_cache_queries_total" => Figure::Queries,
            "prefix_cache_hits_total" | "gpu_prefix_cache_hits_total" => Figure::Hits,
            "avg_generation_throughput_toks_per_s" => Figure::Throughput,
            "cache_config_info" => Figure::CacheConfig,
            _ => return None,
        };
        return Some((figure, "engine"));
    }
    let figure = match strip(name, "trtllm")? {
        "num_requests_running" => Figure::Running,
        "num_requests_waiting" => Figure::Waiting,
        "num_paused_requests" => Figure::Paused,
        "max_num_active_requests" => Figure::MaxRunning,
        "kv_cache_utilization" => Figure::Usage,
        "kv_cache_hit_rate" => Figure::HitRate,
        "kv_cache_used_blocks" => Figure::BlocksUsed,
        "kv_cache_max_blocks" => Figure::Blocks,
        "kv_cache_tokens_per_block" => Figure::BlockTokens,
        _ => return None,
    };
    Some((figure, "rank"))
}

/// What follows the name of the engine and the colon, or the underscore that stands for it.
fn strip<'a>(name: &'a str, engine: &str) -> Option<&'a str> {
    name.strip_prefix(engine)?.strip_prefix([':', '_'])
}

/// Where the labels end that `inner` begins with.
fn labels_end(inner: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The value of a label whose values need no escapes.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = labels;
    loop {
        let (key, value) = rest.split_once("=\"")?;
        let mut escaped = false;
        let end = value.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        let (value, after) = value.split_at_checked(end)?;
        if key.trim_start_matches([',', ' ']) == name {
            return Some(value);
        }
        rest = after.strip_prefix('"')?;
    }
}

impl Row {
    fn raise(&mut self, figure: Figure, value: f64) {
        if let Some(slot) = self.0.get_mut(figure as usize)
            && measure(value).is_some()
        {
            *slot = Some(slot.map_or(value, |known| known.max(value)));
        }
    }

    fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(figure as usize).copied().flatten()
    }

    fn load(&self, dp_rank: Option<u32>) -> Load {
        let whole = |figure| self.get(figure).and_then(count);
        let tokens = |blocks| count(self.get(blocks)? * self.get(Figure::BlockTokens)?);
        let found = self
            .get(Figure::Hits)
            .zip(self.get(Figure::Queries))
            .filter(|(_, queries)| *queries > 0.0)
            .map(|(hits, queries)| hits / queries);
        Load {
            dp_rank,
            running: whole(Figure::Running),
            waiting: self
                .get(Figure::Waiting)
                .and_then(|waiting| count(waiting + self.get(Figure::Paused).unwrap_or(0.0))),
            waiting_uncached_tokens: None,
            used_tokens: whole(Figure::Used).or_else(|| tokens(Figure::BlocksUsed)),
            max_total_tokens: whole(Figure::Capacity).or_else(|| tokens(Figure::Blocks)),
            token_usage: self.get(Figure::Usage),
            gen_throughput: self.get(Figure::Throughput),
            cache_hit_rate: self.get(Figure::HitRate).or(found),
            utilization: self.get(Figure::Utilization),
            max_running_requests: whole(Figure::MaxRunning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sglang_with_a_rank_on_each_line() {
        let text = r#"# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 3.0
sglang:num_running_reqs{dp_rank="1",engine_type="unified",model_name="m",pp_rank="0",tp_rank="1"} 5.0
sglang:num_queue_reqs{dp_rank="0",model_name="m"} 1.0
sglang:token_usage{dp_rank="0",model_name="m"} 0.28
sglang:token_usage{dp_rank="1",model_name="m"} 0.30
sglang:gen_throughput{dp_rank="0",model_name="m"} 86.5
sglang:cache_hit_rate{dp_rank="0",model_name="m"} 0.007
sglang:utilization{dp_rank="0",model_name="m"} 0.5
sglang:num_used_tokens{dp_rank="0",model_name="m"} 123859.0
sglang:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 12.0
"#;
        let loads = parse(text).unwrap();
        assert_eq!(loads.len(), 2);
        assert_eq!(
            (loads[0].dp_rank, loads[0].running, loads[0].waiting),
            (Some(0), Some(3), Some(1))
        );
        assert_eq!(loads[0].used_tokens, Some(123_859));
        assert_eq!(loads[0].gen_throughput, Some(86.5));
        assert_eq!(
            (loads[1].dp_rank, loads[1].running, loads[1].token_usage),
            (Some(1), Some(5), Some(0.3))
        );
    }

    #[test]
    fn sglang_with_underscores() {
        let text = "sglang_num_running_reqs 2\nsglang_token_usage{model_name=\"a,b} \\\" =\\\\\"} 0.5 1700000000\n";
        let loads = parse(text).unwrap();
        assert_eq!(loads.len(), 1);
        assert_eq!(
            (loads[0].dp_rank, loads[0].running, loads[0].token_usage),
            (None, Some(2), Some(0.5))
        );
    }

    #[test]
    fn vllm_old_and_new() {
        let old = r#"vllm:num_requests_running{model_name="m"} 8.0
vllm:num_requests_waiting{model_name="m"} 2.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.8
vllm:gpu_prefix_cache_hit_rate{model_name="m"} 0.25
"#;
        let loads = parse(old).unwrap();
        assert_eq!(
            (loads[0].running, loads[0].waiting, loads[0].token_usage),
            (Some(8), Some(2), Some(0.8))
        );
        assert_eq!(loads[0].cache_hit_rate, Some(0.25));
        let new = r#"vllm:num_requests_running{engine="0",model_name="m"} 1.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.125
vllm:prefix_cache_queries_total{engine="1",model_name="m"} 1000.0
vllm:prefix_cache_hits_total{engine="1",model_name="m"} 400.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="1",num_gpu_blocks="1000"} 1.0
"#;
        let loads = parse(new).unwrap();
        assert_eq!((loads.len(), loads[0].running), (2, Some(1)));
        assert_eq!((loads[1].dp_rank, loads[1].running), (Some(1), Some(4)));
        assert_eq!(loads[1].cache_hit_rate, Some(0.4));
        assert_eq!(loads[1].max_total_tokens, Some(16_000));
    }

    #[test]
    fn tensorrt_llm() {
        let text = r#"trtllm_num_requests_running{model_name="m"} 5.0
trtllm_num_requests_waiting{model_name="m"} 3.0
trtllm_num_paused_requests{model_name="m"} 1.0
trtllm_kv_cache_utilization{model_name="m"} 0.6
trtllm_kv_cache_hit_rate{model_name="m"} 0.85
trtllm_kv_cache_max_blocks{model_name="m"} 1000.0
trtllm_kv_cache_used_blocks{model_name="m"} 600.0
trtllm_kv_cache_tokens_per_block{model_name="m"} 64.0
trtllm_request_success_total{finished_reason="stop",model_name="m"} 4.0
"#;
        let load = parse(text).unwrap()[0];
        assert_eq!((load.running, load.waiting), (Some(5), Some(4)));
        assert_eq!(
            (load.used_tokens, load.max_total_tokens),
            (Some(38_400), Some(64_000))
        );
        assert_eq!(load.token_usage, Some(0.6));
    }

    #[test]
    fn lines_that_are_cut_or_odd_tell_nothing() {
        for line in [
            "vllm:num_requests_running",
            "vllm:num_requests_running{",
            "vllm:num_requests_running{engine=\"0",
            "vllm:num_requests_running{engine=\"0\"}",
            "vllm:num_requests_running{engine=\"0\"} many",
            "vllm:num_requests_running NaN",
            "vllm:num_requests_running -Inf",
            "vllm:num_requests_running -1",
            "vllm:num_requests_runningx 1",
            "vllm:cache_config_info{num_gpu_blocks=\"None\"} 1",
            "{} 1",
            " 1",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
