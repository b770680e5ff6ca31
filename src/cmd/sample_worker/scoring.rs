//! Embeddings, rerank and classify: figures that follow from the text.

use serde_json::{Value, json};

use super::ask::{self, Input, Item, Text};
use super::engine::Engine;
use super::hash::{fold, mix, share};
use super::job::{Parsed, fault};
use super::prompt::Prompt;
use super::reply::{Refusal, Reply, json_bytes, json_value};
use crate::base::clock;

const DIMENSIONS: usize = 64;
const MOST_DIMENSIONS: usize = 8192;
const CLASSES: u64 = 2;

/// Answers `/v1/embeddings`: unit vectors, equal for equal texts.
///
/// # Errors
/// 400 for a body that is no such request, 404 for an unknown model.
pub(super) fn embeddings(engine: &Engine, body: &[u8]) -> Parsed<Reply> {
    let ask: ask::Embeddings<'_> = serde_json::from_slice(body)?;
    let model = engine.model(ask.model.as_ref().map(Text::as_str))?;
    let dimensions = ask.dimensions.unwrap_or(DIMENSIONS);
    if dimensions == 0 || dimensions > MOST_DIMENSIONS {
        let message = format!("`dimensions` must be 1 to {MOST_DIMENSIONS}, not {dimensions}");
        return Err(Refusal::bad_request(message));
    }
    let base64 = ask
        .encoding_format
        .as_ref()
        .is_some_and(|format| format.as_str() == "base64");
    let prompts = prompts(&ask.input)?;
    let entry = |(index, prompt): (usize, &Prompt)| {
        let vector = unit_vector(prompt.seed(), dimensions);
        let embedding = if base64 {
            Value::from(encode(&vector))
        } else {
            Value::from(vector)
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    };
    let entries: Vec<Value> = prompts.iter().enumerate().map(entry).collect();
    let tokens: u64 = prompts.iter().map(Prompt::tokens).sum();
    // The model is JSON already and goes in as it is.
    let answer = format!(
        r#"{{"object":"list","data":{},"model":{model},"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}}}"#,
        Value::from(entries)
    );
    Ok((json_bytes(answer), fault(ask.sample_fault.as_ref())?))
}

/// Answers `/v1/rerank` with an array sorted by score: the share of the query's words that a
/// document has.
///
/// # Errors
/// 400 for a body that is no such request, 404 for an unknown model.
pub(super) fn rerank(engine: &Engine, body: &[u8]) -> Parsed<Reply> {
    let ask: ask::Rerank<'_> = serde_json::from_slice(body)?;
    engine.model(ask.model.as_ref().map(Text::as_str))?;
    if ask.documents.0.is_empty() {
        return Err(Refusal::bad_request("`documents` must not be empty"));
    }
    let query = ask.query.as_str();
    let mut scored: Vec<(f64, usize, &str)> = ask
        .documents
        .iter()
        .enumerate()
        .map(|(i, text)| (score(query, text), i, text))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.truncate(ask.top_n.unwrap_or(usize::MAX));
    let documents = ask.return_documents.unwrap_or(true);
    let entry = |(score, index, text): (f64, usize, &str)| {
        let tokens = text.len().div_ceil(4) + query.len().div_ceil(4);
        let meta = json!({ "prompt_tokens": tokens });
        let mut entry = json!({ "score": score, "index": index, "meta_info": meta });
        if documents {
            entry["document"] = text.into();
        }
        entry
    };
    let entries: Vec<Value> = scored.into_iter().map(entry).collect();
    Ok((
        json_value(&entries.into()),
        fault(ask.sample_fault.as_ref())?,
    ))
}

/// Answers `/v1/classify` with one of two labels per text.
///
/// # Errors
/// 400 for a body that is no such request, 404 for an unknown model.
pub(super) fn classify(engine: &Engine, body: &[u8]) -> Parsed<Reply> {
    let ask: ask::Classify<'_> = serde_json::from_slice(body)?;
    let model = engine.model(ask.model.as_ref().map(Text::as_str))?;
    let prompts = prompts(&ask.input)?;
    let entry = |(index, prompt): (usize, &Prompt)| {
        let first = share(mix(prompt.seed()));
        let label = if first >= 0.5 { "LABEL_0" } else { "LABEL_1" };
        let probs = [first, 1.0 - first];
        json!({ "index": index, "label": label, "probs": probs, "num_classes": CLASSES })
    };
    let entries: Vec<Value> = prompts.iter().enumerate().map(entry).collect();
    let tokens: u64 = prompts.iter().map(Prompt::tokens).sum();
    let answer = format!(
        r#"{{"id":"classify-{:016x}","object":"list","created":{},"model":{model},"data":{},"usage":{{"prompt_tokens":{tokens},"completion_tokens":0,"total_tokens":{tokens}}}}}"#,
        engine.id(),
        clock::unix().as_secs(),
        Value::from(entries)
    );
    Ok((json_bytes(answer), fault(ask.sample_fault.as_ref())?))
}

fn prompts(input: &Input<'_>) -> Result<Vec<Prompt>, Refusal> {
    if input.0.is_empty() {
        return Err(Refusal::bad_request("`input` must not be empty"));
    }
    let prompt = |item: &Item<'_>| {
        let mut prompt = Prompt::new(0);
        match item {
            Item::Text(text) => prompt.text(text.as_str()),
            Item::Ids(ids) => prompt.ids(ids),
        }
        prompt
    };
    Ok(input.0.iter().map(prompt).collect())
}

fn unit_vector(seed: u64, dimensions: usize) -> Vec<f32> {
    let raw: Vec<f64> = (0..dimensions as u64)
        .map(|i| share(mix(seed.wrapping_add(i))) - 0.5)
        .collect();
    let length = raw
        .iter()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
        .max(f64::MIN_POSITIVE);
    raw.iter().map(|value| (value / length) as f32).collect()
}

fn score(query: &str, text: &str) -> f64 {
    let (mut words, mut found) = (0.0, 0.0);
    for word in query.split_whitespace() {
        words += 1.0;
        if text
            .split_whitespace()
            .any(|other| other.eq_ignore_ascii_case(word))
        {
            found += 1.0;
        }
    }
    // A little that depends on the text keeps ties apart.
    let score = found / f64::max(words, 1.0) + share(fold(0, text.as_bytes())) / 100.0;
    score / 1.01
}

/// The vector as base64 of little-endian floats.
fn encode(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * place)) as usize & 63];
            text.push(if place > chunk.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one() {
        let vector = unit_vector(9, 64);
        let length: f32 = vector.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5);
        assert_ne!(vector, unit_vector(10, 64));
    }

    #[test]
    fn base64_of_known_bytes() {
        assert_eq!(encode(&[0.0]), "AAAAAA==");
        assert_eq!(encode(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(encode(&[1.0, 1.0, 1.0]), "AACAPwAAgD8AAIA/");
    }

    #[test]
    fn the_document_with_the_words_of_the_query_wins() {
        assert!(score("red fox", "a Red fox ran") > score("red fox", "a red dog"));
        assert!(score("red fox", "red fox") <= 1.0);
    }
}
