//! The samples of the trees and indexes in which policies remember prompts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Snapshot;
use crate::plan::RouteIx;
use crate::policy::{IndexSize, TreeSize};
use crate::telemetry::metrics::{Families, Metric};

/// A figure of a size.
type Value = fn(&TreeSize) -> f64;

/// A count of an index.
type Count = fn(&IndexSize) -> usize;

/// Writes the size of every tree that is in use, by model and leg.
pub(super) fn write(snapshot: &Snapshot, families: &mut Families<'_>) {
    let sizes = sizes(snapshot);
    if sizes.is_empty() {
        return;
    }
    let values: [(Metric, Value); 3] = [
        (Metric::CacheTreeChars, |size| size.chars as f64),
        (Metric::CacheTreeTokens, |size| size.tokens as f64),
        (Metric::CacheTreeTenants, |size| size.workers as f64),
    ];
    for (metric, value) in values {
        let mut family = families.family(metric);
        for ((model, leg), size) in &sizes {
            family.sample(&[("model", model), ("tree", leg)], value(size));
        }
    }
}

/// Writes the size of every index that is in use, by model and leg, and what is believed of the
/// workers' caches.
pub(super) fn write_indexes(snapshot: &Snapshot, families: &mut Families<'_>) {
    let mut sizes: BTreeMap<_, IndexSize> = BTreeMap::new();
    let mut caches: BTreeMap<_, f64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (route, parts) in (0..).map(RouteIx).map_while(|ix| snapshot.route(ix)) {
        for leg in route.legs.iter() {
            let Some(parts) = parts.leg(leg.role) else {
                continue;
            };
            let Some(size) = parts.memory.index_size() else {
                continue;
            };
            if !seen.insert(Arc::as_ptr(&parts.memory)) {
                continue;
            }
            let sum = sizes.entry((&*route.label, leg.role.as_str())).or_default();
            sum.bytes += size.bytes;
            sum.blocks += size.blocks;
            for (ix, lane) in leg.candidates.iter().zip(&parts.lanes) {
                if let Some(worker) = snapshot.worker(*ix)
                    && let Some(tokens) = parts.memory.cache_tokens(*lane)
                {
                    let key = (&worker.plan.key, &*route.label);
                    caches.insert(key, tokens);
                }
            }
        }
    }
    if sizes.is_empty() {
        return;
    }
    let values: [(Metric, Count); 2] = [
        (Metric::RouteIndexBytes, |size| size.bytes),
        (Metric::RouteIndexBlocks, |size| size.blocks),
    ];
    for (metric, value) in values {
        let mut family = families.family(metric);
        for ((model, leg), size) in &sizes {
            family.sample(&[("model", model), ("leg", leg)], value(size) as f64);
        }
    }
    let mut family = families.family(Metric::RouteCacheTokens);
    for ((worker, model), tokens) in &caches {
        let labels = [
            ("worker", worker.as_str()),
            ("worker_id", &*worker.id().to_string()),
            ("model", model),
        ];
        family.sample(&labels, tokens.round());
    }
}

fn sizes(snapshot: &Snapshot) -> BTreeMap<(&str, &'static str), TreeSize> {
    let mut sizes: BTreeMap<_, TreeSize> = BTreeMap::new();
    // Routes of one model entry share a memory, which counts once.
    let mut seen = BTreeSet::new();
    for route in (0..).map(RouteIx).map_while(|ix| snapshot.route(ix)) {
        let (route, parts) = route;
        for leg in route.legs.iter() {
            let Some(parts) = parts.leg(leg.role) else {
                continue;
            };
            if !seen.insert(Arc::as_ptr(&parts.memory)) {
                continue;
            }
            if let Some(size) = parts.memory.tree_size() {
                let sum = sizes.entry((&*route.label, leg.role.as_str())).or_default();
                sum.chars += size.chars;
                sum.tokens += size.tokens;
                sum.workers = sum.workers.max(size.workers);
            }
        }
    }
    sizes
}
