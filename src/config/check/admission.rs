//! Checks of `admission`, wherever it stands, and of the classes.

use super::Check;
use crate::base::units::Millis;
use crate::config::diag::Severity;
use crate::config::spec::ModelAdmission;
use crate::config::spec::admission::UNLIMITED;

/// The class of requests whose model names none.
const DEFAULT: &str = "default";

impl Check<'_> {
    pub(super) fn admission(&mut self) {
        let spec = self.spec;
        let admission = &spec.reliability.admission;
        let at = "reliability.admission";
        let gate = ModelAdmission {
            max_concurrent_requests: admission.max_concurrent_requests,
            tokens_per_second: admission.tokens_per_second,
            queue_size: admission.queue_size,
            queue_timeout: admission.queue_timeout,
        };
        self.gate(at, &gate);
        self.creeping(at, &gate);
        for (name, class) in &admission.classes {
            let at = format!("{at}.classes.{name}");
            self.at_least_one(&format!("{at}.weight"), class.weight);
            let size = class.queue_size.unwrap_or(admission.queue_size);
            let timeout = class.queue_timeout.unwrap_or(admission.queue_timeout);
            let written = class.queue_size.is_some() || class.queue_timeout.is_some();
            if written {
                self.queue(&at, size, timeout);
            }
        }
        for (i, model) in spec.models.iter().enumerate() {
            let at = format!("models[{i}]");
            if let Some(gate) = &model.admission {
                self.gate(&format!("{at}.admission"), gate);
                self.creeping(&format!("{at}.admission"), gate);
            }
            if let Some(class) = &model.class {
                self.class(
                    &format!("{at}.class"),
                    &format!("model `{}`", model.name),
                    class,
                );
            }
        }
        self.idle_queues();
    }

    fn gate(&mut self, at: &str, gate: &ModelAdmission) {
        let most = gate.max_concurrent_requests;
        if most < 1 && most != UNLIMITED {
            let allowed = "at least 1, or -1 for any number";
            self.range(&format!("{at}.max_concurrent_requests"), allowed);
        }
        let rate = gate.tokens_per_second;
        if !rate.is_finite() || rate < 0.0 {
            self.range(&format!("{at}.tokens_per_second"), "finite and at least 0");
        }
        self.queue(at, gate.queue_size, gate.queue_timeout);
    }

    fn queue(&mut self, at: &str, size: u32, timeout: Millis) {
        if size > 0 && timeout.is_zero() {
            let allowed = "greater than 0 where requests may wait";
            self.range(&format!("{at}.queue_timeout"), allowed);
        }
    }

    /// Warns about a rate that lets in so few that the other limit is never met.
    fn creeping(&mut self, at: &str, gate: &ModelAdmission) {
        let (rate, most) = (gate.tokens_per_second, gate.max_concurrent_requests);
        if rate > 0.0 && most > 0 && rate < most as f64 / 10.0 {
            let key = format!("{at}.tokens_per_second");
            let message = format!(
                "{rate} requests per second are few beside {most} at once: unless requests take \
                 long, the rate alone decides"
            );
            self.out
                .push(self.found(Severity::Warning, "creeping-rate", &key, message));
        }
    }

    /// `who` is whom the class is of: "model `x`".
    pub(super) fn class(&mut self, key: &str, who: &str, class: &str) {
        let classes = &self.spec.reliability.admission.classes;
        let known = class == DEFAULT || classes.contains_key(class);
        if known || !self.origins.is_intact("reliability.admission.classes") {
            return;
        }
        let message = format!("{who} names class `{class}`, which is not defined");
        let defined = classes.keys().map(|name| {
            (
                format!("reliability.admission.classes.{name}"),
                name.as_str(),
            )
        });
        let help = self.suggestion(class, defined);
        let diagnostic = self.found(Severity::Error, "class-unknown", key, message);
        self.out.push(diagnostic.help(help));
    }

    /// Where nothing limits requests nobody waits, and what is said about waiting means nothing.
    fn idle_queues(&mut self) {
        let spec = self.spec;
        let admission = &spec.reliability.admission;
        let limits = |most: i64, rate: f64| most != UNLIMITED || rate.abs() > 0.0;
        let own = limits(
            admission.max_concurrent_requests,
            admission.tokens_per_second,
        );
        let gates = || {
            spec.models
                .iter()
                .filter_map(|model| model.admission.as_ref())
        };
        let any = gates().any(|gate| limits(gate.max_concurrent_requests, gate.tokens_per_second));
        let reason = "nothing limits requests, so none waits";
        if !own && !any {
            for key in ["queue_size", "queue_timeout", "classes"] {
                self.without_effect(&format!("reliability.admission.{key}"), reason);
            }
        }
        for (i, model) in spec.models.iter().enumerate() {
            let Some(gate) = &model.admission else {
                continue;
            };
            if !limits(gate.max_concurrent_requests, gate.tokens_per_second) {
                let reason = "nothing limits requests for this model";
                self.without_effect(&format!("models[{i}].admission"), reason);
            }
        }
    }
}
