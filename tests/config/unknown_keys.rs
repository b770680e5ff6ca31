//! An unknown key is found wherever it stands.

use std::collections::BTreeSet;

use smg::config::diag::Place;
use smg::config::load;

use super::{cases, copy_certificates, input, show};

/// Closed tables of a TOML text: the offsets where a key can be added, how to add it, and whether
/// the table is open.
mod plant {
    use std::ops::Range;

    use toml::Spanned;
    use toml::de::{DeTable, DeValue};

    /// The key that no table knows.
    pub(crate) const WEED: &str = "zzz_weed";

    /// A way to add the weed: the text to insert and where.
    pub(crate) struct Spot {
        pub(crate) path: String,
        offset: usize,
        before: &'static str,
        after: &'static str,
    }

    impl Spot {
        /// The text with the weed, and the line and column of it.
        pub(crate) fn plant(&self, text: &str) -> (String, usize, usize) {
            let (head, tail) = text.split_at(self.offset);
            let before = format!("{head}{}", self.before);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            (
                format!("{before}{WEED} = 1{}{tail}", self.after),
                line,
                column,
            )
        }
    }

    pub(crate) fn spots(text: &str) -> Vec<Spot> {
        let mut out = vec![Spot {
            path: String::new(),
            offset: 0,
            before: "",
            after: "\n",
        }];
        table(text, DeTable::parse(text).unwrap().get_ref(), "", &mut out);
        out
    }

    fn table(text: &str, table: &DeTable<'_>, path: &str, out: &mut Vec<Spot>) {
        for (key, value) in table {
            let key = key.get_ref();
            // Any key may stand in these.
            if ["labels", "headers", "body", "role_mapping"].contains(&key.as_ref()) {
                continue;
            }
            let path = if path.is_empty() {
                key.to_string()
            } else {
                format!("{path}.{key}")
            };
            node(text, value, &path, out);
        }
    }

    fn node(text: &str, value: &Spanned<DeValue<'_>>, path: &str, out: &mut Vec<Spot>) {
        match value.get_ref() {
            DeValue::Table(inner) => {
                out.extend(spot(text, value.span(), path));
                table(text, inner, path, out);
            }
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    node(text, item, &format!("{path}[{i}]"), out);
                }
            }
            _ => {}
        }
    }

    fn spot(text: &str, span: Range<usize>, path: &str) -> Option<Spot> {
        let written = text.get(span.clone())?;
        let path = path.to_owned();
        if written.starts_with('{') {
            let after = if written.trim_matches(['{', '}', ' ']).is_empty() {
                ""
            } else {
                ", "
            };
            return Some(Spot {
                path,
                offset: span.start + 1,
                before: " ",
                after,
            });
        }
        // Only a table with a header of its own has a place for more keys.
        written.starts_with('[').then_some(Spot {
            path,
            offset: span.end,
            before: "\n",
            after: "",
        })
    }
}

/// A table that cannot be read is not counted, and those behind it keep the places they have.
#[test]
fn unknown_keys_behind_a_mistake_keep_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    let text = "version = 1\n[[pools]]\nname = \"p\"\nworkers = [\"http://w:1\"]\n\
                [[models]]\npool = \"p\"\n\
                [[models]]\nname = \"b\"\npool = \"p\"\nbogus = 1\n\
                [[models]]\nname = \"c\"\npool = 1\nweed = 2\n";
    std::fs::write(&file, text).unwrap();
    let loaded = load(&input(&file));
    let told: Vec<(&str, &str)> = loaded
        .diagnostics
        .iter()
        .filter(|d| d.slug == "unknown-key")
        .map(|d| (d.slug, d.message.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("unknown-key", "unknown key `models[1].bogus`"),
            ("unknown-key", "unknown key `models[2].weed`"),
        ],
        "{}",
        show(&loaded)
    );
}

#[test]
fn an_unknown_key_is_found_in_every_closed_table() {
    let mut planted = 0;
    let mut paths = BTreeSet::new();
    for file in cases("ok") {
        let text = std::fs::read_to_string(&file).unwrap();
        let dir = tempfile::tempdir().unwrap();
        copy_certificates(dir.path());
        let copy = dir.path().join("smg.toml");
        for spot in plant::spots(&text) {
            let (weedy, line, column) = spot.plant(&text);
            std::fs::write(&copy, &weedy).unwrap();
            let loaded = load(&input(&copy));
            let found = loaded.diagnostics.iter().any(|d| {
                d.slug == "unknown-key"
                    && matches!(&d.primary, Some(Place::File(spot))
                        if (spot.line, spot.column) == (line, column))
            });
            assert!(
                found,
                "{} at {line}:{column} in `{}` of {}:\n{}",
                plant::WEED,
                spot.path,
                file.display(),
                show(&loaded)
            );
            planted += 1;
            paths.insert(spot.path);
        }
    }
    assert!(planted > 40, "{planted}");
    for path in [
        "",
        "listeners[0].limits",
        "pools[0].workers[1]",
        "models[1].policy.round_robin",
        "models[0].mirror",
        "models[2].split[1]",
        "models[2].policy.manual",
        "models[4].policy",
        "pools[2].prefill.workers[0]",
        "pools[2].decode",
        "routing.policy.cacheaware",
        "tests[0].request",
        "tests[1].expect",
    ] {
        assert!(paths.contains(path), "{path} is not among {paths:?}");
    }
}
