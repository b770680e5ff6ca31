//! Files that change while the gateway runs, in all the ways in which files change.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::smg::LISTENERS;
use crate::support::{FakeEngine, Smg, Step, eventually, get, post};

const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration whose pool has this name.
fn named(pool: &str) -> String {
    format!("{LISTENERS}\n{}", table(pool))
}

/// A pool with this name and one worker, at a port of which nothing is expected.
fn table(pool: &str) -> String {
    format!("[[pools]]\nname = \"{pool}\"\nworkers = [\"http://127.0.0.1:9/{pool}\"]\n")
}

/// The names of the pools that are served.
async fn pools(smg: &Smg) -> Vec<String> {
    let workers = get(smg.main(), "/workers").await.json();
    let workers = workers["workers"].as_array().unwrap();
    workers
        .iter()
        .map(|worker| worker["pool"].as_str().unwrap().to_owned())
        .collect()
}

/// Waits until the files have been judged and this was found about them.
#[track_caller]
fn judged(smg: &Smg, right: impl Fn(&Value) -> bool) -> impl Future<Output = ()> {
    let main = smg.main();
    eventually(PATIENCE, async move || {
        right(&get(main, "/admin/config/status").await.json())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rename_replace_three_times() {
    let smg = Smg::start(&named("first")).await;
    for (generation, name) in [(2, "second"), (3, "third"), (4, "fourth")] {
        smg.rewrite(&named(name));
        smg.serves(generation).await;
        assert_eq!(pools(&smg).await, [name]);
    }
    let status = smg.status().await;
    assert_eq!(status["live"]["trigger"], "file");
    let applied = [("trigger", "file"), ("result", "applied")];
    assert_eq!(
        smg.metrics()
            .await
            .sum("smg_config_reloads_total", &applied),
        3.0
    );
}

/// The layout of a mounted ConfigMap: the file is a link into `..data`, which is a link to the
/// folder of a version, and is replaced by renaming another link over it.
#[tokio::test(flavor = "multi_thread")]
async fn symlink_swap() {
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str, toml: &str| {
        let version = folder.path().join(name);
        std::fs::create_dir(&version).unwrap();
        std::fs::write(version.join("smg.toml"), toml).unwrap();
    };
    version("..v1", &named("first"));
    version("..v2", &named("second"));
    version("..v3", &named("third"));
    symlink("..v1", folder.path().join("..data")).unwrap();
    symlink("..data/smg.toml", folder.path().join("smg.toml")).unwrap();
    let smg = Smg::start_in(folder, |_| {}).await;
    assert_eq!(pools(&smg).await, ["first"]);
    let swap = |to: &str, gone: &str| {
        let fresh = smg.folder().join("..data_tmp");
        symlink(to, &fresh).unwrap();
        std::fs::rename(fresh, smg.folder().join("..data")).unwrap();
        std::fs::remove_dir_all(smg.folder().join(gone)).unwrap();
    };
    swap("..v2", "..v1");
    smg.serves(2).await;
    assert_eq!(pools(&smg).await, ["second"]);
    swap("..v3", "..v2");
    smg.serves(3).await;
    assert_eq!(pools(&smg).await, ["third"]);
    assert_eq!(smg.status().await["synchronized"], true);
}

/// The link leads to another folder, whose file is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_behind_a_link_is_replaced() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.toml");
    std::fs::write(&target, named("first")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(&target, folder.path().join("smg.toml")).unwrap();
    let smg = Smg::start_in(folder, |_| {}).await;
    let fresh = elsewhere.path().join("fresh");
    std::fs::write(&fresh, named("second")).unwrap();
    std::fs::rename(fresh, &target).unwrap();
    smg.serves(2).await;
    assert_eq!(pools(&smg).await, ["second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_write_is_refused_until_the_rest_has_come() {
    let smg = Smg::start(&named("first")).await;
    let whole = named("second");
    let (half, rest) = whole.split_at(whole.find("second").unwrap() + 3);
    let mut file = std::fs::File::create(smg.config_path()).unwrap();
    file.write_all(half.as_bytes()).unwrap();
    file.sync_all().unwrap();
    judged(&smg, |status| !status["rejected"].is_null()).await;
    let status = smg.status().await;
    assert_eq!(status["live"]["generation"], 1);
    assert_eq!(status["rejected"]["trigger"], "file");
    assert_eq!(pools(&smg).await, ["first"]);

    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    smg.serves(2).await;
    assert_eq!(pools(&smg).await, ["second"]);
    let status = smg.status().await;
    assert_eq!(
        (&status["synchronized"], &status["rejected"]),
        (&json!(true), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_and_comes_back() {
    let smg = Smg::start(&named("first")).await;
    std::fs::remove_file(smg.config_path()).unwrap();
    judged(&smg, |status| !status["rejected"].is_null()).await;
    assert_eq!(pools(&smg).await, ["first"]);
    assert_eq!(smg.metrics().await.sum("smg_config_synchronized", &[]), 0.0);

    // The same content is what is served already.
    std::fs::write(smg.config_path(), named("first")).unwrap();
    judged(&smg, |status| status["rejected"].is_null()).await;
    let status = smg.status().await;
    assert_eq!(
        (&status["live"]["generation"], &status["synchronized"]),
        (&json!(1), &json!(true))
    );

    std::fs::remove_file(smg.config_path()).unwrap();
    judged(&smg, |status| !status["rejected"].is_null()).await;
    std::fs::write(smg.config_path(), named("second")).unwrap();
    smg.serves(2).await;
    assert_eq!(pools(&smg).await, ["second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_the_old_configuration() {
    let smg = Smg::start(&named("first")).await;
    let before = smg
        .metrics()
        .await
        .sum("smg_config_last_reload_success_timestamp_seconds", &[]);
    smg.rewrite(&format!(
        "{LISTENERS}\n[[pools]]\nname = 7\nnonsense = true\n"
    ));
    judged(&smg, |status| !status["rejected"].is_null()).await;
    let status = smg.status().await;
    assert_eq!(status["live"]["generation"], 1);
    assert_eq!(status["synchronized"], false);
    let diagnostics = status["rejected"]["diagnostics"].as_array().unwrap();
    assert!(
        diagnostics.len() >= 2,
        "all mistakes are told: {diagnostics:?}"
    );
    for diagnostic in diagnostics {
        let spot = &diagnostic["primary"]["file"];
        assert!(
            spot["file"].as_str().unwrap().ends_with("smg.toml"),
            "{diagnostic}"
        );
        assert!(spot["line"].as_u64().unwrap() >= 2, "{diagnostic}");
    }
    assert_eq!(pools(&smg).await, ["first"]);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_config_last_reload_successful", &[]), 0.0);
    assert_eq!(metrics.sum("smg_config_synchronized", &[]), 0.0);
    let rejected = [("trigger", "file"), ("result", "rejected")];
    assert_eq!(metrics.sum("smg_config_reloads_total", &rejected), 1.0);
    let stamp = "smg_config_last_reload_success_timestamp_seconds";
    assert_eq!(metrics.sum(stamp, &[]), before);

    smg.rewrite(&named("second"));
    smg.serves(2).await;
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_config_last_reload_successful", &[]), 1.0);
    assert_eq!(metrics.sum("smg_config_synchronized", &[]), 1.0);
    assert!(metrics.sum(stamp, &[]) > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_signals_is_few_reloads_and_the_last_content_wins() {
    let mut smg = Smg::start(&named("first")).await;
    let pid = rustix::process::Pid::from_raw(smg.process().pid().cast_signed()).unwrap();
    for n in 0..100 {
        if n % 10 == 0 {
            smg.rewrite(&named(&format!("storm-{n}")));
        }
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }
    smg.rewrite(&named("last"));
    smg.sighup();
    eventually(PATIENCE, async || pools(&smg).await == ["last"]).await;
    assert_eq!(smg.reload().await.result(), "unchanged");
    let metrics = smg.metrics().await;
    let by_signal = metrics.sum("smg_config_reloads_total", &[("trigger", "signal")]);
    assert!((1.0..60.0).contains(&by_signal), "{by_signal} reloads");
    assert_eq!(smg.term_and_wait().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn included_files_come_change_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let conf_d = folder.path().join("conf.d");
    std::fs::create_dir(&conf_d).unwrap();
    let main = LISTENERS.replace("version = 1", "version = 1\ninclude = [\"conf.d/*.toml\"]");
    std::fs::write(
        folder.path().join("smg.toml"),
        format!("{main}\n{}", table("own")),
    )
    .unwrap();
    let smg = Smg::start_in(folder, |_| {}).await;
    assert_eq!(pools(&smg).await, ["own"]);
    let write = |name: &str, pool: &str| {
        std::fs::write(conf_d.join(name), format!("version = 1\n{}", table(pool))).unwrap();
    };
    let served = async |wanted: &[&str]| {
        let mut pools = pools(&smg).await;
        pools.sort();
        pools == wanted
    };
    write("a.toml", "added");
    eventually(PATIENCE, async || served(&["added", "own"]).await).await;
    write("a.toml", "changed");
    eventually(PATIENCE, async || served(&["changed", "own"]).await).await;
    write("b.toml", "second");
    eventually(PATIENCE, async || {
        served(&["changed", "own", "second"]).await
    })
    .await;

    // A mistake in an included file refuses the whole, and is told with its place.
    std::fs::write(conf_d.join("b.toml"), "version = 1\nnonsense = 1\n").unwrap();
    judged(&smg, |status| !status["rejected"].is_null()).await;
    let status = smg.status().await;
    let place = &status["rejected"]["diagnostics"][0]["primary"]["file"];
    assert!(
        place["file"].as_str().unwrap().ends_with("conf.d/b.toml"),
        "{status}"
    );
    assert!(served(&["changed", "own", "second"]).await);

    std::fs::remove_file(conf_d.join("b.toml")).unwrap();
    eventually(PATIENCE, async || served(&["changed", "own"]).await).await;
    assert_eq!(smg.status().await["synchronized"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_file_is_rotated() {
    let engine = FakeEngine::serving("m", |_| vec![Step::json(200, &json!({}))]).await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("worker.key");
    let replace = |path: &Path, text: &str| {
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    };
    replace(&key, "one-secret\n");
    let toml = format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nworkers = [\"{}\"]\napi_key = {{ file = \"worker.key\" }}\n",
        engine.url()
    );
    std::fs::write(folder.path().join("smg.toml"), toml).unwrap();
    let smg = Smg::start_in(folder, |_| {}).await;
    let main = smg.main();
    let sent = async || {
        let ask = json!({ "model": "m", "prompt": "hi" });
        let status = post(main, "/v1/completions", &ask).await.status;
        let calls = engine.calls();
        let key = calls
            .last()
            .and_then(|call| call.header("authorization").map(str::to_owned));
        (status == 200).then_some(key).flatten()
    };
    eventually(PATIENCE, async || {
        sent().await.as_deref() == Some("Bearer one-secret")
    })
    .await;
    replace(&key, "two-secret\n");
    eventually(PATIENCE, async || {
        sent().await.as_deref() == Some("Bearer two-secret")
    })
    .await;

    // Without the file the old secret stays in use.
    std::fs::remove_file(&key).unwrap();
    judged(&smg, |status| !status["rejected"].is_null()).await;
    assert_eq!(sent().await.as_deref(), Some("Bearer two-secret"));
    let told = get(main, "/admin/config").await.text() + &smg.status().await.to_string();
    assert!(!told.contains("-secret"), "{told}");
}
