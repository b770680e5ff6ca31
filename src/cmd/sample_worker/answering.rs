//! One request: which route it means, what goes wrong with it, and its answer.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::about;
use super::args::Runtime;
use super::armed::{Armed, Order};
use super::body::{Abort, Aborted, Body};
use super::engine::Engine;
use super::fault::{Act, Cut, Fault};
use super::job::{Api, Job, Parsed};
use super::pair::{self, Meeting};
use super::reply::{self, Refusal, Reply};
use super::scoring;
use super::shape::{Script, whole};
use super::stats::Presence;

/// Bytes of a body that are read; a bound against accidents.
const MOST_BYTES: usize = 512 * 1024 * 1024;
const FAULT: HeaderName = HeaderName::from_static("x-sample-fault");
const WORKER: HeaderName = HeaderName::from_static("x-sample-worker");

/// All that a request needs of its worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) engine: Arc<Engine>,
    pub(super) armed: Armed,
    /// The worker's address, which every answer carries.
    pub(super) name: HeaderValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Generation(Api),
    Embeddings,
    Rerank,
    Classify,
    Models(Option<&'a str>),
    Health,
    ServerInfo,
    ModelInfo,
    Version,
    ServerLoad,
    GetLoad,
    Loads,
    Metrics,
    Flush,
}

/// What a request comes to when nothing goes wrong.
enum Outcome {
    Reply(Reply),
    Job(Box<Job>),
}

