//! Models and their routes, as the overview shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::api::overview::{Model, Route};
use crate::live::{Snapshot, signals};
use crate::plan::{Destination, DestinationIx, RouteIx, Share};

/// The names that lead to a destination: the canonical one, and the others.
#[derive(Default)]
struct Names<'a> {
    canonical: Option<&'a str>,
    others: BTreeSet<&'a str>,
}

/// Every model and glob, sorted by name.
pub(super) fn all(snapshot: &Snapshot, now: Instant) -> Vec<Model> {
    let mut names: BTreeMap<DestinationIx, Names<'_>> = BTreeMap::new();
    for (name, leads) in &snapshot.plan.routes.names {
        let known = names.entry(leads.destination).or_default();
        known.canonical.get_or_insert(&leads.canonical);
        known.others.insert(name);
    }
    let mut degraded: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for signal in signals(snapshot, now) {
        if signal.is_degraded() {
            let said = format!("{}: {}", signal.policy, signal.reason());
            degraded.entry(signal.model).or_default().push(said);
        }
    }
    let destinations = (0..).zip(&snapshot.plan.routes.destinations);
    let mut models: Vec<Model> = destinations
        .map(|(ix, destination)| {
            let names = names.remove(&DestinationIx(ix)).unwrap_or_default();
            let name = names.canonical.unwrap_or(&destination.entry);
            let said = degraded.get(&*destination.label);
            Model {
                name: name.to_owned(),
                aliases: names
                    .others
                    .iter()
                    .filter(|other| **other != name)
                    .map(|other| (*other).to_owned())
                    .collect(),
                ready: can_take(snapshot, destination, now),
                routes: destination
                    .shares
                    .iter()
                    .filter_map(|share| route(snapshot, share, now))
                    .collect(),
                fallback: destination
                    .fallback
                    .iter()
                    .map(|fallback| fallback.model.to_string())
                    .collect(),
                mirror: mirror(snapshot, destination).unwrap_or_default(),
                degraded: said.map_or_else(String::new, |said| said.join("; ")),
            }
        })
        .collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// Whether some route takes requests, the model's own or one of those that stand in for it.
fn can_take(snapshot: &Snapshot, destination: &Destination, now: Instant) -> bool {
    let routes = &snapshot.plan.routes;
    let fallback = destination.fallback.iter();
    let standing_in = fallback.filter_map(|other| routes.destination(other.destination));
    let mut all = std::iter::once(destination).chain(standing_in);
    all.any(|destination| {
        let mut shares = destination.shares.iter();
        shares.any(|share| {
            let route = snapshot.route(share.route);
            route.is_some_and(|(route, _)| snapshot.can_take(route, now))
        })
    })
}

fn route(snapshot: &Snapshot, share: &Share, now: Instant) -> Option<Route> {
    let (route, _) = snapshot.route(share.route)?;
    let policies: Vec<&str> = route.legs.iter().map(|leg| leg.policy.as_str()).collect();
    let candidates: BTreeSet<_> = route.legs.candidates().collect();
    let workers = candidates.iter().filter_map(|ix| snapshot.worker(*ix));
    Some(Route {
        pool: snapshot.plan.pool(route.pool).name.to_string(),
        weight: share.weight,
        model: share.model.as_ref().map(Arc::to_string).unwrap_or_default(),
        policy: policies.join("/"),
        ready: workers
            .filter(|worker| snapshot.is_open_to(*worker, now))
            .count() as u64,
        workers: candidates.len() as u64,
    })
}

fn mirror(snapshot: &Snapshot, destination: &Destination) -> Option<String> {
    let RouteIx(at) = destination.mirror.as_ref()?.route;
    let route = snapshot.plan.routes.all.get(at as usize)?;
    Some(snapshot.plan.pool(route.pool).name.to_string())
}
