//! The families whose samples live in cells and snapshots, written at each scrape: their series end
//! with what they describe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Live, Snapshot, WorkerRef, breakers, certificates, quota, signals, trees};
use crate::api::Endpoint;
use crate::api::load::Load;
use crate::config::spec::Policy;
use crate::plan::{Role, RouteIx, Source, WorkerKey};
use crate::telemetry::metrics::{Families, Metric, label};

/// Every worker is spoken to in this way.
const MODE: &str = "http";

/// Model of what names none.
const UNKNOWN: &str = "unknown";

/// The families of [`Source::Scrape`](crate::telemetry::metrics::Source) at `now`, to follow those
/// of the recorder.
pub fn render(live: &Live, now: Instant) -> String {
    let snapshot = live.load();
    let mut out = String::new();
    let mut families = Families::new(&mut out);
    ages(live, now, &mut families);
    admission(&snapshot, &mut families);
    quota::write(&snapshot, &mut families);
    pools(&snapshot, &mut families);
    workers(&snapshot, &mut families);
    breakers::write(&snapshot, now, &mut families);
    routing_keys(&snapshot, &mut families);
    trees::write(&snapshot, &mut families);
    trees::write_indexes(&snapshot, &mut families);
    engines(&snapshot, now, &mut families);
    memory(&snapshot, &mut families);
    issuer(&snapshot, &mut families);
    certificates::write(&snapshot, &mut families);
    configuration(live, &snapshot, now, &mut families);
    out
}

/// How old the requests are that are being served.
fn ages(live: &Live, now: Instant, families: &mut Families<'_>) {
    let mut family = families.family(Metric::HttpInflightRequestAge);
    let bounds = label::AGES.iter().map(u64::to_string);
    let mut gt = "0".to_owned();
    for (le, calls) in bounds
        .chain(["+Inf".to_owned()])
        .zip(live.calls_by_age(now))
    {
        family.sample(&[("gt", &gt), ("le", &le)], number(calls));
        gt = le;
    }
}

/// What is under way and what waits. A class that is gone shows for as long as it waits.
fn admission(snapshot: &Snapshot, families: &mut Families<'_>) {
    let cell = snapshot.admission();
    families
        .family(Metric::AdmissionInflight)
        .sample(&[], number(cell.under_way()));
    let classes = snapshot.plan.admission.classes.keys();
    let mut depths: BTreeMap<Arc<str>, usize> =
        classes.map(|class| (Arc::clone(class), 0)).collect();
    depths.extend(cell.waiting_by_class());
    let mut family = families.family(Metric::AdmissionQueueDepth);
    for (class, depth) in &depths {
        family.sample(&[("class", class)], number(*depth));
    }
}

/// A worker with all its memberships: a URL in two pools is one worker and has one series.
pub(super) struct Member<'a> {
    pub(super) first: WorkerRef<'a>,
    usable: bool,
}

pub(super) fn members(snapshot: &Snapshot) -> BTreeMap<&WorkerKey, Member<'_>> {
    let mut members = BTreeMap::new();
    for worker in snapshot.workers() {
        let usable = snapshot.is_usable(worker);
        members
            .entry(&worker.plan.key)
            .and_modify(|member: &mut Member<'_>| member.usable |= usable)
            .or_insert(Member {
                first: worker,
                usable,
            });
    }
    members
}

