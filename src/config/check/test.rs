//! Checks of `[[tests]]`.

use super::Check;
use crate::config::diag::Severity;
use crate::config::spec::{Expect, Pool, Request, Serve, WorkerUrl};

impl Check<'_> {
    pub(super) fn tests(&mut self) {
        let tests = &self.spec.tests;
        let names = tests
            .iter()
            .enumerate()
            .map(|(i, test)| (format!("tests[{i}].name"), test.name.as_str()));
        self.names("test", names);
        for (i, test) in tests.iter().enumerate() {
            self.request(&format!("tests[{i}].request"), &test.request);
            let at = format!("tests[{i}].expect");
            if test.expect == Expect::default() && self.origins.is_intact(&at) {
                let message = format!("test `{}` expects nothing", test.name);
                let diagnostic = self.found(Severity::Error, "expects-nothing", &at, message);
                let help = "say which `model`, `pool`, `worker` or `policy` it must come to, or \
                            which `status` or `code` it must be refused with";
                self.out.push(diagnostic.help(help));
            }
            self.expect(&at, &test.expect);
        }
    }

    fn request(&mut self, at: &str, request: &Request) {
        let Request {
            path,
            method,
            headers,
            listener,
            body: _,
            identity,
        } = request;
        let tenants = &self.spec.auth.tenants;
        if let Some(name) = identity
            && tenants.iter().all(|tenant| tenant.name != *name)
            && self.origins.is_intact("auth")
        {
            let message = format!("there is no tenant `{name}`");
            let key = format!("{at}.identity");
            let named = tenants.iter().enumerate();
            let named = named.map(|(i, tenant)| (format!("auth.tenants[{i}].name"), &*tenant.name));
            let help = self.suggestion(name, named);
            let found = self.found(Severity::Error, "tenant-unknown", &key, message);
            self.out.push(found.help(help));
        }
        if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
            let message = format!("`{path}` is no path: it begins with `/`");
            self.error("invalid-value", &format!("{at}.path"), message);
        }
        let known = http::Method::from_bytes(method.as_bytes()).is_ok();
        if !known || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let message = format!("`{method}` is no method: such as `POST`, in upper case");
            self.error("invalid-value", &format!("{at}.method"), message);
        }
        for (name, value) in headers {
            // A name with one of these has no path of its own.
            let key = match name.contains(['.', '[']) {
                true => format!("{at}.headers"),
                false => format!("{at}.headers.{name}"),
            };
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                let message = format!("`{name}` is not the name of a header");
                self.error("header-name", &key, message);
            } else if http::HeaderValue::from_str(value).is_err() {
                let message = format!("what `{name}` is set to cannot be sent in a header");
                self.error("header-value", &key, message);
            }
        }
        self.listener_of_test(at, listener);
    }

    fn listener_of_test(&mut self, at: &str, name: &str) {
        let key = format!("{at}.listener");
        let spec = self.spec;
        let listeners = || spec.listeners.iter().enumerate();
        let Some((i, listener)) = listeners().find(|(_, listener)| listener.name == name) else {
            if self.origins.is_intact("listeners") {
                let message = format!("the request comes in at `{name}`, which is no listener");
                let defined = listeners().map(|(i, l)| (format!("listeners[{i}].name"), &*l.name));
                let help = self.suggestion(name, defined);
                let diagnostic = self.found(Severity::Error, "listener-unknown", &key, message);
                self.out.push(diagnostic.help(help));
            }
            return;
        };
        let serve = format!("listeners[{i}].serve");
        if !listener.serve.contains(&Serve::Inference) && self.origins.is_intact(&serve) {
            let message = format!("listener `{name}` does not serve `inference`");
            let diagnostic = self
                .found(Severity::Error, "listener-of-test", &key, message)
                .beside(self.origins.place(&serve), "what it serves");
            self.out.push(diagnostic);
        }
    }

    fn expect(&mut self, at: &str, expect: &Expect) {
        let spec = self.spec;
        let pools = || spec.pools.iter().enumerate();
        let mut within: Vec<&Pool> = spec.pools.iter().collect();
        if let Some(name) = &expect.pool {
            within.retain(|pool| pool.name == *name);
            if within.is_empty() && self.origins.is_intact("pools") {
                let message = format!("the test expects pool `{name}`, which is not defined");
                let defined = pools().map(|(i, pool)| (format!("pools[{i}].name"), &*pool.name));
                let help = self.suggestion(name, defined);
                let key = format!("{at}.pool");
                let diagnostic = self.found(Severity::Error, "pool-unknown", &key, message);
                self.out.push(diagnostic.help(help));
                within = spec.pools.iter().collect();
            }
        }
        let worker = format!("{at}.worker");
        let among = format!("{at}.worker_in");
        if let Some(url) = &expect.worker {
            self.expected_worker(&worker, url, &within);
        }
        for (i, url) in expect.worker_in.iter().flatten().enumerate() {
            self.expected_worker(&format!("{among}[{i}]"), url, &within);
        }
        if expect.worker_in.as_ref().is_some_and(Vec::is_empty) && self.origins.is_intact(&among) {
            self.error("expects-nothing", &among, "no worker is among none");
        }
        if expect.worker.is_some() && expect.worker_in.is_some() {
            let diagnostic = self
                .found(
                    Severity::Error,
                    "worker-twice",
                    &among,
                    "the test expects a `worker` and one of several",
                )
                .beside(self.origins.place(&worker), "the one")
                .help("keep one of the two keys");
            self.out.push(diagnostic);
        }
        if expect.status.is_some_and(|s| !(100..=599).contains(&s)) {
            self.range(&format!("{at}.status"), "from 100 to 599");
        }
    }

    /// A worker that a test expects is one of the file, or a rank of one.
    fn expected_worker(&mut self, key: &str, text: &str, within: &[&Pool]) {
        let (base, rank) = match text.rsplit_once('@') {
            Some((base, rank)) if rank.bytes().all(|byte| byte.is_ascii_digit()) => (base, true),
            _ => (text, false),
        };
        let url: WorkerUrl = match base.parse() {
            Ok(url) => url,
            Err(error) => {
                self.error("invalid-value", key, format!("`{text}`: {error}"));
                return;
            }
        };
        let pools = || within.iter().filter(|pool| pool.dp_aware || !rank);
        let known = pools().any(|pool| pool.members().any(|worker| worker.url == url));
        if known || !self.origins.is_intact("pools") {
            return;
        }
        let message = match within {
            [pool] => format!(
                "the test expects worker `{text}`, which pool `{}` lacks",
                pool.name
            ),
            _ => format!("the test expects worker `{text}`, which no pool has"),
        };
        let urls = within.iter().flat_map(|pool| pool.members());
        let urls = urls.map(|worker| (String::new(), worker.url.as_str()));
        let help = match rank && !within.iter().any(|pool| pool.dp_aware) {
            true => "workers have ranks where their pool is `dp_aware`".to_owned(),
            false => self.suggestion(base, urls),
        };
        let diagnostic = self.found(Severity::Error, "worker-unknown", key, message);
        self.out.push(diagnostic.help(help));
    }
}
