//! Routes from the declarations and what workers advertise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;

use super::admission::{DEFAULT_CLASS, Gate};
use super::destination::{Destination, DestinationIx, Fallback, Mirror, Share};
use super::facts::Facts;
use super::pool::{Pool, PoolIx};
use super::ring::Ring;
use super::route::{
    Glob, Leg, Legs, Listed, Named, Route, RouteIx, Routes, Sole, is_glob, matches,
};
use super::table::{Aim, aims, index, led, pool_named, retry, timeouts};
use super::worker::{Role, Worker, WorkerIx};
use crate::config::spec::{self, Policy, PolicyName, Spec, Undeclared};

/// Label of names that are the client's own.
const UNKNOWN: &str = "unknown";

pub(super) fn routes(spec: &Spec, facts: &Facts, pools: &[Pool], workers: &[Worker]) -> Routes {
    let mut builder = Builder {
        spec,
        pools,
        workers,
        rings: AHashMap::new(),
        entries: Vec::new(),
        routes: Routes::default(),
    };
    builder.declared();
    builder.globs();
    builder.fallbacks();
    if spec.routing.undeclared_models == Undeclared::Discover {
        builder.discovered(facts);
    }
    builder.sole();
    builder.routes.listed.sort();
    builder.routes
}

/// Collects routes while names are claimed in the order of authority: declared names, aliases,
/// advertised names under a glob, advertised names that nobody declared, workers that take any.
struct Builder<'a> {
    spec: &'a Spec,
    pools: &'a [Pool],
    workers: &'a [Worker],
    /// One for each set of pools and leg, whichever models look at it.
    rings: AHashMap<(Vec<PoolIx>, Role), Arc<Ring>>,
    /// The declaration of each destination that has one.
    entries: Vec<(DestinationIx, &'a spec::Model)>,
    routes: Routes,
}

/// A model entry as its routes are made: a declared one or what workers advertise.
struct Entry<'e> {
    /// The name or glob as declared, the advertised name, or `*`.
    name: Arc<str>,
    /// Name that metrics carry.
    label: Arc<str>,
    declared: Option<&'e spec::Model>,
}

/// Workers that make one route.
struct Group {
    pool: PoolIx,
    pair: bool,
    workers: Vec<WorkerIx>,
    /// Workers that count for its weight: none unless every leg has one.
    count: usize,
}

impl<'a> Builder<'a> {
    fn declared(&mut self) {
        let models = &self.spec.models;
        for model in models.iter().filter(|model| !is_glob(&model.name)) {
            let name: Arc<str> = model.name.as_str().into();
            if let Some(destination) = self.declare(model, Some(&name)) {
                self.claim(&name, &name, destination);
            }
        }
        for model in models {
            let canonical: Arc<str> = model.name.as_str().into();
            let Some(named) = self.routes.names.get(&canonical).cloned() else {
                continue;
            };
            for alias in &model.aliases {
                self.claim(&alias.as_str().into(), &canonical, named.destination);
            }
        }
    }

    fn globs(&mut self) {
        let models = self.spec.models.iter();
        let mut globs: Vec<_> = models.filter(|model| is_glob(&model.name)).collect();
        globs.sort_by_key(|model| std::cmp::Reverse(model.name.chars().count()));
        for model in globs {
            let pools: BTreeSet<PoolIx> = aims(self.spec, model)
                .iter()
                .filter(|aim| aim.model.is_none())
                .map(|aim| aim.pool)
                .collect();
            for name in self.advertised(&pools) {
                if !matches(&model.name, &name) || self.is_covered(&name) {
                    continue;
                }
                if let Some(destination) = self.declare(model, Some(&name)) {
                    self.claim(&name, &name, destination);
                }
            }
            if let Some(destination) = self.declare(model, None) {
                let pattern = model.name.as_str().into();
                self.routes.globs.push(Glob {
                    pattern,
                    destination,
                });
            }
        }
    }