/// Workers by role and model. One that serves several models counts for each.
fn pools(snapshot: &Snapshot, families: &mut Families<'_>) {
    let mut registered: BTreeMap<(&str, Role), BTreeSet<&WorkerKey>> = BTreeMap::new();
    let mut healthy: BTreeMap<(&str, Role), BTreeSet<&WorkerKey>> = BTreeMap::new();
    let mut routed: BTreeSet<&WorkerKey> = BTreeSet::new();
    let mut add = |model, worker: WorkerRef<'_>, key| {
        let name = (model, worker.plan.role);
        registered.entry(name).or_default().insert(key);
        let healthy = healthy.entry(name).or_default();
        if snapshot.is_usable(worker) {
            healthy.insert(key);
        }
    };
    // Copies make nobody a worker of the model.
    let all = &snapshot.plan.routes.all;
    let serving = || all.iter().filter(|route| !route.copies);
    for route in serving() {
        for worker in route.legs.candidates().filter_map(|ix| snapshot.worker(ix)) {
            add(&*route.label, worker, &worker.plan.key);
            routed.insert(&worker.plan.key);
        }
    }
    for worker in snapshot
        .workers()
        .filter(|worker| !routed.contains(&worker.plan.key))
    {
        add(UNKNOWN, worker, &worker.plan.key);
    }
    // Models without a worker are told too: an alert wants to see the 0.
    for route in serving() {
        for leg in route.legs.iter() {
            registered.entry((&route.label, leg.role)).or_default();
            healthy.entry((&route.label, leg.role)).or_default();
        }
    }
    if registered.is_empty() {
        registered.entry((UNKNOWN, Role::Regular)).or_default();
        healthy.entry((UNKNOWN, Role::Regular)).or_default();
    }
    for (metric, counts) in [
        (Metric::WorkerPoolSize, &healthy),
        (Metric::WorkerPoolRegistered, &registered),
    ] {
        let mut family = families.family(metric);
        for ((model, role), workers) in counts {
            let labels = [
                ("worker_type", role.as_str()),
                ("connection_mode", MODE),
                ("model", model),
            ];
            family.sample(&labels, number(workers.len()));
        }
    }
}

