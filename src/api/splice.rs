//! Edits of a body as it stands: single members are replaced or added, every other byte stays.

use std::borrow::Cow;

use super::lex::{Members, Span, key_is};
use super::quote;
use super::scan::{Fields, Object};

/// A value to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A text that becomes a JSON string.
    Text(&'a str),
    /// JSON that is written as it is.
    Raw(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// `true` or `false`.
    pub const fn bool(value: bool) -> Self {
        let text: &'static [u8] = if value { b"true" } else { b"false" };
        Value::Raw(Cow::Borrowed(text))
    }

    fn len(&self) -> usize {
        match self {
            Value::Text(text) => quote::quoted_len(text),
            Value::Raw(raw) => raw.len(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Text(text) => quote::quote(out, text),
            Value::Raw(raw) => out.extend_from_slice(raw),
        }
    }
}

/// One change of a body. Offsets are those of the body before any change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit<'a> {
    at: Span,
    insert: Option<Insert<'a>>,
    value: Value<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Insert<'a> {
    key: &'a str,
    empty: bool,
}

impl<'a> Edit<'a> {
    /// Writes `value` in place of the bytes in `at`.
    pub const fn replace(at: Span, value: Value<'a>) -> Self {
        Self {
            at,
            insert: None,
            value,
        }
    }

    /// Adds a member as the last of `object`. The caller knows that it has none of that name.
    pub const fn insert(object: Object, key: &'a str, value: Value<'a>) -> Self {
        let at = Span::new(object.close, object.close);
        Self {
            at,
            insert: Some(Insert {
                key,
                empty: object.empty,
            }),
            value,
        }
    }

    /// Gives the body another model name, where it stands or, if there is none, as a new member.
    pub const fn model(fields: &Fields, name: &'a str) -> Self {
        match fields.model {
            Some(at) => Self::replace(at, Value::Text(name)),
            None => Self::insert(fields.object, "model", Value::Text(name)),
        }
    }

    /// Sets the top-level member `key` of a body that was scanned: in place where it exists (the last,
    /// if it is there twice), as a new member otherwise. Walks over the body once.
    pub fn set(body: &[u8], fields: &Fields, key: &'a str, value: Value<'a>) -> Self {
        let open = fields.object.open.saturating_sub(1);
        let found = Members::new(body, open, 1).ok().and_then(|members| {
            members
                .map_while(Result::ok)
                .filter(|member| key_is(member.key.of(body), member.escaped, key))
                .last()
        });
        match found {
            Some(member) => Self::replace(member.value, value),
            None => Self::insert(fields.object, key, value),
        }
    }

    fn len(&self, first: bool) -> usize {
        let member = self.insert.map_or(0, |insert| {
            usize::from(insert.comma(first)) + quote::quoted_len(insert.key) + 1
        });
        member + self.value.len()
    }

    fn write(&self, out: &mut Vec<u8>, first: bool) {
        if let Some(insert) = self.insert {
            if insert.comma(first) {
                out.push(b',');
            }
            quote::quote(out, insert.key);
            out.push(b':');
        }
        self.value.write(out);
    }
}

impl Insert<'_> {
    fn comma(self, first: bool) -> bool {
        !(self.empty && first)
    }
}

