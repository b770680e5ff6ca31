//! The reference of `smg.toml`: tables and keys as the doc comments of the types describe them,
//! read from the JSON schema, with the flags and the reload class of each.

use serde_json::{Map, Value};

use crate::config::cli::flag::Flag;
use crate::config::cli::table::FLAGS;
use crate::config::json_schema;
use crate::config::reload::class_of;

/// A table of the file.
#[derive(Debug)]
pub(super) struct Table {
    /// As it stands in a file: `[server]`, `[[pools]]`; empty for the keys above all tables.
    pub(super) header: String,
    /// What it is, and what to know about it.
    pub(super) about: String,
    /// Its keys, but those that are tables themselves.
    pub(super) keys: Vec<Key>,
}

/// A key of the file.
#[derive(Debug)]
pub(super) struct Key {
    /// Its path; elements of lists are written `[]`.
    pub(super) path: String,
    /// Its name inside of the table.
    pub(super) name: String,
    /// What it is, and what it effects.
    pub(super) about: String,
    /// What a value is, and in which unit.
    pub(super) unit: String,
    /// The value where it is not written.
    pub(super) default: String,
    /// Which values it can have.
    pub(super) range: String,
    /// How a change takes effect.
    pub(super) reload: &'static str,
    /// The flags that set it.
    pub(super) flags: Vec<&'static Flag>,
}

/// Every table of the file, in the order of the types.
pub(super) fn tables() -> Vec<Table> {
    let schema = json_schema();
    let walk = Walk { schema: &schema };
    let mut tables = Vec::new();
    let root = schema.as_object();
    let about = "The keys above all tables.".to_owned();
    walk.table(root, String::new(), "", about, &mut tables);
    tables
}

struct Walk<'a> {
    schema: &'a Value,
}

/// What a schema node is, once references are followed.
enum Shape<'a> {
    Table(&'a Map<String, Value>),
    /// A list whose elements are, or can be, tables.
    List(&'a Map<String, Value>),
    /// A word, or a table with one word as its key.
    Choice(&'a Map<String, Value>),
    Plain,
}

impl<'a> Walk<'a> {
    fn table(
        &self,
        node: Option<&'a Map<String, Value>>,
        header: String,
        path: &str,
        about: String,
        out: &mut Vec<Table>,
    ) {
        let Some(properties) = properties(node) else {
            return;
        };
        let mut table = Table {
            header,
            about,
            keys: Vec::new(),
        };
        let mut inner = Vec::new();
        let wider = wider(path);
        for (name, node) in properties {
            let path = join(path, name);
            let page = Page::read(text(node));
            match self.shape(node) {
                Shape::Table(table) => inner.push((path, table, page, Brackets::One)),
                Shape::Choice(choice) => {
                    table.keys.push(key(&path, name, page));
                    // The same tables may stand wherever the same choice is made.
                    if path == DESCRIBED_CHOICE {
                        let page = Page {
                            what: CHOICE.to_owned(),
                            ..Page::default()
                        };
                        inner.push((path, choice, page, Brackets::One));
                    }
                }
                Shape::List(element) => {
                    // A list that takes plain values as well is a key and a table.
                    if self.is_mixed(node) {
                        table.keys.push(key(&path, name, page));
                        let page = Page {
                            what: "An element as a table.".to_owned(),
                            ..Page::default()
                        };
                        inner.push((path, element, page, Brackets::Two));
                    } else {
                        inner.push((path, element, page, Brackets::Two));
                    }
                }
                // What an override shares with its wider table is described there.
                Shape::Plain if wider.is_some_and(|wider| self.has(wider, name)) => {}
                Shape::Plain => table.keys.push(key(&path, name, page)),
            }
        }
        if let Some(wider) = wider {
            let absent = self.only_in(wider, properties);
            let but = match absent.is_empty() {
                true => String::new(),
                false => format!(" but {}", quoted(&absent)),
            };
            table.about.push_str(&format!(
                " It takes the keys of `[{wider}]`{but}; where one is absent, the next wider \
                 level decides."
            ));
        }
        if let Some(same) = same(path) {
            table
                .about
                .push_str(&format!(" It takes the keys of `{same}`."));
            table.keys.clear();
            inner.clear();
        }
        if !table.keys.is_empty() || wider.is_some() || same(path).is_some() {
            out.push(table);
        }
        for (path, node, page, brackets) in inner {
            let name = path.replace("[]", "");
            let header = match brackets {
                Brackets::One => format!("[{name}]"),
                Brackets::Two => format!("[[{name}]]"),
            };
            let path = match brackets {
                Brackets::One => path,
                Brackets::Two => format!("{path}[]"),
            };
            self.table(Some(node), header, &path, page.about(), out);
        }
    }

    fn shape(&self, node: &'a Value) -> Shape<'a> {
        let whole = self.resolve(node);
        if whole.iter().any(|node| is_documented_table(node)) {
            let is_choice = whole.iter().any(|node| node.contains_key("enum"));
            let table = whole.into_iter().find(|node| is_documented_table(node));
            return match is_choice {
                true => table.map_or(Shape::Plain, Shape::Choice),
                false => table.map_or(Shape::Plain, Shape::Table),
            };
        }
        let elements = whole.iter().filter_map(|node| node.get("items"));
        let mut tables = elements.flat_map(|items| self.resolve(items));
        match tables.find(|node| is_documented_table(node)) {
            Some(table) => Shape::List(table),
            None => Shape::Plain,
        }
    }

    fn is_mixed(&self, node: &'a Value) -> bool {
        let items = node.get("items").into_iter();
        items.flat_map(|items| self.resolve(items)).count() > 1
    }

    /// The nodes that `node` can stand for, references and alternatives followed.
    fn resolve(&self, node: &'a Value) -> Vec<&'a Map<String, Value>> {
        let Some(map) = node.as_object() else {
            return Vec::new();
        };
        if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
            let target = self.schema.pointer(reference.trim_start_matches('#'));
            return target.map(|node| self.resolve(node)).unwrap_or_default();
        }
        match map.get("anyOf").and_then(Value::as_array) {
            Some(nodes) => nodes.iter().flat_map(|node| self.resolve(node)).collect(),
            None if map.get("type").and_then(Value::as_str) == Some("null") => Vec::new(),
            None => vec![map],
        }
    }

    /// Whether the table at `path`, below no list, has a key of this name.
    fn has(&self, path: &str, name: &str) -> bool {
        self.at(path).is_some_and(|keys| keys.contains_key(name))
    }

    /// The keys of the table at `path` that are not among `others`.
    fn only_in(&self, path: &str, others: &Map<String, Value>) -> Vec<&'a str> {
        let keys = self.at(path).into_iter().flat_map(Map::keys);
        keys.filter(|key| !others.contains_key(*key))
            .map(String::as_str)
            .collect()
    }

    fn at(&self, path: &str) -> Option<&'a Map<String, Value>> {
        let start = properties(self.schema.as_object());
        path.split('.')
            .try_fold(start?, |keys, part| match self.shape(keys.get(part)?) {
                Shape::Table(table) | Shape::List(table) => properties(Some(table)),
                Shape::Choice(_) | Shape::Plain => None,
            })
    }
}

/// The choice whose tables are described.
const DESCRIBED_CHOICE: &str = "routing.policy";

/// What is said of them all.
const CHOICE: &str = "How a worker is chosen, as a table with one key: one of these, \
    which have no options, or one of the tables that follow. `models[].policy` and `policy` of the \
    legs of a pool take the same.";

/// The table that the table at `path` is like, key by key.
fn same(path: &str) -> Option<&'static str> {
    match path {
        "pools[].prefill.workers[]" | "pools[].decode.workers[]" => Some("[[pools.workers]]"),
        _ => None,
    }
}

