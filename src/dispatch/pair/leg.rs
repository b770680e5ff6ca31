//! One leg: what is sent to it, and how it fails.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::poll_fn;
use http::header::HeaderMap;
use http::response::Parts;
use http::{Method, Request, Uri};
use http_body::Body as _;
use tokio::time::{Instant as TokioInstant, timeout, timeout_at};

use super::super::Job;
use super::super::attempt::{build, classify, count_answer, unless_lost};
use super::super::call::{Call, Said};
use super::super::error::{CallError, Deadline, Fault};
use super::super::retry::retry_after;
use super::super::verdict;
use crate::api::Payload;
use crate::api::error::said;
use crate::base::clock;
use crate::live::{Snapshot, WorkerRef};
use crate::plan::{Role, WorkerIx};
use crate::state::{Allowance, InFlight, Outcome, Reservation};
use crate::upstream::{self, Answer, headers};

/// Longest that the rest of a refusal is waited for.
const LISTEN: Duration = Duration::from_millis(500);

/// Most bytes of a refusal that are read.
const LISTEN_BYTES: usize = 64 * 1024;

/// A request to one leg. It owns what it needs, so that it may outlive the call.
pub(super) struct Letter {
    snapshot: Arc<Snapshot>,
    worker: WorkerIx,
    role: Role,
    uri: Uri,
    headers: HeaderMap,
    body: Payload,
    connect: Duration,
    /// Of the client's body, of which this one is made.
    _held: Arc<Reservation>,
}

/// A leg that failed.
pub(in super::super) struct Lost {
    pub(in super::super) worker: WorkerIx,
    pub(in super::super) role: Role,
    fault: Fault,
    /// Means nothing any more once the other leg has begun to answer.
    pub(super) tolerable: bool,
    words: Vec<u8>,
    refusal: Option<Box<(Parts, Answer)>>,
}

impl Letter {
    /// What `worker` is to be sent in place of the job's own body.
    pub(super) fn new(
        call: &Call,
        job: &Job,
        worker: WorkerRef<'_>,
        connect: Duration,
        body: Payload,
    ) -> Self {
        let pool = call.snapshot.plan.pool(worker.plan.pool);
        let link = call.trace.as_ref();
        let link = link.and_then(|trace| trace.link_of(worker.plan.role));
        let forward = pool.forward_authorization;
        let request = build(job, &body, worker, forward, &call.id, link.as_ref());
        let (parts, _) = request.into_parts();
        Self {
            snapshot: Arc::clone(&call.snapshot),
            worker: worker.ix,
            role: worker.plan.role,
            uri: parts.uri,
            headers: parts.headers,
            body,
            connect,
            _held: Arc::clone(&job.memory),
        }
    }

    /// For what is kept of the answer.
    pub(super) fn memory(&self) -> &Allowance {
        &self.snapshot.memory
    }

    /// Tells the breaker of the worker how this leg failed.
    pub(super) fn failed(&self, lost: &Lost, guard: &mut InFlight) {
        lost.tell(&self.snapshot, guard);
    }

    /// A failure of this leg.
    pub(super) fn lost(&self, fault: Fault) -> Box<Lost> {
        Box::new(Lost::new(self.worker, self.role, fault))
    }

    /// Tells the breaker of the worker that it has done its part.
    pub(super) fn succeeded(&self, guard: &mut InFlight) {
        verdict::tell(&self.snapshot, self.worker, guard, Outcome::Success, "");
    }

    /// Ends when the worker is lost.
    pub(super) async fn worker_lost(&self) -> Box<Lost> {
        if let Some(worker) = self.snapshot.worker(self.worker) {
            worker.parts.health.lost().await;
        }
        let mut lost = self.lost(Fault::Connect);
        lost.tolerable = true;
        lost
    }

    /// Sends it, and waits for the head of a successful answer until `by`; `late` is what has run out
    /// then.
    pub(super) async fn post(
        &self,
        by: Instant,
        late: Deadline,
    ) -> Result<(Parts, Answer), Box<Lost>> {
        let Some(worker) = self.snapshot.worker(self.worker) else {
            return Err(self.lost(Fault::Connect));
        };
        let limits = self.snapshot.plan.pool(worker.plan.pool).connections;
        let sending = upstream::http::send(worker, limits, self.connect, || self.request());
        let sending = unless_lost(&worker.parts.health, sending);
        let response = match timeout_at(TokioInstant::from_std(by), sending).await {
            Ok(Some(Ok(response))) => response,
            Ok(Some(Err(failure))) => {
                let fault = match classify(&failure).of(self.role) {
                    CallError::Leg(_, fault) => fault,
                    _ => Fault::Broken,
                };
                return Err(self.lost(fault));
            }
            Ok(None) => {
                let mut lost = self.lost(Fault::Connect);
                lost.tolerable = true;
                return Err(lost);
            }
            Err(_) => {
                let mut lost = self.lost(Fault::Timeout(late));
                lost.tolerable = true;
                return Err(lost);
            }
        };
        count_answer(response.status());
        if response.status().is_informational() {
            return Err(self.lost(Fault::Malformed));
        }
        let (mut parts, answer) = response.into_parts();
        headers::clean_answer(&mut parts.headers);
        if parts.status.is_success() {
            return Ok((parts, answer));
        }
        if parts.status.is_redirection() {
            return Err(self.lost(Fault::Redirect));
        }
        let mut lost = self.lost(Fault::Status(parts.status.as_u16()));
        lost.refusal = Some(Box::new((parts, answer)));
        Err(lost)
    }

    fn request(&self) -> Request<crate::api::payload::Sending> {
        let mut request = Request::new(self.body.send());
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&self.uri);
        request.headers_mut().clone_from(&self.headers);
        request
    }
}

impl Lost {
    /// `worker` failed as the leg of `role`.
    pub(in super::super) fn new(worker: WorkerIx, role: Role, fault: Fault) -> Self {
        Self {
            worker,
            role,
            fault,
            tolerable: false,
            words: Vec::new(),
            refusal: None,
        }
    }

    /// The same with what the worker said.
    pub(super) fn saying(mut self, words: Vec<u8>) -> Self {
        self.words = words;
        self
    }

    /// Tells the breaker of the worker, which `guard` keeps busy.
    pub(super) fn tell(&self, snapshot: &Snapshot, guard: &mut InFlight) {
        let error = self.fault.plain();
        let said = self.refusal.as_ref();
        let outcome = said
            .and_then(|said| verdict::of_head(said.0.status, &said.0.headers))
            .unwrap_or_else(|| verdict::of_error(error));
        let why = error.of(self.role).message();
        verdict::tell(snapshot, self.worker, guard, outcome, why);
    }

    /// The same for the client.
    pub(in super::super) fn error(&self) -> CallError {
        self.fault.plain().of(self.role)
    }

    /// What the worker said with its refusal. The other leg is gone by now, so it may take a moment
    /// of the time that is `left`.
    pub(in super::super) async fn listen(self: Box<Self>, left: Duration) -> Option<Said> {
        let mut words = self.words;
        let mut wait = None;
        if let Some(refusal) = self.refusal {
            let (parts, mut answer) = *refusal;
            wait = retry_after(&parts.headers, clock::wall());
            let read = async {
                while words.len() < LISTEN_BYTES
                    && let Some(Ok(frame)) =
                        poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await
                {
                    words.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
            };
            if timeout(LISTEN.min(left), read).await.is_err() {
                // What has come by then is what it said.
                tracing::debug!("a refusal did not come to its end");
            }
        } else if words.is_empty() {
            return None;
        }
        Some(Said {
            text: said(&words),
            retry_after: wait,
        })
    }
}
