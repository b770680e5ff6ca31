//! Keys whose value is one word of a closed list.

use schemars::{Schema, json_schema};

/// What a message adds when a word or scheme is known but belongs to a later version.
pub(crate) const NOT_AVAILABLE: &str = "not available in this version";

/// Why a text is no word of a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// The list does not have it.
    #[error("unknown {what} `{word}`: expected one of {}", quoted(known))]
    Unknown {
        /// What the list is of.
        what: &'static str,
        /// The text.
        word: String,
        /// The list.
        known: &'static [&'static str],
    },
    /// It is a word of a feature that this version does not have.
    #[error("{what} `{word}` is {NOT_AVAILABLE}")]
    Later {
        /// What the list is of.
        what: &'static str,
        /// The text.
        word: String,
    },
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Brings a word to the form in which spellings are compared.
pub(crate) fn fold(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-')).collect()
}

/// The schema of a key that takes a word. Editors offer the words; of those whose spellings are
/// compared by `compare`, others are valid as well.
pub(crate) fn schema(words: &[&str], compare: fn(&str) -> String) -> Schema {
    if words.iter().all(|word| compare(word) == *word) {
        return json_schema!({ "type": "string", "enum": words });
    }
    let spellings: Vec<String> = words.iter().map(|word| spellings(word)).collect();
    let pattern = format!("^({})$", spellings.join("|"));
    json_schema!({
        "anyOf": [
            { "type": "string", "enum": words },
            { "type": "string", "pattern": pattern },
        ],
    })
}

/// The pattern of all spellings that [`fold`] takes for a word.
pub(crate) fn spellings(word: &str) -> String {
    word.replace('_', "[-_]?")
}

/// Defines an enum of words with its text form, serde and schema.
///
/// `later` lists words that are known but refused, `compare` says how spellings are compared.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident ($what:literal, compare $compare:expr) {
            $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+
        }
        later [$($later:literal),* $(,)?]
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every word, in the order of the reference.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word as it stands in a file.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::config::spec::word::WordError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let compare: fn(&str) -> String = $compare;
                let asked = compare(text);
                $(if asked == compare($word) {
                    return Ok(Self::$variant);
                })+
                let later: &[&str] = &[$($later),*];
                if later.iter().any(|word| compare(word) == asked) {
                    return Err(Self::Err::Later { what: $what, word: text.to_owned() });
                }
                Err(Self::Err::Unknown { what: $what, word: text.to_owned(), known: Self::WORDS })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $name;

                    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        write!(out, "one of the words {}", $name::WORDS.join(", "))
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        use $crate::config::spec::word::WordError;
                        text.parse().map_err(|error| match error {
                            WordError::Unknown { .. } => E::unknown_variant(text, $name::WORDS),
                            WordError::Later { .. } => E::custom(error),
                        })
                    }
                }

                from.deserialize_str(Visitor)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::config::spec::word::schema($name::WORDS, $compare)
            }
        }
    };
}

pub(crate) use words;
