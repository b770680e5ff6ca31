//! Tokens of an identity provider: what they open, where their keys come from, and what happens
//! while those cannot be had.

use std::net::SocketAddr;
use std::process::Command;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::scene::{LISTENERS, PATIENCE, ask, plain_engine};
use crate::support::client::{Answer, json_request, request};
use crate::support::issuer::{self, DESCRIPTION, KEYS};
use crate::support::venv::node_modules;
use crate::support::{Connection, FakeEngine, Issuer, Process, Signer, Smg, Step, eventually, get};

fn config(engine: &FakeEngine, issuer: &str, more: &str) -> String {
    format!(
        r#"{LISTENERS}
[[pools]]
name = "p"
runtime = "vllm"
workers = ["{}"]
health.enabled = false

[[models]]
name = "m"

[auth.jwt]
issuer = "{issuer}"
audience = "gateway"
{more}
"#,
        engine.url()
    )
}

/// A gateway that has the keys of `issuer`.
async fn gateway(engine: &FakeEngine, issuer: &str, more: &str) -> Smg {
    let smg = Smg::start(&config(engine, issuer, more)).await;
    up(&smg, issuer).await;
    smg
}

async fn up(smg: &Smg, issuer: &str) {
    eventually(PATIENCE, async || {
        smg.metrics()
            .await
            .sum("smg_auth_jwks_up", &[("issuer", issuer)])
            == 1.0
    })
    .await;
}

async fn send(to: SocketAddr, mut request: Request<Full<Bytes>>, token: &str) -> Answer {
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    Connection::h1(to).await.send(request).await
}

/// A completion of the model.
async fn complete(smg: &Smg, token: &str) -> Answer {
    send(smg.main(), json_request("/v1/completions", &ask()), token).await
}

/// The list of workers.
async fn workers(smg: &Smg, token: &str) -> Answer {
    let list = request(Method::GET, "/workers", Bytes::new());
    send(smg.main(), list, token).await
}

async fn reload(smg: &Smg, token: &str) -> Answer {
    send(smg.main(), json_request("/admin/reload", &json!({})), token).await
}

/// Waits until the gateway says that it cannot have keys, and that it is for this reason.
async fn refused(smg: &mut Smg, why: &str) {
    let told = |line: &str| {
        line.contains("cannot fetch the keys")
            .then(|| line.to_owned())
    };
    let line = smg.process().line(PATIENCE, told).await;
    assert!(line.contains(why), "{line}");
}

#[tokio::test]
async fn a_token_opens_what_its_role_allows() {
    let (engine, signer) = (plain_engine().await, Signer::ec("k"));
    let issuer = Issuer::start(&[&signer]).await;
    let smg = gateway(&engine, &issuer.url(), "role_claim = 'realm_access.roles'").await;
    let token = |role: Value| {
        let access = json!({ "realm_access": { "roles": role } });
        signer.sign(&issuer.claims_with(&access))
    };
    for (role, read, write) in [
        (json!(["admin"]), 200, 200),
        (json!("user"), 200, 403),
        (json!(["somebody"]), 403, 403),
    ] {
        let token = token(role.clone());
        assert_eq!(workers(&smg, &token).await.status, read, "{role}");
        assert_eq!(reload(&smg, &token).await.status, write, "{role}");
        assert_eq!(complete(&smg, &token).await.status, 200, "{role}");
    }
    assert_eq!(get(smg.main(), "/workers").await.status, 401);
    // An accepted token is the gateway's, and nobody else's.
    for call in engine.calls() {
        assert_eq!(call.header("authorization"), None);
    }
    assert_eq!(engine.calls().len(), 3);
    assert_eq!((issuer.asked(DESCRIPTION), issuer.asked(KEYS)), (1, 1));
}

