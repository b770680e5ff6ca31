//! What a tenant is let, and what is told of it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_its_models_and_sees_no_others() {
    let engine = silent_engine(|_| vec![crate::scene::ok()]).await;
    let more = r#"
[[models]]
name = "big"
aliases = ["m-in-disguise"]
[[models]]
name = "m-two"
fallback = ["big"]
[[auth.tenants]]
name = "small"
keys = ["small-key"]
models = ["m", "m-*"]
[[auth.tenants]]
name = "by-alias"
keys = ["alias-key"]
models = ["also-m"]
[[auth.tenants]]
name = "all"
keys = ["all-key"]
"#;
    let smg = gateway(&[&engine], more).await;
    for (key, model, status) in [
        ("small-key", "m", 200),
        ("small-key", "also-m", 200),
        ("small-key", "m-two", 200),
        ("small-key", "big", 403),
        // It looks like one of its own.
        ("small-key", "m-in-disguise", 403),
        ("small-key", "nobody", 404),
        ("alias-key", "also-m", 200),
        ("alias-key", "m", 403),
        ("all-key", "big", 200),
        ("all-key", "m-in-disguise", 200),
    ] {
        let asked = json_request(PATH, &json!({ "model": model, "prompt": "x" }));
        let shown = by(key);
        let answer = sent(smg.main(), add(asked, &lines(&shown))).await;
        assert_eq!(answer.status, status, "{key} {model}: {}", answer.text());
        if status == 403 {
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "model_not_allowed");
            assert_eq!(error["type"], "permission_error");
        }
    }
    let all = ["also-m", "big", "m", "m-in-disguise", "m-two"];
    for (key, seen) in [
        ("small-key", &["also-m", "m", "m-two"][..]),
        ("alias-key", &["also-m"]),
        ("all-key", &all),
        // It is public: what opens nothing changes nothing.
        ("", &all),
        ("wrong", &all),
    ] {
        let shown = by(key);
        let listed = sent(smg.main(), plain(Method::GET, "/v1/models", &lines(&shown))).await;
        let listed = listed.json();
        let ids = listed["data"].as_array().unwrap().iter();
        let ids: Vec<&str> = ids.map(|model| model["id"].as_str().unwrap()).collect();
        assert_eq!(ids, seen, "{key}");
        for id in all {
            let path = format!("/v1/models/{id}");
            let one = sent(smg.main(), plain(Method::GET, &path, &lines(&shown))).await;
            assert_eq!(one.status == 200, seen.contains(&id), "{key} {id}");
        }
    }
    let metrics = smg.metrics().await;
    let wrong = [("plane", "data"), ("outcome", "invalid")];
    assert_eq!(metrics.sum("smg_auth_decisions_total", &wrong), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_model_is_for_the_only_one_there_is() {
    let engine = plain_engine().await;
    for (models, status) in [("m", 200), ("other", 403)] {
        let tenant =
            format!("[[auth.tenants]]\nname = \"t\"\nkeys = [\"k\"]\nmodels = [\"{models}\"]\n");
        let smg = gateway(&[&engine], &tenant).await;
        for body in [
            json!({ "prompt": "x" }),
            json!({ "model": "", "prompt": "x" }),
        ] {
            let shown = by("k");
            let asked = add(json_request(PATH, &body), &lines(&shown));
            let answer = sent(smg.main(), asked).await;
            assert_eq!(answer.status, status, "{models} {body}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_class_of_a_tenant_counts_where_the_model_has_none() {
    let gate = Gate::closed();
    let held = gate.clone();
    let engine = silent_engine(move |asked| {
        if asked.json()["stream"] != true {
            return vec![crate::scene::ok()];
        }
        vec![
            Step::sse_head(),
            Step::event(&crate::scene::delta("one")),
            Step::Hold(held.clone()),
            Step::event("[DONE]"),
            Step::Close,
        ]
    })
    .await;
    let more = r#"
[reliability.admission]
max_concurrent_requests = 1
queue_size = 0
[reliability.admission.classes.vip]
weight = 1
queue_size = 10
[auth]
api_key = "shared-key"
[[auth.tenants]]
name = "vip"
keys = ["vip-key"]
class = "vip"
"#;
    let smg = gateway(&[&engine], more).await;
    let body = json!({ "model": "m", "prompt": "x", "stream": true });
    let own = by("shared-key");
    let mut first = Connection::h1(smg.main()).await;
    let open = first
        .open(add(json_request(PATH, &body), &lines(&own)))
        .await;
    assert_eq!(open.status(), 200);
    // There is no room for the one, and a place to wait for the other.
    let refused = sent(smg.main(), asking(&lines(&own))).await;
    assert_error(&refused, 429, "rate_limit_exceeded");
    let main = smg.main();
    let waiting = tokio::spawn(async move {
        let vip = by("vip-key");
        sent(main, asking(&lines(&vip))).await.status
    });
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_admission_queue_depth", &[("class", "vip")]) == 1.0
    })
    .await;
    gate.open();
    drop(open);
    drop(first);
    assert_eq!(waiting.await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_asked_and_never_by_what() {
    let engine = plain_engine().await;
    let header = "[auth.tenant_header]\ntrusted = true\n";
    let toml = |more: &str| {
        config(&[engine.url()], more).replacen(
            "\"probes\"]",
            "\"probes\"]\ntrusted_proxies = [\"127.0.0.1\"]",
            1,
        )
    };
    let forwarded = ("x-forwarded-for", "6.6.6.6, 192.0.2.9");
    for (more, shown, told) in [
        ("", &[][..], "ip:127.0.0.1"),
        ("", &[forwarded], "ip:192.0.2.9"),
        ("", &[("x-smg-tenant-id", "x")], "ip:127.0.0.1"),
        (header, &[("x-smg-tenant-id", "x"), forwarded], "header:x"),
        (TENANT, &[("authorization", "Bearer tenant-key")], "team-a"),
        // The first 16 digits of the hash of the shared key.
        (SHARED, &[("x-api-key", "shared-key")], "auth:78a6b4e0"),
    ] {
        let mut smg = Smg::start(&toml(more)).await;
        let mut request = asking(shown);
        request = with(request, "x-request-id", "who-asks");
        assert_eq!(sent(smg.main(), request).await.status, 200);
        let is_it = |line: &&String| line.contains("request_id=who-asks");
        let process = smg.process();
        eventually(PATIENCE, async || {
            process.output().iter().any(|line| is_it(&line))
        })
        .await;
        let output = process.output();
        let line = output.iter().find(is_it).unwrap();
        let tenant = line
            .split(' ')
            .find_map(|word| word.strip_prefix("tenant="));
        let tenant = tenant.unwrap().trim_matches('"');
        match told.strip_prefix("auth:") {
            Some(_) => assert!(tenant.starts_with("auth:") && tenant.len() == 21, "{line}"),
            None => assert_eq!(tenant, told, "{line}"),
        }
        assert!(
            !output.iter().any(|line| line.contains("-key")),
            "{output:?}"
        );
    }
    // From somebody who is no proxy neither header counts.
    let mut smg = gateway(&[&engine], header).await;
    let lies = [
        ("x-smg-tenant-id", "x"),
        forwarded,
        ("x-request-id", "who-asks"),
    ];
    assert_eq!(sent(smg.main(), asking(&lies)).await.status, 200);
    let process = smg.process();
    eventually(PATIENCE, async || {
        let output = process.output();
        output
            .iter()
            .any(|line| line.contains("request_id=who-asks"))
    })
    .await;
    let output = process.output();
    assert!(
        output
            .iter()
            .any(|line| line.contains("tenant=ip:127.0.0.1")),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_explanation_is_that_of_a_tenant() {
    let engine = plain_engine().await;
    let more =
        format!("{SHARED}[[auth.tenants]]\nname = \"t\"\nkeys = [\"k\"]\nmodels = [\"x\"]\n");
    let smg = gateway(&[&engine], &more).await;
    for (identity, shown, status) in [
        (Value::Null, "anonymous", 200),
        (json!("t"), "auth:t", 403),
        (json!("nobody"), "anonymous", 400),
    ] {
        let mut body = json!({ "path": PATH, "body": ask() });
        if !identity.is_null() {
            body["identity"] = identity;
        }
        let key = by("shared-key");
        let answer = sent(
            smg.main(),
            add(json_request("/admin/explain", &body), &lines(&key)),
        )
        .await;
        let told = answer.json();
        assert_eq!(
            (&told["identity"], &told["status"]),
            (&json!(shown), &json!(status)),
            "{told}"
        );
    }
}
