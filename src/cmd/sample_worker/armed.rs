//! Faults that wait for the next requests.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::Deserialize;

use super::fault::{BadFault, Fault};

/// What `/sample/fault` is told.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    /// The fault as written; `None` takes back.
    pub(super) fault: Option<String>,
    /// Requests that it strikes; `None`: all, until it is taken back.
    #[serde(default)]
    pub(super) times: Option<u32>,
    /// The path it strikes; `None`: those of inference.
    #[serde(default)]
    pub(super) path: Option<String>,
}

/// The faults that wait, at most one per path.
#[derive(Debug, Default)]
pub(super) struct Armed {
    any: AtomicBool,
    waiting: Mutex<Vec<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    fault: Fault,
    left: Option<u32>,
    path: Option<String>,
}

impl Armed {
    /// Carries out an order. Without fault and path, all faults are taken back.
    ///
    /// # Errors
    /// The fault cannot be read; nothing changes then.
    pub(super) fn order(&self, order: Order) -> Result<(), BadFault> {
        let fault = order.fault.as_deref().map(str::parse).transpose()?;
        let mut waiting = self.waiting.lock();
        if fault.is_none() && order.path.is_none() {
            waiting.clear();
        }
        waiting.retain(|other| other.path != order.path);
        if let Some(fault) = fault.filter(|_| order.times != Some(0)) {
            waiting.push(Waiting {
                fault,
                left: order.times,
                path: order.path,
            });
        }
        self.any.store(!waiting.is_empty(), Ordering::Release);
        Ok(())
    }

    /// The fault that strikes a request to `path`; counts it.
    pub(super) fn strike(&self, path: &str, inference: bool) -> Option<Fault> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = self.waiting.lock();
        let strikes = |waiting: &Waiting| match &waiting.path {
            Some(only) => only == path,
            None => inference,
        };
        let index = waiting.iter().position(strikes)?;
        let fault = waiting[index].fault;
        match &mut waiting[index].left {
            Some(1) => {
                waiting.remove(index);
                self.any.store(!waiting.is_empty(), Ordering::Release);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(fault: Option<&str>, times: Option<u32>, path: Option<&str>) -> Order {
        Order {
            fault: fault.map(str::to_owned),
            times,
            path: path.map(str::to_owned),
        }
    }

    #[test]
    fn strikes_as_often_as_told() {
        let armed = Armed::default();
        armed.order(order(Some("refuse"), Some(2), None)).unwrap();
        assert!(armed.strike("/health", false).is_none());
        assert!(armed.strike("/generate", true).is_some());
        assert!(armed.strike("/generate", true).is_some());
        assert!(armed.strike("/generate", true).is_none());
    }

    #[test]
    fn a_path_has_its_own() {
        let armed = Armed::default();
        armed
            .order(order(Some("html"), None, Some("/health")))
            .unwrap();
        assert!(armed.strike("/generate", true).is_none());
        assert!(armed.strike("/health", false).is_some());
        assert!(armed.order(order(Some("nonsense"), None, None)).is_err());
        assert!(armed.strike("/health", false).is_some());
        armed.order(order(None, None, None)).unwrap();
        assert!(armed.strike("/health", false).is_none());
    }
}
