//! The fields of a JSON object, taken one by one, so that a mistake names its field and what nobody
//! took can be told.

use serde_json::{Map, Value};

/// Names of ignored fields that are told; further ones are counted.
const TOLD: usize = 16;

/// Bytes of such a name that are told.
const LONGEST: usize = 64;

/// What is wrong with a body. No variant carries a value, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The body is no JSON object.
    #[error("the body must be a JSON object")]
    NoObject,
    /// The body is no JSON at all.
    #[error("the body is not JSON from line {line}, column {column} on")]
    NoJson {
        /// Line of the mistake.
        line: usize,
        /// Column of the mistake.
        column: usize,
    },
    /// A field has another type, or lies outside its range.
    #[error("`{field}` must be {expected}")]
    Wrong {
        /// The field, with what it lies in.
        field: String,
        /// What would do.
        expected: &'static str,
    },
    /// No field asks for a change.
    #[error(
        "the body changes nothing: it has none of `priority`, `cost`, `labels`, `api_key`, `health`, \
         `resilience` and `drain`, or nothing in them"
    )]
    Nothing,
    /// A field that must be there is not.
    #[error("`{0}` is required")]
    Missing(&'static str),
    /// A field is in order by itself, but not here.
    #[error("`{field}`: {why}")]
    Unfit {
        /// The field.
        field: &'static str,
        /// Why not.
        why: String,
    },
}

impl Fault {
    /// `field` cannot be so here.
    pub(super) fn unfit(field: &'static str, why: impl Into<String>) -> Self {
        Self::Unfit {
            field,
            why: why.into(),
        }
    }
}

/// An object of which fields are taken.
#[derive(Debug)]
pub(super) struct Fields {
    within: String,
    rest: Map<String, Value>,
}

impl Fields {
    /// Those of a body.
    ///
    /// # Errors
    /// Where it is no object.
    pub(super) fn of(body: &[u8]) -> Result<Self, Fault> {
        if body.is_empty() {
            return Err(Fault::NoObject);
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(rest)) => Ok(Self {
                within: String::new(),
                rest,
            }),
            Ok(_) => Err(Fault::NoObject),
            Err(error) => Err(Fault::NoJson {
                line: error.line(),
                column: error.column(),
            }),
        }
    }

    /// The value of `name` as `read` takes it. Null is as good as absent.
    ///
    /// # Errors
    /// Where it is not `expected`, as which `read` takes nothing.
    pub(super) fn take<T>(
        &mut self,
        name: &str,
        expected: &'static str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        match self.rest.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(Fault::Wrong {
                    field: self.path(name),
                    expected,
                }),
            },
        }
    }

    /// Text with something in it.
    ///
    /// # Errors
    /// Where it is something else.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        self.take(name, "a string that is not empty", text)
    }

    /// Yes or no.
    ///
    /// # Errors
    /// Where it is something else.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        self.take(name, "true or false", |value| value.as_bool())
    }

    /// A count.
    ///
    /// # Errors
    /// Where it is something else, or 0.
    pub(super) fn count(&mut self, name: &str) -> Result<Option<u32>, Fault> {
        self.take(name, "a whole number of at least 1", |value| {
            let count = u32::try_from(value.as_u64()?).ok()?;
            (count > 0).then_some(count)
        })
    }

    /// The fields of the object `name`.
    ///
    /// # Errors
    /// Where it is none.
    pub(super) fn inner(&mut self, name: &str) -> Result<Option<Self>, Fault> {
        let within = self.path(name);
        self.take(name, "an object", |value| match value {
            Value::Object(rest) => Some(Self { within, rest }),
            _ => None,
        })
    }

    /// The elements of the list `name`, each told by its place. An empty one is as good as absent.
    ///
    /// # Errors
    /// Where it is no list.
    pub(super) fn list(&mut self, name: &str) -> Result<Option<Vec<(String, Value)>>, Fault> {
        let path = self.path(name);
        let list = self.take(name, "a list", |value| match value {
            Value::Array(list) => Some(list),
            _ => None,
        })?;
        let list = list.filter(|list| !list.is_empty());
        let placed = |(i, value)| (format!("{path}[{i}]"), value);
        Ok(list.map(|list| list.into_iter().enumerate().map(placed).collect()))
    }

    /// The fields of `value`, which lies at `within`; `None` where it is no object.
    pub(super) fn at(within: String, value: Value) -> Option<Self> {
        match value {
            Value::Object(rest) => Some(Self { within, rest }),
            _ => None,
        }
    }

    /// Whether `name` is there and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.rest.get(name).is_some_and(|value| !value.is_null())
    }

    /// Every field with its name; nothing is left.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (String, Value)> {
        std::mem::take(&mut self.rest).into_iter()
    }

    /// The name of a field with what it lies in.
    pub(super) fn path(&self, name: &str) -> String {
        if self.within.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.within)
        }
    }

    /// Adds what nobody took to `ignored`.
    pub(super) fn leave(self, ignored: &mut Vec<String>) {
        let names = self.rest.keys().map(|name| self.path(name));
        ignored.extend(names);
    }
}

/// Text with something in it.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text),
        _ => None,
    }
}

/// A sentence about fields that were ignored, to go behind another one; empty where there are none.
pub(super) fn note(ignored: &[String]) -> String {
    if ignored.is_empty() {
        return String::new();
    }
    let names: Vec<String> = ignored
        .iter()
        .take(TOLD)
        .map(|name| {
            let short: String = name.chars().take(LONGEST).collect();
            format!("`{short}`")
        })
        .collect();
    let more = match ignored.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("; ignored: {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_named_with_its_place_and_without_its_value() {
        let mut fields =
            Fields::of(br#"{"a": {"n": "canary", "flag": 1, "l": 1}, "list": [], "none": null}"#)
                .unwrap();
        let mut inner = fields.inner("a").unwrap().unwrap();
        let error = inner.count("n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`a.n` must be a whole number of at least 1"
        );
        let error = inner.flag("flag").unwrap_err();
        assert_eq!(error.to_string(), "`a.flag` must be true or false");
        assert!(inner.list("l").is_err());
        assert_eq!(fields.list("list"), Ok(None));
        assert_eq!(fields.text("none"), Ok(None));
        assert_eq!(fields.text("absent"), Ok(None));
        assert_eq!(Fields::of(b"[]").unwrap_err(), Fault::NoObject);
        assert_eq!(Fields::of(b"").unwrap_err(), Fault::NoObject);
        let mistake = Fields::of(b"{\n\"url\" \"x\"}").unwrap_err();
        assert_eq!(mistake, Fault::NoJson { line: 2, column: 7 });
    }

    #[test]
    fn what_is_left_is_told_in_short() {
        let mut fields = Fields::of(br#"{"a": {"x": 1}, "b": 1, "c": 2}"#).unwrap();
        let mut ignored = Vec::new();
        fields.inner("a").unwrap().unwrap().leave(&mut ignored);
        assert_eq!(fields.count("b"), Ok(Some(1)));
        fields.leave(&mut ignored);
        assert_eq!(note(&ignored), "; ignored: `a.x`, `c`");
        assert_eq!(note(&[]), "");
        let many: Vec<String> = (0..20).map(|n| format!("{n}{}", "x".repeat(100))).collect();
        assert!(note(&many).ends_with("and 4 more"), "{}", note(&many));
        assert!(note(&many).len() < 1200);
    }
}
