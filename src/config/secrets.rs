//! Secrets and certificates: they are read from where they come from.

use std::path::{Path, PathBuf};

use super::diag::{Diagnostic, Severity};
use super::origin::{Origin, Origins};
use super::spec::{Auth, Material, Spec, TenantKey};
use super::tree::path::KeyPath;
use super::{Input, Secrets};
use crate::base::file;
use crate::base::pem::PemFile;
use crate::base::secret::{MASK, Secret, Source};

/// Reads the values of secrets.
pub(crate) struct Resolver<'a> {
    input: &'a Input,
    origins: &'a Origins,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// The files that were read or should have been.
    pub(crate) files: Vec<PathBuf>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(input: &'a Input, origins: &'a Origins) -> Self {
        Self {
            input,
            origins,
            diagnostics: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Gives every secret of the configuration its value, and every certificate file its content.
    pub(crate) fn resolve(&mut self, spec: &mut Spec) {
        for (i, listener) in spec.listeners.iter_mut().enumerate() {
            if let Some(tls) = &mut listener.tls {
                self.pem_files(tls.files(), &format!("listeners[{i}].tls"));
            }
        }
        for (p, pool) in spec.pools.iter_mut().enumerate() {
            if let Some(secret) = &mut pool.api_key {
                self.one(secret, &format!("pools[{p}].api_key"));
            }
            self.pem_files(pool.tls.files(), &format!("pools[{p}].tls"));
            let lists = [
                ("workers", Some(&mut pool.workers)),
                (
                    "prefill.workers",
                    pool.prefill.as_mut().map(|leg| &mut leg.workers),
                ),
                (
                    "decode.workers",
                    pool.decode.as_mut().map(|leg| &mut leg.workers),
                ),
            ];
            for (list, workers) in lists {
                for (w, worker) in workers.into_iter().flatten().enumerate() {
                    let at = format!("pools[{p}].{list}[{w}]");
                    if let Some(secret) = &mut worker.api_key {
                        self.one(secret, &format!("{at}.api_key"));
                    }
                    self.pem_files(worker.tls.files(), &format!("{at}.tls"));
                }
            }
        }
        self.auth(&mut spec.auth);
    }

    fn auth(&mut self, auth: &mut Auth) {
        if let Some(secret) = &mut auth.api_key {
            self.one(secret, "auth.api_key");
        }
        for (t, tenant) in auth.tenants.iter_mut().enumerate() {
            for (k, key) in tenant.keys.iter_mut().enumerate() {
                self.key(key, &format!("auth.tenants[{t}].keys[{k}]"));
            }
        }
        for (k, key) in auth.control_plane.api_keys.iter_mut().enumerate() {
            self.key(
                &mut key.key,
                &format!("auth.control_plane.api_keys[{k}].key"),
            );
        }
    }

    fn key(&mut self, key: &mut TenantKey, at: &str) {
        if let Material::Secret(secret) = &mut key.material {
            self.one(secret, at);
        }
    }

    fn pem_files<'f>(&mut self, files: impl Iterator<Item = (String, &'f mut PemFile)>, at: &str) {
        for (key, pem) in files {
            let key = format!("{at}.{key}");
            self.files.push(pem.path().to_owned());
            match file::read(pem.path()) {
                Ok(content) => {
                    pem.fill(&content);
                    if key.ends_with(".key_path") {
                        self.warn_exposed(&key, pem.path());
                    }
                }
                Err(error) => self.absent("file-absent", &key, &error.to_string()),
            }
        }
    }

    fn one(&mut self, secret: &mut Secret, key: &str) {
        let value = match secret.source().clone() {
            Source::Literal if secret.expose() == Some(MASK) => return self.warn_masked(key),
            Source::Literal => return self.warn_inline(key),
            Source::Env(name) => self
                .input
                .environment
                .get(&name)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("the variable `{name}` is not set")),
            Source::File(path) => self.file(key, &path),
            Source::Credential(name) => match self.input.environment.get("CREDENTIALS_DIRECTORY") {
                None => Err(format!(
                    "there is no credential `{name}`: `CREDENTIALS_DIRECTORY` is not set"
                )),
                Some(_) if name.contains('/') || name.starts_with('.') || name.is_empty() => {
                    Err(format!("`{name}` is not the name of a credential"))
                }
                Some(folder) => self.file(key, &Path::new(&folder).join(&name)),
            },
        };
        match value {
            Ok(value) => secret.resolve(&value),
            Err(message) => self.absent("secret-absent", key, &message),
        }
    }

    fn absent(&mut self, slug: &'static str, key: &str, message: &str) {
        let severity = match self.input.secrets {
            Secrets::Require => Severity::Error,
            Secrets::Note => Severity::Note,
        };
        let diagnostic = Diagnostic::new(severity, slug, format!("`{key}`: {message}"));
        self.diagnostics
            .push(diagnostic.about(key).at(self.origins.place(key)));
    }

    fn file(&mut self, key: &str, path: &Path) -> Result<String, String> {
        self.files.push(path.to_owned());
        let text = file::read_to_string(path).map_err(|error| error.to_string())?;
        self.warn_exposed(key, path);
        let text = text
            .strip_suffix('\n')
            .map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        match text {
            "" => Err(format!("`{}` is empty", path.display())),
            text => Ok(text.to_owned()),
        }
    }

    /// What is in the file at `path` is a secret only as long as few can open it.
    fn warn_exposed(&mut self, key: &str, path: &Path) {
        let Some(bits) = file::exposure(path) else {
            return;
        };
        let path = path.display();
        let message = format!("`{key}`: `{path}` is open to others than its owner (mode {bits:o})");
        self.diagnostics.push(
            Diagnostic::warning("secret-exposed", message)
                .about(key)
                .at(self.origins.place(key))
                .help("give it mode 600, or 640 where a group must read it"),
        );
    }

    /// A dump shows no secrets, so a file that is made of one has none.
    fn warn_masked(&mut self, key: &str) {
        let message = format!("`{key}` is `{MASK}`, which a dump shows in place of a secret");
        self.diagnostics.push(
            Diagnostic::warning("masked-secret", message)
                .about(key)
                .at(self.origins.place(key)),
        );
    }

    /// A secret that came in by a variable or a flag is in no file, and neither is `"${X}"`.
    fn warn_inline(&mut self, key: &str) {
        let expanded = self
            .origins
            .find(&KeyPath::parse(key))
            .is_some_and(|node| node.expanded || node.get("value").is_some_and(|n| n.expanded));
        if expanded || !matches!(self.origins.of(key), Origin::File { .. }) {
            return;
        }
        self.diagnostics.push(
            Diagnostic::warning("inline-secret", format!("`{key}` is written in the file"))
                .about(key)
                .at(self.origins.place(key))
                .help("use `{ env = \"NAME\" }`, `{ file = \"/path\" }` or `{ credential = \"name\" }`"),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    /// Where the schema has secrets, with `[]` for elements.
    fn secrets(schema: &Value, node: &Value, key: &str, out: &mut Vec<String>) {
        if let Some(name) = node["$ref"].as_str() {
            if name.ends_with("/Secret") || name.ends_with("/Key") {
                out.push(key.to_owned());
                return;
            }
            let pointer = name.trim_start_matches('#');
            secrets(schema, schema.pointer(pointer).unwrap(), key, out);
        }
        for node in node["anyOf"].as_array().into_iter().flatten() {
            secrets(schema, node, key, out);
        }
        if node["items"].is_object() {
            secrets(schema, &node["items"], &format!("{key}[]"), out);
        }
        for (name, node) in node["properties"].as_object().into_iter().flatten() {
            secrets(
                schema,
                node,
                format!("{key}.{name}").trim_start_matches('.'),
                out,
            );
        }
    }

    #[test]
    fn every_secret_of_the_schema_is_resolved() {
        let schema = crate::config::json_schema();
        let mut found = Vec::new();
        secrets(&schema, &schema, "", &mut found);
        found.sort();
        // These are the ones that `Resolver::resolve` visits.
        let visited = [
            "auth.api_key",
            "auth.control_plane.api_keys[].key",
            "auth.tenants[].keys[]",
            "pools[].api_key",
            "pools[].decode.workers[].api_key",
            "pools[].prefill.workers[].api_key",
            "pools[].workers[].api_key",
        ];
        assert_eq!(found, visited);
    }
}
