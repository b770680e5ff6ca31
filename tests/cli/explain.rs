//! `smg explain` and `smg check-config --test` on a file alone.

use std::path::Path;

use serde_json::{Value, json};

use crate::binary::{smg, status, stderr, stdout, write};

const FILE: &str = r#"version = 1
[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference", "admin", "probes"]
[[listeners]]
name = "probes"
address = "127.0.0.1:0"
serve = ["probes"]
[[pools]]
name = "llama"
workers = ["http://10.0.0.1:8000", { url = "http://10.0.0.2:8000", priority = 80 }, "http://10.0.0.3:8000"]
[[models]]
name = "meta/llama"
aliases = ["llama3"]
policy.cache_aware = { cache_threshold = 0.5 }
[[models]]
name = "deep-*"
policy = "round_robin"
"#;

fn explained(dir: &Path, request: &Value, more: &[&str]) -> (i32, String, String) {
    let file = write(dir, "smg.toml", FILE);
    let request = write(dir, "request.json", &request.to_string());
    let args = ["explain", "--config", &file, "--request", &request];
    let output = smg(&[&args, more].concat(), &[]);
    (status(&output), stdout(&output), stderr(&output))
}

fn as_json(dir: &Path, request: &Value) -> Value {
    let (_, out, err) = explained(dir, request, &["--format", "json"]);
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"))
}

#[test]
fn a_bare_body_is_routed_and_told_about() {
    let dir = tempfile::tempdir().unwrap();
    let body = json!({ "model": "llama3", "messages": [{ "role": "user", "content": "hi" }] });
    let (status, out, err) = explained(dir.path(), &body, &[]);
    assert_eq!(status, 0, "{out}{err}");
    for part in [
        "`llama3` stands for `meta/llama`",
        "cache_aware (tree) → http://10.0.0.2:8000",
        "of lower priority",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let told = as_json(dir.path(), &body);
    assert_eq!(told["pool"], "llama");
    let leg = &told["legs"][0];
    assert_eq!(leg["algorithm"], "tree");
    let chosen: Vec<bool> = leg["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|candidate| candidate["chosen"].as_bool().unwrap())
        .collect();
    assert_eq!(chosen, [false, true, false]);
}

#[test]
fn what_is_refused_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for (request, refused, code) in [
        (
            json!({ "path": "/v1/completions", "body": { "model": "gpt" } }),
            404,
            "model_not_found",
        ),
        (
            json!({ "path": "/v1/completions", "body": {} }),
            400,
            "missing_model",
        ),
        (json!({ "path": "/v1/none" }), 404, "unknown_url"),
        (
            json!({ "path": "/v1/completions", "listener": "probes" }),
            404,
            "unknown_url",
        ),
        (
            json!({ "path": "/v1/completions", "method": "GET" }),
            405,
            "method_not_allowed",
        ),
        (
            json!({ "path": "/v1/completions", "headers": { "content-type": "text/plain" } }),
            400,
            "json_parse_error",
        ),
    ] {
        let told = as_json(dir.path(), &request);
        assert_eq!(told["status"], refused, "{request}");
        assert_eq!(told["code"], code, "{request}");
        assert_eq!(explained(dir.path(), &request, &[]).0, 1, "{request}");
    }
    let told = as_json(
        dir.path(),
        &json!({ "path": "/v1/models", "method": "GET" }),
    );
    assert_eq!(
        (&told["status"], &told["endpoint"]),
        (&json!(200), &Value::Null)
    );
}

#[test]
fn what_is_no_request_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    for request in [
        json!({ "model": "llama3" }),
        json!([1]),
        json!({ "path": "/x", "boby": {} }),
    ] {
        let (status, out, err) = explained(dir.path(), &request, &[]);
        assert_eq!(status, 2, "{request}: {out}");
        assert!(err.contains("request.json"), "{err}");
    }
    let file = write(dir.path(), "smg.toml", FILE);
    let output = smg(&["explain", "--config", &file, "-r", "/nowhere.json"], &[]);
    assert_eq!(status(&output), 2);
}

#[test]
fn tests_of_the_file_pass_or_are_diagnostics_with_places() {
    let dir = tempfile::tempdir().unwrap();
    let test = |expect: &str| {
        format!(
            "{FILE}[[tests]]\nname = \"t\"\nrequest = {{ path = \"/v1/completions\", body = {{ model \
             = \"llama3\", prompt = \"x\" }} }}\nexpect = {{ {expect} }}\n"
        )
    };
    for (expect, failing) in [
        (
            "model = \"meta/llama\", pool = \"llama\", policy = \"cache_aware\", status = 200",
            None,
        ),
        ("worker = \"http://10.0.0.2:8000/\"", None),
        (
            "worker_in = [\"http://10.0.0.1:8000\", \"http://10.0.0.2:8000\"]",
            None,
        ),
        (
            "worker = \"http://10.0.0.1:8000\"",
            Some("expected worker `http://10.0.0.1:8000`, got `http://10.0.0.2:8000`"),
        ),
        (
            "status = 404, model = \"meta/llama\"",
            Some("expected status 404, got 200"),
        ),
        (
            "code = \"model_not_found\"",
            Some("expected code `model_not_found`, got none"),
        ),
        (
            "policy = \"random\"",
            Some("expected policy `random`, got `cache_aware`"),
        ),
    ] {
        let file = write(dir.path(), "tested.toml", &test(expect));
        let output = smg(&["check-config", &file, "--test"], &[]);
        let out = stdout(&output);
        match failing {
            None => {
                assert_eq!(status(&output), 0, "{expect}: {out}");
                assert!(out.contains("1 test passed"), "{out}");
            }
            Some(message) => {
                assert_eq!(status(&output), 78, "{expect}: {out}");
                assert!(out.contains(message), "{expect}: {out}");
                assert!(
                    out.contains("error[test-failed]") && out.contains("= help:"),
                    "{out}"
                );
                assert!(out.contains("tested.toml:23:"), "{out}");
            }
        }
        // Without --test nothing is run.
        assert_eq!(status(&smg(&["check-config", &file], &[])), 0);
    }
}

#[test]
fn shares_and_copies_are_told_of_and_a_test_may_name_its_share() {
    let dir = tempfile::tempdir().unwrap();
    let text = FILE.replace(
        "[[models]]\nname = \"deep-*\"",
        "[[pools]]\nname = \"other\"\nworkers = [\"http://10.0.0.9:8000\"]\n\
         [[models]]\nname = \"split\"\n\
         split = [{ pool = \"llama\", weight = 0.001 }, \
         { pool = \"other\", weight = 999, model = \"big\" }]\n\
         mirror = { pool = \"llama\", fraction = 0.25 }\n\
         [[tests]]\nname = \"nearly all go to the other pool\"\n\
         request = { path = \"/v1/completions\", body = { model = \"split\", prompt = \"hi\" } }\n\
         expect = { pool = \"other\", model = \"big\", status = 200 }\n\
         [[models]]\npool = \"llama\"\nname = \"deep-*\"",
    );
    let text = text.replace("aliases = [\"llama3\"]", "pool = \"llama\"");
    let file = write(dir.path(), "smg.toml", &text);
    let output = smg(&["check-config", "--test", "--config", &file], &[]);
    assert_eq!(status(&output), 0, "{}{}", stdout(&output), stderr(&output));

    let body = json!({ "model": "split", "prompt": "hi" });
    let request = write(
        dir.path(),
        "request.json",
        &json!({
            "path": "/v1/completions", "body": body,
        })
        .to_string(),
    );
    let output = smg(&["explain", "--config", &file, "--request", &request], &[]);
    let out = stdout(&output);
    for part in [
        "drawn from `llama` 0.0 %, `other` 100.0 %: `other`",
        "25.0 % of requests are copied to `llama`",
    ] {
        assert!(out.contains(part), "{part}: {out}{}", stderr(&output));
    }
}

#[test]
fn ranks_are_workers_here_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = |expected: &str| {
        format!(
            "version = 1\n[[pools]]\nname = \"p\"\ndp_aware = true\n\
             workers = [{{ url = \"http://10.0.0.1:8000\", labels = {{ dp_size = \"2\" }} }}]\n\
             [[models]]\nname = \"m\"\npolicy = \"passthrough\"\n\
             [[tests]]\nname = \"t\"\n\
             request = {{ path = \"/v1/completions\", body = {{ model = \"m\", prompt = \"x\" }} }}\n\
             expect = {{ worker = \"{expected}\" }}\n"
        )
    };
    for (expected, passes) in [
        ("http://10.0.0.1:8000@0", true),
        ("http://10.0.0.1:8000", true),
        ("http://10.0.0.1:8000@1", false),
    ] {
        let file = write(dir.path(), "ranks.toml", &file(expected));
        let output = smg(&["check-config", &file, "--test"], &[]);
        assert_eq!(
            status(&output) == 0,
            passes,
            "{expected}: {}",
            stdout(&output)
        );
    }
}

