//! `GET /workers` and `GET /workers/{id}`.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::aim;
use super::refused::Refused;
use super::show::{self, View};
use crate::dispatch::Call;
use crate::live::WorkerRef;
use crate::plan::{Role, WorkerKey};
use crate::serve::body::Body;
use crate::serve::endpoint::{flag, said, to_json};
use crate::serve::error::json as respond;
use crate::serve::gate::Gate;

/// A line of the list, with what it is sorted by.
struct Line {
    worker: WorkerKey,
    pool: Arc<str>,
    shown: Value,
}

/// `GET /workers[?model=][&pool=][&all=true]`
pub(crate) fn workers(gate: &Gate, call: Box<Call>, query: &str) -> Response<Body> {
    let view = View::new(Arc::clone(&call.snapshot), &*gate.admin);
    let (model, pool) = (said(query, "model"), said(query, "pool"));
    let mut lines = lines(&view, flag(query, "all"));
    lines.retain(|line| {
        pool.as_deref().is_none_or(|pool| *line.pool == *pool)
            && model
                .as_deref()
                .is_none_or(|model| serves(&line.shown, model))
    });
    lines.sort_by(|a, b| (&a.worker, &a.pool).cmp(&(&b.worker, &b.pool)));
    let shown: Vec<Value> = lines.into_iter().map(|line| line.shown).collect();
    let count = |role: Role| {
        let kinds = shown
            .iter()
            .filter_map(|worker| worker["worker_type"].as_str());
        kinds.filter(|kind| *kind == role.as_str()).count()
    };
    let body = json!({
        "workers": shown,
        "total": shown.len(),
        "stats": {
            "prefill_count": count(Role::Prefill),
            "decode_count": count(Role::Decode),
            "regular_count": count(Role::Regular),
        },
    });
    respond(call, StatusCode::OK, to_json(&body))
}

/// `GET /workers/{id}[?pool=]`
pub(crate) fn worker(gate: &Gate, call: Box<Call>, id: &str, query: &str) -> Response<Body> {
    let view = View::new(gate.live.load(), &*gate.admin);
    let pool = said(query, "pool");
    match one(&view, id, pool.as_deref()) {
        Ok(shown) => respond(call, StatusCode::OK, to_json(&shown)),
        Err(refused) => refused.into_response(call),
    }
}

fn lines(view: &View, all: bool) -> Vec<Line> {
    let plan = &view.snapshot.plan;
    let present = view.snapshot.workers().map(|worker| Line {
        worker: worker.plan.key.clone(),
        pool: Arc::clone(&plan.pool(worker.plan.pool).name),
        shown: view.worker(worker),
    });
    let absent = view.absent().map(|(member, shown)| Line {
        worker: member.worker.clone(),
        pool: Arc::clone(&member.pool),
        shown,
    });
    let graves = view.fleet.tombstones.iter().filter(|_| all);
    let graves = graves.map(|member| Line {
        worker: member.worker.clone(),
        pool: Arc::clone(&member.pool),
        shown: show::tombstone(member),
    });
    present.chain(absent).chain(graves).collect()
}

fn serves(shown: &Value, model: &str) -> bool {
    let names = shown["models"].as_array();
    names.is_some_and(|names| names.iter().any(|name| name == model))
}

/// The worker of this id: a rank, a whole one, one on its way in.
fn one(view: &View, id: &str, pool: Option<&str>) -> Result<Value, Refused> {
    let id = aim::id(id)?;
    let plan = &view.snapshot.plan;
    let in_pool = |name: &str| pool.is_none_or(|pool| *pool == *name);
    let members = || {
        let all = view.snapshot.workers();
        all.filter(|worker| in_pool(&plan.pool(worker.plan.pool).name))
    };
    if let Some(worker) = members().find(|worker| worker.plan.id == id) {
        return Ok(view.worker(worker));
    }
    let first = members().find(|worker| worker.plan.key.base().id() == id);
    if let Some(first) = first {
        let ranks: Vec<WorkerRef<'_>> = members()
            .filter(|worker| worker.plan.pool == first.plan.pool)
            .filter(|worker| worker.plan.key.is_rank_beside(&first.plan.key))
            .collect();
        return view.whole(&ranks).ok_or_else(Refused::unknown);
    }
    let absent = view
        .absent()
        .find(|(member, _)| member.worker.id() == id && in_pool(&member.pool));
    let shown = absent.map(|(_, shown)| shown).or_else(|| view.wanted(id));
    shown.ok_or_else(Refused::unknown)
}
