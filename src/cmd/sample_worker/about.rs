//! What the worker tells of itself: models, metadata, load and metrics.

use bytes::Bytes;
use serde_json::{Value, json};

use super::args::Runtime;
use super::engine::{Engine, Rank};
use super::reply::{Refusal, Reply, json_value, typed};
use crate::base::clock;

const VERSION: &str = concat!("smg-sample-", env!("CARGO_PKG_VERSION"));

/// The entries of `/v1/models`, or the one called `name`.
///
/// # Errors
/// 404 when there is none of that name.
pub(super) fn models(engine: &Engine, name: Option<&str>) -> Result<Reply, Refusal> {
    let args = &engine.args;
    let created = clock::unix().as_secs();
    let owner = args
        .owned_by
        .as_deref()
        .unwrap_or_else(|| args.runtime.name());
    let card = |id: &str| {
        json!({
            "id": id, "object": "model", "created": created, "owned_by": owner, "root": id,
            "parent": null, "max_model_len": args.max_model_len,
        })
    };
    match name {
        None => {
            let cards: Vec<Value> = args.models.iter().map(|id| card(id)).collect();
            Ok(json_value(&json!({ "object": "list", "data": cards })))
        }
        Some(name) if args.models.iter().any(|id| id == name) => Ok(json_value(&card(name))),
        Some(name) => Err(Refusal::no_model(name)),
    }
}

/// SGLang's `/server_info`, its key included as the real one does.
pub(super) fn server_info(engine: &Engine) -> Reply {
    let args = &engine.args;
    let model = main_model(engine);
    json_value(&json!({
        "model_path": model,
        "tokenizer_path": model,
        "served_model_name": model,
        "host": args.host,
        "port": engine.port,
        "api_key": args.api_key,
        "admin_api_key": null,
        "tp_size": 1,
        "dp_size": args.dp_size,
        "pp_size": 1,
        "load_balance_method": "round_robin",
        "disaggregation_mode": "null",
        "is_embedding": false,
        "context_length": args.max_model_len,
        "max_total_num_tokens": args.cache_tokens,
        "max_running_requests": (args.max_running > 0).then_some(args.max_running),
        "weight_version": "default",
        "status": "ready",
        "internal_states": [{ "last_gen_throughput": round(engine.stats.throughput()) }],
        "version": VERSION,
    }))
}

/// SGLang's `/model_info`.
pub(super) fn model_info(engine: &Engine) -> Reply {
    let model = main_model(engine);
    json_value(&json!({
        "model_path": model,
        "tokenizer_path": model,
        "is_generation": true,
        "preferred_sampling_params": null,
        "weight_version": "default",
        "has_image_understanding": false,
        "has_audio_understanding": false,
        "model_type": "sample",
        "architectures": ["SampleForCausalLM"],
    }))
}

/// vLLM's `/version`.
pub(super) fn version() -> Reply {
    json_value(&json!({ "version": VERSION }))
}

/// vLLM's `/load`.
pub(super) fn server_load(engine: &Engine) -> Reply {
    json_value(&json!({ "server_load": engine.stats.running.get() + engine.stats.waiting.get() }))
}

/// SGLang's old `/get_load`.
pub(super) fn get_load(engine: &Engine) -> Reply {
    let loads = engine.ranks().iter().enumerate().map(|(at, rank)| {
        json!({
            "dp_rank": at,
            "num_reqs": rank.running.get() + rank.waiting.get(),
            "num_waiting_reqs": rank.waiting.get(),
            "num_tokens": rank.used_tokens.get(),
            "num_pending_tokens": 0,
        })
    });
    json_value(&loads.collect())
}

/// SGLang's `/v1/loads`.
pub(super) fn loads(engine: &Engine) -> Reply {
    let stats = &engine.stats;
    let ranks = engine.ranks();
    let share = 1.0 / ranks.len() as f64;
    let throughput = round(stats.throughput() * share);
    let loads = ranks.iter().enumerate().map(|(at, rank)| {
        let (running, waiting) = (rank.running.get(), rank.waiting.get());
        let used = rank.used_tokens.get();
        json!({
            "dp_rank": at,
            "num_running_reqs": running,
            "num_waiting_reqs": waiting,
            "num_waiting_uncached_tokens": 0,
            "num_total_reqs": running + waiting,
            "num_used_tokens": used,
            "num_total_tokens": used,
            "max_total_num_tokens": engine.args.cache_tokens,
            "max_running_requests": engine.args.max_running,
            "token_usage": round(token_usage(engine, rank)),
            "gen_throughput": throughput,
            "cache_hit_rate": round(stats.hit_rate()),
            "utilization": round(utilization(engine)),
        })
    });
    let loads: Vec<Value> = loads.collect();
    let now = time::OffsetDateTime::from(clock::wall());
    let now = now
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default();
    json_value(&json!({
        "timestamp": now,
        "version": VERSION,
        "dp_rank_count": loads.len(),
        "loads": loads,
    }))
}

