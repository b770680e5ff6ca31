//! `POST /workers`, and `PUT`, `PATCH` and `DELETE` of `/workers/{id}`. Each is judged at once and
//! carried out by a job.

use std::sync::Arc;

use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::aim::{self, Aim, Stand};
use super::declared::Declared;
use super::fields::{Fields, note};
use super::refused::Refused;
use super::{address, body, patch, place};
use crate::dispatch::Call;
use crate::live::{Addition, Change};
use crate::plan::{Fleet, Member, Plan, Source, WorkerKey};
use crate::serve::body::Body;
use crate::serve::endpoint::{said, to_json};
use crate::serve::error::json as respond;
use crate::serve::gate::Gate;

const ADDITION: &str = "Worker addition queued for background processing";
const UPDATE: &str = "Worker update queued for background processing";
const REMOVAL: &str = "Worker removal queued for background processing";

/// `POST /workers`
pub(crate) async fn add_worker(
    gate: &Gate,
    call: Box<Call>,
    headers: HeaderMap,
    body: Incoming,
) -> Response<Body> {
    let answer = add(gate, &call, &headers, body).await;
    let location = match &answer {
        Ok(body) => body.get("location").and_then(Value::as_str),
        Err(_) => None,
    };
    let location = location.and_then(|at| HeaderValue::from_str(at).ok());
    let mut response = finish(call, answer);
    if let Some(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// `PUT /workers/{id}[?pool=]`
pub(crate) async fn replace_worker(
    gate: &Gate,
    call: Box<Call>,
    id: &str,
    query: &str,
    headers: HeaderMap,
    body: Incoming,
) -> Response<Body> {
    let answer = replace(gate, &call, (id, query), &headers, body).await;
    finish(call, answer)
}

/// `PATCH /workers/{id}[?pool=]`
pub(crate) async fn patch_worker(
    gate: &Gate,
    call: Box<Call>,
    id: &str,
    query: &str,
    headers: HeaderMap,
    body: Incoming,
) -> Response<Body> {
    let answer = async {
        let fields = fields(gate, &call, &headers, body).await?;
        update(gate, aim(gate, id)?, pool(query), fields).await
    };
    let answer = answer.await;
    finish(call, answer)
}

/// `DELETE /workers/{id}[?pool=]`
pub(crate) async fn remove_worker(
    gate: &Gate,
    call: Box<Call>,
    id: &str,
    query: &str,
) -> Response<Body> {
    let answer = async {
        let worker = aim(gate, id)?.worker;
        let change = Change::Remove {
            worker: worker.clone(),
            pool: pool(query),
        };
        gate.admin.change(change).await?;
        Ok(accepted(&worker, REMOVAL, &[]))
    };
    let answer = answer.await;
    finish(call, answer)
}

fn finish(call: Box<Call>, answer: Result<Value, Refused>) -> Response<Body> {
    match answer {
        Ok(body) => respond(call, StatusCode::ACCEPTED, to_json(&body)),
        Err(refused) => refused.into_response(call),
    }
}

async fn add(
    gate: &Gate,
    call: &Call,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Value, Refused> {
    let declared = Declared::read(fields(gate, call, headers, body).await?)?;
    let key = WorkerKey::new(declared.url().as_str());
    let fleet = gate.admin.fleet();
    let addition = {
        let snapshot = gate.live.load();
        let named = declared.pool.as_deref();
        let named = named.or_else(|| only_grave(&fleet, &key));
        addition(&snapshot.plan, &declared, &key, named)?
    };
    // Where the file has it, it comes back as the file has it: that was not named from here.
    if !fleet.tombstones.contains(&addition.member) {
        check(gate, &declared).await?;
    }
    gate.admin.change(Change::Add(Box::new(addition))).await?;
    let location = format!("/workers/{}", key.id());
    let mut answer = accepted(&key, ADDITION, &declared.ignored);
    answer["url"] = key.as_str().into();
    answer["location"] = location.into();
    Ok(answer)
}

/// Whether the worker may be where the body says, by what is configured now.
async fn check(gate: &Gate, declared: &Declared) -> Result<(), Refused> {
    let networks = Arc::clone(&gate.live.load().plan.auth.worker_cidrs);
    Ok(address::check(declared.url(), &networks).await?)
}

/// The pool from which the worker was removed though the file declares it, where there is one such.
/// Who adds it without more words wants it back.
fn only_grave<'a>(fleet: &'a Fleet, worker: &WorkerKey) -> Option<&'a str> {
    let graves = fleet.tombstones.iter();
    let mut graves = graves.filter(|member| member.worker == *worker);
    let first = graves.next()?;
    graves.next().is_none().then_some(&*first.pool)
}

fn addition(
    plan: &Plan,
    declared: &Declared,
    key: &WorkerKey,
    pool: Option<&str>,
) -> Result<Addition, Refused> {
    let (pool, role) = place::choose(plan, pool, declared.role)?;
    Ok(Addition {
        member: Member {
            pool: Arc::clone(&pool.name),
            worker: key.clone(),
        },
        added: declared.added(role)?,
        attempts: declared.attempts,
    })
}

/// With a `url` everything is said anew; without, only what changes is.
async fn replace(
    gate: &Gate,
    call: &Call,
    (id, query): (&str, &str),
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Value, Refused> {
    let fields = fields(gate, call, headers, body).await?;
    let (aim, asked) = (aim(gate, id)?, pool(query));
    if !fields.has("url") {
        return update(gate, aim, asked, fields).await;
    }
    let declared = Declared::read(fields)?;
    let Aim { worker, stands } = aim;
    if WorkerKey::new(declared.url().as_str()) != worker {
        let message = "`url` must be that of the worker: another one is another worker";
        return Err(Refused::bad(message));
    }
    check(gate, &declared).await?;
    let mut additions = Vec::new();
    for stand in wanted(stands, asked.as_deref(), declared.pool.as_deref())? {
        if stand.source == Source::File {
            return Err(Refused::declared());
        }
        let snapshot = gate.live.load();
        let role = declared.role.unwrap_or(stand.role);
        let (pool, role) = place::choose(&snapshot.plan, Some(&stand.pool), Some(role))?;
        additions.push(Addition {
            member: Member {
                pool: Arc::clone(&pool.name),
                worker: worker.clone(),
            },
            added: declared.added(role)?,
            attempts: declared.attempts,
        });
    }
    for addition in additions {
        let change = Change::Replace(Box::new(addition));
        gate.admin.change(change).await?;
    }
    Ok(accepted(&worker, UPDATE, &declared.ignored))
}

/// Where a worker is to be replaced: everywhere, or in the pool that the query or the body names.
fn wanted(
    stands: Vec<Stand>,
    asked: Option<&str>,
    said: Option<&str>,
) -> Result<Vec<Stand>, Refused> {
    let is = |name: Option<&str>, stand: &Stand| name.is_none_or(|name| *stand.pool == *name);
    let asked: Vec<Stand> = stands
        .into_iter()
        .filter(|stand| is(asked, stand))
        .collect();
    if asked.is_empty() {
        return Err(Refused::unknown());
    }
    let said: Vec<Stand> = asked.into_iter().filter(|stand| is(said, stand)).collect();
    if said.is_empty() {
        let message = "`pool`: the worker is not in it, and a worker is not moved: remove it and \
                       add it there";
        return Err(Refused::bad(message));
    }
    Ok(said)
}

async fn update(
    gate: &Gate,
    aim: Aim,
    pool: Option<Arc<str>>,
    fields: Fields,
) -> Result<Value, Refused> {
    let (with, ignored) = patch::read(fields)?;
    let worker = aim.worker;
    let change = Change::Update {
        worker: worker.clone(),
        pool,
        with: Box::new(with),
    };
    gate.admin.change(change).await?;
    Ok(accepted(&worker, UPDATE, &ignored))
}

fn accepted(worker: &WorkerKey, what: &str, ignored: &[String]) -> Value {
    let message = format!("{what}{}", note(ignored));
    json!({ "status": "accepted", "worker_id": worker.id(), "message": message })
}

async fn fields(
    gate: &Gate,
    call: &Call,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Fields, Refused> {
    let whole = body::read(gate, call, headers, body).await?;
    Ok(Fields::of(&whole)?)
}

/// The worker of this id as things stand now, which may be later than the call's snapshot.
fn aim(gate: &Gate, id: &str) -> Result<Aim, Refused> {
    aim::take(&gate.live.load(), &*gate.admin, id)
}

fn pool(query: &str) -> Option<Arc<str>> {
    said(query, "pool").map(Arc::from)
}
