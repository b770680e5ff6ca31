//! Models: the list that clients get, and what workers tell about themselves.
//!
//! Workers answer in many dialects and leave much out. Whatever is missing or of another shape is
//! taken as not told; only a text that is no JSON object at all is an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One model of `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Name that clients use.
    pub id: String,
    /// Unix seconds since when it is known.
    pub created: u64,
    /// Name or path of the weights, where known.
    pub root: Option<String>,
    /// Longest context in tokens, where known.
    pub max_model_len: Option<u64>,
}

/// The body of `GET /v1/models`: sorted by id, each id once (the first one given).
pub fn list(mut models: Vec<Listed>) -> Vec<u8> {
    models.sort_by(|a, b| a.id.cmp(&b.id));
    models.dedup_by(|later, first| later.id == first.id);
    let list = List {
        object: "list",
        data: models.iter().map(Entry::of).collect(),
    };
    written(&list)
}

/// The body of `GET /v1/models/{id}`.
pub fn one(model: &Listed) -> Vec<u8> {
    written(&Entry::of(model))
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: Option<&'a str>,
    max_model_len: Option<u64>,
}

impl<'a> Entry<'a> {
    fn of(model: &'a Listed) -> Self {
        Self {
            id: &model.id,
            object: "model",
            created: model.created,
            owned_by: "self_hosted",
            root: model.root.as_deref(),
            max_model_len: model.max_model_len,
        }
    }
}

/// Plain strings and numbers always serialise.
fn written(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A worker's answer is no JSON object.
#[derive(Debug, thiserror::Error)]
#[error("the worker's answer is not a JSON object")]
pub struct BadAnswer(#[from] serde_json::Error);

/// A model in a worker's own `/v1/models`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Its name.
    pub id: String,
    /// Name or path of the weights.
    pub root: Option<String>,
    /// Who serves it, by which engines are told apart.
    pub owned_by: Option<String>,
    /// Longest context in tokens.
    pub max_model_len: Option<u64>,
}

/// Reads a worker's `/v1/models`. Entries without an id are passed over.
///
/// # Errors
/// [`BadAnswer`] where the text is no JSON object.
pub fn advertised(body: &[u8]) -> Result<Vec<Advertised>, BadAnswer> {
    let answer = object(body)?;
    let entries = answer
        .get("data")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let text = |entry: &Value, key: &str| entry.get(key)?.as_str().map(str::to_owned);
    Ok(entries
        .iter()
        .filter_map(|entry| {
            Some(Advertised {
                id: text(entry, "id").filter(|id| !id.is_empty())?,
                root: text(entry, "root"),
                owned_by: text(entry, "owned_by"),
                max_model_len: entry.get("max_model_len").and_then(Value::as_u64),
            })
        })
        .collect())
}

/// The runtime that `owned_by` gives away: `sglang`, `vllm` or none.
pub fn runtime_of_owner(owned_by: &str) -> Option<&'static str> {
    match owned_by {
        "sglang" | "nvidia" => Some("sglang"),
        "vllm" => Some("vllm"),
        _ => None,
    }
}

/// The version in a worker's `/version`, which vLLM has.
pub fn version(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Version {
        version: String,
    }
    serde_json::from_slice::<Version>(body)
        .ok()
        .map(|answer| answer.version)
}

/// What may be told of a worker, in `labels` and to clients. Everything else stays inside: engines put
/// their keys into the same answer.
pub const LABELS: [&str; 20] = [
    "model_id",
    "model_path",
    "served_model_name",
    "tokenizer_path",
    "tp_size",
    "dp_size",
    "pp_size",
    "load_balance_method",
    "disaggregation_mode",
    "version",
    "is_embedding",
    "is_generation",
    "context_length",
    "max_total_tokens",
    "max_running_requests",
    "weight_version",
    "model_type",
    "architectures",
    "has_image_understanding",
    "max_model_len",
];

/// Other names of the context length, and the classes of a classifier: learned, but not told.
const LEARNED: [&str; 3] = ["max_context_length", "max_seq_len", "id2label_json"];

/// What is known of a worker, gathered from its answers. Of two answers that tell the same thing the
/// one added first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

/// What a worker's model is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Text.
    Generate,
    /// Vectors.
    Embed,
    /// Scores of documents.
    Rerank,
}

