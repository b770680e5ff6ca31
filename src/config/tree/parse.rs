//! TOML text to a tree.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::{Entry, Mark, Node, Value};

/// A place where the text is not TOML.
#[derive(Debug)]
pub(crate) struct Syntax {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
}

/// Reads as much of the text as can be read, and says what could not.
pub(crate) fn parse(text: &str, file: usize) -> (Node, Vec<Syntax>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut build = Build {
        file,
        syntax: Vec::new(),
    };
    build.syntax.extend(errors.into_iter().map(|error| Syntax {
        span: error.span().unwrap_or_default(),
        message: error.message().to_owned(),
    }));
    let value = build.table(table.into_inner());
    (
        Node::new(value, Mark::File { file, span: 0..0 }),
        build.syntax,
    )
}

struct Build {
    file: usize,
    syntax: Vec<Syntax>,
}

impl Build {
    fn table(&mut self, table: DeTable<'_>) -> Value {
        let entries = table.into_iter().map(|(key, value)| {
            let mark = self.mark(key.span());
            let mut node = self.node(value);
            // A table that no header names has no text of its own: its key stands for it.
            if matches!(&node.mark, Mark::File { span, .. } if span.is_empty()) {
                node.mark = mark.clone();
            }
            Entry {
                key: key.into_inner().into_owned(),
                mark,
                node,
            }
        });
        Value::Table(entries.collect())
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>) -> Node {
        let span = value.span();
        let mark = self.mark(span.clone());
        let value = match value.into_inner() {
            DeValue::String(text) => Value::Str(text.into_owned()),
            DeValue::Integer(number) => match integer(&number) {
                Some(number) => Value::Int(number),
                None => self.refuse(span, format!("`{number}` does not fit into 64 bits")),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => self.refuse(span, format!("`{number}` is not a number")),
            },
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(items) => {
                Value::Array(items.into_iter().map(|item| self.node(item)).collect())
            }
            DeValue::Table(table) => self.table(table),
        };
        Node::new(value, mark)
    }

    fn mark(&self, span: Range<usize>) -> Mark {
        Mark::File {
            file: self.file,
            span,
        }
    }

    fn refuse(&mut self, span: Range<usize>, message: String) -> Value {
        self.syntax.push(Syntax { span, message });
        Value::Absent
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::path::KeyPath;
    use super::*;

    fn text_at(text: &str, path: &str) -> String {
        let (root, syntax) = parse(text, 0);
        assert!(syntax.is_empty(), "{syntax:?}");
        match &root.find(&KeyPath::parse(path)).unwrap().mark {
            Mark::File { span, .. } => text.get(span.clone()).unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn positions() {
        let text = "version = 1\n[server]\nrequest_timeout = \"1m\"\n[[pools]]\nname = 'a'\n\
            connections.idle_timeout = \"1s\"\n[pools.reliability.retry]\nenabled = true\n\
            [[pools]]\nworkers = [\"x\", { url = 'y' }]\n";
        assert_eq!(text_at(text, "version"), "1");
        assert_eq!(text_at(text, "server"), "[server]");
        assert_eq!(text_at(text, "server.request_timeout"), "\"1m\"");
        assert_eq!(text_at(text, "pools[0]"), "[[pools]]");
        assert_eq!(text_at(text, "pools[0].connections"), "connections");
        assert_eq!(
            text_at(text, "pools[0].reliability.retry"),
            "[pools.reliability.retry]"
        );
        assert_eq!(text_at(text, "pools[1].workers[0]"), "\"x\"");
        assert_eq!(text_at(text, "pools[1].workers[1]"), "{ url = 'y' }");
        assert_eq!(text_at(text, "pools[1].workers[1].url"), "'y'");
    }

    #[test]
    fn mistakes_do_not_hide_the_rest() {
        let (root, syntax) = parse("a = 1\nb = \nc = 3\nd = 99999999999999999999\n", 0);
        assert!(root.get("a").is_some() && root.get("c").is_some());
        assert_eq!(syntax.len(), 2, "{syntax:?}");
    }
}
