//! Secrets: their values are read from where they come from.

use std::path::{Path, PathBuf};

use super::diag::{Diagnostic, Severity};
use super::origin::{Origin, Origins};
use super::spec::Spec;
use super::tree::path::KeyPath;
use super::{Input, Secrets};
use crate::base::file;
use crate::base::secret::{Secret, Source};

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

    /// Gives every secret of the configuration its value.
    pub(crate) fn resolve(&mut self, spec: &mut Spec) {
        for (p, pool) in spec.pools.iter_mut().enumerate() {
            if let Some(secret) = &mut pool.api_key {
                self.one(secret, &format!("pools[{p}].api_key"));
            }
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
                    if let Some(secret) = &mut worker.api_key {
                        self.one(secret, &format!("pools[{p}].{list}[{w}].api_key"));
                    }
                }
            }
        }
    }

    fn one(&mut self, secret: &mut Secret, key: &str) {
        let value = match secret.source().clone() {
            Source::Literal => return self.warn_inline(key),
            Source::Env(name) => self
                .input
                .environment
                .get(&name)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("the variable `{name}` is not set")),
            Source::File(path) => self.file(&path),
            Source::Credential(name) => match self.input.environment.get("CREDENTIALS_DIRECTORY") {
                None => Err(format!(
                    "there is no credential `{name}`: `CREDENTIALS_DIRECTORY` is not set"
                )),
                Some(_) if name.contains('/') || name.starts_with('.') || name.is_empty() => {
                    Err(format!("`{name}` is not the name of a credential"))
                }
                Some(folder) => self.file(&Path::new(&folder).join(&name)),
            },
        };
        match value {
            Ok(value) => secret.resolve(&value),
            Err(message) => {
                let severity = match self.input.secrets {
                    Secrets::Require => Severity::Error,
                    Secrets::Note => Severity::Note,
                };
                let diagnostic =
                    Diagnostic::new(severity, "secret-absent", format!("`{key}`: {message}"));
                self.diagnostics
                    .push(diagnostic.about(key).at(self.origins.place(key)));
            }
        }
    }

    fn file(&mut self, path: &Path) -> Result<String, String> {
        self.files.push(path.to_owned());
        let text = file::read_to_string(path).map_err(|error| error.to_string())?;
        let text = text
            .strip_suffix('\n')
            .map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        match text {
            "" => Err(format!("`{}` is empty", path.display())),
            text => Ok(text.to_owned()),
        }
    }

    /// A secret that came in by a variable or a flag is in no file, and neither is `"${X}"`.
    fn warn_inline(&mut self, key: &str) {
        let expanded = self
            .origins
            .root
            .find(&KeyPath::parse(key))
            .is_some_and(|node| node.expanded);
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
            if name.ends_with("/Secret") {
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
            "pools[].api_key",
            "pools[].decode.workers[].api_key",
            "pools[].prefill.workers[].api_key",
            "pools[].workers[].api_key",
        ];
        assert_eq!(found, visited);
    }
}
