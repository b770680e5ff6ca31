//! How many requests are let in, and how further ones wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::config::spec::{self, ModelAdmission, Spec};

/// The class of requests whose model names none.
pub const DEFAULT_CLASS: &str = "default";

/// The gate for all inference requests, and the classes in which they wait.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Admission {
    /// Limits over all models.
    pub gate: Gate,
    /// Every class that a request can be of; [`DEFAULT_CLASS`] is always among them.
    pub classes: BTreeMap<Arc<str>, Class>,
}

/// How many requests pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gate {
    /// Requests under way at once; `None`: any number.
    pub most: Option<usize>,
    /// Requests that may begin per second, over time; 0: any number.
    pub rate: f64,
    /// How those wait that do not pass.
    pub queue: Queue,
}

/// How requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// So many at most.
    pub size: usize,
    /// Each this long at most.
    pub timeout: Duration,
}

/// One class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Class {
    /// Its share of what becomes free, at least 1.
    pub weight: u32,
    /// How its requests wait.
    pub queue: Queue,
}

impl Gate {
    /// Whether everything passes.
    pub fn is_open(&self) -> bool {
        self.most.is_none() && self.rate <= 0.0
    }

    pub(super) fn of(declared: &ModelAdmission) -> Self {
        Self {
            most: usize::try_from(declared.max_concurrent_requests).ok(),
            rate: declared.tokens_per_second,
            queue: Queue {
                size: declared.queue_size as usize,
                timeout: declared.queue_timeout.get(),
            },
        }
    }
}

pub(super) fn compile(spec: &Spec) -> Admission {
    let declared = &spec.reliability.admission;
    let gate = Gate::of(&ModelAdmission {
        max_concurrent_requests: declared.max_concurrent_requests,
        tokens_per_second: declared.tokens_per_second,
        queue_size: declared.queue_size,
        queue_timeout: declared.queue_timeout,
    });
    let class = |class: &spec::Class| Class {
        weight: class.weight.max(1),
        queue: Queue {
            size: class
                .queue_size
                .map_or(gate.queue.size, |size| size as usize),
            timeout: class
                .queue_timeout
                .map_or(gate.queue.timeout, |timeout| timeout.get()),
        },
    };
    let mut classes: BTreeMap<Arc<str>, Class> = declared
        .classes
        .iter()
        .map(|(name, declared)| (name.as_str().into(), class(declared)))
        .collect();
    classes
        .entry(DEFAULT_CLASS.into())
        .or_insert_with(|| class(&spec::Class::default()));
    Admission { gate, classes }
}