/// `/metrics`, with the names of the runtime.
pub(super) fn metrics(engine: &Engine) -> Reply {
    let stats = &engine.stats;
    let running = stats.running.get() as f64;
    let waiting = stats.waiting.get() as f64;
    let (prompt, cached) = (
        stats.prompt_tokens.get() as f64,
        stats.cached_tokens.get() as f64,
    );
    let generated = stats.completion_tokens.get() as f64;
    let rows: Vec<(&str, &str, f64)> = match engine.args.runtime {
        Runtime::Sglang => vec![
            ("sglang:num_running_reqs", "gauge", running),
            ("sglang:num_queue_reqs", "gauge", waiting),
            (
                "sglang:num_used_tokens",
                "gauge",
                stats.used_tokens.get() as f64,
            ),
            (
                "sglang:max_total_num_tokens",
                "gauge",
                engine.args.cache_tokens as f64,
            ),
            ("sglang:token_usage", "gauge", mean_usage(engine)),
            ("sglang:gen_throughput", "gauge", stats.throughput()),
            ("sglang:cache_hit_rate", "gauge", stats.hit_rate()),
            ("sglang:utilization", "gauge", utilization(engine)),
            (
                "sglang:num_requests_total",
                "counter",
                stats.requests.get() as f64,
            ),
            ("sglang:prompt_tokens_total", "counter", prompt),
            ("sglang:cached_tokens_total", "counter", cached),
            ("sglang:generation_tokens_total", "counter", generated),
        ],
        Runtime::Vllm => vec![
            ("vllm:num_requests_running", "gauge", running),
            ("vllm:num_requests_waiting", "gauge", waiting),
            ("vllm:kv_cache_usage_perc", "gauge", mean_usage(engine)),
            ("vllm:gpu_cache_usage_perc", "gauge", mean_usage(engine)),
            ("vllm:gpu_prefix_cache_hit_rate", "gauge", stats.hit_rate()),
            ("vllm:prefix_cache_queries_total", "counter", prompt),
            ("vllm:prefix_cache_hits_total", "counter", cached),
            ("vllm:prompt_tokens_total", "counter", prompt),
            ("vllm:generation_tokens_total", "counter", generated),
        ],
    };
    let model = label(main_model(engine));
    let lines = rows.iter().map(|(name, kind, value)| {
        format!(
            "# HELP {name} Of the sample worker.\n# TYPE {name} {kind}\n\
             {name}{{model_name=\"{model}\"}} {value}\n"
        )
    });
    typed(
        Bytes::from(lines.collect::<String>()),
        "text/plain; version=0.0.4; charset=utf-8",
    )
}

/// The figures of `/sample/stats`.
pub(super) fn stats(engine: &Engine) -> Value {
    let mut report = engine.stats.report();
    report["cached_blocks"] = engine.cached_blocks().into();
    report
}

fn main_model(engine: &Engine) -> &str {
    engine.args.models.first().map_or("", String::as_str)
}

fn token_usage(engine: &Engine, rank: &Rank) -> f64 {
    (rank.used_tokens.get() as f64 / engine.args.cache_tokens.max(1) as f64).min(1.0)
}

/// The mean over all ranks.
fn mean_usage(engine: &Engine) -> f64 {
    let ranks = engine.ranks();
    let sum: f64 = ranks.iter().map(|rank| token_usage(engine, rank)).sum();
    sum / ranks.len() as f64
}

fn utilization(engine: &Engine) -> f64 {
    match engine.args.max_running {
        0 => 0.0,
        most => engine.stats.running.get() as f64 / most as f64,
    }
}

fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn label(name: &str) -> String {
    name.replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n")
}
