//! What changes between two plans, in the operator's words.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Plan;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// `worker`, `route`, `pool`, `listener` or `server`.
    pub subject: &'static str,
    /// Which one.
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub kind: &'static str,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.subject, self.name, self.kind)
    }
}

/// The differences from `old` to `new`, sorted.
pub fn diff(old: &Plan, new: &Plan) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("listener", &listeners(old), &listeners(new), &mut changes);
    compare("pool", &pools(old), &pools(new), &mut changes);
    compare("worker", &workers(old), &workers(new), &mut changes);
    compare("route", &routes(old), &routes(new), &mut changes);
    if old.server != new.server || old.max_in_flight_probes != new.max_in_flight_probes {
        changes.push(Change {
            subject: "server",
            name: "settings".to_owned(),
            kind: "changed",
        });
    }
    changes.sort();
    changes
}

fn compare(
    subject: &'static str,
    old: &BTreeMap<String, serde_json::Value>,
    new: &BTreeMap<String, serde_json::Value>,
    changes: &mut Vec<Change>,
) {
    for (name, before) in old {
        let kind = match new.get(name) {
            None => "removed",
            Some(after) if after != before => "changed",
            Some(_) => continue,
        };
        changes.push(Change {
            subject,
            name: name.clone(),
            kind,
        });
    }
    for name in new.keys().filter(|name| !old.contains_key(*name)) {
        changes.push(Change {
            subject,
            name: name.clone(),
            kind: "added",
        });
    }
}

fn value(thing: impl Serialize) -> serde_json::Value {
    serde_json::to_value(thing).unwrap_or_default()
}

fn listeners(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    plan.listeners
        .iter()
        .map(|l| (l.name.to_string(), value(l)))
        .collect()
}

/// Pools without their worker indexes, which move whenever another pool changes.
fn pools(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    plan.pools
        .iter()
        .map(|pool| {
            let mut bare = pool.clone();
            bare.workers.clear();
            (pool.name.to_string(), value(bare))
        })
        .collect()
}

/// Workers by pool and key, without pool index.
fn workers(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    plan.workers
        .iter()
        .map(|worker| {
            let pool = &plan.pool(worker.pool).name;
            let mut bare = value(worker);
            if let Some(fields) = bare.as_object_mut() {
                fields.remove("pool");
            }
            // A rotated key is a change, although what is serialised of it is masked. The value
            // is compared here and goes nowhere else.
            let key = worker.api_key.as_ref().and_then(|key| key.expose());
            (format!("{pool}/{}", worker.key), value((bare, key)))
        })
        .collect()
}

/// Names and globs with what they mean, candidates by key.
fn routes(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let meaning = |ix: super::RouteIx, canonical: &str| {
        plan.routes.all.get(ix.0 as usize).map(|route| {
            let candidates: Vec<&str> = route
                .legs
                .candidates()
                .filter_map(|ix| plan.workers.get(ix.0 as usize))
                .map(|worker| worker.key.as_str())
                .collect();
            let choices: Vec<_> = route
                .legs
                .iter()
                .map(|leg| (leg.role, &leg.policy, leg.sticky))
                .collect();
            let pool = &plan.pool(route.pool).name;
            value((
                canonical,
                pool,
                candidates,
                choices,
                &route.retry,
                route.timeouts,
            ))
        })
    };
    let named = plan.routes.names.iter().filter_map(|(name, named)| {
        Some((name.to_string(), meaning(named.route, &named.canonical)?))
    });
    let globs = plan.routes.globs.iter().filter_map(|glob| {
        Some((
            glob.pattern.to_string(),
            meaning(glob.route, &glob.pattern)?,
        ))
    });
    let any = plan
        .routes
        .any
        .iter()
        .filter_map(|ix| Some(("*".to_owned(), meaning(*ix, "*")?)));
    named.chain(globs).chain(any).collect()
}