    /// Whether a declaration of more authority than those still to come takes `name`.
    fn is_covered(&self, name: &str) -> bool {
        let globs = &self.routes.globs;
        self.routes.names.contains_key(name)
            || globs.iter().any(|glob| matches(&glob.pattern, name))
    }

    /// Names that registered workers of `pools` say they serve.
    fn advertised(&self, pools: &BTreeSet<PoolIx>) -> BTreeSet<Arc<str>> {
        self.workers
            .iter()
            .filter(|worker| pools.contains(&worker.pool))
            .flat_map(|worker| worker.models.iter().cloned())
            .collect()
    }

    /// A destination for `model` under `name`; without a name for the names under a glob that
    /// nobody advertises. None where the declaration leads nowhere, which the checks refuse.
    fn declare(
        &mut self,
        model: &'a spec::Model,
        name: Option<&Arc<str>>,
    ) -> Option<DestinationIx> {
        let entry = Entry {
            name: model.name.as_str().into(),
            label: name.cloned().unwrap_or_else(|| UNKNOWN.into()),
            declared: Some(model),
        };
        let plain = name.map(|name| &**name);
        let mut shares = Vec::new();
        for aim in aims(self.spec, model) {
            let groups = self.groups_in(aim.pool, aim.model.or(plain));
            self.share(&entry, &aim, groups, &mut shares);
        }
        let mirror = self.mirror(&entry, model, name);
        let destination = self.push(&entry, shares, mirror)?;
        self.entries.push((destination, model));
        Some(destination)
    }

    /// The route of the copies. They are only for pools that need one worker for a request.
    fn mirror(
        &mut self,
        entry: &Entry<'_>,
        model: &spec::Model,
        name: Option<&Arc<str>>,
    ) -> Option<Mirror> {
        let declared = model.mirror.as_ref()?;
        let pool = pool_named(self.spec, &declared.pool)?;
        let groups = self.groups_in(pool, name.map(|name| &**name));
        let group = groups.into_iter().find(|group| !group.pair)?;
        if declared.fraction <= 0.0 {
            return None;
        }
        let route = self.route(entry, &entry.label, &group)?;
        self.routes.all.get_mut(route.0 as usize)?.copies = true;
        Some(Mirror {
            route,
            fraction: declared.fraction,
        })
    }

    /// The workers of `pool` that serve `model`, or, without one, any model. A pool without any
    /// still makes one group.
    fn groups_in(&self, pool: PoolIx, model: Option<&str>) -> Vec<Group> {
        let Some(declared) = self.pools.get(pool.0 as usize) else {
            return Vec::new();
        };
        let members = declared.workers.iter().copied();
        let serving: Vec<WorkerIx> = members.filter(|ix| self.serves(*ix, model)).collect();
        let of = |pair: bool| {
            let workers = serving.iter().copied();
            let workers = workers.filter(|ix| (self.role(*ix) != Some(Role::Regular)) == pair);
            self.group(pool, pair, workers.collect())
        };
        match declared.pair {
            Some(_) => vec![of(true), of(false)],
            None => vec![of(false)],
        }
    }

    fn group(&self, pool: PoolIx, pair: bool, workers: Vec<WorkerIx>) -> Group {
        let of = |role| {
            let roles = workers.iter().map(|ix| self.role(*ix));
            roles.filter(|found| *found == Some(role)).count()
        };
        let count = match (pair, of(Role::Prefill), of(Role::Decode)) {
            (false, ..) => of(Role::Regular),
            (true, 0, _) | (true, _, 0) => 0,
            (true, prefill, decode) => prefill + decode,
        };
        Group {
            pool,
            pair,
            workers,
            count,
        }
    }

    fn role(&self, ix: WorkerIx) -> Option<Role> {
        Some(self.workers.get(ix.0 as usize)?.role)
    }

