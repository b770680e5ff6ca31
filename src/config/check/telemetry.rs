//! Checks of `[metrics]`, `[tracing]`, `[logging]` and `[audit]`.

use super::Check;

impl Check<'_> {
    pub(super) fn telemetry(&mut self) {
        let buckets = &self.spec.metrics.duration_buckets;
        for (i, bound) in buckets.iter().enumerate() {
            let previous = i
                .checked_sub(1)
                .and_then(|i| buckets.get(i))
                .copied()
                .unwrap_or(0.0);
            let wrong = if !bound.is_finite() || *bound <= 0.0 {
                "finite and greater than 0"
            } else if *bound <= previous {
                "greater than the one before it"
            } else {
                continue;
            };
            self.range(&format!("metrics.duration_buckets[{i}]"), wrong);
        }
        if self.spec.logging.dir.is_none() && self.origins.is_intact("logging") {
            for key in ["logging.rotate", "logging.keep"] {
                self.without_effect(
                    key,
                    "the log goes to the console as `logging.dir` is not set",
                );
            }
        }
        self.tracing();
        if !self.spec.audit.enabled {
            self.without_effect("audit.path", "`audit.enabled` is false");
        }
    }

    fn tracing(&mut self) {
        let tracing = &self.spec.tracing;
        let key = "tracing.otlp_endpoint";
        if !is_collector(&tracing.otlp_endpoint) {
            let message = format!(
                "`{}` is no collector: expected `host:port`, or a URL that begins with `http://` \
                 or `https://`",
                tracing.otlp_endpoint
            );
            self.error("otlp-endpoint", key, message);
        }
        if tracing.service_name.trim().is_empty() {
            let key = "tracing.service_name";
            self.error("empty", key, format!("`{key}` must not be empty"));
        }
        if !(0.0..=1.0).contains(&tracing.sample_ratio) {
            self.range("tracing.sample_ratio", "from 0 to 1");
        }
        if !tracing.enabled {
            for key in [key, "tracing.service_name", "tracing.sample_ratio"] {
                self.without_effect(key, "`tracing.enabled` is not set");
            }
        }
    }
}

/// `host:port`, or an http or https URL with a host, where the port may be left out.
fn is_collector(text: &str) -> bool {
    let whole = text.contains("://");
    let url = if whole {
        url::Url::parse(text)
    } else {
        url::Url::parse(&format!("http://{text}"))
    };
    let Ok(url) = url else {
        return false;
    };
    let port = text
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.port() != Some(0)
        && (whole || (port && url.path() == "/" && url.query().is_none()))
}
