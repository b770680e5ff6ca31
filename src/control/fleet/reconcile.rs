//! What a new configuration ends of what operators have changed beside the old one.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::apply::{Ground, fits};
use crate::config::spec::{Leg, Pool, Spec, Worker};
use crate::plan::{Fleet, Member, Role, WorkerKey};

/// Something that was changed and does not hold, or cannot, under the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct Ended {
    /// What.
    pub(super) what: What,
    /// In which pool.
    pub(super) pool: Arc<str>,
    /// Of which worker, where it is about one.
    pub(super) worker: Option<WorkerKey>,
}

/// What has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A worker was added that the configuration declares.
    Added,
    /// A worker of the configuration was out.
    Tombstone,
    /// A worker of the configuration was on its way out.
    Leaving,
    /// A worker was changed.
    Override,
    /// A pool had another `drain`.
    Drain,
    /// A worker that was added has no place in its pool, or the pool is gone. It waits.
    Place,
}

impl Ended {
    fn of(what: What, member: &Member) -> Self {
        Self {
            what,
            pool: Arc::clone(&member.pool),
            worker: Some(member.worker.clone()),
        }
    }

    fn of_pool(pool: &Arc<str>) -> Self {
        Self {
            what: What::Drain,
            pool: Arc::clone(pool),
            worker: None,
        }
    }

    /// Logs it.
    pub(in crate::control) fn log(&self) {
        let (worker, pool) = (
            self.worker.as_ref().map_or("", WorkerKey::as_str),
            &*self.pool,
        );
        match self.what {
            What::Added => tracing::info!(
                target: "smg::worker", worker, pool,
                "worker that was added is declared in the configuration now, which decides"
            ),
            What::Tombstone | What::Leaving => tracing::info!(
                target: "smg::worker", worker, pool,
                "worker that was taken out is back: its entry in the configuration has changed"
            ),
            What::Override => tracing::info!(
                target: "smg::worker", worker, pool,
                "changes of the worker have ended: its entry in the configuration has changed"
            ),
            What::Drain => tracing::info!(
                target: "smg::worker", pool,
                "`drain` of the pool is what the configuration says again, which has changed"
            ),
            What::Place => tracing::warn!(
                target: "smg::worker", worker, pool,
                "worker that was added waits: its pool is gone, or has no place for it"
            ),
        }
    }

    /// The membership, where it is about a worker that comes back or stays.
    pub(in crate::control) fn member(&self) -> Option<Member> {
        Some(Member {
            pool: Arc::clone(&self.pool),
            worker: self.worker.clone()?,
        })
    }
}

/// What of `fleet` holds once `new` takes the place of `old`, and what has ended.
pub(in crate::control) fn after_reload(
    old: &Spec,
    new: &Spec,
    fleet: &Fleet,
) -> (Fleet, Vec<Ended>) {
    let same = |member: &Member| entries(old, member).eq(entries(new, member));
    let same_drain = |pool: &str| {
        let before = drain_of(old, pool);
        before.is_some() && before == drain_of(new, pool)
    };
    let (kept, mut ended) = hold(fleet, new, same, same_drain);
    // It waited before: that was told then.
    ended.retain(|end| {
        let waited = || {
            end.member()
                .is_some_and(|member| waits(old, fleet, &member))
        };
        end.what != What::Place || !waited()
    });
    (kept, ended)
}

/// What of `fleet` holds under `spec`, where `same` says whether its entry for a worker is the one
/// that a change was made against, and `same_drain` whether a pool's `drain` is.
pub(super) fn hold(
    fleet: &Fleet,
    spec: &Spec,
    same: impl Fn(&Member) -> bool,
    same_drain: impl Fn(&str) -> bool,
) -> (Fleet, Vec<Ended>) {
    let mut kept = fleet.clone();
    let mut ended = Vec::new();
    let ground = Ground { spec, fleet };
    kept.added.retain(|member, _| {
        let declared = ground.declares(member);
        if declared {
            ended.push(Ended::of(What::Added, member));
        } else if waits(spec, fleet, member) {
            ended.push(Ended::of(What::Place, member));
        }
        !declared
    });
    let mut judge = |what: What, member: &Member| {
        let holds = same(member);
        // Of a worker that is gone nothing has come back.
        if !holds && ground.declares(member) {
            ended.push(Ended::of(what, member));
        }
        holds
    };
    kept.tombstones
        .retain(|member| judge(What::Tombstone, member));
    kept.leaving.retain(|member| judge(What::Leaving, member));
    kept.overrides
        .retain(|member, _| judge(What::Override, member));
    kept.drains.retain(|pool, _| {
        let holds = same_drain(pool);
        if !holds {
            ended.push(Ended::of_pool(pool));
        }
        holds
    });
    (kept, ended)
}

/// The value of a pool's `drain` in the configuration; `None` without such a pool.
pub(super) fn drain_of(spec: &Spec, name: &str) -> Option<bool> {
    let pool = spec.pools.iter().find(|pool| pool.name == name)?;
    Some(pool.drain)
}