    /// A worker that names no model serves every model declared for its pool.
    fn serves(&self, ix: WorkerIx, model: Option<&str>) -> bool {
        self.workers.get(ix.0 as usize).is_some_and(|worker| {
            worker.models.is_empty()
                || model.is_some_and(|model| worker.models.iter().any(|name| **name == *model))
        })
    }

    fn discovered(&mut self, facts: &Facts) {
        let led = led(self.spec);
        let mut found: BTreeMap<Arc<str>, Vec<WorkerIx>> = BTreeMap::new();
        let mut any = Vec::new();
        for (position, worker) in self.workers.iter().enumerate() {
            let ix = WorkerIx(index(position));
            for name in &worker.models {
                found.entry(Arc::clone(name)).or_default().push(ix);
            }
            let declared = led.contains(&worker.pool);
            if worker.models.is_empty()
                && !declared
                && facts.workers.contains_key(&worker.key.base())
            {
                any.push(ix);
            }
        }
        for (name, candidates) in found {
            if self.is_covered(&name) {
                continue;
            }
            let entry = Entry {
                label: Arc::clone(&name),
                name,
                declared: None,
            };
            if let Some(destination) = self.open(&entry, candidates) {
                self.claim(&entry.name, &entry.name, destination);
            }
        }
        let entry = Entry {
            name: "*".into(),
            label: UNKNOWN.into(),
            declared: None,
        };
        self.routes.any = self.open(&entry, any);
    }

    /// A destination for what workers advertise: one route for all that need no other beside them,
    /// with the settings of the first one's pool, and one for each pool with legs.
    fn open(&mut self, entry: &Entry<'_>, candidates: Vec<WorkerIx>) -> Option<DestinationIx> {
        let mut regular = Vec::new();
        let mut legs: BTreeMap<PoolIx, Vec<WorkerIx>> = BTreeMap::new();
        for ix in candidates {
            let worker = self.workers.get(ix.0 as usize)?;
            if worker.role == Role::Regular {
                regular.push(ix);
            } else if self.pools.get(worker.pool.0 as usize)?.pair.is_some() {
                legs.entry(worker.pool).or_default().push(ix);
            }
        }
        // A URL that stands in two pools is taken once, in the first in which it does not drain.
        let worker = |ix: &WorkerIx| self.workers.get(ix.0 as usize);
        let key = |ix: &WorkerIx| worker(ix).map(|worker| &worker.key);
        let first = regular.first().copied();
        regular.sort_by_key(|ix| (key(ix), worker(ix).map(|worker| worker.draining)));
        regular.dedup_by_key(|ix| key(ix));
        let first = first.and_then(|ix| self.workers.get(ix.0 as usize));
        let mut groups: Vec<Group> = first
            .map(|worker| self.group(worker.pool, false, regular))
            .into_iter()
            .collect();
        for (pool, workers) in legs {
            groups.push(self.group(pool, true, workers));
        }
        let aim = Aim {
            pool: groups.first()?.pool,
            weight: 1.0,
            model: None,
        };
        let mut shares = Vec::new();
        self.share(entry, &aim, groups, &mut shares);
        self.push(entry, shares, None)
    }

    /// Makes a route of each group that can serve at all, of the first if none can; by number of
    /// workers they divide the weight of `aim`.
    fn share(
        &mut self,
        entry: &Entry<'_>,
        aim: &Aim<'_>,
        mut groups: Vec<Group>,
        to: &mut Vec<Share>,
    ) {
        let total: usize = groups.iter().map(|group| group.count).sum();
        if total == 0 {
            groups.truncate(1);
        } else {
            groups.retain(|group| group.count > 0);
        }
        let model: Option<Arc<str>> = aim.model.map(Into::into);
        for group in groups {
            let weight = match total {
                0 => aim.weight,
                total => aim.weight * group.count as f64 / total as f64,
            };
            let pool = self.pools.get(group.pool.0 as usize);
            let pool = pool.map(|pool| &*pool.name).unwrap_or_default();
            let place = format!("{pool}\0{}", u8::from(group.pair));
            let label = model.as_ref().unwrap_or(&entry.label);
            if let Some(route) = self.route(entry, label, &group) {
                to.push(Share::new(
                    &entry.name,
                    &place,
                    route,
                    model.clone(),
                    weight,
                ));
            }
        }
    }