impl Worker {
    /// Answers one request. `abort` makes the end of the request's connection a reset.
    ///
    /// # Errors
    /// A fault wants the connection closed, or the client went away.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        abort: Arc<AtomicBool>,
    ) -> Result<Response<Body>, Aborted> {
        let (head, body) = request.into_parts();
        let mut response = if let Some(room) = head.uri.path().strip_prefix(pair::PATH) {
            let reply = if self.engine.rooms.fetch(room).await {
                reply::text(StatusCode::OK, "")
            } else {
                Refusal::no_route().reply(self.engine.args.runtime)
            };
            reply.map(|bytes| Body::whole(bytes, None))
        } else if head.uri.path().starts_with("/sample/") {
            let body = read(body).await?.unwrap_or_default();
            self.control(&head, &body)
                .map(|bytes| Body::whole(bytes, None))
        } else {
            let presence = self.engine.stats.arrive(head.uri.path());
            let body = read(body).await?;
            let abort = (head.version <= Version::HTTP_11).then_some(abort);
            self.respond(&head, body, presence, abort).await?
        };
        response.headers_mut().insert(WORKER, self.name.clone());
        Ok(response)
    }

    async fn respond(
        &self,
        head: &Parts,
        body: Option<Bytes>,
        presence: Presence,
        abort: Abort,
    ) -> Result<Response<Body>, Aborted> {
        let stats = &self.engine.stats;
        let meeting = body
            .as_ref()
            .and_then(|body| Meeting::read(&self.engine, body));
        let (outcome, fault) = match body {
            None => (Err(Refusal::too_long()), None),
            Some(body) => {
                stats.bytes_in.add(body.len() as u64);
                stats.record(head, &body);
                match self.outcome(head, &body) {
                    Ok((outcome, fault)) => (Ok(outcome), fault),
                    Err(refusal) => (Err(refusal), None),
                }
            }
        };
        let fault = fault.unwrap_or_default();
        if fault != Fault::default() {
            stats.faults.add(1);
        }
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        let mut cut = None;
        let outcome = match fault.act {
            None => outcome,
            Some(Act::Cut(how)) => {
                cut = Some(how);
                outcome
            }
            Some(Act::Status {
                status,
                retry_after,
            }) => Err(Refusal::fault(status, retry_after)),
            Some(Act::Html) => Ok(Outcome::Reply(reply::html())),
            Some(Act::Refuse) => return Err(Aborted),
            Some(Act::StallHead) => std::future::pending().await,
        };
        let outcome = match (outcome, &meeting) {
            (Ok(Outcome::Job(job)), Some(meeting)) => self.meet(meeting, job).await,
            (outcome, _) => outcome,
        };
        let reply = match outcome {
            Ok(Outcome::Reply(reply)) => reply,
            Ok(Outcome::Job(job)) if job.stream => {
                return Ok(self.stream(*job, cut, presence, abort));
            }
            Ok(Outcome::Job(job)) => self.run(*job).await,
            Err(refusal) => refusal.reply(self.engine.args.runtime),
        };
        Ok(reply.map(|bytes| match cut {
            Some(cut) => Body::broken(bytes, cut, Some(presence), abort),
            None => Body::whole(bytes, Some(presence)),
        }))
    }

    /// What a request comes to that two workers serve together.
    async fn meet(&self, meeting: &Meeting, job: Box<Job>) -> Result<Outcome, Refusal> {
        if self.engine.is_prefill() {
            let reply = meeting.offer(&self.engine, job.stream, self.run(*job));
            return Ok(Outcome::Reply(reply.await?));
        }
        meeting.fetch(&self.engine, &job).await?;
        Ok(Outcome::Job(job))
    }

    fn outcome(&self, head: &Parts, body: &[u8]) -> Parsed<Outcome> {
        let path = head.uri.path();
        let engine = &self.engine;
        if !self.is_open(path) && !self.has_key(head) {
            return Err(Refusal::no_key());
        }
        let asked = match head.headers.get(FAULT).map(HeaderValue::to_str) {
            None => None,
            Some(text) => {
                let fault = text.unwrap_or_default().parse::<Fault>();
                Some(fault.map_err(|bad| Refusal::bad_request(bad.to_string()))?)
            }
        };
        let route = route(engine.args.runtime, &head.method, path)?;
        let (outcome, in_body) = match route {
            Route::Generation(api) => {
                let (job, fault) = Job::parse(engine, api, body)?;
                (Outcome::Job(Box::new(job)), fault)
            }
            Route::Embeddings => replied(scoring::embeddings(engine, body)?),
            Route::Rerank => replied(scoring::rerank(engine, body)?),
            Route::Classify => replied(scoring::classify(engine, body)?),
            other => (Outcome::Reply(self.plain(other)?), None),
        };
        let inference = matches!(
            route,
            Route::Generation(_) | Route::Embeddings | Route::Rerank | Route::Classify
        );
        let fault = asked
            .or(in_body)
            .or_else(|| self.armed.strike(path, inference))
            .or_else(|| self.chance(inference));
        Ok((outcome, fault))
    }

    fn plain(&self, route: Route<'_>) -> Result<Reply, Refusal> {
        let engine = &self.engine;
        Ok(match route {
            Route::Models(name) => about::models(engine, name)?,
            Route::Health => {
                let status = StatusCode::from_u16(engine.args.health_status);
                reply::text(status.unwrap_or(StatusCode::OK), "")
            }
            Route::ServerInfo => about::server_info(engine),
            Route::ModelInfo => about::model_info(engine),
            Route::Version => about::version(),
            Route::ServerLoad => about::server_load(engine),
            Route::GetLoad => about::get_load(engine),
            Route::Loads => about::loads(engine),
            Route::Metrics => about::metrics(engine),
            Route::Flush => {
                engine.flush();
                reply::text(StatusCode::OK, "Cache flushed.\n")
            }
            Route::Generation(_) | Route::Embeddings | Route::Rerank | Route::Classify => {
                return Err(Refusal::no_route());
            }
        })
    }

    async fn run(&self, mut job: Job) -> Reply {
        let engine = &self.engine;
        let tokens = job.completion_tokens();
        let mut ticket = engine.enter(job.rank, job.prompt_tokens() + tokens);
        let slot = match engine.slots() {
            Some(slots) => slots.acquire_owned().await.ok(),
            None => None,
        };
        ticket.start(slot);
        let pace = engine.prefill(job.rank, &mut job.prompts);
        if let Some(due) = pace.due(job.steps() - 1) {
            tokio::time::sleep_until(due.into()).await;
        }
        ticket.generated(tokens);
        reply::json_bytes(whole(&job))
    }

    fn stream(
        &self,
        job: Job,
        cut: Option<Cut>,
        presence: Presence,
        abort: Abort,
    ) -> Response<Body> {
        let engine = Arc::clone(&self.engine);
        let body = Body::stream(engine, Script::new(job), cut, Some(presence), abort);
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    fn control(&self, head: &Parts, body: &[u8]) -> Reply {
        let engine = &self.engine;
        let outcome = match (&head.method, head.uri.path()) {
            (&Method::POST, "/sample/fault") => serde_json::from_slice::<Order>(body)
                .map_err(Refusal::from)
                .and_then(|order| {
                    self.armed
                        .order(order)
                        .map_err(|bad| Refusal::bad_request(bad.to_string()))
                }),
            (&Method::POST, "/sample/reset") => {
                engine.stats.reset();
                self.armed
                    .order(Order::default())
                    .map_err(|bad| Refusal::bad_request(bad.to_string()))
            }
            (&Method::GET, "/sample/stats") => Ok(()),
            _ => Err(Refusal::no_route()),
        };
        match outcome {
            Ok(()) => reply::json_value(&about::stats(engine)),
            Err(refusal) => refusal.reply(engine.args.runtime),
        }
    }

    fn is_open(&self, path: &str) -> bool {
        self.engine.args.api_key.is_none()
            || matches!(path, "/health" | "/health_generate" | "/metrics")
    }

    fn has_key(&self, head: &Parts) -> bool {
        let given = head
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        given.and_then(|value| value.strip_prefix("Bearer ")) == self.engine.args.api_key.as_deref()
    }

    fn chance(&self, inference: bool) -> Option<Fault> {
        let args = &self.engine.args;
        let strikes = inference && args.fail_rate > 0.0 && fastrand::f64() < args.fail_rate;
        let act = Act::Status {
            status: args.fail_status,
            retry_after: None,
        };
        strikes.then(|| Fault {
            act: Some(act),
            ..Fault::default()
        })
    }
}

