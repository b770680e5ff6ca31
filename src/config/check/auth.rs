//! Checks of `[auth]`.

use std::collections::HashMap;

use super::Check;
use crate::base::secret::MASK;
use crate::config::diag::Severity;
use crate::config::spec::{Auth, Jwt, Material, Tenant, TenantKey, TenantLimits};

impl Check<'_> {
    pub(super) fn auth(&mut self) {
        let auth = &self.spec.auth;
        self.header("auth.api_key_header", &auth.api_key_header);
        self.header("auth.tenant_header.name", &auth.tenant_header.name);
        self.one_purpose(auth);
        let proxies = self.spec.listeners.iter();
        if auth.tenant_header.trusted
            && proxies
                .clone()
                .all(|listener| listener.trusted_proxies.is_empty())
            && self.origins.is_intact("listeners")
        {
            let reason = "no listener has `trusted_proxies`, from which alone the header counts";
            self.without_effect("auth.tenant_header.trusted", reason);
        }
        if !auth.tenant_header.trusted {
            let reason = "`auth.tenant_header.trusted` is not set";
            self.without_effect("auth.tenant_header.name", reason);
        }
        self.tenants(auth);
        self.tenant_limits("auth.default_limits", &auth.default_limits);
        self.control_plane(auth);
        self.distinct_keys(auth);
        if let Some(jwt) = &auth.jwt {
            self.jwt(jwt);
        }
        self.forwarded_credentials(auth);
    }

    /// What carries a key is written to no log and sent to nobody, and what is both would be.
    fn one_purpose(&mut self, auth: &Auth) {
        let own = &auth.api_key_header;
        let ids = self.spec.server.request_id_headers.iter().enumerate();
        let ids = ids.map(|(i, id)| (format!("server.request_id_headers[{i}]"), id));
        let tenant = (
            "auth.tenant_header.name".to_owned(),
            &auth.tenant_header.name,
        );
        let twice = ids
            .chain(std::iter::once(tenant))
            .find(|(_, name)| name.eq_ignore_ascii_case(own));
        if let Some((other, _)) = twice {
            let key = "auth.api_key_header";
            let message = format!("the header `{own}` carries a key, and is also `{other}`");
            let found = self.found(Severity::Error, "header-twice", key, message);
            self.out
                .push(found.beside(self.origins.place(&other), "the other purpose"));
        }
    }

    fn tenants(&mut self, auth: &Auth) {
        let tenants = || auth.tenants.iter().enumerate();
        let names = tenants().map(|(i, tenant)| (format!("auth.tenants[{i}].name"), &*tenant.name));
        self.names("tenant", names);
        for (i, tenant) in tenants() {
            let at = format!("auth.tenants[{i}]");
            self.tenant(&at, tenant, auth);
        }
    }

    fn tenant(&mut self, at: &str, tenant: &Tenant, auth: &Auth) {
        let claimed = auth
            .jwt
            .as_ref()
            .is_some_and(|jwt| jwt.tenant_claim.is_some());
        if tenant.keys.is_empty() && !claimed && self.origins.is_intact(at) {
            let message = format!(
                "tenant `{}` has no key, so nobody is this tenant",
                tenant.name
            );
            let name = format!("{at}.name");
            let found = self.found(Severity::Warning, "tenant-without-key", &name, message);
            self.out
                .push(found.help("`smg key new` makes a key and prints its hash for `keys`"));
        }
        for (i, key) in tenant.keys.iter().enumerate() {
            self.validity(&format!("{at}.keys[{i}]"), key);
        }
        for (i, model) in tenant.models.iter().enumerate() {
            if model.trim().is_empty() {
                let message = "the name of a model must not be empty";
                self.error("name", &format!("{at}.models[{i}]"), message);
            }
        }
        if let Some(class) = &tenant.class {
            self.class(
                &format!("{at}.class"),
                &format!("tenant `{}`", tenant.name),
                class,
            );
        }
        self.tenant_limits(&format!("{at}.limits"), &tenant.limits);
    }

    fn validity(&mut self, at: &str, key: &TenantKey) {
        if let (Some(from), Some(until)) = (key.not_before, key.expires_at)
            && until <= from
        {
            let message = format!("the key is never valid: from {from} until {until}");
            self.error("key-validity", at, message);
        }
    }

    fn tenant_limits(&mut self, at: &str, limits: &TenantLimits) {
        let mut positive = |key: String, value: Option<u64>| {
            if value == Some(0) {
                self.range(&key, "at least 1");
            }
        };
        positive(
            format!("{at}.requests_per_minute"),
            limits.requests_per_minute,
        );
        positive(format!("{at}.tokens_per_minute"), limits.tokens_per_minute);
        positive(format!("{at}.max_concurrent"), limits.max_concurrent);
        for (i, model) in limits.models.iter().enumerate() {
            let at = format!("{at}.models[{i}]");
            positive(
                format!("{at}.requests_per_minute"),
                model.requests_per_minute,
            );
            positive(format!("{at}.tokens_per_minute"), model.tokens_per_minute);
        }
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (i, model) in limits.models.iter().enumerate() {
            let key = format!("{at}.models[{i}].match");
            if model.matches.trim().is_empty() {
                self.error("name", &key, "the name of a model must not be empty");
            } else if let Some(first) = seen.insert(&model.matches, i) {
                let message = format!("the limits of `{}` are given twice", model.matches);
                let first = self.origins.place(&format!("{at}.models[{first}].match"));
                let found = self.found(Severity::Error, "name-twice", &key, message);
                self.out.push(found.beside(first, "given here first"));
            }
        }
    }

    fn control_plane(&mut self, auth: &Auth) {
        let control = &auth.control_plane;
        let at = "auth.control_plane";
        let ids = control.api_keys.iter().enumerate();
        let ids = ids.map(|(i, key)| (format!("{at}.api_keys[{i}].id"), &*key.id));
        self.names("control-plane key", ids);
        for (i, key) in control.api_keys.iter().enumerate() {
            self.validity(&format!("{at}.api_keys[{i}].key"), &key.key);
        }
        let open = format!("{at}.open");
        if control.open && auth.is_any() {
            self.without_effect(
                &open,
                "a credential is configured, and only it opens the control plane",
            );
        } else if control.open {
            let message = "the control plane is open: whoever reaches a listener that serves \
                           `admin` can change the gateway";
            let found = self.found(Severity::Warning, "control-plane-open", &open, message);
            self.out
                .push(found.help("add `[[auth.control_plane.api_keys]]`, and remove `open`"));
        }
    }

    /// One key for two holders would be judged by the order of the file.
    fn distinct_keys(&mut self, auth: &Auth) {
        let shared = auth.api_key.iter().filter_map(|key| key.expose());
        let shared = shared.filter(|key| *key != MASK);
        let shared = shared.map(|key| ("auth.api_key".to_owned(), digest(key.as_bytes())));
        let tenants = auth.tenants.iter().enumerate().flat_map(|(t, tenant)| {
            let keys = tenant.keys.iter().enumerate();
            keys.map(move |(k, key)| (format!("auth.tenants[{t}].keys[{k}]"), key))
        });
        let operators = auth.control_plane.api_keys.iter().enumerate();
        let operators = operators.map(|(k, key)| {
            let at = format!("auth.control_plane.api_keys[{k}].key");
            (at, &key.key)
        });
        let held = tenants
            .chain(operators)
            .filter_map(|(at, key)| Some((at, hash(key)?)));
        let mut seen: HashMap<[u8; 32], String> = HashMap::new();
        let mut twice = Vec::new();
        for (at, hash) in shared.chain(held) {
            match seen.get(&hash) {
                Some(first) => twice.push((at, first.clone())),
                None => {
                    seen.insert(hash, at);
                }
            }
        }
        for (at, first) in twice {
            let message = format!("`{at}` is the same key as `{first}`");
            let found = self.found(Severity::Error, "key-twice", &at, message);
            self.out
                .push(found.beside(self.origins.place(&first), "the first one"));
        }
    }

    fn jwt(&mut self, jwt: &Jwt) {
        let at = "auth.jwt";
        let halves = [
            (jwt.issuer.is_some(), "issuer", "audience"),
            (jwt.audience.is_some(), "audience", "issuer"),
        ];
        let lone = halves.iter().filter(|(present, ..)| *present).count() == 1;
        if self.origins.is_intact(at) {
            for (_, has, lacks) in halves.iter().filter(|(present, ..)| *present && lone) {
                let message =
                    format!("`{at}.{has}` needs `{at}.{lacks}`: without both no token is judged");
                self.error("jwt-half", &format!("{at}.{has}"), message);
            }
            if jwt.issuer.is_none() && jwt.audience.is_none() {
                let message = "`[auth.jwt]` needs `issuer` and `audience`";
                self.error("jwt-half", at, message);
            }
        }
        for (key, url) in [("issuer", &jwt.issuer), ("jwks_uri", &jwt.jwks_uri)] {
            if let Some(url) = url {
                self.issuer_url(&format!("{at}.{key}"), url);
            }
        }
        for (key, text) in [
            ("audience", jwt.audience.as_deref()),
            ("role_claim", Some(jwt.role_claim.as_str())),
            ("tenant_claim", jwt.tenant_claim.as_deref()),
        ] {
            if text.is_some_and(|text| text.trim().is_empty()) {
                self.error(
                    "empty",
                    &format!("{at}.{key}"),
                    format!("`{at}.{key}` must not be empty"),
                );
            }
        }
        if jwt.leeway.as_millis() > 300_000 {
            self.range(&format!("{at}.leeway"), "at most 5m");
        }
    }

    /// What says whom to trust must come over a channel that can be trusted.
    fn issuer_url(&mut self, key: &str, text: &str) {
        let Ok(url) = url::Url::parse(text) else {
            return self.error("url", key, format!("`{key}` is no URL"));
        };
        let local = url.host().is_some_and(|host| is_loopback(&host));
        match url.scheme() {
            "https" => {}
            "http" if local => {}
            _ => {
                let message = format!(
                    "`{key}` must begin with `https://`; `http://` is for this machine only"
                );
                self.error("url", key, message);
            }
        }
    }

    /// A client has one `Authorization` header: if it is ours, it goes no further.
    fn forwarded_credentials(&mut self, auth: &Auth) {
        let keys_only = auth.guards_inference() && auth.jwt.is_none();
        for (i, pool) in self.spec.pools.iter().enumerate() {
            if keys_only && pool.forward_authorization {
                let key = format!("pools[{i}].forward_authorization");
                let message = format!(
                    "clients of pool `{}` show a key of the gateway, which never goes on to a worker",
                    pool.name
                );
                let found = self.found(Severity::Warning, "nothing-to-forward", &key, message);
                self.out.push(found.help(format!(
                    "clients can show the gateway's key in `{}` and the worker's in \
                     `Authorization`",
                    auth.api_key_header
                )));
            }
        }
    }

    fn header(&mut self, key: &str, name: &str) {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let message = format!("`{name}` is not the name of a header");
            self.error("header-name", key, message);
        }
    }
}

fn hash(key: &TenantKey) -> Option<[u8; 32]> {
    match &key.material {
        Material::Sha256(hash) => Some(*hash),
        Material::Secret(secret) => {
            let value = secret.expose().filter(|value| *value != MASK)?;
            Some(digest(value.as_bytes()))
        }
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(key).into()
}

fn is_loopback(host: &url::Host<&str>) -> bool {
    match host {
        url::Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        url::Host::Ipv4(address) => address.is_loopback(),
        url::Host::Ipv6(address) => address.is_loopback(),
    }
}