/// A text that differs where the configuration's entry for `member` does, the value of its key
/// included; `None` without an entry.
pub(super) fn fingerprint(spec: &Spec, member: &Member) -> Option<String> {
    let mut hash = Sha256::new();
    let mut any = false;
    for (role, worker) in entries(spec, member) {
        any = true;
        hash.update(role.as_str());
        hash.update([0]);
        // It always can be written: it was read from text.
        hash.update(serde_json::to_vec(worker).unwrap_or_default());
        hash.update([0]);
        let key = worker.api_key.as_ref().and_then(|key| key.expose());
        hash.update(key.unwrap_or_default());
        hash.update([0]);
    }
    any.then(|| hex(&hash.finalize()))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a worker that was added has no place in the pools of `spec`.
fn waits(spec: &Spec, fleet: &Fleet, member: &Member) -> bool {
    let Some(added) = fleet.added.get(member) else {
        return false;
    };
    let mut pools = spec.pools.iter();
    let pool = pools.find(|pool| *pool.name == *member.pool);
    pool.is_none_or(|pool| !fits(pool, added.role))
}

/// Every entry for `member`, with what the worker does there.
fn entries<'a>(spec: &'a Spec, member: &'a Member) -> impl Iterator<Item = (Role, &'a Worker)> {
    let leg = |leg: &'a Option<Leg>| leg.as_ref().map_or(&[][..], |leg| &leg.workers);
    let of = move |pool: &'a Pool| {
        [
            (Role::Regular, &pool.workers[..]),
            (Role::Prefill, leg(&pool.prefill)),
            (Role::Decode, leg(&pool.decode)),
        ]
    };
    let pools = spec.pools.iter().filter(|pool| *pool.name == *member.pool);
    pools
        .flat_map(of)
        .flat_map(|(role, workers)| workers.iter().map(move |worker| (role, worker)))
        .filter(|(_, worker)| WorkerKey::new(worker.url.as_str()) == member.worker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Added, Override, Source};

    fn spec(text: &str) -> Spec {
        toml::from_str(&format!("version = 1\n{text}")).unwrap()
    }

    fn member(pool: &str, url: &str) -> Member {
        Member {
            pool: pool.into(),
            worker: WorkerKey::new(url),
        }
    }

    fn whats(ended: &[Ended]) -> Vec<What> {
        ended.iter().map(|end| end.what).collect()
    }

    #[test]
    fn what_was_changed_ends_with_the_entry_that_it_was_changed_against() {
        let before =
            spec("[[pools]]\nname = 'p'\nworkers = ['http://a:1', 'http://b:1', 'http://c:1']");
        let mut fleet = Fleet::default();
        fleet.tombstones.insert(member("p", "http://a:1"));
        fleet.leaving.insert(member("p", "http://b:1"));
        let changed = Override::default();
        fleet.overrides.insert(member("p", "http://c:1"), changed);
        fleet.drains.insert("p".into(), true);
        let other = spec(
            "routing.policy = 'random'\n[[pools]]\nname = 'p'\nworkers = ['http://b:1', 'http://a:1', 'http://c:1']",
        );
        assert_eq!(
            after_reload(&before, &other, &fleet),
            (fleet.clone(), vec![])
        );

        let after = spec(
            "[[pools]]\nname = 'p'\ndrain = true\nworkers = [{ url = 'http://a:1', priority = 3 }, \
             { url = 'http://b:1', cost = 2 }, { url = 'http://c:1', api_key = 'k' }]",
        );
        let (kept, ended) = after_reload(&before, &after, &fleet);
        assert_eq!(kept, Fleet::default());
        let all = [What::Tombstone, What::Leaving, What::Override, What::Drain];
        assert_eq!(whats(&ended), all);
        let gone = spec("");
        let (kept, ended) = after_reload(&before, &gone, &fleet);
        assert_eq!((kept, whats(&ended)), (Fleet::default(), vec![What::Drain]));
    }

    #[test]
    fn the_file_beats_what_was_added_and_a_worker_without_a_place_waits() {
        let url = "http://n:1";
        let mut fleet = Fleet::default();
        let added = Added {
            source: Source::Api,
            role: Role::Regular,
            worker: Worker::from(url.parse::<crate::config::spec::WorkerUrl>().unwrap()),
            models: Vec::new(),
            runtime: None,
            health: Default::default(),
            circuit_breaker: Default::default(),
        };
        fleet.added.insert(member("p", url), added);
        fleet
            .overrides
            .insert(member("p", url), Override::default());
        let empty = spec("[[pools]]\nname = 'p'");
        let legs = spec("[[pools]]\nname = 'p'\nprefill.workers = []\ndecode.workers = []");
        for without in [spec(""), legs] {
            let (kept, ended) = after_reload(&empty, &without, &fleet);
            assert_eq!((&kept, whats(&ended)), (&fleet, vec![What::Place]));
            assert_eq!(after_reload(&without, &without, &kept).1, []);
            assert_eq!(
                after_reload(&without, &empty, &kept),
                (fleet.clone(), vec![])
            );
        }
        let declared = spec("[[pools]]\nname = 'p'\nworkers = ['http://n:1']");
        let (kept, ended) = after_reload(&empty, &declared, &fleet);
        assert_eq!(kept, Fleet::default());
        assert_eq!(whats(&ended), [What::Added, What::Override]);
    }

    #[test]
    fn a_fingerprint_differs_where_the_entry_does() {
        let of = |entry: &str| {
            let spec = spec(&format!("[[pools]]\nname = 'p'\nworkers = [{entry}]"));
            fingerprint(&spec, &member("p", "http://a:1"))
        };
        let plain = of("'http://a:1'");
        assert!(plain.is_some());
        assert_eq!(plain, of("'http://b:1', 'http://a:1'"));
        assert_eq!(of("'http://b:1'"), None);
        let key = |key: &str| of(&format!("{{ url = 'http://a:1', api_key = '{key}' }}"));
        assert_ne!(plain, key("one"));
        assert_ne!(key("two"), key("one"));
        assert_ne!(plain, of("{ url = 'http://a:1', drain = true }"));
    }
}
