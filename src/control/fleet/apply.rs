//! What a change makes of the fleet: judged against the configuration and the fleet as it is.

use std::sync::Arc;

use crate::config::spec::{Pool, Spec};
use crate::live::{Addition, Change, ChangeError, JobKind};
use crate::plan::{Added, Fleet, Member, Override, Role, WorkerKey};

/// A fleet and the configuration beneath it.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) spec: &'a Spec,
    pub(super) fleet: &'a Fleet,
}

/// A change that can be made.
#[derive(Debug)]
pub(super) struct Applied {
    /// The fleet from now on.
    pub(super) fleet: Fleet,
    /// What is to be followed; `None` where nothing is left to do.
    pub(super) work: Option<Work>,
}

/// What a job is to do.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) kind: JobKind,
    pub(super) worker: WorkerKey,
    /// The pool that was named.
    pub(super) pool: Option<Arc<str>>,
    pub(super) members: Vec<Member>,
    /// Attempts to reach the worker, where they are counted.
    pub(super) attempts: Option<u32>,
    /// Whether a worker without requests may go at once.
    pub(super) hasty: bool,
}

impl Ground<'_> {
    /// What `change` makes of the fleet.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(super) fn apply(&self, change: &Change) -> Result<Applied, ChangeError> {
        match change {
            Change::Add(addition) => self.add(addition),
            Change::Replace(addition) => self.replace(addition),
            Change::Update { worker, pool, with } => self.update(worker, pool.as_ref(), with),
            Change::Remove { worker, pool } => self.remove(worker, pool.as_ref()),
        }
    }

    /// The fleet in which the pool `name` gets no new requests, or gets them again.
    ///
    /// # Errors
    /// [`ChangeError::UnknownPool`].
    pub(super) fn drain_pool(&self, name: &str, drain: bool) -> Result<Fleet, ChangeError> {
        let pool = self.pool(name)?;
        let mut fleet = self.fleet.clone();
        // The file says it already: nothing differs from it then.
        if pool.drain == drain {
            fleet.drains.remove(name);
        } else {
            fleet.drains.insert(name.into(), drain);
        }
        Ok(fleet)
    }

    /// The fleet without workers that were on their way out.
    pub(super) fn without<'m>(&self, members: impl IntoIterator<Item = &'m Member>) -> Fleet {
        let mut fleet = self.fleet.clone();
        for member in members {
            fleet.leaving.remove(member);
            fleet.added.remove(member);
            fleet.overrides.remove(member);
            if self.declares(member) {
                fleet.tombstones.insert(member.clone());
            }
        }
        fleet
    }

    /// Whether the configuration has this worker, whatever has become of it since.
    pub(super) fn declares(&self, member: &Member) -> bool {
        declared(self.spec, member).next().is_some()
    }

    fn add(&self, addition: &Addition) -> Result<Applied, ChangeError> {
        let member = &addition.member;
        let pool = self.pool(&member.pool)?;
        let mut fleet = self.fleet.clone();
        let leaving = fleet.leaving.remove(member);
        if self.declares(member) {
            // The file has it: it comes back as the file has it.
            if !fleet.tombstones.remove(member) && !leaving {
                return Err(ChangeError::Exists);
            }
            fleet.overrides.remove(member);
            return Ok(joins(fleet, addition));
        }
        takes(pool, &addition.added)?;
        let stands = fleet.added.get(member);
        if !leaving && stands.is_some_and(|known| fits(pool, known.role)) {
            return Err(ChangeError::Exists);
        }
        fleet.overrides.remove(member);
        fleet.added.insert(member.clone(), addition.added.clone());
        Ok(joins(fleet, addition))
    }

    fn replace(&self, addition: &Addition) -> Result<Applied, ChangeError> {
        let member = &addition.member;
        let pool = self.pool(&member.pool)?;
        if self.declares(member) {
            let message = "the configuration declares this worker: it can be changed in part, not \
                           declared anew";
            return Err(ChangeError::Unfit(message.to_owned()));
        }
        if !self.fleet.added.contains_key(member) {
            return Err(ChangeError::UnknownWorker);
        }
        takes(pool, &addition.added)?;
        let mut fleet = self.fleet.clone();
        fleet.leaving.remove(member);
        fleet.overrides.remove(member);
        fleet.added.insert(member.clone(), addition.added.clone());
        Ok(joins(fleet, addition))
    }

    fn update(
        &self,
        worker: &WorkerKey,
        pool: Option<&Arc<str>>,
        with: &Override,
    ) -> Result<Applied, ChangeError> {
        let members = self.members(worker, pool)?;
        let mut fleet = self.fleet.clone();
        for member in &members {
            let earlier = fleet.overrides.entry(member.clone()).or_default();
            *earlier = over(with, earlier);
            if *earlier == Override::default() {
                fleet.overrides.remove(member);
            }
        }
        let work = Work {
            kind: JobKind::UpdateWorker,
            worker: worker.base(),
            pool: pool.cloned(),
            members,
            attempts: None,
            hasty: false,
        };
        Ok(Applied {
            fleet,
            work: Some(work),
        })
    }

    fn remove(&self, worker: &WorkerKey, pool: Option<&Arc<str>>) -> Result<Applied, ChangeError> {
        let mut members = self.members(worker, pool)?;
        members.retain(|member| !self.fleet.leaving.contains(member));
        let mut fleet = self.fleet.clone();
        fleet.leaving.extend(members.iter().cloned());
        let work = (!members.is_empty()).then(|| Work {
            kind: JobKind::RemoveWorker,
            worker: worker.base(),
            pool: pool.cloned(),
            members,
            attempts: None,
            hasty: false,
        });
        Ok(Applied { fleet, work })
    }

    /// The memberships of `worker`, in `pool` or everywhere. One that was added and waits for its
    /// pool to have a place for it is one, too.
    fn members(
        &self,
        worker: &WorkerKey,
        pool: Option<&Arc<str>>,
    ) -> Result<Vec<Member>, ChangeError> {
        if let Some(name) = pool {
            self.pool(name)?;
        }
        let worker = worker.base();
        let pools = self.spec.pools.iter().map(|pool| Arc::from(&*pool.name));
        let declared = pools
            .map(|pool| Member {
                pool,
                worker: worker.clone(),
            })
            .filter(|member| self.declares(member) && !self.fleet.tombstones.contains(member));
        let added = self.fleet.added.keys().cloned();
        let mut members: Vec<Member> = declared
            .chain(added.filter(|member| member.worker == worker && !self.declares(member)))
            .filter(|member| pool.is_none_or(|pool| *pool == member.pool))
            .collect();
        members.sort();
        if members.is_empty() {
            return Err(ChangeError::UnknownWorker);
        }
        Ok(members)
    }

    fn pool(&self, name: &str) -> Result<&Pool, ChangeError> {
        let mut pools = self.spec.pools.iter();
        pools
            .find(|pool| pool.name == name)
            .ok_or_else(|| ChangeError::UnknownPool(name.to_owned()))
    }
}