fn replied((reply, fault): (Reply, Option<Fault>)) -> (Outcome, Option<Fault>) {
    (Outcome::Reply(reply), fault)
}

fn route<'a>(runtime: Runtime, method: &Method, path: &'a str) -> Result<Route<'a>, Refusal> {
    let (post, route) = match path {
        "/v1/chat/completions" => (true, Route::Generation(Api::Chat)),
        "/v1/completions" => (true, Route::Generation(Api::Completion)),
        "/v1/responses" => (true, Route::Generation(Api::Responses)),
        "/v1/embeddings" => (true, Route::Embeddings),
        "/v1/rerank" | "/rerank" => (true, Route::Rerank),
        "/v1/classify" | "/classify" => (true, Route::Classify),
        "/v1/models" => (false, Route::Models(None)),
        "/health" => (false, Route::Health),
        "/metrics" => (false, Route::Metrics),
        _ => match (runtime, path) {
            (Runtime::Sglang, "/generate") => (true, Route::Generation(Api::Generate)),
            (Runtime::Sglang, "/health_generate") => (false, Route::Health),
            (Runtime::Sglang, "/server_info" | "/get_server_info") => (false, Route::ServerInfo),
            (Runtime::Sglang, "/model_info" | "/get_model_info") => (false, Route::ModelInfo),
            (Runtime::Sglang, "/get_load") => (false, Route::GetLoad),
            (Runtime::Sglang, "/v1/loads") => (false, Route::Loads),
            (Runtime::Sglang, "/flush_cache") => (true, Route::Flush),
            (Runtime::Vllm, "/version") => (false, Route::Version),
            (Runtime::Vllm, "/load") => (false, Route::ServerLoad),
            _ => match path.strip_prefix("/v1/models/") {
                Some(name) => (false, Route::Models(Some(name))),
                None => return Err(Refusal::no_route()),
            },
        },
    };
    let fits = match *method {
        Method::POST => post,
        Method::GET | Method::HEAD => !post,
        _ => false,
    };
    fits.then_some(route).ok_or_else(Refusal::no_method)
}

/// The whole body; `None` if it is longer than the worker reads.
async fn read(mut body: Incoming) -> Result<Option<Bytes>, Aborted> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|_| Aborted)?.into_data() else {
            continue;
        };
        // Nearly every body comes as one piece, which then needs no copy.
        if first.is_empty() {
            first = bytes;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        if rest.len() + bytes.len() > MOST_BYTES {
            return Ok(None);
        }
        rest.extend_from_slice(&bytes);
    }
    Ok(Some(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    }))
}
