//! Every file under `config/` is one that the gateway accepts.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::support::{process, smg};

#[test]
fn every_file_of_config_passes_check_config() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut checked = 0;
    for entry in std::fs::read_dir(config).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            assert_accepted(&path);
            checked += 1;
        }
    }
    assert!(checked >= 3, "only {checked} files were found");
}

#[test]
fn the_examples_of_conf_d_pass_together_with_the_shipped_file() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let installed = tempfile::tempdir().unwrap();
    std::fs::copy(config.join("smg.toml"), installed.path().join("smg.toml")).unwrap();
    std::fs::create_dir(installed.path().join("conf.d")).unwrap();
    let mut examples = 0;
    for entry in std::fs::read_dir(config.join("conf.d")).unwrap() {
        let example = entry.unwrap();
        let name = example.file_name().into_string().unwrap();
        let enabled = installed
            .path()
            .join("conf.d")
            .join(name.trim_end_matches(".disabled"));
        std::fs::copy(example.path(), enabled).unwrap();
        examples += 1;
    }
    assert!(examples > 0);
    assert_accepted(&installed.path().join("smg.toml"));
}

fn check(path: &Path) -> Output {
    let mut command = smg::command();
    command
        .arg("check-config")
        .arg(path)
        .arg("--no-environment");
    process::run(&mut command, Duration::from_secs(10))
}

#[track_caller]
fn assert_accepted(path: &Path) {
    let output = check(path);
    assert!(
        output.status.success(),
        "{}: {}\n{}{}",
        path.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