impl Labels {
    /// Labels that the operator or the registration gave; they win over whatever is learned.
    pub fn given(labels: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(labels.into_iter().collect())
    }

    /// Takes what `/server_info` or `/model_info` (or their older names with `get_`) tell.
    ///
    /// # Errors
    /// [`BadAnswer`] where the text is no JSON object.
    pub fn add_info(&mut self, body: &[u8]) -> Result<(), BadAnswer> {
        let answer = object(body)?;
        for name in LABELS.into_iter().chain(LEARNED) {
            if let Some(value) = answer.get(name) {
                self.add(name, value);
            }
        }
        // The figure that the engine settled on, where none was asked of it.
        if let Some(value) = answer.get("max_total_num_tokens") {
            self.add("max_total_tokens", value);
        }
        Ok(())
    }

    /// Takes what the first model of `/v1/models` tells: its name, weights and context length.
    pub fn add_model(&mut self, model: &Advertised) {
        self.add_text("served_model_name", &model.id);
        if let Some(root) = &model.root {
            self.add_text("model_path", root);
        }
        if let Some(len) = model.max_model_len {
            self.add_text("max_model_len", &len.to_string());
        }
    }

    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All labels, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The name of the one model that the worker serves, as far as labels tell.
    pub fn model_id(&self) -> Option<&str> {
        ["served_model_name", "model_id", "model_path"]
            .iter()
            .find_map(|name| self.get(name).filter(|value| !value.is_empty()))
    }

    /// The longest context in tokens.
    pub fn context_length(&self) -> Option<u64> {
        [
            "context_length",
            "max_context_length",
            "max_model_len",
            "max_total_tokens",
            "max_seq_len",
        ]
        .iter()
        .find_map(|name| self.get(name)?.parse().ok())
    }

    /// What the model is good for; text where nothing else is told.
    pub fn task(&self) -> Task {
        let architectures = self
            .get("architectures")
            .unwrap_or_default()
            .to_ascii_lowercase();
        if architectures.contains("rerank") || architectures.contains("crossencoder") {
            Task::Rerank
        } else if self.get("is_embedding") == Some("true")
            || self.get("is_generation") == Some("false")
        {
            Task::Embed
        } else {
            Task::Generate
        }
    }

    fn add(&mut self, name: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::String(text) => self.add_text(name, text),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.add_text(name, &value.to_string());
            }
        }
    }

    fn add_text(&mut self, name: &str, value: &str) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), value.to_owned());
        }
    }
}

/// A worker's info for clients: of its answer only the members named in [`LABELS`], as they stand.
///
/// # Errors
/// [`BadAnswer`] where the text is no JSON object.
pub fn public_info(body: &[u8]) -> Result<Vec<u8>, BadAnswer> {
    let mut answer = object(body)?;
    answer.retain(|name, _| LABELS.contains(&name.as_str()));
    Ok(written(&answer))
}