#[tokio::test]
async fn a_token_that_is_no_good_is_told_why() {
    let (engine, signer) = (plain_engine().await, Signer::rsa("k"));
    let issuer = Issuer::start(&[&signer]).await;
    let mut smg = gateway(&engine, &issuer.url(), "").await;
    let sign = |more: Value| signer.sign(&issuer.claims_with(&more));
    let good = sign(json!({ "roles": "admin" }));
    assert_eq!(workers(&smg, &good).await.status, 200);
    let mut without = issuer.claims();
    without.as_object_mut().unwrap().remove("exp");
    let now = issuer::now();
    let mut shown = vec![good];
    for (token, reason) in [
        (sign(json!({ "exp": now - 60 })), "expired"),
        (sign(json!({ "nbf": now + 60 })), "not yet valid"),
        (sign(json!({ "iss": "https://other.example" })), "issuer"),
        (sign(json!({ "aud": "other" })), "audience"),
        (signer.sign(&without), "missing exp"),
        (Signer::ec("k").sign(&issuer.claims()), "algorithm"),
        (Signer::rsa("other").sign(&issuer.claims()), "unknown key"),
        ("e30.e30.e30".to_owned(), "malformed"),
    ] {
        let answer = workers(&smg, &token).await;
        assert_eq!(answer.status, 401, "{reason}");
        let bearer = "Bearer realm=\"control-plane\"";
        assert_eq!(answer.header("www-authenticate"), bearer);
        let text = answer.text();
        assert!(text.contains("invalid_token"), "{text}");
        assert!(text.contains(&format!("Invalid JWT: {reason}")), "{text}");
        assert_eq!(complete(&smg, &token).await.status, 401, "{reason}");
        shown.push(token);
    }
    assert_eq!(engine.calls().len(), 0);
    smg.term_and_wait().await;
    let log = smg.process().output().join("\n");
    for token in shown {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!log.contains(signature) && !log.contains(&token));
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it_and_an_old_one_ends() {
    let engine = plain_engine().await;
    let (old, new, never) = (Signer::ec("old"), Signer::ec("new"), Signer::ec("never"));
    let issuer = Issuer::start(&[&old]).await;
    let smg = gateway(&engine, &issuer.url(), "").await;
    let (by_old, by_new) = (old.sign(&issuer.claims()), new.sign(&issuer.claims()));
    assert_eq!(complete(&smg, &by_old).await.status, 200);
    issuer.show(&[&new]);
    // What many ask for at once is fetched once.
    let (one, other) = tokio::join!(complete(&smg, &by_new), complete(&smg, &by_new));
    assert_eq!((one.status, other.status), (200, 200));
    assert_eq!(issuer.asked(KEYS), 2);
    // It was remembered as good, and is not any more.
    let ended = complete(&smg, &by_old).await;
    assert_eq!(ended.status, 401, "{}", ended.text());
    let never = never.sign(&issuer.claims());
    assert_eq!(complete(&smg, &never).await.status, 401);
    assert_eq!(issuer.asked(KEYS), 2);
}

#[tokio::test]
async fn without_keys_nobody_with_a_token_comes_in() {
    let (engine, signer) = (plain_engine().await, Signer::ec("k"));
    // Bound, so that nobody else has the address, and not listening yet.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = issuer::url(socket.local_addr().unwrap());
    let mut smg = Smg::start(&config(&engine, &url, "[auth]\napi_key = 'plain'")).await;
    refused(&mut smg, "connection failed").await;
    let token = signer.sign(&issuer::claims(&url));
    for answer in [complete(&smg, &token).await, workers(&smg, &token).await] {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), "5");
        assert!(answer.text().contains("auth_unavailable"));
    }
    assert_eq!(complete(&smg, "plain").await.status, 200);
    assert_eq!(get(smg.main(), "/readiness").await.status, 200);
    let labels = [("issuer", &*url)];
    let metrics = smg.metrics().await;
    assert_eq!(metrics.count("smg_auth_jwks_up", &labels), 1);
    assert_eq!(metrics.sum("smg_auth_jwks_up", &labels), 0.0);

    let _issuer = Issuer::start_on(socket.listen(16).unwrap(), &[&signer]);
    up(&smg, &url).await;
    assert_eq!(complete(&smg, &token).await.status, 200);
}

#[tokio::test]
async fn an_issuer_that_is_not_itself_is_not_believed() {
    let (engine, signer) = (plain_engine().await, Signer::ec("k"));
    let moved = "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    let other = json!({ "issuer": "https://other.example", "jwks_uri": "https://other.example" });
    for (answer, why) in [
        (Step::json(200, &other), "describes the issuer"),
        (Step::write(moved), "302"),
        (Step::json(200, &json!([])), "does not describe an issuer"),
        (
            Step::json(200, &json!("x".repeat(1024 * 1024))),
            "larger than",
        ),
    ] {
        let issuer = Issuer::start(&[&signer]).await;
        issuer.answer_description(answer);
        let mut smg = Smg::start(&config(&engine, &issuer.url(), "")).await;
        refused(&mut smg, why).await;
        let token = signer.sign(&issuer.claims());
        assert_eq!(complete(&smg, &token).await.status, 503, "{why}");
        assert_eq!((issuer.asked(KEYS), issuer.asked("/elsewhere")), (0, 0));
    }
}