    fn push(
        &mut self,
        entry: &Entry<'_>,
        shares: Vec<Share>,
        mirror: Option<Mirror>,
    ) -> Option<DestinationIx> {
        if shares.is_empty() {
            return None;
        }
        let ix = DestinationIx(index(self.routes.destinations.len()));
        self.routes.destinations.push(Destination {
            label: Arc::clone(&entry.label),
            shares,
            fallback: Vec::new(),
            mirror,
            entry: Arc::clone(&entry.name),
            class: entry
                .declared
                .and_then(|model| model.class.as_deref())
                .unwrap_or(DEFAULT_CLASS)
                .into(),
            gate: entry
                .declared
                .and_then(|model| model.admission.as_ref())
                .map(Gate::of)
                .filter(|gate| !gate.is_open()),
        });
        Some(ix)
    }

    fn route(&mut self, entry: &Entry<'_>, label: &Arc<str>, group: &Group) -> Option<RouteIx> {
        let spec = self.spec;
        let pool = group.pool;
        let declared = spec.pools.get(pool.0 as usize)?;
        let own = entry.declared;
        let route = Route {
            label: Arc::clone(label),
            entry: Arc::clone(&entry.name),
            pool,
            legs: self.legs(group, declared, own.and_then(|model| model.policy.as_ref())),
            retry: retry(spec, declared, own.map(|model| &model.reliability.retry)),
            timeouts: timeouts(spec, declared, own.map(|model| &model.reliability.timeouts)),
            copies: false,
        };
        let ix = RouteIx(index(self.routes.all.len()));
        self.routes.all.push(route);
        Some(ix)
    }

    fn legs(&mut self, group: &Group, declared: &spec::Pool, own: Option<&Policy>) -> Legs {
        let mut pools: Vec<PoolIx> = vec![group.pool];
        let workers = group.workers.iter();
        pools.extend(workers.filter_map(|ix| Some(self.workers.get(ix.0 as usize)?.pool)));
        pools.sort_unstable();
        pools.dedup();
        let mut leg = |role: Role, declared: Option<&spec::Leg>| {
            let workers = group.workers.iter().copied();
            let candidates: Vec<WorkerIx> =
                workers.filter(|ix| self.role(*ix) == Some(role)).collect();
            let policy = own
                .or_else(|| declared.and_then(|leg| leg.policy.as_ref()))
                .cloned()
                .or_else(|| self.labelled(role, *candidates.first()?))
                .unwrap_or_else(|| self.spec.routing.policy.clone());
            Leg {
                role,
                ring: self.ring(&pools, role, &policy),
                candidates,
                sticky: self.spec.routing.sticky_sessions,
                policy,
            }
        };
        if group.pair {
            Legs::Pair {
                prefill: leg(Role::Prefill, declared.prefill.as_ref()),
                decode: leg(Role::Decode, declared.decode.as_ref()),
            }
        } else {
            Legs::One(leg(Role::Regular, None))
        }
    }

    /// The policy that the label of a leg's first worker asks for, with the options that the
    /// configuration has for it. A word that names none, or none for this leg, asks for nothing.
    fn labelled(&self, role: Role, first: WorkerIx) -> Option<Policy> {
        let name = self.workers.get(first.0 as usize)?.policy()?;
        if role == Role::Decode && name == PolicyName::Bucket {
            return None;
        }
        let configured = &self.spec.routing.policy;
        Some(if configured.name() == name {
            configured.clone()
        } else {
            Policy::named(name)
        })
    }