/// The body with all `edits` made, in one allocation of the exact size.
///
/// Sorts `edits` by place; several inserts at one place keep their order. Edits must not overlap and
/// must lie within the body: what does not is left out (and is a mistake of the caller).
pub fn splice(body: &[u8], edits: &mut [Edit<'_>]) -> Vec<u8> {
    edits.sort_by_key(|edit| edit.at.start);
    let mut size = body.len();
    for (edit, first) in fitting(body, edits) {
        size = size - edit.at.len() + edit.len(first);
    }
    let mut out = Vec::with_capacity(size);
    let mut copied = 0;
    for (edit, first) in fitting(body, edits) {
        out.extend_from_slice(&body[copied..edit.at.start]);
        edit.write(&mut out, first);
        copied = edit.at.end;
    }
    out.extend_from_slice(&body[copied..]);
    debug_assert_eq!(out.len(), size, "the size was counted exactly");
    out
}

/// The edits that can be made, each with whether it is the first insert at its place.
fn fitting<'e, 'a>(
    body: &[u8],
    edits: &'e [Edit<'a>],
) -> impl Iterator<Item = (&'e Edit<'a>, bool)> {
    let len = body.len();
    let (mut done, mut inserted) = (0, None);
    edits.iter().filter_map(move |edit| {
        let fits = done <= edit.at.start && edit.at.start <= edit.at.end && edit.at.end <= len;
        debug_assert!(fits, "edits lie within the body and do not overlap");
        if !fits {
            return None;
        }
        done = edit.at.end;
        let first = edit.insert.is_some() && inserted != Some(edit.at.start);
        if edit.insert.is_some() {
            inserted = Some(edit.at.start);
        }
        Some((edit, first))
    })
}

#[cfg(test)]
mod tests {
    use super::super::scan::scan;
    use super::*;

    fn model(body: &str, name: &str) -> String {
        let fields = scan(body.as_bytes()).unwrap().fields;
        String::from_utf8(splice(body.as_bytes(), &mut [Edit::model(&fields, name)])).unwrap()
    }

    fn set(body: &str, members: &[(&str, &'static str)]) -> String {
        let fields = scan(body.as_bytes()).unwrap().fields;
        let mut edits: Vec<_> = members
            .iter()
            .map(|(key, raw)| {
                Edit::set(
                    body.as_bytes(),
                    &fields,
                    key,
                    Value::Raw(Cow::Borrowed(raw.as_bytes())),
                )
            })
            .collect();
        String::from_utf8(splice(body.as_bytes(), &mut edits)).unwrap()
    }

    #[test]
    fn a_model_name_is_replaced_in_place() {
        assert_eq!(
            model(r#"{ "a":1.0, "model" : "x" , "b":"é\u00e9"}"#, "q\"w\\é\n"),
            r#"{ "a":1.0, "model" : "q\"w\\é\n" , "b":"é\u00e9"}"#
        );
        assert_eq!(
            model(r#"{"mod\u0065l":null}"#, "x"),
            r#"{"mod\u0065l":"x"}"#
        );
        assert_eq!(
            model(r#"{"model":"a longer name"}"#, "x"),
            r#"{"model":"x"}"#
        );
    }

    #[test]
    fn a_missing_model_becomes_the_last_member() {
        assert_eq!(model("{}", "x"), r#"{"model":"x"}"#);
        assert_eq!(model(" { } ", "x"), r#" { "model":"x"} "#);
        assert_eq!(model(r#"{"a":1 }"#, "x"), r#"{"a":1 ,"model":"x"}"#);
    }

    #[test]
    fn members_are_set_or_added() {
        assert_eq!(
            set(r#"{"a":1,"b":[2]}"#, &[("b", "3"), ("a", "{}")]),
            r#"{"a":{},"b":3}"#
        );
        assert_eq!(set("{}", &[("a", "1"), ("b", "2")]), r#"{"a":1,"b":2}"#);
        assert_eq!(
            set(r#"{"x":0}"#, &[("a", "1"), ("x", "9"), ("b", "2")]),
            r#"{"x":9,"a":1,"b":2}"#
        );
        assert_eq!(
            set(r#"{"a":1,"\u0061":2}"#, &[("a", "3")]),
            r#"{"a":1,"\u0061":3}"#
        );
        assert_eq!(Value::bool(true), Value::Raw(Cow::Borrowed(b"true")));
    }

    #[test]
    fn no_edit_is_a_copy() {
        assert_eq!(splice(b"{ }", &mut []), b"{ }");
    }
}