fn object(body: &[u8]) -> Result<Map<String, Value>, BadAnswer> {
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listed(id: &str, created: u64) -> Listed {
        Listed {
            id: id.into(),
            created,
            root: None,
            max_model_len: None,
        }
    }

    #[test]
    fn the_list_is_sorted_and_unique() {
        let full = Listed {
            id: "b".into(),
            created: 5,
            root: Some("/weights/b".into()),
            max_model_len: Some(4096),
        };
        let body = list(vec![
            full.clone(),
            listed("c", 1),
            listed("a", 2),
            listed("b", 9),
        ]);
        let expected = json!({"object": "list", "data": [
            {"id": "a", "object": "model", "created": 2, "owned_by": "self_hosted", "root": null, "max_model_len": null},
            {"id": "b", "object": "model", "created": 5, "owned_by": "self_hosted", "root": "/weights/b", "max_model_len": 4096},
            {"id": "c", "object": "model", "created": 1, "owned_by": "self_hosted", "root": null, "max_model_len": null},
        ]});
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
        let body = one(&full);
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            expected["data"][1]
        );
    }

    #[test]
    fn a_workers_models_are_read_as_far_as_they_are_told() {
        let body = br#"{"object":"list","data":[
            {"id":"m","object":"model","created":1,"owned_by":"sglang","root":"/w/m","max_model_len":8192,"permission":[{}]},
            {"id":"lora","owned_by":7,"max_model_len":"x"},{"id":""},{"root":"r"},4]}"#;
        let models = advertised(body).unwrap();
        assert_eq!(models.len(), 2);
        assert_eq!(models[0].max_model_len, Some(8192));
        assert_eq!(
            models[0].owned_by.as_deref().and_then(runtime_of_owner),
            Some("sglang")
        );
        let lora = Advertised {
            id: "lora".into(),
            root: None,
            owned_by: None,
            max_model_len: None,
        };
        assert_eq!(models[1], lora);
        assert_eq!(advertised(b"{}").unwrap(), []);
        assert!(advertised(b"[]").is_err());
        assert!(advertised(b"OK").is_err());
        assert_eq!(runtime_of_owner("vllm"), Some("vllm"));
        assert_eq!(runtime_of_owner("openai"), None);
        assert_eq!(version(br#"{"version":"0.11"}"#).as_deref(), Some("0.11"));
        assert_eq!(version(b"Not Found"), None);
    }

    #[test]
    fn labels_are_strings_and_the_first_word_counts() {
        let mut labels = Labels::given([("tp_size".to_owned(), "8".to_owned())]);
        labels
            .add_info(br#"{"model_path":"/w/m","tp_size":2,"dp_size":1,"context_length":null,"api_key":"sk-1","max_total_num_tokens":777,"internal_states":[{}]}"#)
            .unwrap();
        labels
            .add_info(br#"{"is_generation":true,"architectures":["LlamaForCausalLM"],"model_path":"other","has_image_understanding":false}"#)
            .unwrap();
        labels.add_model(&Advertised {
            id: "m".into(),
            root: Some("third".into()),
            owned_by: None,
            max_model_len: Some(4096),
        });
        let all: Vec<_> = labels.iter().collect();
        let expected = [
            ("architectures", r#"["LlamaForCausalLM"]"#),
            ("dp_size", "1"),
            ("has_image_understanding", "false"),
            ("is_generation", "true"),
            ("max_model_len", "4096"),
            ("max_total_tokens", "777"),
            ("model_path", "/w/m"),
            ("served_model_name", "m"),
            ("tp_size", "8"),
        ];
        assert_eq!(all, expected);
        assert_eq!(labels.model_id(), Some("m"));
        assert_eq!(labels.context_length(), Some(4096));
        assert_eq!(labels.task(), Task::Generate);
        assert!(labels.add_info(b"nonsense").is_err());
    }

    #[test]
    fn the_task_follows_the_labels() {
        let task = |body: &str| {
            let mut labels = Labels::default();
            labels.add_info(body.as_bytes()).unwrap();
            labels.task()
        };
        assert_eq!(task("{}"), Task::Generate);
        assert_eq!(task(r#"{"is_embedding":true}"#), Task::Embed);
        assert_eq!(task(r#"{"is_generation":false}"#), Task::Embed);
        assert_eq!(
            task(r#"{"is_generation":false,"architectures":["XLMRerankModel"]}"#),
            Task::Rerank
        );
        assert_eq!(
            task(r#"{"architectures":["BertCrossEncoder"]}"#),
            Task::Rerank
        );
    }

    #[test]
    fn the_model_id_falls_back() {
        let id = |body: &str| {
            let mut labels = Labels::default();
            labels.add_info(body.as_bytes()).unwrap();
            labels.model_id().map(str::to_owned)
        };
        assert_eq!(
            id(r#"{"model_path":"p","model_id":"i","served_model_name":"s"}"#).as_deref(),
            Some("s")
        );
        assert_eq!(
            id(r#"{"model_path":"p","model_id":"i","served_model_name":""}"#).as_deref(),
            Some("i")
        );
        assert_eq!(id(r#"{"model_path":"p"}"#).as_deref(), Some("p"));
        assert_eq!(id("{}"), None);
    }

    #[test]
    fn secrets_of_a_worker_stay_inside() {
        let body = br#"{"model_path":"/w","api_key":"sk-1","admin_api_key":"sk-2","tp_size":2,"internal_states":[]}"#;
        assert_eq!(
            public_info(body).unwrap(),
            br#"{"model_path":"/w","tp_size":2}"#
        );
    }
}
