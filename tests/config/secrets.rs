//! Secrets come from where they are, and nothing shows them.

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
