//! What changes between two plans, in the operator's words.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;

use super::admission::DEFAULT_CLASS;
use super::route::Route;
use super::{Auth, Destination, DestinationIx, Plan, TenantIx};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// `worker`, `route`, `split`, `fallback`, `mirror`, `admission`, `pool`, `listener`, `tenant`,
    /// `operator`, `auth`, `audit`, `tracing` or `server`.
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
    compare("split", &splits(old), &splits(new), &mut changes);
    compare("fallback", &fallbacks(old), &fallbacks(new), &mut changes);
    compare("mirror", &mirrors(old), &mirrors(new), &mut changes);
    compare("admission", &gates(old), &gates(new), &mut changes);
    compare("tenant", &tenants(old), &tenants(new), &mut changes);
    compare("operator", &operators(old), &operators(new), &mut changes);
    let probes = old.max_in_flight_probes != new.max_in_flight_probes;
    if old.server != new.server || probes || old.load_monitor != new.load_monitor {
        changes.push(settings("server"));
    }
    if old.admission != new.admission {
        changes.push(settings("admission"));
    }
    let auth = |plan: &Plan| Auth {
        tenants: Vec::new(),
        tenant_keys: Vec::new(),
        operators: Vec::new(),
        ..plan.auth.clone()
    };
    if auth(old) != auth(new) {
        changes.push(settings("auth"));
    }
    if old.audit != new.audit {
        changes.push(settings("audit"));
    }
    if old.tracing != new.tracing {
        changes.push(settings("tracing"));
    }
    changes.sort();
    changes
}

fn settings(subject: &'static str) -> Change {
    Change {
        subject,
        name: "settings".to_owned(),
        kind: "changed",
    }
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
        .map(|l| (l.name.to_string(), value((l, mark(l.tls.as_deref())))))
        .collect()
}

/// Tenants and their keys.
fn tenants(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let auth = &plan.auth;
    let tenants = (0u32..).map(TenantIx).zip(&auth.tenants);
    tenants
        .map(|(ix, tenant)| {
            let keys = auth.tenant_keys.iter().filter(|key| key.of == ix);
            let keys: Vec<_> = keys.map(|key| (key.digest.bytes(), key)).collect();
            (tenant.name.to_string(), value((tenant, keys)))
        })
        .collect()
}

/// The holders of keys of the control plane.
fn operators(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let operators = plan.auth.operators.iter();
    operators
        .map(|key| (key.of.id.to_string(), value((key.digest.bytes(), key))))
        .collect()
}

/// What tells apart what certificates and keys hold, which no value shows.
fn mark(tls: Option<&impl Hash>) -> u64 {
    let mut hasher = DefaultHasher::new();
    tls.hash(&mut hasher);
    hasher.finish()
}

/// Pools without their worker indexes, which move whenever another pool changes.
fn pools(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    plan.pools
        .iter()
        .map(|pool| {
            let mut bare = pool.clone();
            bare.workers.clear();
            bare.pair.iter_mut().flatten().for_each(Vec::clear);
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
            // A rotated key or certificate is a change, although what is serialised of it does
            // not show. The values are compared here and go nowhere else.
            let key = worker.api_key.as_ref().and_then(|key| key.expose());
            let mark = mark(worker.tls.as_deref());
            (format!("{pool}/{}", worker.key), value((bare, key, mark)))
        })
        .collect()
}

/// Every name and glob, `*` for what takes any name, and the canonical name behind it.
fn names(plan: &Plan) -> impl Iterator<Item = (&str, &str, DestinationIx)> {
    let routes = &plan.routes;
    let named = routes.names.iter();
    let named = named.map(|(name, named)| (&**name, &*named.canonical, named.destination));
    let globs = routes.globs.iter();
    let globs = globs.map(|glob| (&*glob.pattern, &*glob.pattern, glob.destination));
    let any = routes.any.iter().map(|ix| ("*", "*", *ix));
    named.chain(globs).chain(any)
}

/// Models and globs, aliases left out.
fn models(plan: &Plan) -> impl Iterator<Item = (&str, &Destination)> {
    names(plan)
        .filter(|(name, canonical, _)| name == canonical)
        .filter_map(|(name, _, ix)| Some((name, plan.routes.destination(ix)?)))
}

/// What a route means, candidates by key.
fn meaning(plan: &Plan, route: &Route) -> serde_json::Value {
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
    value((pool, candidates, choices, &route.retry, route.timeouts))
}

/// Names and globs with the routes behind them.
fn routes(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let routes = names(plan).filter_map(|(name, canonical, ix)| {
        let routes = plan.routes.of(plan.routes.destination(ix)?);
        let routes: Vec<_> = routes.map(|route| meaning(plan, route)).collect();
        Some((name.to_owned(), value((canonical, routes))))
    });
    routes.collect()
}

/// Models whose requests are divided, or for which workers are asked for another name.
fn splits(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let split = models(plan).filter(|(_, destination)| {
        destination.shares.len() > 1 || destination.shares.iter().any(|s| s.model.is_some())
    });
    let split = split.map(|(name, destination)| {
        let shares = plan.routes.of(destination).zip(&destination.shares);
        let shares: Vec<_> = shares
            .map(|(route, share)| (&plan.pool(route.pool).name, &share.model, share.weight))
            .collect();
        (name.to_owned(), value(shares))
    });
    split.collect()
}

/// Models with the ones that stand in for them.
fn fallbacks(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let some = models(plan).filter(|(_, destination)| !destination.fallback.is_empty());
    let some = some.map(|(name, destination)| {
        let models: Vec<_> = destination.fallback.iter().map(|f| &f.model).collect();
        (name.to_owned(), value(models))
    });
    some.collect()
}

/// Models that have a gate of their own, or whose requests wait in another class than the default
/// one.
fn gates(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let some = models(plan)
        .filter(|(_, destination)| {
            destination.gate.is_some() || *destination.class != *DEFAULT_CLASS
        })
        .map(|(name, destination)| {
            let Destination { class, gate, .. } = destination;
            (name.to_owned(), value((class, gate)))
        });
    some.collect()
}

/// Models of whose requests copies are sent.
fn mirrors(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let some = models(plan).filter_map(|(name, destination)| {
        let mirror = destination.mirror.as_ref()?;
        let route = plan.routes.all.get(mirror.route.0 as usize)?;
        Some((
            name.to_owned(),
            value((mirror.fraction, meaning(plan, route))),
        ))
    });
    some.collect()
}
