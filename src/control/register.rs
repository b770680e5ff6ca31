//! Getting to know a worker: whether it answers, which engine it runs, which models it serves.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::desk::Desk;
use super::places::Pace;
use super::report;
use super::target::{Target, Unwell};
use crate::api::models::{self, Advertised, LABELS, Labels};
use crate::base::clock;
use crate::config::spec::Runtime;
use crate::plan::{Learned, NoRanks, Registration};
use crate::state::{HealthState, Trouble};
use crate::telemetry::event;
use crate::upstream::Fetched;

/// Pauses before the second, third and fourth attempt; further ones follow each other by
/// `startup_check_interval`.
const QUICK: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// How long a worker may think about one question.
const ANSWER: Duration = Duration::from_secs(10);

/// A worker that goes on failing is mentioned this often.
const REMIND: Duration = Duration::from_secs(60);

/// Whether the worker is asked for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Nothing is known of it.
    First,
    /// What is known is to be replaced.
    Later,
}

/// What the tasks of all workers share.
#[derive(Debug, Clone)]
pub(super) struct Office {
    /// Where facts are posted.
    pub(super) desk: Arc<Desk>,
    /// Workers that are asked at once.
    pub(super) places: Arc<Semaphore>,
}

/// Tries until the worker has answered, and again whenever `again` asks for it: what a worker
/// serves may have changed while it was away.
pub(super) async fn run(
    mut target: watch::Receiver<Arc<Target>>,
    again: Arc<Notify>,
    office: Office,
) {
    let delay = target.borrow().health.startup_delay;
    if !delay.is_zero() {
        sleep(delay).await;
    }
    loop {
        let mut troubles = Troubles::new();
        let mut pace = Pace::default();
        loop {
            let asked = Arc::clone(&target.borrow_and_update());
            let Err(error) = attempt(&asked, &office, Round::First, &mut pace).await else {
                asked.parts.cell.set_trouble(None);
                break;
            };
            let pause = troubles.add(&asked, &error);
            if !wait(pause, &asked, &mut target).await {
                return;
            }
        }
        if !stay(&mut target, &again, &office).await {
            return;
        }
    }
}

/// Keeps what is known of a registered worker fresh. Ends with `true` when its registration has been
/// forgotten, as happens when it left and came back between two looks, and with `false` once there
/// is nobody to tell.
async fn stay(target: &mut watch::Receiver<Arc<Target>>, again: &Notify, office: &Office) -> bool {
    loop {
        tokio::select! {
            () = again.notified() => {
                let asked = Arc::clone(&target.borrow());
                let mut pace = Pace::default();
                if let Err(error) = attempt(&asked, office, Round::Later, &mut pace).await {
                    tracing::debug!(
                        target: "smg::worker", worker = asked.worker.key.as_str(), %error,
                        "worker could not be asked again"
                    );
                }
            }
            changed = target.changed() => {
                if changed.is_err() {
                    return false;
                }
                // A publish that has not seen the report yet looks the same; asking once more does
                // no harm then.
                if target.borrow_and_update().worker.registration != Registration::Registered {
                    return true;
                }
            }
        }
    }
}

/// Waits for the time of the next attempt, or until the worker is to be asked in another way.
/// `false` once there is nobody to tell.
async fn wait(pause: Duration, asked: &Target, target: &mut watch::Receiver<Arc<Target>>) -> bool {
    let due = Instant::now() + pause;
    loop {
        tokio::select! {
            () = sleep_until(due) => return true,
            changed = target.changed() => {
                if changed.is_err() {
                    return false;
                }
                let now = target.borrow_and_update();
                if now.health != asked.health || now.worker.api_key != asked.worker.api_key {
                    return true;
                }
            }
        }
    }
}

/// The failed attempts of one worker.
struct Troubles {
    since: Instant,
    count: usize,
    mentioned: Option<Instant>,
    given_up: bool,
}

impl Troubles {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            count: 0,
            mentioned: None,
            given_up: false,
        }
    }

    /// Counts a failure and returns the pause before the next attempt.
    fn add(&mut self, target: &Target, error: &Unwell) -> Duration {
        let cell = &target.parts.health;
        let now = Instant::now();
        let late = now.duration_since(self.since) >= target.health.startup_timeout;
        // What the gateway lacks is held against no worker.
        let asked = !error.is_unasked();
        if asked {
            if target.worker.registration == Registration::Pending
                && cell.state() == HealthState::Pending
            {
                cell.record(false, &target.health);
            }
            target.parts.cell.set_trouble(Some(Trouble {
                message: error.to_string(),
                at: clock::wall(),
            }));
        }
        if asked && late && !self.given_up {
            self.given_up = true;
            // Without probes nothing would ever bring an admitted worker back.
            if target.health.enabled || target.worker.registration == Registration::Pending {
                cell.make_failed();
            }
            let error = error.to_string();
            report::named(&target.worker, &target.pool, |worker| {
                event::WorkerFailed {
                    worker,
                    source: report::source(&target.worker),
                    error: &error,
                }
                .emit();
            });
        } else if self
            .mentioned
            .is_none_or(|last| now.duration_since(last) >= REMIND)
        {
            self.mentioned = Some(now);
            if let Unwell::Whole(error) = error {
                tracing::warn!(
                    target: "smg::worker",
                    worker = target.worker.key.as_str(), pool = &*target.pool, %error,
                    "worker has no ranks to be used"
                );
            } else {
                tracing::warn!(
                    target: "smg::worker",
                    worker = target.worker.key.as_str(), pool = &*target.pool, %error,
                    attempts = self.count + 1,
                    "worker does not answer yet"
                );
            }
        }
        let interval = target.health.startup_check_interval;
        let pause = QUICK
            .get(self.count)
            .map_or(interval, |quick| interval.min(*quick));
        self.count += 1;
        pause
    }
}

