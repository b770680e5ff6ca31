//! The fuzz targets as tests: each runs over its corpus, and over what becomes of that when pieces of
//! it are changed, so that no target rots where no fuzzer can be had. `make fuzz` goes on from there.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses files as they are"
)]

#[cfg(test)]
#[path = "../fuzz/targets"]
mod targets {
    pub(crate) mod addresses;
    pub(crate) mod body;
    pub(crate) mod config;
    pub(crate) mod headers;
    pub(crate) mod sse;
    pub(crate) mod token;
}

#[cfg(test)]
mod over_the_corpora {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::TestRunner;

    /// Texts that mean something to one target or another.
    const WORDS: &[&str] = &[
        "\"model\":",
        "\"mod\\u0065l\":",
        "\"stream\":true",
        "null",
        "-0",
        "1e999",
        "[[",
        "}",
        "\\u",
        "\\ud800",
        "\"",
        "'''",
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        "data: ",
        "event: error\n",
        "[DONE]",
        ":",
        "connection: ",
        ", ",
        "_",
        "x-request-id-",
        "x-smg-",
        "content-length: 1\n",
        "@",
        "//",
        "[::",
        "0x",
        "/33",
        "Z",
        "+25:00",
        "= \"",
        "[[pools]]\n",
        "api_key",
        "${",
        "${X:-",
        "#",
        "= 1\n",
        "\"alg\":\"none\"",
        "\"aud\":[",
        ".",
        "==",
        "\"admin\"",
        "\u{0}",
        "\u{feff}",
        "\u{1b}[",
        "é",
    ];

    /// A change at a place: bytes taken away, put in, put in the place of others; a word; a part of
    /// another entry.
    type Edit = (Index, u8, u8, Index);

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(name);
        let files = std::fs::read_dir(&folder).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(files.len() > 5, "{} is no corpus", folder.display());
        files
            .iter()
            .map(|file| std::fs::read(file).unwrap())
            .collect()
    }

    fn edited(corpus: &[Vec<u8>], at: Index, edits: &[Edit]) -> Vec<u8> {
        let mut text = at.get(corpus).clone();
        for (place, kind, byte, other) in edits {
            let place = place.index(text.len() + 1);
            let end = text.len().min(place + usize::from(byte % 16));
            let put: Vec<u8> = match kind % 5 {
                0 => Vec::new(),
                1 => vec![*byte],
                2 => WORDS[other.index(WORDS.len())].as_bytes().to_vec(),
                3 => {
                    let other = other.get(corpus);
                    let from = usize::from(*byte) % (other.len() + 1);
                    other[from..].to_vec()
                }
                _ => text[place..end].repeat(3),
            };
            let replaced = if kind % 2 == 0 {
                place..end
            } else {
                place..place
            };
            text.splice(replaced, put);
        }
        text
    }

    fn shown(target: fn(&[u8]), input: &[u8]) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
            eprintln!("with {:?}", String::from_utf8_lossy(input));
            resume_unwind(panic);
        }
    }

    fn fuzzed(name: &str, target: fn(&[u8]), cases: u32) {
        let corpus = corpus(name);
        for input in &corpus {
            shown(target, input);
        }
        let config = ProptestConfig {
            cases,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let edit = (any::<Index>(), any::<u8>(), any::<u8>(), any::<Index>());
        let inputs = (any::<Index>(), vec(edit, 1..6));
        TestRunner::new(config)
            .run(&inputs, |(at, edits)| {
                shown(target, &edited(&corpus, at, &edits));
                Ok(())
            })
            .unwrap();
        let noise = vec(any::<u8>(), 0..300);
        let config = ProptestConfig {
            cases: cases / 4,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        TestRunner::new(config)
            .run(&noise, |bytes| {
                shown(target, &bytes);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn addresses() {
        fuzzed("addresses", super::targets::addresses::run, 4_000);
    }

    #[test]
    fn body() {
        fuzzed("body", super::targets::body::run, 4_000);
    }

    #[test]
    fn config() {
        fuzzed("config", super::targets::config::run, 800);
    }

    #[test]
    fn headers() {
        fuzzed("headers", super::targets::headers::run, 2_000);
    }

    #[test]
    fn sse() {
        fuzzed("sse", super::targets::sse::run, 2_000);
    }

    #[test]
    fn token() {
        fuzzed("token", super::targets::token::run, 4_000);
    }

    /// Each target has its line in the workspace of the fuzzer.
    #[test]
    fn every_target_is_a_binary_of_the_fuzzer() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let mut count = 0;
        for file in std::fs::read_dir(root.join("targets")).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let name = name.trim_end_matches(".rs");
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            let binary = root.join("fuzz_targets").join(format!("{name}.rs"));
            let text = std::fs::read_to_string(binary).unwrap();
            assert!(text.contains(&format!("../targets/{name}.rs")), "{name}");
            count += 1;
        }
        assert_eq!(count, 6);
    }
}
