//! The accounts of a snapshot: whose limits hold for a caller, and what tenants have used.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Caller, Snapshot};
use crate::plan::Plan;
use crate::state::{AccountCell, Cells, Over, Stay, Strangers, Sums};
use crate::telemetry::metrics::{Families, Metric};

/// Tenant of those who are none of the file.
const OTHER: &str = "other";

/// The accounts of the tenants of a plan, in its order, and those of everybody else.
#[derive(Debug)]
pub(super) struct Accounts {
    tenants: Box<[Arc<AccountCell>]>,
    strangers: Arc<Strangers>,
    /// Whether callers are told apart, or limited, at all.
    on: bool,
}

impl Accounts {
    pub(super) fn bind(plan: &Plan, cells: &Cells) -> Self {
        let auth = &plan.auth;
        let tenants = auth.tenants.iter();
        Self {
            tenants: tenants
                .map(|tenant| {
                    cells
                        .tenants
                        .get_or_insert(&tenant.name, AccountCell::default)
                })
                .collect(),
            strangers: Arc::clone(&cells.strangers),
            on: auth.is_any || !auth.tenants.is_empty() || !auth.default_limits.is_empty(),
        }
    }
}

impl Snapshot {
    /// Whether any caller is counted.
    pub fn counts_callers(&self) -> bool {
        self.accounts().on
    }

    /// `caller` begins a call at `now`. `None` where nobody is counted.
    ///
    /// # Errors
    /// [`Over`] when it is over a limit.
    pub fn arrive(&self, caller: &Caller, now: Instant) -> Result<Option<Stay>, Over> {
        if !self.counts_callers() {
            return Ok(None);
        }
        let accounts = self.accounts();
        let auth = &self.plan.auth;
        let known = caller.tenant.and_then(|ix| {
            let account = accounts.tenants.get(ix.0 as usize)?;
            Some((account, auth.tenant(ix)?))
        });
        if let Some((account, tenant)) = known {
            return account.arrive(&tenant.limits, now).map(Some);
        }
        let limits = &auth.default_limits;
        if limits.is_empty() {
            return Ok(Some(Stay::unlimited(accounts.strangers.sums(), limits)));
        }
        let account = accounts.strangers.account(&caller.identity);
        account.arrive(limits, now).map(Some)
    }
}

/// What tenants have asked for and used; their series end with them.
pub(super) fn write(snapshot: &Snapshot, families: &mut Families<'_>) {
    let accounts = snapshot.accounts();
    let tenants = snapshot.plan.auth.tenants.iter().zip(&accounts.tenants);
    let mut all: Vec<(&str, &Sums)> = tenants
        .map(|(tenant, account)| (&*tenant.name, &**account.sums()))
        .collect();
    if accounts.on {
        all.push((OTHER, accounts.strangers.sums()));
    }
    let mut family = families.family(Metric::TenantRequests);
    for (tenant, sums) in &all {
        for (result, counter) in [("allowed", &sums.allowed), ("rejected", &sums.rejected)] {
            let value = counter.load(Ordering::Relaxed) as f64;
            family.sample(&[("tenant", tenant), ("result", result)], value);
        }
    }
    let mut family = families.family(Metric::TenantTokens);
    for (tenant, sums) in &all {
        for (direction, counter) in [("input", &sums.input), ("output", &sums.output)] {
            let value = counter.load(Ordering::Relaxed) as f64;
            family.sample(&[("tenant", tenant), ("direction", direction)], value);
        }
    }
}
