//! Policies in the tree: a word, or a table with one word as its key.
//!
//! Both forms mean the same, so an option can be laid over either. Names of policies have several
//! spellings; in a table they are brought to the canonical one, so that the path of an option is
//! the same however the policy is spelled.

use super::spec::PolicyName;
use super::tree::{Mark, Node, Value};

/// The name of the policy that a node holds; `None` where it holds none.
pub(crate) fn name(node: &Node) -> Option<PolicyName> {
    match &node.value {
        Value::Str(word) => word.parse().ok(),
        Value::Table(_) => match node.entries() {
            [only] => only.key.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// Lays the policy called `word` over the one at `key` of a table. Options stay where it is the
/// same policy.
pub(crate) fn set_name(table: &mut Node, key: &str, word: &str, mark: &Mark) {
    let asked = word.parse::<PolicyName>().ok();
    match table.get_mut(key) {
        Some(present)
            if asked.is_some()
                && name(present) == asked
                && matches!(present.value, Value::Table(_)) =>
        {
            present.mark = mark.clone();
        }
        _ => table.set(key, Node::new(Value::Str(word.to_owned()), mark.clone())),
    }
}

/// Sets an option of the policy at `key` of a table if its name is among `kinds`; where the key is
/// absent the policy is `default`. Says whether it was set.
pub(crate) fn set_option(
    table: &mut Node,
    key: &str,
    default: Option<PolicyName>,
    kinds: &[PolicyName],
    (option, value): (&str, Node),
) -> bool {
    let (in_force, mark) = match table.get(key) {
        Some(present) => (name(present), present.mark.clone()),
        None => (default, Mark::Default),
    };
    let Some(in_force) = in_force.filter(|name| kinds.contains(name)) else {
        return false;
    };
    let word = in_force.as_str();
    if !matches!(table.get(key), Some(node) if matches!(node.value, Value::Table(_))) {
        let mut choice = Node::table(mark.clone());
        choice.set(word, Node::table(mark));
        table.set(key, choice);
    }
    let options = table.get_mut(key).and_then(|choice| choice.get_mut(word));
    if let Some(options) = options {
        options.set(option, value);
    }
    true
}

/// Spells the names of policies that stand as keys in the canonical way.
pub(crate) fn spell(root: &mut Node) {
    if let Some(routing) = root.get_mut("routing") {
        spell_in(routing);
    }
    elements(root, "models").for_each(spell_in);
    for pool in elements(root, "pools") {
        for leg in ["prefill", "decode"] {
            if let Some(leg) = pool.get_mut(leg) {
                spell_in(leg);
            }
        }
    }
}

fn elements<'a>(root: &'a mut Node, list: &str) -> impl Iterator<Item = &'a mut Node> {
    let nodes = match root.get_mut(list).map(|list| &mut list.value) {
        Some(Value::Array(nodes)) => Some(nodes),
        _ => None,
    };
    nodes.into_iter().flatten()
}

fn spell_in(table: &mut Node) {
    let Some(Value::Table(entries)) = table.get_mut("policy").map(|policy| &mut policy.value)
    else {
        return;
    };
    for entry in entries {
        if let Ok(name) = entry.key.parse::<PolicyName>() {
            name.as_str().clone_into(&mut entry.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse::parse;
    use super::super::tree::path::KeyPath;
    use super::*;

    fn tree(text: &str) -> Node {
        let (mut root, _) = parse(text, 0);
        spell(&mut root);
        root
    }

    fn flag() -> Mark {
        Mark::Flag("--x".to_owned())
    }

    #[test]
    fn spellings() {
        let root = tree(
            "routing.policy.cache-aware = {}\n[[models]]\npolicy.roundrobin = {}\n[[models]]\n\
             [[pools]]\ndecode.policy = { least-load = { x = 1 } }\n",
        );
        for key in [
            "routing.policy.cache_aware",
            "models[0].policy.round_robin",
            "pools[0].decode.policy.least_load.x",
        ] {
            assert!(root.find(&KeyPath::parse(key)).is_some(), "{key}");
        }
    }

    #[test]
    fn an_option_fits_word_table_and_default() {
        let value = || ("memory", Node::new(Value::Int(1), flag()));
        let kinds = [PolicyName::CacheAware, PolicyName::Bucket];
        let default = Some(PolicyName::CacheAware);
        for (text, path) in [
            ("", "policy.cache_aware.memory"),
            ("policy = 'cacheaware'", "policy.cache_aware.memory"),
            ("policy.bucket = { a = 1 }", "policy.bucket.memory"),
        ] {
            let mut root = tree(text);
            assert!(
                set_option(&mut root, "policy", default, &kinds, value()),
                "{text}"
            );
            assert_eq!(
                root.find(&KeyPath::parse(path)).unwrap().mark,
                flag(),
                "{text}"
            );
        }
        for text in ["policy = 'random'", "policy = 5", "policy = 'best'"] {
            let mut root = tree(text);
            assert!(
                !set_option(&mut root, "policy", default, &kinds, value()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_keeps_the_options_of_its_own() {
        for (text, word, kept) in [
            ("policy.bucket = { a = 1 }", "bucket", true),
            ("policy.bucket = { a = 1 }", "random", false),
            ("policy = 'random'", "bucket", false),
            ("", "bucket", false),
        ] {
            let mut root = tree(text);
            set_name(&mut root, "policy", word, &flag());
            let node = root.get("policy").unwrap();
            assert_eq!(node.mark, flag());
            assert_eq!(name(node), word.parse().ok());
            assert_eq!(matches!(node.value, Value::Table(_)), kept, "{text} {word}");
        }
    }
}