/// The entries of the configuration for `member`: one, or two where it stands in both legs.
pub(super) fn declared<'a>(
    spec: &'a Spec,
    member: &'a Member,
) -> impl Iterator<Item = &'a crate::config::spec::Worker> {
    let pools = spec.pools.iter().filter(|pool| *pool.name == *member.pool);
    pools
        .flat_map(Pool::members)
        .filter(|worker| WorkerKey::new(worker.url.as_str()) == member.worker)
}

/// Whether a worker of `role` has a place in `pool`.
pub(super) fn fits(pool: &Pool, role: Role) -> bool {
    (role == Role::Regular) != pool.has_legs()
}

fn takes(pool: &Pool, added: &Added) -> Result<(), ChangeError> {
    if !pool.dynamic {
        return Err(ChangeError::NotDynamic(pool.name.clone()));
    }
    if fits(pool, added.role) {
        return Ok(());
    }
    let has = if pool.has_legs() {
        "prefill and decode workers"
    } else {
        "regular workers"
    };
    let (name, role) = (&pool.name, added.role.as_str());
    Err(ChangeError::Unfit(format!(
        "pool `{name}` has {has}, and this one is `{role}`"
    )))
}

fn joins(fleet: Fleet, addition: &Addition) -> Applied {
    let Addition {
        member, attempts, ..
    } = addition;
    let work = Work {
        kind: JobKind::AddWorker,
        worker: member.worker.clone(),
        pool: Some(Arc::clone(&member.pool)),
        members: vec![member.clone()],
        attempts: *attempts,
        hasty: false,
    };
    Applied {
        fleet,
        work: Some(work),
    }
}

