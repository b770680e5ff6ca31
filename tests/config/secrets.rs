//! Secrets come from where they are, and nothing shows them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use smg::config::{Format, Input, Secrets, Severity, load, render, render_effective};

use super::{CANARY, cases, input, loads, show};

#[test]
fn nothing_shows_a_secret() {
    for file in cases("ok").into_iter().chain(cases("bad")) {
        for secrets in [Secrets::Require, Secrets::Note] {
            let loaded = load(&Input {
                secrets,
                ..input(&file)
            });
            let mut outputs: Vec<String> =
                [Format::Human, Format::Json, Format::Github, Format::Sarif]
                    .map(|format| render(&loaded.diagnostics, format))
                    .into();
            outputs.push(format!("{:?}", loaded.spec));
            outputs.push(format!("{:?}", loaded.diagnostics));
            outputs.push(serde_json::to_string(&loaded.spec).unwrap());
            outputs.extend(render_effective(&loaded, true).ok());
            for output in outputs {
                assert!(!output.contains(CANARY), "{}:\n{output}", file.display());
            }
        }
    }
}

#[test]
fn secrets_are_read_from_where_they_are() {
    let spec = load(&input(Path::new("fixtures/config/ok/every_key.toml")))
        .spec
        .unwrap();
    let pool = &spec.pools[0];
    assert_eq!(
        pool.api_key.as_ref().unwrap().expose(),
        Some("canary-worker-key")
    );
    let own = pool.workers[1].api_key.as_ref().unwrap();
    assert_eq!(own.expose(), Some("canary-from-environment"));
    let of_leg = spec.pools[2].prefill.as_ref().unwrap().workers[0]
        .api_key
        .as_ref();
    assert_eq!(of_leg.unwrap().expose(), Some("canary-from-environment"));

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("worker"), "canary-credential\r\n").unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(
        &file,
        "version = 1\n[[pools]]\nname = 'p'\napi_key.credential = 'worker'\n",
    )
    .unwrap();
    let folder = dir.path().display().to_string();
    let loaded = load(&Input {
        environment: [("CREDENTIALS_DIRECTORY", folder)].into_iter().collect(),
        ..input(&file)
    });
    let spec = loaded.spec.unwrap();
    assert_eq!(
        spec.pools[0].api_key.as_ref().unwrap().expose(),
        Some("canary-credential")
    );
    assert_eq!(loaded.files, [file, dir.path().join("worker")]);
}

#[test]
fn a_secret_that_others_can_read_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    let text = "version = 1\n[[pools]]\nname = 'p'\nworkers = ['https://h:1']\n\
        api_key.file = 'worker.key'\n\
        tls = { cert_path = 'client.crt', key_path = 'client.key', ca_paths = ['ca.crt'] }\n";
    std::fs::write(&file, text).unwrap();
    std::fs::write(dir.path().join("worker.key"), "canary-of-worker").unwrap();
    crate::copy_certificates(dir.path());
    for (bits, warned) in [
        (0o600, &[][..]),
        (0o640, &[]),
        (0o644, &["pools[0].api_key", "pools[0].tls.key_path"]),
    ] {
        for name in ["worker.key", "client.key"] {
            let mode = Permissions::from_mode(bits);
            std::fs::set_permissions(dir.path().join(name), mode).unwrap();
        }
        let loaded = load(&input(&file));
        assert!(loaded.spec.is_some(), "{}", show(&loaded));
        let found = loaded.diagnostics.iter();
        let exposed: Vec<&str> = found
            .filter(|found| found.slug == "secret-exposed")
            .map(|found| found.key.as_deref().unwrap())
            .collect();
        assert_eq!(exposed, warned, "{bits:o}: {}", show(&loaded));
    }
}

#[test]
fn absent_secrets_and_variables_are_notes_away_from_home() {
    let text = "version = 1\n[[pools]]\nname = 'p'\nworkers = ['http://${NO_HOST}:1', 'http://h']\n\
        api_key.env = 'NO_KEY'\n";
    assert_eq!(
        loads(text)
            .diagnostics
            .iter()
            .filter(|d| d.is_error())
            .count(),
        2
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, text).unwrap();
    let loaded = load(&Input {
        secrets: Secrets::Note,
        ..input(&file)
    });
    assert!(!loaded.has_errors(), "{}", show(&loaded));
    assert_eq!(
        loaded
            .diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Note)
            .count(),
        2,
        "{}",
        show(&loaded)
    );
}

/// A file with secrets, its punctuation changed at random: the loader does not fail, and whatever it
/// says shows no secret. Names stay as they are: it is by the name of a key that its value is known
/// to be a secret.
mod damaged {
    use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert, proptest};
    use proptest::test_runner::RngSeed;

    use super::{CANARY, render};
    use crate::loads;
    use smg::config::Format;

    const TEXT: &str = "version = 1 # ü\n\n[[pools]]\nname = \"a\"\napi_key = \"canary-1\"\n\
        workers = [\"http://h:1\", { url = 'http://h', api_key = 'canary-2' }]\n\n\
        [[pools]]\nname = 'ö'\napi_key = \"\"\"\ncanary-3\n\"\"\"\n\n\
        [auth]\nkeys = [\n  \"canary-4\",\n]\n";

    fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, bool, char)>> {
        let chars: Vec<char> = "\"'[]{},.#\n\t $\\é".chars().collect();
        let chars = prop::sample::select(chars);
        prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), chars), 1..3)
    }

    proptest! {
        // The same cases in each run; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` ask for others.
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_seed: match ProptestConfig::default().rng_seed {
                RngSeed::Random => RngSeed::Fixed(1),
                fixed @ RngSeed::Fixed(_) => fixed,
            },
            ..ProptestConfig::default()
        })]
        #[test]
        fn a_damaged_file_is_survived(edits in edits()) {
            let mut text: Vec<char> = TEXT.chars().collect();
            for (at, insert, c) in edits {
                let marks: Vec<usize> = (0..text.len())
                    .filter(|at| !text[*at].is_alphanumeric() && !"_-".contains(text[*at]))
                    .collect();
                let at = marks[at.index(marks.len())];
                if insert { text.insert(at, c) } else { text[at] = c }
            }
            let text: String = text.into_iter().collect();
            let loaded = loads(&text);
            for format in [Format::Human, Format::Json, Format::Github, Format::Sarif] {
                let output = render(&loaded.diagnostics, format);
                prop_assert!(!output.contains(CANARY), "{text}\n---\n{output}");
            }
        }
    }
}
