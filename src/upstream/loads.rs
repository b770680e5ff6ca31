//! How an engine is asked for its load: each kind in its own way, kinds that we do not know in every
//! way until one works.

use std::time::Duration;

use http::Method;

use super::fetch::{FetchError, fetch};
use crate::api::load::{self, Load};
use crate::config::spec::Runtime;
use crate::live::WorkerRef;
use crate::plan::Connections;

/// Longest answer that is read. Metrics of an engine with many ranks are long.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum NoLoad {
    /// The worker gave no answer.
    #[error(transparent)]
    Silent(#[from] FetchError),
    /// It answers, and none of its answers is a report.
    #[error("the worker reports no load")]
    Nothing,
}

/// A way of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Source {
    Loads = 1,
    GetLoad = 2,
    /// `/metrics`, else `/load`: the latter is always 0 unless the engine was told to count.
    MetricsOrLoad = 3,
    Metrics = 4,
    PrometheusMetrics = 5,
}

const SGLANG: &[Source] = &[Source::Loads, Source::GetLoad, Source::Metrics];
const VLLM: &[Source] = &[Source::MetricsOrLoad];
const TRTLLM: &[Source] = &[Source::Metrics, Source::PrometheusMetrics];
const ANY: &[Source] = &[
    Source::Loads,
    Source::GetLoad,
    Source::MetricsOrLoad,
    Source::PrometheusMetrics,
];

/// Asks `worker` for its load: one entry per rank, sorted; none where the engine has not worked since it
/// was last asked. What worked last is tried first. Takes at most `within`.
///
/// Cancel safety: dropping the future closes the connection.
///
/// # Errors
/// [`NoLoad`].
pub async fn ask(
    worker: WorkerRef<'_>,
    limits: Connections,
    within: Duration,
) -> Result<Vec<Load>, NoLoad> {
    let asking = first_that_tells(worker, limits, within);
    let mut ranks = tokio::time::timeout(within, asking)
        .await
        .unwrap_or(Err(FetchError::Timeout(within).into()))?;
    let capacity = worker
        .plan
        .labels
        .get("max_total_tokens")
        .and_then(|tokens| tokens.parse().ok());
    for rank in &mut ranks {
        rank.complete(capacity);
    }
    Ok(ranks)
}

async fn first_that_tells(
    worker: WorkerRef<'_>,
    limits: Connections,
    within: Duration,
) -> Result<Vec<Load>, NoLoad> {
    let sources = match worker.plan.runtime {
        Some(Runtime::Sglang) => SGLANG,
        Some(Runtime::Vllm) => VLLM,
        Some(Runtime::Trtllm) => TRTLLM,
        Some(Runtime::Mlx | Runtime::External) | None => ANY,
    };
    let report = &worker.parts.cell.report;
    let known = report.source();
    let order = sources
        .iter()
        .filter(|source| **source as u8 == known)
        .chain(sources.iter().filter(|source| **source as u8 != known));
    for source in order {
        let get = |path| get(worker, limits, path, within);
        let told = match source {
            Source::Loads => get("/v1/loads?include=core,disagg,queues,memory").await?,
            Source::GetLoad => get("/get_load").await?,
            Source::Metrics => get("/metrics").await?,
            Source::PrometheusMetrics => get("/prometheus/metrics").await?,
            Source::MetricsOrLoad => match get("/metrics").await? {
                None => get("/load").await?,
                told => told,
            },
        };
        if let Some(ranks) = told {
            report.set_source(*source as u8);
            return Ok(ranks);
        }
    }
    report.set_source(0);
    Err(NoLoad::Nothing)
}

/// The report at `path`, if there is one.
async fn get(
    worker: WorkerRef<'_>,
    limits: Connections,
    path: &str,
    within: Duration,
) -> Result<Option<Vec<Load>>, FetchError> {
    match fetch(worker, limits, Method::GET, path, within, MAX_ANSWER).await {
        Ok(answer) if answer.status.is_success() => Ok(load::parse(&answer.body)),
        Ok(_) | Err(FetchError::TooLarge(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
