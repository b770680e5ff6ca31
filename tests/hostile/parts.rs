//! What the binary is made of: the list of it is whole, and nothing is in it that was banned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const BANNED: &[&str] = &[
    "aws-lc-rs",
    "aws-lc-sys",
    "openssl",
    "openssl-sys",
    "native-tls",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Name and version to checksum, as `Cargo.lock` has them.
fn locked() -> BTreeMap<(String, String), String> {
    let text = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: toml::Table = text.parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let packages = packages.iter().map(|package| {
        let word = |key: &str| {
            let value = package.get(key).and_then(toml::Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        ((word("name"), word("version")), word("checksum"))
    });
    packages.collect()
}

#[test]
fn the_list_of_parts_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let file = folder.path().join(name);
        let status = Command::new(root().join("scripts/sbom"))
            .arg(&file)
            .status();
        assert!(status.unwrap().success());
        std::fs::read(file).unwrap()
    };
    let text = made("a.json");
    assert!(text == made("b.json"), "the same sources give another list");
    let list: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        (&list["bomFormat"], &list["specVersion"]),
        (&"CycloneDX".into(), &"1.5".into())
    );
    let serial = list["serialNumber"].as_str().unwrap();
    serial
        .strip_prefix("urn:uuid:")
        .unwrap()
        .parse::<uuid::Uuid>()
        .unwrap();
    let own = &list["metadata"]["component"];
    assert_eq!(
        (&own["name"], &own["type"]),
        (&"smg".into(), &"application".into())
    );
    assert_eq!(own["version"], env!("CARGO_PKG_VERSION"));

    let locked = locked();
    let mut refs = BTreeSet::from([own["bom-ref"].as_str().unwrap()]);
    for part in list["components"].as_array().unwrap() {
        let word = |key: &str| part[key].as_str().unwrap().to_owned();
        let (name, version) = (word("name"), word("version"));
        assert_eq!(word("purl"), format!("pkg:cargo/{name}@{version}"));
        assert!(
            refs.insert(part["bom-ref"].as_str().unwrap()),
            "{name} stands twice"
        );
        let checksum = &locked[&(name.clone(), version)];
        assert_eq!(part["hashes"][0]["content"], checksum.as_str(), "{name}");
        let licence = part["licenses"][0]["expression"].as_str().unwrap();
        assert!(
            !licence.is_empty() && !licence.contains('/'),
            "{name}: {licence}"
        );
    }
    let has = |name: &str| {
        refs.iter()
            .any(|part| part.starts_with(&format!("pkg:cargo/{name}@")))
    };
    for linked in [
        "tokio",
        "hyper",
        "h2",
        "rustls",
        "ring",
        "serde_json",
        "mimalloc",
        "libmimalloc-sys",
    ] {
        assert!(has(linked), "{linked} is missing");
    }
    for absent in [
        "proptest",
        "rcgen",
        "tempfile",
        "jsonschema",
        "serde_derive",
        "syn",
    ] {
        assert!(!has(absent), "{absent} is not linked");
    }

    // What each needs is in the list, and each is needed by somebody.
    let mut needed = BTreeSet::new();
    let needs = list["dependencies"].as_array().unwrap();
    assert_eq!(needs.len(), refs.len());
    for need in needs {
        assert!(refs.contains(need["ref"].as_str().unwrap()));
        for part in need["dependsOn"].as_array().unwrap() {
            assert!(refs.contains(part.as_str().unwrap()), "{part}");
            needed.insert(part.as_str().unwrap());
        }
    }
    refs.remove(own["bom-ref"].as_str().unwrap());
    assert_eq!(refs, needed);
}

#[test]
fn nothing_that_is_banned_is_locked_or_linked() {
    let deny = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let deny: toml::Table = deny.parse().unwrap();
    let banned: Vec<&str> = deny["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["crate"].as_str().unwrap())
        .collect();
    for name in BANNED {
        assert!(banned.contains(name), "{name} is not banned");
    }
    for ((name, version), _) in locked() {
        assert!(!banned.contains(&name.as_str()), "{name} {version}");
    }
}

/// The attribute says it where the lint table could be loosened by a line elsewhere.
#[test]
fn unsafe_code_is_forbidden_in_both_roots() {
    for file in ["src/lib.rs", "src/main.rs"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        assert!(text.contains("\n#![forbid(unsafe_code)]\n"), "{file}");
    }
}