/// `with` laid over what was changed before.
fn over(with: &Override, earlier: &Override) -> Override {
    let mut labels = earlier.labels.clone();
    labels.extend(with.labels.clone());
    Override {
        priority: with.priority.or(earlier.priority),
        cost: with.cost.or(earlier.cost),
        labels,
        api_key: with.api_key.clone().or_else(|| earlier.api_key.clone()),
        health: with.health.or(&earlier.health),
        circuit_breaker: with.circuit_breaker.or(&earlier.circuit_breaker),
        drain: with.drain.or(earlier.drain),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::spec::{HealthOverride, Worker};
    use crate::plan::Source;

    const FILE: &str = "version = 1\n\
        [[pools]]\nname = 'a'\nworkers = ['http://f:1']\n\
        [[pools]]\nname = 'b'\nworkers = ['http://f:1']\n\
        [[pools]]\nname = 'shut'\ndynamic = false\nworkers = ['http://s:1']\n\
        [[pools]]\nname = 'pd'\nprefill.workers = []\ndecode.workers = []\n";

    fn spec() -> Spec {
        toml::from_str(FILE).unwrap()
    }

    fn member(pool: &str, url: &str) -> Member {
        Member {
            pool: pool.into(),
            worker: WorkerKey::new(url),
        }
    }

    fn addition(pool: &str, url: &str, role: Role) -> Addition {
        Addition {
            member: member(pool, url),
            added: Added {
                source: Source::Api,
                role,
                worker: Worker::from(url.parse::<crate::config::spec::WorkerUrl>().unwrap()),
                models: Vec::new(),
                runtime: None,
                health: HealthOverride::default(),
                circuit_breaker: Default::default(),
            },
            attempts: None,
        }
    }

    fn add(pool: &str, url: &str) -> Change {
        Change::Add(Box::new(addition(pool, url, Role::Regular)))
    }

    fn remove(pool: Option<&str>, url: &str) -> Change {
        Change::Remove {
            worker: WorkerKey::new(url),
            pool: pool.map(Arc::from),
        }
    }

    fn update(url: &str, with: Override) -> Change {
        Change::Update {
            worker: WorkerKey::new(url),
            pool: None,
            with: Box::new(with),
        }
    }

    fn apply(fleet: &Fleet, change: &Change) -> Result<Applied, ChangeError> {
        let spec = spec();
        Ground { spec: &spec, fleet }.apply(change)
    }

    #[test]
    fn who_may_join_and_who_may_not() {
        let fleet = Fleet::default();
        let joined = apply(&fleet, &add("a", "http://n:1")).unwrap();
        assert!(joined.fleet.added.contains_key(&member("a", "http://n:1")));
        assert_eq!(joined.work.unwrap().kind, JobKind::AddWorker);
        let refused = |change: &Change| apply(&joined.fleet, change).unwrap_err();
        assert_eq!(refused(&add("a", "http://n:1")), ChangeError::Exists);
        assert_eq!(refused(&add("a", "http://f:1")), ChangeError::Exists);
        assert_eq!(
            refused(&add("x", "http://n:1")),
            ChangeError::UnknownPool("x".to_owned())
        );
        assert_eq!(
            refused(&add("shut", "http://n:1")),
            ChangeError::NotDynamic("shut".to_owned())
        );
        assert!(matches!(
            refused(&add("pd", "http://n:1")),
            ChangeError::Unfit(_)
        ));
        let prefill = Change::Add(Box::new(addition("a", "http://p:1", Role::Prefill)));
        assert!(matches!(refused(&prefill), ChangeError::Unfit(_)));
        assert!(apply(&joined.fleet, &add("b", "http://n:1")).is_ok());
    }

    #[test]
    fn a_worker_of_the_file_comes_back_as_the_file_has_it() {
        let spec = spec();
        let mut fleet = Fleet::default();
        let gone = member("shut", "http://s:1");
        fleet.overrides.insert(gone.clone(), Override::default());
        fleet.leaving.insert(gone.clone());
        let out = Ground {
            spec: &spec,
            fleet: &fleet,
        }
        .without([&gone]);
        assert!(out.tombstones.contains(&gone) && out.overrides.is_empty());
        assert!(out.leaving.is_empty());
        let unknown = apply(&out, &remove(None, "http://s:1")).unwrap_err();
        assert_eq!(unknown, ChangeError::UnknownWorker);
        // The pool takes none but those of the file, and this is one.
        let back = apply(&out, &add("shut", "http://s:1")).unwrap();
        assert_eq!(back.fleet, Fleet::default());
    }

    #[test]
    fn a_url_in_two_pools_is_changed_and_removed_in_both_unless_one_is_named() {
        let changed = update(
            "http://f:1",
            Override {
                drain: Some(true),
                ..Override::default()
            },
        );
        let fleet = apply(&Fleet::default(), &changed).unwrap().fleet;
        assert_eq!(fleet.overrides.len(), 2);
        let one = apply(&fleet, &remove(Some("a"), "http://f:1")).unwrap();
        assert_eq!(one.fleet.leaving.len(), 1);
        let both = apply(&one.fleet, &remove(None, "http://f:1")).unwrap();
        assert_eq!(both.fleet.leaving.len(), 2);
        assert_eq!(both.work.unwrap().members, [member("b", "http://f:1")]);
        let again = apply(&both.fleet, &remove(None, "http://f:1")).unwrap();
        assert!(again.work.is_none());
    }

    #[test]
    fn what_is_changed_is_laid_over_what_was_changed_before() {
        let label =
            |value: Option<&str>| BTreeMap::from([("l".to_owned(), value.map(str::to_owned))]);
        let first = Override {
            priority: Some(1),
            labels: label(Some("x")),
            ..Override::default()
        };
        let then = Override {
            drain: Some(true),
            labels: label(None),
            ..Override::default()
        };
        let fleet = apply(&Fleet::default(), &update("http://s:1", first))
            .unwrap()
            .fleet;
        let fleet = apply(&fleet, &update("http://s:1", then)).unwrap().fleet;
        let now = &fleet.overrides[&member("shut", "http://s:1")];
        assert_eq!((now.priority, now.drain), (Some(1), Some(true)));
        assert_eq!(now.labels, label(None));
    }

    #[test]
    fn a_replacement_keeps_nothing_of_what_was_changed() {
        let fleet = apply(&Fleet::default(), &add("a", "http://n:1"))
            .unwrap()
            .fleet;
        let drain = Override {
            drain: Some(true),
            ..Override::default()
        };
        let fleet = apply(&fleet, &update("http://n:1", drain)).unwrap().fleet;
        assert_eq!(fleet.overrides.len(), 1);
        let mut anew = addition("a", "http://n:1", Role::Regular);
        anew.added.worker.priority = 7;
        let fleet = apply(&fleet, &Change::Replace(Box::new(anew)))
            .unwrap()
            .fleet;
        assert!(fleet.overrides.is_empty());
        assert_eq!(fleet.added[&member("a", "http://n:1")].worker.priority, 7);
        let unknown = addition("a", "http://other:1", Role::Regular);
        assert_eq!(
            apply(&fleet, &Change::Replace(Box::new(unknown))).unwrap_err(),
            ChangeError::UnknownWorker
        );
        let files = addition("a", "http://f:1", Role::Regular);
        assert!(matches!(
            apply(&fleet, &Change::Replace(Box::new(files))).unwrap_err(),
            ChangeError::Unfit(_)
        ));
    }

    #[test]
    fn a_drain_that_the_file_wants_too_is_no_difference() {
        let (spec, fleet) = (spec(), Fleet::default());
        let ground = Ground {
            spec: &spec,
            fleet: &fleet,
        };
        let fleet = ground.drain_pool("a", true).unwrap();
        assert_eq!(fleet.drains.get("a"), Some(&true));
        let ground = Ground {
            spec: &spec,
            fleet: &fleet,
        };
        assert!(ground.drain_pool("a", false).unwrap().drains.is_empty());
        assert!(ground.drain_pool("x", true).is_err());
    }
}