/// Asks the worker about itself and posts what it says.
///
/// # Errors
/// [`Unwell`] where it is not there, or says that it is not well. What it does not want to
/// tell is no error.
async fn attempt(
    target: &Target,
    office: &Office,
    round: Round,
    pace: &mut Pace,
) -> Result<(), Unwell> {
    if target.health.enabled {
        target.probe(pace).await?;
    }
    // A closed semaphore does not happen; without a place the attempt goes on all the same.
    let _place = office.places.acquire().await.ok();
    let advertised = match target.get("/v1/models", ANSWER).await {
        Ok(answer) => said(answer).and_then(|body| models::advertised(&body).ok()),
        Err(error) if target.health.enabled => {
            tracing::debug!(
                target: "smg::worker", worker = target.worker.key.as_str(), %error,
                "worker does not list its models"
            );
            None
        }
        Err(error) => return Err(error.into()),
    };
    let advertised = advertised.unwrap_or_default();
    let owner = owner(&advertised);
    // What is known of an engine is known of all its ranks.
    let post = |learned| office.desk.learn(target.worker.key.base(), learned);

    // A worker that has named its models can serve; what else it says may take its time.
    if round == Round::First && !advertised.is_empty() && !target.dp_aware {
        post(learned(&advertised, owner, &More::default()));
    }
    let more = ask_more(target, owner, ANSWER).await;
    let runtime = owner.unwrap_or_else(|| more.runtime());
    let learned = learned(&advertised, Some(runtime), &more);
    if target.dp_aware {
        match (round, learned.ranks(target.declared.or(Some(runtime)))) {
            // It has become something else; its registration starts anew.
            (Round::Later, Err(NoRanks::Engine(_))) | (_, Ok(_)) => {}
            (_, Err(error)) => return Err(error.into()),
        }
    }
    post(learned);
    Ok(())
}

/// The engine that a worker names as the owner of its models.
pub(super) fn owner(advertised: &[Advertised]) -> Option<Runtime> {
    advertised
        .iter()
        .filter_map(|model| models::runtime_of_owner(model.owned_by.as_deref()?))
        .find_map(|word| Runtime::from_str(word).ok())
}

/// What a worker says besides its models; nothing where it does not want to tell.
#[derive(Debug, Default)]
pub(super) struct More {
    server: Option<Bytes>,
    model: Option<Bytes>,
    version: Option<Bytes>,
}

/// One question after the other: they share a connection, and engines that answer one at a time
/// are not crowded. Each may take `within`.
pub(super) async fn ask_more(target: &Target, owner: Option<Runtime>, within: Duration) -> More {
    let server = either(target, "/server_info", "/get_server_info", within).await;
    let model = either(target, "/model_info", "/get_model_info", within).await;
    let version = match owner {
        Some(Runtime::Sglang) => None,
        _ => target.get("/version", within).await.ok().and_then(said),
    };
    More {
        server,
        model,
        version,
    }
}

/// Asks under the new name, then under the old one.
async fn either(target: &Target, path: &str, older: &str, within: Duration) -> Option<Bytes> {
    let answer = target.get(path, within).await.ok()?;
    if answer.status != StatusCode::NOT_FOUND {
        return said(answer);
    }
    said(target.get(older, within).await.ok()?)
}

fn said(answer: Fetched) -> Option<Bytes> {
    answer.status.is_success().then_some(answer.body)
}

impl More {
    /// The engine, where `owned_by` does not tell.
    pub(super) fn runtime(&self) -> Runtime {
        match &self.version {
            Some(body) if models::version(body).is_some() => Runtime::Vllm,
            _ => Runtime::Sglang,
        }
    }
}

pub(super) fn learned(advertised: &[Advertised], runtime: Option<Runtime>, more: &More) -> Learned {
    let mut labels = Labels::default();
    for body in [&more.server, &more.model, &more.version]
        .into_iter()
        .flatten()
    {
        // An answer that is no JSON object tells nothing.
        labels.add_info(body).ok();
    }
    if let Some(first) = advertised.first() {
        labels.add_model(first);
    }
    let mut names: Vec<String> = advertised.iter().map(|model| model.id.clone()).collect();
    if names.is_empty() {
        names.extend(labels.model_id().map(str::to_owned));
    }
    Learned {
        runtime,
        models: names,
        max_model_len: labels.context_length(),
        dp_size: labels.get("dp_size").and_then(|size| size.parse().ok()),
        labels: labels
            .iter()
            .filter(|(name, _)| LABELS.contains(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    }
}
