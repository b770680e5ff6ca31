//! What the worker reads of a request. Texts are borrowed from the body wherever JSON allows it;
//! members that nothing depends on are skipped without being built.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A chat completion.
#[derive(Deserialize)]
pub(super) struct Chat<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) messages: Vec<Message<'a>>,
    pub(super) max_tokens: Option<u32>,
    pub(super) max_completion_tokens: Option<u32>,
    pub(super) n: Option<u32>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    #[serde(borrow, default)]
    pub(super) stop: Texts<'a>,
    pub(super) data_parallel_rank: Option<u32>,
    pub(super) routed_dp_rank: Option<u32>,
    #[serde(borrow)]
    pub(super) sample_fault: Option<Text<'a>>,
}

/// A text completion.
#[derive(Deserialize)]
pub(super) struct Completion<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) prompt: Input<'a>,
    pub(super) max_tokens: Option<u32>,
    pub(super) n: Option<u32>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    #[serde(borrow, default)]
    pub(super) stop: Texts<'a>,
    pub(super) data_parallel_rank: Option<u32>,
    pub(super) routed_dp_rank: Option<u32>,
    #[serde(borrow)]
    pub(super) sample_fault: Option<Text<'a>>,
}

/// SGLang's own generation request.
#[derive(Deserialize)]
pub(super) struct Generate<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) text: Option<Input<'a>>,
    #[serde(borrow)]
    pub(super) input_ids: Option<Input<'a>>,
    #[serde(borrow)]
    pub(super) sampling_params: Option<SamplingParams<'a>>,
    pub(super) stream: Option<bool>,
    pub(super) data_parallel_rank: Option<u32>,
    pub(super) routed_dp_rank: Option<u32>,
    #[serde(borrow)]
    pub(super) sample_fault: Option<Text<'a>>,
}

#[derive(Deserialize, Default)]
pub(super) struct SamplingParams<'a> {
    pub(super) max_new_tokens: Option<u32>,
    #[serde(borrow, default)]
    pub(super) stop: Texts<'a>,
}

/// A request of the Responses API.
#[derive(Deserialize)]
pub(super) struct Responses<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) instructions: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) input: Turns<'a>,
    pub(super) max_output_tokens: Option<u32>,
    pub(super) stream: Option<bool>,
    pub(super) data_parallel_rank: Option<u32>,
    pub(super) routed_dp_rank: Option<u32>,
    #[serde(borrow)]
    pub(super) sample_fault: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Embeddings<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) input: Input<'a>,
    pub(super) dimensions: Option<usize>,
    #[serde(borrow)]
    pub(super) encoding_format: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) sample_fault: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Rerank<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) query: Text<'a>,
    #[serde(borrow)]
    pub(super) documents: Texts<'a>,
    #[serde(alias = "top_k")]
    pub(super) top_n: Option<usize>,
    pub(super) return_documents: Option<bool>,
    #[serde(borrow)]
    pub(super) sample_fault: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Classify<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow, alias = "text")]
    pub(super) input: Input<'a>,
    #[serde(borrow)]
    pub(super) sample_fault: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

/// One turn of a conversation.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) role: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) content: Texts<'a>,
}

/// The input of the Responses API: a text or turns.
pub(super) enum Turns<'a> {
    Text(Text<'a>),
    Messages(Vec<Message<'a>>),
}

/// A string of the body.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

/// Texts: of a string, of an array of strings, or of the `text` members of content parts.
/// Parts without one, such as images, and null leave nothing.
#[derive(Default)]
pub(super) struct Texts<'a>(pub(super) Vec<Text<'a>>);

/// Prompts: a string, an array of strings, an array of token ids, or an array of such arrays.
pub(super) struct Input<'a>(pub(super) Vec<Item<'a>>);

/// One prompt.
pub(super) enum Item<'a> {
    Text(Text<'a>),
    Ids(Vec<u32>),
}

impl Text<'_> {
    /// The string.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'a> Texts<'a> {
    /// The strings, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Text::as_str)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Visit)
    }
}

