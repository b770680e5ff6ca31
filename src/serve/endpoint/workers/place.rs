//! Which pool a new worker joins, and what it does there.

use super::fields::Fault;
use crate::plan::{Plan, Pool, Role};

/// The pool of the name `named`, else the one called `default`, else the only one in which a worker
/// of this `role` can be; and the role, which goes without saying where the pool has no legs.
///
/// # Errors
/// Where there is no such pool, or more than one.
pub(super) fn choose<'a>(
    plan: &'a Plan,
    named: Option<&str>,
    role: Option<Role>,
) -> Result<(&'a Pool, Role), Fault> {
    let of = |name: &str| plan.pools.iter().find(|pool| *pool.name == *name);
    if let Some(name) = named {
        let unknown = || Fault::unfit("pool", format!("there is no pool `{name}`"));
        let pool = of(name).ok_or_else(unknown)?;
        return Ok((pool, in_pool(pool, role)?));
    }
    if let Some(pool) = of("default").filter(|pool| fits(pool, role)) {
        return Ok((pool, in_pool(pool, role)?));
    }
    let mut fitting = plan.pools.iter().filter(|pool| fits(pool, role));
    match (fitting.next(), fitting.next()) {
        (Some(pool), None) => Ok((pool, in_pool(pool, role)?)),
        (None, _) => {
            let why = "there is no pool for such a worker";
            Err(Fault::unfit("pool", why))
        }
        (Some(_), Some(_)) => {
            let why = "there is more than one pool for such a worker: name one of them";
            Err(Fault::unfit("pool", why))
        }
    }
}

fn fits(pool: &Pool, role: Option<Role>) -> bool {
    role.is_none_or(|role| (role == Role::Regular) == pool.pair.is_none())
}

/// What a worker that is said to do `role` does in `pool`.
///
/// # Errors
/// Where it can do no such thing there, or it has to be said.
pub(super) fn in_pool(pool: &Pool, role: Option<Role>) -> Result<Role, Fault> {
    let name = &pool.name;
    match role {
        Some(role) if fits(pool, Some(role)) => Ok(role),
        None if pool.pair.is_none() => Ok(Role::Regular),
        Some(Role::Regular) | None => Err(Fault::unfit(
            "worker_type",
            format!("pool `{name}` has legs: its workers are `prefill` or `decode`"),
        )),
        Some(Role::Prefill | Role::Decode) => Err(Fault::unfit(
            "worker_type",
            format!("pool `{name}` has no legs: its workers are `regular`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Facts, compile};

    const PAIR: &str = "\n[[pools]]\nname = 'pair'\n[pools.prefill]\nworkers = ['http://a:1']\n\
                        [pools.decode]\nworkers = ['http://b:1']\n";

    fn plan(pools: &str) -> Plan {
        let spec = toml::from_str(&format!("version = 1\n{pools}")).unwrap();
        compile(&spec, &Facts::default())
    }

    fn pool(name: &str) -> String {
        format!("\n[[pools]]\nname = '{name}'\nworkers = []\n")
    }

    fn chosen<'a>(
        plan: &'a Plan,
        named: Option<&str>,
        role: Option<Role>,
    ) -> Option<(&'a str, Role)> {
        let (pool, role) = choose(plan, named, role).ok()?;
        Some((&pool.name, role))
    }

    #[test]
    fn a_pool_that_is_named_is_taken_if_the_worker_fits() {
        let plan = plan(&(pool("p") + &pool("default") + PAIR));
        assert_eq!(chosen(&plan, Some("p"), None), Some(("p", Role::Regular)));
        assert_eq!(chosen(&plan, Some("p"), Some(Role::Decode)), None);
        assert_eq!(
            chosen(&plan, Some("pair"), Some(Role::Decode)),
            Some(("pair", Role::Decode))
        );
        assert_eq!(chosen(&plan, Some("pair"), None), None);
        assert_eq!(chosen(&plan, Some("none"), None), None);
    }

    #[test]
    fn without_a_name_it_is_the_default_one_or_the_only_one_that_fits() {
        let some = plan(&(pool("p") + &pool("default") + PAIR));
        assert_eq!(chosen(&some, None, None), Some(("default", Role::Regular)));
        assert_eq!(
            chosen(&some, None, Some(Role::Prefill)),
            Some(("pair", Role::Prefill))
        );
        let others = plan(&(pool("p") + PAIR));
        assert_eq!(
            chosen(&others, None, Some(Role::Regular)),
            Some(("p", Role::Regular))
        );
        assert_eq!(chosen(&others, None, None), None);
        assert_eq!(
            chosen(&plan(&pool("p")), None, None),
            Some(("p", Role::Regular))
        );
        assert_eq!(chosen(&plan(&pool("p")), None, Some(Role::Prefill)), None);
        assert_eq!(chosen(&plan(&(pool("p") + &pool("q"))), None, None), None);
        assert_eq!(chosen(&plan(""), None, None), None);
    }
}