    /// The ring of the workers that do `role` in `pools`, where `policy` looks at one.
    fn ring(&mut self, pools: &[PoolIx], role: Role, policy: &Policy) -> Option<Arc<Ring>> {
        if !matches!(policy, Policy::ConsistentHashing | Policy::PrefixHash(_)) {
            return None;
        }
        let key = (pools.to_vec(), role);
        if let Some(ring) = self.rings.get(&key) {
            return Some(Arc::clone(ring));
        }
        let pools = pools.iter().filter_map(|ix| self.pools.get(ix.0 as usize));
        let members = pools
            .flat_map(|pool| &pool.workers)
            .filter_map(|ix| Some((*ix, self.workers.get(ix.0 as usize)?)))
            .filter(|(_, worker)| worker.role == role)
            .map(|(ix, worker)| (ix, &worker.key));
        let ring = Arc::new(Ring::new(members));
        self.rings.insert(key, Arc::clone(&ring));
        Some(ring)
    }

    fn claim(&mut self, name: &Arc<str>, canonical: &Arc<str>, destination: DestinationIx) {
        let routes = &self.routes;
        let max_model_len = routes.destination(destination).and_then(|found| {
            routes
                .of(found)
                .flat_map(|route| route.legs.candidates())
                .find_map(|ix| self.workers.get(ix.0 as usize)?.max_model_len)
        });
        self.routes.names.insert(
            Arc::clone(name),
            Named {
                canonical: Arc::clone(canonical),
                destination,
            },
        );
        self.routes.listed.push(Listed {
            id: Arc::clone(name),
            root: Arc::clone(canonical),
            max_model_len,
        });
    }

    /// Follows the fallbacks of each declared model to their own, depth first, so that a request
    /// walks along one list. A name that came before is not followed again, hence no circle.
    fn fallbacks(&mut self) {
        let models = self.spec.models.iter();
        let known: AHashMap<&str, &spec::Model> = models
            .filter(|model| !is_glob(&model.name))
            .flat_map(|model| {
                let names = std::iter::once(&model.name).chain(&model.aliases);
                names.map(move |name| (name.as_str(), model))
            })
            .collect();
        for (ix, model) in std::mem::take(&mut self.entries) {
            let mut seen = BTreeSet::from([model.name.as_str()]);
            let mut next: Vec<&String> = model.fallback.iter().rev().collect();
            let mut chain = Vec::new();
            while let Some(name) = next.pop() {
                let Some(other) = known.get(name.as_str()) else {
                    continue;
                };
                if !seen.insert(&other.name) {
                    continue;
                }
                if let Some(named) = self.routes.names.get(other.name.as_str()) {
                    chain.push(Fallback {
                        model: Arc::clone(&named.canonical),
                        destination: named.destination,
                    });
                }
                next.extend(other.fallback.iter().rev());
            }
            if let Some(destination) = self.routes.destinations.get_mut(ix.0 as usize) {
                destination.fallback = chain;
            }
        }
    }

    /// A request without a model is served while there is exactly one it can mean. Workers that
    /// take any name count as one model; so does a glob that no advertised name has filled.
    fn sole(&mut self) {
        let routes = &self.routes;
        let named = routes.names.values().map(|named| named.destination);
        let mut served: BTreeSet<DestinationIx> = named.chain(routes.any).collect();
        let globs = routes.globs.iter().map(|glob| glob.destination);
        served.extend(globs.filter(|ix| {
            let found = routes.destination(*ix);
            found.is_some_and(|found| {
                let mut routes = routes.of(found);
                routes.any(|route| route.legs.candidates().next().is_some())
            })
        }));
        if served.len() > 1 {
            return;
        }
        self.routes.sole = served.pop_first().map(|destination| {
            let mut names = routes.names.values();
            let named = names.find(|named| named.destination == destination);
            Sole {
                canonical: named.map(|named| Arc::clone(&named.canonical)),
                destination,
            }
        });
    }
}