/// An element of an array of texts or content parts.
struct Part<'a>(Option<Text<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Part<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Part<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a content part")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Part<'de>, E> {
                Ok(Part(Some(Text(Cow::Borrowed(text)))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Part<'de>, E> {
                Ok(Part(Some(Text(Cow::Owned(text.to_owned())))))
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Part<'de>, M::Error> {
                let mut part = Part(None);
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    if key.as_str() == "text" {
                        part.0 = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(part)
            }
        }
        from.deserialize_any(Visit)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Texts<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Texts<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings or content parts")
            }
            fn visit_unit<E>(self) -> Result<Texts<'de>, E> {
                Ok(Texts::default())
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Texts<'de>, E> {
                Ok(Texts(vec![Text(Cow::Borrowed(text))]))
            }
            fn visit_str<E>(self, text: &str) -> Result<Texts<'de>, E> {
                Ok(Texts(vec![Text(Cow::Owned(text.to_owned()))]))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Texts<'de>, S::Error> {
                let mut texts = Vec::new();
                while let Some(part) = seq.next_element::<Part<'de>>()? {
                    texts.extend(part.0);
                }
                Ok(Texts(texts))
            }
        }
        from.deserialize_any(Visit)
    }
}

/// An element of an array of prompts.
enum Element<'a> {
    Text(Text<'a>),
    Id(u32),
    Ids(Vec<u32>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Element<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Element<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or an array of token ids")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Element<'de>, E> {
                Ok(Element::Text(Text(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Element<'de>, E> {
                Ok(Element::Text(Text(Cow::Owned(text.to_owned()))))
            }
            fn visit_u64<E: Error>(self, id: u64) -> Result<Element<'de>, E> {
                u32::try_from(id).map(Element::Id).map_err(E::custom)
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Element<'de>, S::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(Element::Ids(ids))
            }
        }
        from.deserialize_any(Visit)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Input<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Input<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings or token ids")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Input<'de>, E> {
                Ok(Input(vec![Item::Text(Text(Cow::Borrowed(text)))]))
            }
            fn visit_str<E>(self, text: &str) -> Result<Input<'de>, E> {
                Ok(Input(vec![Item::Text(Text(Cow::Owned(text.to_owned())))]))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Input<'de>, S::Error> {
                let mut items = Vec::new();
                let mut bare = Vec::new();
                while let Some(element) = seq.next_element::<Element<'de>>()? {
                    match element {
                        Element::Text(text) => items.push(Item::Text(text)),
                        Element::Ids(ids) => items.push(Item::Ids(ids)),
                        Element::Id(id) => bare.push(id),
                    }
                }
                if !bare.is_empty() {
                    items.push(Item::Ids(bare));
                }
                Ok(Input(items))
            }
        }
        from.deserialize_any(Visit)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Turns<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Turns<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of items")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Turns<'de>, E> {
                Ok(Turns::Text(Text(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Turns<'de>, E> {
                Ok(Turns::Text(Text(Cow::Owned(text.to_owned()))))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Turns<'de>, S::Error> {
                let mut messages = Vec::new();
                while let Some(message) = seq.next_element()? {
                    messages.push(message);
                }
                Ok(Turns::Messages(messages))
            }
        }
        from.deserialize_any(Visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts_are_borrowed() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"},
            {"role":"user","content":[{"type":"text","text":"a\n"},{"type":"image_url"}]},
            {"role":"assistant","content":null}],"stop":"x","extra":{"deep":[1]}}"#;
        let chat: Chat<'_> = serde_json::from_slice(body.as_bytes()).unwrap();
        assert!(matches!(
            chat.messages[0].content.0[0].0,
            Cow::Borrowed("hi")
        ));
        assert_eq!(chat.messages[1].content.iter().collect::<Vec<_>>(), ["a\n"]);
        assert!(chat.messages[2].content.0.is_empty());
        assert_eq!(chat.stop.iter().collect::<Vec<_>>(), ["x"]);
    }

    #[test]
    fn prompts_in_all_forms() {
        let count = |json: &str| serde_json::from_str::<Input<'_>>(json).map(|input| input.0.len());
        assert_eq!(count(r#""a""#).unwrap(), 1);
        assert_eq!(count(r#"["a","b"]"#).unwrap(), 2);
        assert_eq!(count("[1,2,3]").unwrap(), 1);
        assert_eq!(count("[[1],[2,3]]").unwrap(), 2);
        assert!(count("[1.5]").is_err());
        assert!(count("{}").is_err());
    }
}