#[tokio::test]
async fn old_keys_serve_while_new_ones_cannot_be_had() {
    let (engine, signer) = (plain_engine().await, Signer::ec("k"));
    let issuer = Issuer::start(&[&signer]).await;
    let uri = format!("jwks_uri = '{}{KEYS}'", issuer.url());
    let smg = gateway(&engine, &issuer.url(), &uri).await;
    assert_eq!(issuer.asked(DESCRIPTION), 0);
    issuer.answer_keys(Step::json(500, &json!({})));
    let unknown = Signer::ec("unknown").sign(&issuer.claims());
    assert_eq!(complete(&smg, &unknown).await.status, 401);
    let labels = [("issuer", &*issuer.url())];
    let up = smg.metrics().await.sum("smg_auth_jwks_up", &labels);
    assert_eq!(up, 0.0);
    let known = signer.sign(&issuer.claims());
    assert_eq!(complete(&smg, &known).await.status, 200);
}

#[tokio::test]
async fn another_issuer_takes_over_with_a_reload() {
    let (engine, before, after) = (plain_engine().await, Signer::ec("a"), Signer::ec("b"));
    let first = Issuer::start(&[&before]).await;
    let second = Issuer::start(&[&after]).await;
    let smg = gateway(&engine, &first.url(), "").await;
    let old = before.sign(&first.claims_with(&json!({ "roles": "admin" })));
    let new = after.sign(&second.claims_with(&json!({ "roles": "admin" })));
    assert_eq!(complete(&smg, &old).await.status, 200);

    smg.rewrite(&config(&engine, &second.url(), ""));
    up(&smg, &second.url()).await;
    assert_eq!(complete(&smg, &new).await.status, 200);
    assert_eq!(complete(&smg, &old).await.status, 401);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.count("smg_auth_jwks_up", &[]), 1);

    // What words mean is judged anew, also for a token that has been seen.
    let mapped = "role_mapping = { admin = 'user' }";
    assert_eq!(reload(&smg, &new).await.status, 200);
    smg.rewrite(&config(&engine, &second.url(), mapped));
    eventually(PATIENCE, async || reload(&smg, &new).await.status == 403).await;
    // Once at first, and once for the unknown key of the old token.
    assert_eq!(second.asked(KEYS), 2);

    let plain = config(&engine, "", "");
    let (open, _) = plain.split_once("[auth.jwt]").unwrap();
    smg.rewrite(open);
    eventually(PATIENCE, async || {
        smg.metrics().await.count("smg_auth_jwks_up", &[]) == 0
    })
    .await;
}

/// A provider that many people run, not one that was written for this.
#[tokio::test]
async fn a_real_provider() {
    let Some(modules) = node_modules("oidc") else {
        return;
    };
    let engine = plain_engine().await;
    for (role, write) in [("admin", 200), ("user", 403)] {
        let mut command = Command::new("node");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/oidc_provider.mjs");
        command.arg(script).arg(&modules).arg(role);
        let mut provider = Process::spawn("the OIDC provider", &mut command);
        let said = |line: &str| line.strip_prefix("issuer ").map(str::to_owned);
        let issuer = provider.line(PATIENCE, said).await;
        let smg = gateway(&engine, &issuer, "").await;

        let address = issuer.strip_prefix("http://").unwrap().parse().unwrap();
        let grant = Bytes::from("grant_type=client_credentials");
        let mut form = request(Method::POST, "/token", grant);
        let form_type = "application/x-www-form-urlencoded".parse().unwrap();
        form.headers_mut().insert("content-type", form_type);
        let basic = "Basic bWFjaGluZTpzZWNyZXQtb2YtdGhlLW1hY2hpbmU="
            .parse()
            .unwrap();
        form.headers_mut().insert("authorization", basic);
        let granted = Connection::h1(address).await.send(form).await;
        assert_eq!(granted.status, 200, "{}", granted.text());
        let granted = granted.json();
        let token = granted["access_token"].as_str().unwrap();

        assert_eq!(complete(&smg, token).await.status, 200);
        assert_eq!(workers(&smg, token).await.status, 200);
        assert_eq!(reload(&smg, token).await.status, write);
        let (rest, _) = token.rsplit_once('.').unwrap();
        let unsigned = format!("{rest}.AAAA");
        assert_eq!(complete(&smg, &unsigned).await.status, 401);
    }
}