fn workers(snapshot: &Snapshot, families: &mut Families<'_>) {
    let members = members(snapshot);
    let named: Vec<(&str, &str, &Member<'_>)> = members
        .iter()
        .map(|(key, member)| (key.as_str(), member.first.parts.id_str(), member))
        .collect();

    let mut family = families.family(Metric::WorkerConnectionsActive);
    for (worker, id, member) in &named {
        let labels = [
            ("worker", *worker),
            ("worker_id", id),
            ("worker_type", member.first.plan.role.as_str()),
            ("connection_mode", MODE),
        ];
        family.sample(&labels, number(member.first.parts.conns.open()));
    }

    let mut family = families.family(Metric::WorkerRequestsActive);
    for (worker, id, member) in &named {
        let load = member.first.parts.cell.load();
        family.sample(&[("worker", worker), ("worker_id", id)], number(load));
    }

    let mut family = families.family(Metric::WorkerRequests);
    for (worker, id, member) in &named {
        for (model, attempts) in member.first.parts.cell.attempts() {
            let labels = [("worker", *worker), ("worker_id", id), ("model", &*model)];
            family.sample(&labels, count(attempts));
        }
    }

    let mut family = families.family(Metric::WorkerHealthChecks);
    for (worker, id, member) in &named {
        let cell = &member.first.parts.cell;
        for (result, counter) in [
            ("success", &cell.probes_ok),
            ("failure", &cell.probes_failed),
        ] {
            let labels = [
                ("worker", *worker),
                ("worker_id", id),
                ("worker_type", member.first.plan.role.as_str()),
                ("result", result),
            ];
            family.sample(&labels, count(counter.load(Ordering::Relaxed)));
        }
    }

    let mut family = families.family(Metric::WorkerHealth);
    for (worker, id, member) in &named {
        let value = if member.usable { 1.0 } else { 0.0 };
        family.sample(&[("worker", worker), ("worker_id", id)], value);
    }

    let mut family = families.family(Metric::WorkerRetries);
    for (worker, id, member) in &named {
        for (endpoint, retries) in Endpoint::ALL
            .into_iter()
            .zip(&member.first.parts.cell.retries)
        {
            let retries = retries.load(Ordering::Relaxed);
            if retries > 0 {
                let labels = [
                    ("worker", *worker),
                    ("worker_id", id),
                    ("worker_type", member.first.plan.role.as_str()),
                    ("endpoint", endpoint.label()),
                ];
                family.sample(&labels, count(retries));
            }
        }
    }

    let from = |source: Source| {
        let members = named.iter();
        number(
            members
                .filter(|(_, _, member)| member.first.plan.source == source)
                .count(),
        )
    };
    let joined = |source: Source| {
        let mut named = snapshot.workers().filter(|w| w.plan.source == source);
        if named.all(|worker| worker.plan.is_admitted()) {
            1.0
        } else {
            0.0
        }
    };
    families
        .family(Metric::DiscoverySynchronized)
        .sample(&[("source", "static")], joined(Source::File))
        .sample(&[("source", "manual")], joined(Source::Api));
    families
        .family(Metric::DiscoveryWorkersDiscovered)
        .sample(&[("source", "static")], from(Source::File))
        .sample(&[("source", "manual")], from(Source::Api));
}

/// Routing keys by model entry and by worker, for legs that remember them. Routes under one glob share
/// what is remembered, which counts once.
fn routing_keys(snapshot: &Snapshot, families: &mut Families<'_>) {
    let mut entries: BTreeMap<&str, usize> = BTreeMap::new();
    let mut assigned: BTreeMap<(&WorkerKey, &str), u64> = BTreeMap::new();
    let mut memories = BTreeSet::new();
    let mut places = BTreeSet::new();
    for (at, route) in (0..).zip(&snapshot.plan.routes.all) {
        let Some((_, parts)) = snapshot.route(RouteIx(at)) else {
            continue;
        };
        for leg in route.legs.iter() {
            if !leg.sticky && !matches!(leg.policy, Policy::Manual(_)) {
                continue;
            }
            let Some(parts) = parts.leg(leg.role) else {
                continue;
            };
            let memory = Arc::as_ptr(&parts.memory);
            let entry = if *route.entry == *"*" {
                UNKNOWN
            } else {
                &*route.entry
            };
            let keys = entries.entry(entry).or_default();
            if memories.insert(memory) {
                *keys += parts.memory.routing_keys();
            }
            for (ix, lane) in leg.candidates.iter().zip(&parts.lanes) {
                let Some(worker) = snapshot.worker(*ix) else {
                    continue;
                };
                let keys = assigned
                    .entry((&worker.plan.key, worker.parts.id_str()))
                    .or_default();
                if places.insert((memory, *lane)) {
                    *keys += u64::from(parts.memory.routing_keys_of(*lane));
                }
            }
        }
    }
    let mut family = families.family(Metric::WorkerRoutingKeysActive);
    for ((worker, id), keys) in assigned {
        family.sample(
            &[("worker", worker.as_str()), ("worker_id", id)],
            count(keys),
        );
    }
    let mut family = families.family(Metric::ManualPolicyCacheEntries);
    for (model, keys) in entries {
        family.sample(&[("model", model)], number(keys));
    }
}

/// One figure of a report.
type Figure = fn(&Load) -> Option<f64>;

/// What engines say of their load, and which policies miss it.
fn engines(snapshot: &Snapshot, now: Instant, families: &mut Families<'_>) {
    let mut family = families.family(Metric::PolicyDegraded);
    for signal in signals(snapshot, now) {
        let value = if signal.is_degraded() { 1.0 } else { 0.0 };
        family.sample(&[("model", signal.model), ("policy", signal.policy)], value);
    }
    let age = snapshot.plan.load_monitor.age();
    let told: Vec<_> = members(snapshot)
        .into_values()
        .filter(|member| member.usable)
        .filter_map(|member| {
            let report = member.first.parts.cell.report.read(now, age)?;
            Some((member.first.plan, report))
        })
        .collect();
    let figures: [(Metric, Figure); 5] = [
        (Metric::EngineRunningRequests, |load| {
            load.running.map(count)
        }),
        (Metric::EngineWaitingRequests, |load| {
            load.waiting.map(count)
        }),
        (Metric::EngineTokenUsage, |load| load.token_usage),
        (Metric::EngineGenThroughput, |load| load.gen_throughput),
        (Metric::EngineCacheHitRate, |load| load.cache_hit_rate),
    ];
    for (metric, figure) in figures {
        let mut family = families.family(metric);
        for (worker, report) in &told {
            let model = worker.models.first().map_or(UNKNOWN, |model| model);
            for load in &report.ranks {
                let Some(value) = figure(load) else {
                    continue;
                };
                let rank = load.dp_rank.unwrap_or_default().to_string();
                let labels = [
                    ("worker", worker.key.as_str()),
                    ("model", model),
                    ("dp_rank", &rank),
                ];
                family.sample(&labels, value);
            }
        }
    }
}

/// Memory for what is buffered.
fn memory(snapshot: &Snapshot, families: &mut Families<'_>) {
    let mut family = families.family(Metric::MemoryBudget);
    for (state, bytes) in [
        ("used", snapshot.memory.used()),
        ("limit", snapshot.memory.limit()),
    ] {
        family.sample(&[("state", state)], count(bytes));
    }
}

/// The issuer of tokens.
fn issuer(snapshot: &Snapshot, families: &mut Families<'_>) {
    let mut family = families.family(Metric::AuthJwksUp);
    if let Some(issuer) = snapshot.issuer() {
        let value = if issuer.cell.is_up() { 1.0 } else { 0.0 };
        family.sample(&[("issuer", &*issuer.cell.key().issuer)], value);
    }
}

fn configuration(live: &Live, snapshot: &Snapshot, now: Instant, families: &mut Families<'_>) {
    let alive = live.alive();
    let oldest = alive
        .iter()
        .map(|snapshot| snapshot.born)
        .min()
        .unwrap_or(now);
    let age = now.saturating_duration_since(oldest).as_secs_f64();
    families
        .family(Metric::ConfigInfo)
        .sample(&[("sha256", &*snapshot.sha256)], 1.0);
    families
        .family(Metric::ConfigSnapshotsAlive)
        .sample(&[], number(alive.len()));
    families
        .family(Metric::ConfigOldestSnapshotAge)
        .sample(&[], age);
    families
        .family(Metric::SnapshotId)
        .sample(&[], count(snapshot.id));
}

/// Exact up to 2^53, which no counter reaches.
fn count(value: u64) -> f64 {
    value as f64
}

fn number(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Prepared, Stamp};
    use super::*;
    use crate::base::clock;
    use crate::config::Spec;
    use crate::plan::{Facts, Learned, compile};
    use crate::state::{Cells, HealthState, InFlight};

    const TWO_POOLS: &str = "version = 1\n\
        [[pools]]\nname = 'a'\nworkers = ['http://h:1', 'http://h:2']\n\
        [[pools]]\nname = 'b'\nworkers = ['http://h:1']\n\
        [[models]]\nname = 'm'\npool = 'a'\n";

    fn learned() -> Facts {
        let mut facts = Facts::default();
        let one = Learned {
            models: vec!["m".into()],
            ..Learned::default()
        };
        facts.workers.insert(WorkerKey::new("http://h:1"), one);
        facts
    }

    #[expect(clippy::disallowed_methods, reason = "the test is its own writer")]
    fn live(cells: &Cells, text: &str, facts: &Facts) -> Live {
        let spec: Spec = toml::from_str(text).unwrap();
        let stamp = Stamp {
            id: 7,
            generation: 3,
            sha256: "ab".into(),
        };
        let plan = compile(&spec, facts);
        Live::new(Prepared::new(Snapshot::bind(
            plan,
            cells,
            None,
            stamp,
            clock::now(),
        )))
    }

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|found| found == line)
    }

    #[test]
    fn a_worker_in_two_pools_has_one_series() {
        let cells = Cells::default();
        let live = live(&cells, TWO_POOLS, &learned());
        let snapshot = live.load();
        let worker = snapshot.workers().next().unwrap();
        let _busy = InFlight::start(&worker.parts.cell, 0, clock::now());
        worker
            .parts
            .cell
            .attempts_of(&"m".into())
            .fetch_add(1, Ordering::Relaxed);
        worker.parts.cell.probes_failed.store(2, Ordering::Relaxed);
        let text = render(&live, snapshot.born + Duration::from_secs(4));
        let id = worker.parts.id_str();
        for line in [
            &*format!("smg_worker_requests_active{{worker=\"http://h:1\",worker_id=\"{id}\"}} 1"),
            &format!(
                "smg_worker_requests_total{{worker=\"http://h:1\",worker_id=\"{id}\",model=\"m\"}} 1"
            ),
            &format!(
                "smg_worker_health_checks_total{{worker=\"http://h:1\",worker_id=\"{id}\",\
                 worker_type=\"regular\",result=\"failure\"}} 2"
            ),
            &format!("smg_worker_health{{worker=\"http://h:1\",worker_id=\"{id}\"}} 1"),
            "smg_worker_pool_size{worker_type=\"regular\",connection_mode=\"http\",model=\"m\"} 1",
            "smg_worker_pool_registered{worker_type=\"regular\",connection_mode=\"http\",model=\"m\"} 2",
            "smg_discovery_workers_discovered{source=\"static\"} 2",
            "smg_config_info{sha256=\"ab\"} 1",
            "smg_config_snapshots_alive 1",
            "smg_config_oldest_snapshot_age_seconds 4",
            "smg_snapshot_id 7",
        ] {
            assert!(has(&text, line), "no `{line}` in\n{text}");
        }
        let mut series: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' ').map(|(series, _)| series))
            .collect();
        let all = series.len();
        series.sort_unstable();
        series.dedup();
        assert_eq!(series.len(), all);
    }

    #[test]
    fn routing_keys_are_told_where_they_are_remembered() {
        let cells = Cells::default();
        let text = TWO_POOLS.to_owned() + "policy = 'manual'\n";
        let manual = live(&cells, &text, &learned());
        let (manual, round_robin) = (
            render(&manual, clock::now()),
            render(&live(&cells, TWO_POOLS, &learned()), clock::now()),
        );
        let id = WorkerKey::new("http://h:1").id();
        for line in [
            "smg_manual_policy_cache_entries{model=\"m\"} 0",
            &format!(
                "smg_worker_routing_keys_active{{worker=\"http://h:1\",worker_id=\"{id}\"}} 0"
            ),
        ] {
            assert!(has(&manual, line), "no `{line}` in\n{manual}");
            assert!(!has(&round_robin, line), "{round_robin}");
        }
    }

    #[test]
    fn a_pool_that_has_lost_its_workers_shows_zero() {
        let cells = Cells::default();
        let live = live(&cells, TWO_POOLS, &learned());
        let snapshot = live.load();
        for worker in snapshot.workers() {
            let health = &worker.plan.health;
            while worker.parts.health.state() == HealthState::Ready {
                worker.parts.health.record(false, health);
            }
        }
        let text = render(&live, clock::now());
        let line =
            "smg_worker_pool_size{worker_type=\"regular\",connection_mode=\"http\",model=\"m\"} 0";
        assert!(has(&text, line), "{text}");
    }

    #[test]
    fn without_workers_there_is_still_a_zero_to_alert_on() {
        let cells = Cells::default();
        let live = live(&cells, "version = 1\n", &Facts::default());
        let text = render(&live, clock::now());
        let line = "smg_worker_pool_size{worker_type=\"regular\",connection_mode=\"http\",\
                    model=\"unknown\"} 0";
        assert!(has(&text, line), "{text}");
        assert!(
            has(
                &text,
                "smg_discovery_workers_discovered{source=\"static\"} 0"
            ),
            "{text}"
        );
    }
}