/// Pools of pairs, of workers that serve alone, and of pairs that lack a leg.
const PAIRS: &str = r#"version = 1
[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference"]
[[pools]]
name = "pairs"
runtime = "sglang"
prefill.workers = ["http://10.0.0.1:8000"]
decode.workers = ["http://10.0.0.2:8000"]
[[pools]]
name = "half"
runtime = "sglang"
prefill.workers = ["http://10.0.0.1:8000"]
decode.workers = []
[[pools]]
name = "alone"
workers = ["http://10.0.0.3:8000"]
[[models]]
name = "pairs"
pool = "pairs"
[[models]]
name = "half"
pool = "half"
[[models]]
name = "both"
split = [{ pool = "pairs", weight = 999 }, { pool = "alone", weight = 0.001 }]
"#;

#[test]
fn a_refusal_is_the_one_that_a_request_would_get() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "pairs.toml", PAIRS);
    let told = |path: &str, body: &Value| {
        let request = json!({ "path": path, "body": body }).to_string();
        let request = write(dir.path(), "request.json", &request);
        let args = ["explain", "--config", &file, "--request", &request];
        let output = smg(&[&args[..], &["--format", "json"]].concat(), &[]);
        let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
        told
    };
    for (path, body, status, code) in [
        (
            "/v1/embeddings",
            json!({ "model": "pairs", "input": "hi" }),
            501,
            "not_implemented",
        ),
        (
            "/v1/completions",
            json!({ "model": "half", "prompt": "hi" }),
            503,
            "server_selection_failed",
        ),
        (
            "/v1/rerank",
            json!({ "model": "both", "query": " ", "documents": ["d"] }),
            400,
            "missing_required_parameter",
        ),
    ] {
        let told = told(path, &body);
        assert_eq!(told["status"], status, "{path} {told}");
        assert_eq!(told["code"], code, "{path} {told}");
    }
    // What pairs cannot do goes to those who can, whatever the weights.
    let embed = told("/v1/embeddings", &json!({ "model": "both", "input": "hi" }));
    assert_eq!(
        (&embed["status"], &embed["pool"]),
        (&json!(200), &json!("alone"))
    );
    let write = told(
        "/v1/completions",
        &json!({ "model": "both", "prompt": "hi" }),
    );
    assert_eq!(
        (&write["status"], &write["pool"]),
        (&json!(200), &json!("pairs"))
    );
}

#[test]
fn a_test_may_be_about_a_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let file = |identity: &str, expect: &str| {
        let text = format!(
            "{FILE}[[auth.tenants]]\nname = \"a\"\nmodels = [\"deep-*\"]\n\
             keys = [{{ sha256 = \"{}\" }}]\n\
             [[tests]]\nname = \"t\"\nrequest = {{ path = \"/v1/completions\"{identity}, body = {{ \
             model = \"llama3\", prompt = \"x\" }} }}\nexpect = {{ {expect} }}\n",
            "ab".repeat(32)
        );
        write(dir.path(), "smg.toml", &text)
    };
    for (identity, expect, expected) in [
        ("", "status = 200", 0),
        (
            ", identity = \"a\"",
            "status = 403, code = \"model_not_allowed\"",
            0,
        ),
        (", identity = \"a\"", "status = 200", 78),
    ] {
        let file = file(identity, expect);
        let output = smg(&["check-config", "--test", &file], &[]);
        assert_eq!(
            status(&output),
            expected,
            "{identity} {expect}: {}",
            stdout(&output)
        );
    }
}
