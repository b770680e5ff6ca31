//! A scrape as a list of families, read strictly.

use std::collections::{BTreeMap, BTreeSet};

/// One family of a scrape.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) help: String,
    pub(crate) kind: String,
    /// The label names of its series; `le` of a histogram is left out.
    pub(crate) labels: BTreeSet<Vec<String>>,
    /// The values of `le` of a histogram.
    pub(crate) bounds: BTreeSet<String>,
}

/// The families of a scrape by name. Panics on what is not well formed.
pub(crate) fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            name.clone_into(&mut current);
            let family = Family {
                help: help.to_owned(),
                ..Family::default()
            };
            let before = families.insert(current.clone(), family);
            assert!(before.is_none(), "family `{name}` comes twice");
            continue;
        }
        let family = families
            .get_mut(&current)
            .unwrap_or_else(|| panic!("no family before {line}"));
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE of another family");
            kind.clone_into(&mut family.kind);
            continue;
        }
        let (name, labels) = sample(line);
        let histogram = family.kind == "histogram";
        let suffixes: &[&str] = if histogram {
            &["_bucket", "_sum", "_count"]
        } else {
            &[""]
        };
        assert!(
            suffixes
                .iter()
                .any(|suffix| name.strip_suffix(suffix) == Some(&current)),
            "sample of another family: {line}"
        );
        let mut names = Vec::new();
        for (label, value) in labels {
            if histogram && label == "le" {
                family.bounds.insert(value);
            } else {
                names.push(label);
            }
        }
        family.labels.insert(names);
    }
    families
}

/// The name of a sample, and its labels with their values as they are escaped.
fn sample(line: &str) -> (&str, Vec<(String, String)>) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, rest) = line.split_at(end);
    let mut labels = Vec::new();
    let Some(mut rest) = rest.strip_prefix('{') else {
        return (name, labels);
    };
    while let Some((label, after)) = rest.split_once("=\"") {
        let mut escaped = false;
        let close = after.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        let (value, after) = after.split_at(close.unwrap());
        labels.push((label.trim_start_matches(',').to_owned(), value.to_owned()));
        rest = after.trim_start_matches('"');
        if rest.starts_with('}') {
            break;
        }
    }
    (name, labels)
}

#[test]
fn reads_families() {
    let families = families(
        "# HELP a Some help.\n# TYPE a histogram\na_bucket{x=\"y\\\"},{\",le=\"1\"} 0\n\
         a_bucket{x=\"y\\\\\",le=\"+Inf\"} 1\na_sum{x=\"y\"} 1\na_count{x=\"y\"} 1\n\
         # HELP b More.\n# TYPE b counter\nb 3\n",
    );
    let a = &families["a"];
    assert_eq!((&*a.help, &*a.kind), ("Some help.", "histogram"));
    assert_eq!(a.labels, BTreeSet::from([vec!["x".to_owned()]]));
    assert_eq!(
        a.bounds,
        BTreeSet::from(["+Inf".to_owned(), "1".to_owned()])
    );
    assert_eq!(families["b"].labels, BTreeSet::from([vec![]]));
}
