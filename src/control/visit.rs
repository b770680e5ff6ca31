//! One look at a worker and at an issuer, in the way of registration, of the probes and of the load
//! monitor: for a check that runs without a gateway.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::places::Places;
use super::register::{ask_more, learned, owner};
use super::target::{Target, Unwell};
use crate::api::load::Load;
use crate::api::models;
use crate::config::spec::Runtime;
use crate::live::{IssuerParts, Snapshot, WorkerRef};
use crate::plan::Learned;
use crate::upstream::FetchError;
use crate::upstream::loads::NoLoad;

/// A worker that is asked now and not followed.
#[derive(Debug)]
pub struct Visit {
    target: Target,
}

/// What a worker said of itself.
#[derive(Debug)]
pub struct Met {
    /// The models that it lists, or the status that it answered instead.
    pub models: Result<Vec<String>, StatusCode>,
    /// The engine that it names itself; `None` where there are only guesses.
    pub engine: Option<Runtime>,
    /// What registration would know of it.
    pub learned: Learned,
}

impl Visit {
    /// To `worker`, with what `snapshot` says about it and its pool.
    pub fn new(snapshot: &Snapshot, worker: WorkerRef<'_>) -> Self {
        Self {
            target: Target::new(snapshot, worker, &Arc::new(Places::new(1))),
        }
    }

    /// Whether it is well, where its pool asks for that.
    ///
    /// # Errors
    /// [`Unwell`].
    pub async fn health(&self) -> Result<(), Unwell> {
        if self.target.health.enabled {
            self.target.look().await?;
        }
        Ok(())
    }

    /// What it is and serves; each question may take `within`.
    ///
    /// # Errors
    /// There is no answer at all.
    pub async fn meet(&self, within: Duration) -> Result<Met, FetchError> {
        let answer = self.target.get("/v1/models", within).await?;
        let listed = match answer.status {
            status if status.is_success() => {
                Ok(models::advertised(&answer.body).unwrap_or_default())
            }
            status => Err(status),
        };
        let advertised = listed.as_deref().unwrap_or_default();
        let owner = owner(advertised);
        let more = ask_more(&self.target, owner, within).await;
        let runtime = owner.unwrap_or_else(|| more.runtime());
        let learned = learned(advertised, Some(runtime), &more);
        let names = |listed: Vec<models::Advertised>| listed.into_iter().map(|model| model.id);
        Ok(Met {
            engine: owner,
            learned,
            models: listed.map(|listed| names(listed).collect()),
        })
    }

    /// Its load, one entry per rank.
    ///
    /// # Errors
    /// [`NoLoad`].
    pub async fn loads(&self, within: Duration) -> Result<Vec<Load>, NoLoad> {
        self.target.loads(within).await
    }
}

/// How many keys of the issuer can be used.
///
/// # Errors
/// Why there are none, in words.
pub async fn issuer_keys(issuer: &IssuerParts) -> Result<usize, impl std::error::Error + use<>> {
    let keys = super::issuer::keys(issuer.cell.key()).await?;
    Ok::<_, super::issuer::NoKeys>(keys.usable())
}