enum Brackets {
    One,
    Two,
}

/// The table whose keys the table at `path` overrides for one pool or model.
fn wider(path: &str) -> Option<&'static str> {
    let inner = path
        .strip_prefix("pools[].")
        .or_else(|| path.strip_prefix("models[]."))?;
    match inner.strip_prefix("reliability.").unwrap_or(inner) {
        "health" => Some("reliability.health"),
        "timeouts" => Some("reliability.timeouts"),
        "retry" => Some("reliability.retry"),
        _ => None,
    }
}

fn properties(node: Option<&Map<String, Value>>) -> Option<&Map<String, Value>> {
    node?.get("properties")?.as_object()
}

/// Whether a node is a table with pages for its keys; a secret as a table has none.
fn is_documented_table(node: &Map<String, Value>) -> bool {
    properties(Some(node)).is_some_and(|keys| keys.values().any(|key| text(key).contains("Unit: ")))
}

fn text(node: &Value) -> &str {
    let text = node.get("description").and_then(Value::as_str);
    text.unwrap_or_default()
}

fn key(path: &str, name: &str, page: Page) -> Key {
    let flags = FLAGS
        .iter()
        .filter(|flag| flag.target.references().iter().any(|key| key == path));
    Key {
        path: path.to_owned(),
        name: name.to_owned(),
        about: page.about(),
        unit: page.unit,
        default: page.default,
        range: page.range,
        reload: class_of(path).map_or("live", |class| class.as_str()),
        flags: flags.collect(),
    }
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// A doc comment taken apart: what, then unit, default, range and reload class, then the effects.
#[derive(Debug, Default)]
struct Page {
    what: String,
    unit: String,
    default: String,
    range: String,
    effects: String,
}

impl Page {
    fn read(text: &str) -> Self {
        let (what, rest) = text.split_once("\n\n").unwrap_or((text, ""));
        let rest = one_line(rest);
        let (facts, effects) = match rest.split_once("Reload: ") {
            Some((facts, rest)) => {
                let (_, effects) = rest.split_once('.').unwrap_or((rest, ""));
                (facts, effects)
            }
            None => (rest.as_str(), ""),
        };
        let effects = effects.trim().replace("See the keys of the table.", "");
        Self {
            what: one_line(what),
            unit: between(facts, "Unit: ", "Default: "),
            default: between(facts, "Default: ", "Range: "),
            range: between(facts, "Range: ", ""),
            effects: effects.trim().to_owned(),
        }
    }

    fn about(&self) -> String {
        format!("{} {}", self.what, self.effects).trim().to_owned()
    }
}

fn between(text: &str, start: &str, end: &str) -> String {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    let value = match rest.split_once(end) {
        Some((value, _)) if !end.is_empty() => value,
        _ => rest,
    };
    let value = value.trim();
    value.strip_suffix('.').unwrap_or(value).to_owned()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
