//! A secret in a place where none belongs, or written so that the file cannot be read: the mistake is
//! told, the secret is not.

use ::smg::config::{Format, Input, Secrets, load, render, render_effective};

use crate::scene::PATIENCE;
use crate::support::{process, smg};

const CANARY: &str = "canary-9d41";

/// What somebody may write, with the secret as CANARY.
const MISTAKES: &[&str] = &[
    "[auth]\napi_key = \"CANARY",
    "[auth]\napi_key = \"CANARY\" garbage",
    "[auth]\napi_key = CANARY",
    "[auth]\napi_key = 'CANARY\nx",
    "[auth]\napi_key = \"\"\"CANARY",
    "[auth]\napi_key \"CANARY\"",
    "[auth]\napi_key = [\"CANARY\"]",
    "[auth]\napi_key = { vaule = \"CANARY\" }",
    "[auth]\napi_key = { value = \"CANARY\" }",
    "[auth]\napi_key = \"CANARY\\q\"",
    "[auth]\napi_key = \"CANARY\"\napi_key = \"CANARY\"",
    "[auth]\napikey = \"CANARY\"",
    "[auth]\napi-key = \"CANARY\"",
    "[auth]\ntenants = [{ name = \"a\", key = \"CANARY\" }]",
    "[auth]\ntenants = [{ name = \"a\", keys = \"CANARY\" }]",
    "[auth]\ntenants = [{ name = \"a\", keys = [[\"CANARY\"]] }]",
    "[auth]\ntenants = [{ name = \"a\", keys = [{ sha256 = \"CANARY\" }] }]",
    "[auth]\ntenants = [{ name = \"a\", keys = [{ value = [\"CANARY\"] }] }]",
    "[auth]\ntenants = [{ name = \"a\", keys = [{ secret = \"CANARY\" }] }]",
    "[auth]\ntenants = [{ name = \"a\", keys = [\"CANARY\", \"CANARY\"] }]",
    "[auth]\ntenants = [{ name = \"a\", keys = [\"CANARY\"] }, { name = \"b\", keys = [\"CANARY\"] }]",
    "[auth.control_plane]\napi_keys = [\"ops:ops:admin:CANARY\"]",
    "[[auth.control_plane.api_keys]]\nid = \"a\"\nrole = \"owner\"\nkey = \"CANARY\"",
    "[[auth.control_plane.api_keys]]\nid = \"a\"\nrole = \"admin\"\nkey = { sha256 = \"CANARY\" }",
    "[[auth.control_plane.api_keys]]\nid = \"a\"\nrole = \"admin\"\nsecret = \"CANARY\"",
    "[[pools]]\nname = \"p\"\napi_key = 5\ntoken = \"CANARY\"",
    "[[pools]]\nname = \"p\"\nworkers = [\"http://user:CANARY@h:1\"]",
    "[[pools]]\nname = \"p\"\nworkers = [\"http://h:1/?key=CANARY\"]",
    "[[pools]]\nname = \"p\"\nworkers = [\"CANARY:x@h\"]",
    "[[pools]]\nname = \"p\"\nworkers = [{ url = \"http://h:1\", api_key = { cred = \"CANARY\" } }]",
    "[[pools]]\nname = \"p\"\nworkers = [{ url = \"http://h:1\", apikey = \"CANARY\" }]",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_secret_is_told_without_it() {
    for mistake in MISTAKES {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("smg.toml");
        let text = format!("version = 1\n{}\n", mistake.replace("CANARY", CANARY));
        std::fs::write(&file, &text).unwrap();
        for secrets in [Secrets::Require, Secrets::Note] {
            let loaded = load(&Input {
                file: Some(file.clone()),
                secrets,
                ..Input::default()
            });
            let mut outputs: Vec<String> =
                [Format::Human, Format::Json, Format::Github, Format::Sarif]
                    .map(|format| render(&loaded.diagnostics, format))
                    .into();
            outputs.push(format!("{:?}", loaded.diagnostics));
            outputs.push(format!("{:?}", loaded.spec));
            outputs.push(serde_json::to_string(&loaded.spec).unwrap());
            outputs.extend(render_effective(&loaded, true).ok());
            for output in outputs {
                assert!(!output.contains(CANARY), "{mistake}\n{output}");
            }
        }
        let path = file.display().to_string();
        for args in [&["check-config", &path][..], &["--config", &path]] {
            if args[0] == "--config"
                && load(&Input {
                    file: Some(file.clone()),
                    ..Input::default()
                })
                .spec
                .is_some()
            {
                continue; // it would start
            }
            let mut command = smg::command();
            command.args(args);
            let output = tokio::task::block_in_place(|| process::run(&mut command, PATIENCE));
            let said =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(!said.contains(CANARY), "{mistake}\n{said}");
        }
    }
}
