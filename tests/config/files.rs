//! Reading: variables, includes, many mistakes, large files.

use std::path::Path;
use std::time::Instant;

use smg::base::units::Millis;
use smg::config::spec::Policy;
use smg::config::{Diagnostic, Input, load};

use super::{input, loads, show};

#[test]
fn variables_expand_in_strings_only() {
    let loaded = load(&input(Path::new("fixtures/config/ok/interpolation.toml")));
    let spec = loaded.spec.unwrap();
    assert_eq!(spec.listeners[0].name, "main");
    assert_eq!(spec.listeners[0].address.to_string(), "127.0.0.1:30001");
    assert_eq!(
        spec.pools[0].workers[0].url.as_str(),
        "http://10.0.0.9:8000"
    );
    let key = spec.pools[0].api_key.as_ref().unwrap();
    assert_eq!(key.expose(), Some("canary-from-environment"));
    assert_eq!(spec.models[0].name, "price-$5-$x");
    // What a variable holds is a value, never more TOML.
    let env = [("EVIL", "x\"\n[server]\nrequest_timeout = \"1s")]
        .into_iter()
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, "version = 1\n[[models]]\nname = \"${EVIL}\"\n").unwrap();
    let loaded = load(&Input {
        environment: env,
        ..input(&file)
    });
    assert!(
        loaded.diagnostics.iter().any(|d| d.slug == "name"),
        "{}",
        show(&loaded)
    );
}

#[test]
fn included_files_merge_in_order_and_resolve_their_own_paths() {
    let loaded = load(&input(Path::new("fixtures/config/ok/include/smg.toml")));
    let spec = loaded.spec.as_ref().unwrap();
    let names: Vec<_> = spec.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(
        spec.pools[1].api_key.as_ref().unwrap().expose(),
        Some("canary-worker-key")
    );
    assert_eq!(
        spec.models
            .iter()
            .map(|m| m.name.as_str())
            .collect::<Vec<_>>(),
        ["m", "n"]
    );
    assert_eq!(spec.server.request_timeout, Millis::secs(600));
    assert_eq!(spec.server.sse_keepalive, Millis::ZERO);
    assert_eq!(spec.routing.policy, Policy::Random);
    assert_eq!(
        loaded.origins.of("routing.policy").to_string(),
        "fixtures/config/ok/include/conf.d/deep/more.toml:2:10"
    );
    assert!(loaded.files.len() >= 6, "{:?}", loaded.files);
    let folders: Vec<_> = loaded
        .directories
        .iter()
        .map(|d| d.display().to_string())
        .collect();
    for folder in ["", "/conf.d", "/conf.d/deep", "/nothing"] {
        let folder = format!("fixtures/config/ok/include{folder}");
        assert!(
            folders.contains(&folder),
            "{folder} is not among {folders:?}"
        );
    }
}

#[test]
fn a_file_that_is_not_there_is_a_diagnostic() {
    let loaded = load(&input(Path::new("/nonexistent/smg.toml")));
    assert!(loaded.spec.is_none());
    assert_eq!(
        show(&loaded),
        "error[unreadable]: cannot read `/nonexistent/smg.toml`: no such file or directory\n"
    );
    assert_eq!(loaded.files, [Path::new("/nonexistent/smg.toml")]);
}

#[test]
fn all_mistakes_of_all_files_come_in_one_run() {
    let loaded = load(&input(Path::new("fixtures/config/bad/all_files/smg.toml")));
    let slugs: Vec<_> = loaded
        .diagnostics
        .iter()
        .map(|d: &Diagnostic| d.slug)
        .collect();
    for slug in ["syntax", "unknown-key"] {
        assert!(slugs.contains(&slug), "{slug} is not among {slugs:?}");
    }
    let many: String = (0..200)
        .map(|i| format!("[[models]]\nname = {i}\nbogus = 1\n"))
        .collect();
    let loaded = loads(&format!("version = 1\n{many}"));
    assert_eq!(
        loaded.diagnostics.iter().filter(|d| d.is_error()).count(),
        400
    );
}

#[test]
fn ten_thousand_lines_load_quickly() {
    let pools: String = (0..1000)
        .map(|i| {
            format!(
                "[[pools]]\nname = \"pool-{i}\"\nruntime = \"vllm\"\nworkers = [\n  \
                 \"http://10.0.{}.{}:8000\",\n  \"http://10.1.{}.{}:8000\",\n]\n\
                 [[models]]\nname = \"model-{i}\"\npool = \"pool-{i}\"\n",
                i / 250,
                i % 250,
                i / 250,
                i % 250
            )
        })
        .collect();
    let text = format!("version = 1\n{pools}");
    assert!(text.lines().count() >= 10_000);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    std::fs::write(&file, &text).unwrap();
    // An unoptimised build is some ten times slower than a release, where 100 ms is the aim. The
    // best of three, as tests run beside each other.
    let best = (0..3)
        .map(|_| {
            let start = Instant::now();
            let loaded = load(&input(&file));
            assert_eq!(loaded.spec.unwrap().pools.len(), 1000);
            start.elapsed()
        })
        .min()
        .unwrap();
    assert!(best.as_millis() < 1000, "{best:?}");
}
