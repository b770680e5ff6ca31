//! What a plan says about who is let in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;

use crate::plan::{Class, DEFAULT_CLASS, Gate, Plan};

/// The gates and the classes of one plan, as the cell looks at them.
#[derive(Debug)]
pub struct Limits {
    pub(super) all: Gate,
    classes: BTreeMap<Arc<str>, Class>,
    /// The gates that can be shut, by model entry.
    models: AHashMap<Arc<str>, Gate>,
    /// Whether some gate looks at the time.
    pub(super) timed: bool,
}

impl Limits {
    /// What `plan` says.
    pub fn of(plan: &Plan) -> Self {
        let models: AHashMap<Arc<str>, Gate> = plan
            .routes
            .destinations
            .iter()
            .filter_map(|destination| {
                let gate = destination.gate.filter(|gate| !gate.is_open())?;
                Some((Arc::clone(&destination.entry), gate))
            })
            .collect();
        let all = plan.admission.gate;
        Self {
            timed: all.rate > 0.0 || models.values().any(|gate| gate.rate > 0.0),
            all,
            classes: plan.admission.classes.clone(),
            models,
        }
    }

    /// The gate of a model entry, where it has one that can be shut.
    pub(super) fn model(&self, entry: &str) -> Option<&Gate> {
        self.models.get(entry)
    }

    /// The class under which requests of `class` wait: the default one where there is no such class,
    /// or no longer.
    pub(super) fn class_of<'a>(&'a self, class: &'a Arc<str>) -> Option<&'a Arc<str>> {
        let known = |name: &str| self.classes.get_key_value(name).map(|(name, _)| name);
        known(class).or_else(|| known(DEFAULT_CLASS))
    }

    pub(super) fn has_class(&self, class: &str) -> bool {
        self.classes.contains_key(class)
    }

    fn class(&self, class: &str) -> Option<&Class> {
        let named = self.classes.get(class);
        named.or_else(|| self.classes.get(DEFAULT_CLASS))
    }

    /// Its share of what becomes free.
    pub(super) fn weight(&self, class: &str) -> u32 {
        self.class(class).map_or(1, |class| class.weight.max(1))
    }

    /// How many of a class may wait.
    pub(super) fn size(&self, class: &str) -> usize {
        let class = self.class(class);
        class.map_or(self.all.queue.size, |class| class.queue.size)
    }

    /// How long a request of a class for a model may wait.
    pub(super) fn timeout(&self, class: &str, entry: &str) -> Duration {
        let class = self.class(class);
        let own = class.map_or(self.all.queue.timeout, |class| class.queue.timeout);
        let model = self.model(entry);
        model.map_or(own, |gate| own.min(gate.queue.timeout))
    }
}

impl Default for Limits {
    /// Nothing is limited.
    fn default() -> Self {
        let queue = crate::plan::Queue {
            size: 0,
            timeout: Duration::ZERO,
        };
        Self {
            all: Gate {
                most: None,
                rate: 0.0,
                queue,
            },
            classes: BTreeMap::new(),
            models: AHashMap::new(),
            timed: false,
        }
    }
}

#[cfg(test)]
impl Limits {
    /// These gates: over all models, and by model entry.
    pub(super) fn gates(all: Gate, models: &[(&str, Gate)]) -> Self {
        let models: AHashMap<Arc<str>, Gate> = models
            .iter()
            .filter(|(_, gate)| !gate.is_open())
            .map(|(name, gate)| ((*name).into(), *gate))
            .collect();
        let limits = Self {
            timed: all.rate > 0.0 || models.values().any(|gate| gate.rate > 0.0),
            all,
            classes: BTreeMap::new(),
            models,
        };
        limits.with(DEFAULT_CLASS, 1)
    }

    /// One more class, whose requests wait as all do.
    pub(super) fn with(mut self, class: &str, weight: u32) -> Self {
        let queue = self.all.queue;
        self.classes.insert(class.into(), Class { weight, queue });
        self
    }
}
