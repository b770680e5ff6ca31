//! A config file of LiteLLM's proxy to ours.

mod models;
mod provider;
mod settings;
mod yaml;

use toml::Value;

use super::document::{Document, printable};
use super::from_flags::needed;
use super::hidden::Hidden;
use crate::config::{self, Environment, Given, Input, Overlay, Secrets, load};
use settings::Setter;
use yaml::{Yaml, YamlError};

/// Why a LiteLLM file has no counterpart as a whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// It is no YAML, or no config file.
    #[error("{0}")]
    Yaml(#[from] YamlError),
    /// What it says does not fit together here.
    #[error("1:1: {0}")]
    Unfit(String),
}

/// The file that a LiteLLM file means.
///
/// # Errors
/// [`ImportError`] with the place in the text.
pub(super) fn convert(text: &str) -> Result<Document, ImportError> {
    let root = yaml::parse(text)?;
    let Some(entries) = yaml::entries(&root) else {
        return Err(YamlError::whole("the file is not a mapping").into());
    };
    let mut document = Document::default();
    let mut hidden = Hidden::default();
    if let Some(list) = yaml::get(&root, "model_list").filter(|list| !list.is_null()) {
        let Some(list) = list.as_sequence() else {
            return Err(YamlError::at_key(text, "model_list", "`model_list` is not a list").into());
        };
        models::add(list, weighted(&root), &mut document, &mut hidden);
    }
    let mut setter = Setter {
        document: &mut document,
        hidden: &mut hidden,
    };
    // Of two that set the same, the one nearer to routing counts.
    for name in ["router_settings", "litellm_settings", "general_settings"] {
        if let Some(section) = yaml::get(&root, name).filter(|section| !section.is_null()) {
            if !section.is_mapping() {
                let message = format!("`{name}` is not a mapping");
                return Err(YamlError::at_key(text, name, &message).into());
            }
            setter.section(name, section);
        }
    }
    for (key, value) in entries {
        let why = match key {
            "model_list" | "router_settings" | "litellm_settings" | "general_settings" => continue,
            "environment_variables" => {
                let names = yaml::entries(value).unwrap_or_default();
                let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
                format!(
                    "a file sets no variables: set them for the service ({})",
                    printable(&names.join(", "))
                )
            }
            "include" => "import those files, too, and bring the results together (`include` of \
                          smg.toml takes several)"
                .to_owned(),
            "mcp_servers" | "mcp_tools" => "no tools are called by the gateway".to_owned(),
            "guardrails" | "policies" => "requests are not judged".to_owned(),
            "prompts" => "requests go on as they come".to_owned(),
            "finetune_settings" | "files_settings" | "vector_store_registry" | "search_tools" => {
                "only the inference API is served".to_owned()
            }
            _ => "has no counterpart".to_owned(),
        };
        document.leave(format!("`{}`", printable(key)), why);
    }
    defaults(&mut document);
    document
        .head
        .push("Made from a config file of LiteLLM by `smg config import`.".to_owned());
    document.head.extend(needed(&hidden));
    check(&document)?;
    Ok(document)
}

/// Whether deployments are chosen by weight.
fn weighted(root: &Yaml) -> bool {
    let router = yaml::get(root, "router_settings");
    let strategy = router.and_then(|router| yaml::get(router, "routing_strategy"));
    strategy
        .and_then(Yaml::as_str)
        .is_none_or(|strategy| strategy == "simple-shuffle")
}

/// What the other program does without being told, and the gateway does not.
fn defaults(document: &mut Document) {
    for (key, value, why) in [
        (
            "policy",
            "random",
            "the default of LiteLLM; for engines, see `cache_aware`",
        ),
        (
            "undeclared_models",
            "reject",
            "the models above, and no others",
        ),
    ] {
        let routing = document
            .table
            .entry("routing".to_owned())
            .or_insert_with(|| Value::Table(toml::Table::new()));
        if let Value::Table(routing) = routing
            && !routing.contains_key(key)
        {
            routing.insert(key.to_owned(), Value::from(value));
            let path = format!("routing.{key}");
            document.comments.insert(path, why.to_owned());
        }
    }
}

/// Whether the result is what a gateway takes.
fn check(document: &Document) -> Result<(), ImportError> {
    let mut overlay = Overlay::default();
    for (key, value) in &document.table {
        let target = config::Target::Key(key.clone());
        overlay.set(target, value.clone(), Given::Flag("the file".to_owned()));
    }
    let loaded = load(&Input {
        file: None,
        overlay,
        environment: Environment::from_iter::<[(String, String); 0]>([]),
        secrets: Secrets::Note,
    });
    match loaded.diagnostics.iter().find(|d| d.is_error()) {
        None => Ok(()),
        Some(error) => Err(ImportError::Unfit(printable(&error.message))),
    }
}

/// A number of seconds as a duration of the file; `None` if it is none above 0.
fn seconds(number: f64) -> Option<String> {
    if !(0.001..1e9).contains(&number) {
        return None;
    }
    Some(match number.fract() == 0.0 {
        true => format!("{number}s"),
        false => format!("{}ms", (number * 1000.0).round()),
    })
}

/// A number of retries as attempts.
fn attempts(value: &Yaml) -> Option<i64> {
    let number = yaml::number(value)?;
    #[expect(clippy::cast_possible_truncation, reason = "it is below a thousand")]
    (0.0..1000.0).contains(&number).then(|| number as i64 + 1)
}
