//! Who may steer the gateway, and `smg reload`.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::net::UnixStream;

use crate::support::client::{json_request, request};
use crate::support::smg::LISTENERS;
use crate::support::{
    Connection, FakeEngine, Gate, Smg, Step, eventually, get, process, smg, stream,
};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_request_is_a_strangers() {
    let smg = Smg::start(LISTENERS).await;
    for path in [
        "/workers",
        "/admin/config",
        "/admin/config/status",
        "/admin/snapshots",
    ] {
        assert_eq!(get(smg.main(), path).await.status, 200, "{path}");
    }
    let mut connection = Connection::h1(smg.main()).await;
    for header in [
        "x-forwarded-for",
        "forwarded",
        "x-real-ip",
        "x-forwarded-host",
        "x-forwarded-proto",
        "via",
    ] {
        let mut ask = json_request("/admin/reload", &json!({}));
        ask.headers_mut()
            .insert(header, "127.0.0.1".parse().unwrap());
        let refused = connection.send(ask).await;
        assert_eq!(refused.status, 401, "{header}: {}", refused.text());
        assert!(!refused.header("www-authenticate").is_empty());
        assert_eq!(refused.header("x-smg-error-code"), "invalid_api_key");
        assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    }
    // What is not the control plane is open to them.
    let mut ask = request(Method::GET, "/liveness", Bytes::new());
    ask.headers_mut()
        .insert("x-forwarded-for", "8.8.8.8".parse().unwrap());
    assert_eq!(connection.send(ask).await.status, 200);
    let reloads = smg.metrics().await.sum("smg_config_reloads_total", &[]);
    assert_eq!(reloads, 0.0, "none of them has reloaded anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_changes_nothing_unless_its_origin_is_allowed() {
    let smg = Smg::start(&format!(
        "{}[[pools]]\nname = \"p\"\n",
        LISTENERS.replacen(
            "\"probes\"]\n",
            "\"probes\"]\ncors = { allowed_origins = [\"https://ops.example\"] }\n",
            1
        )
    ))
    .await;
    let mut connection = Connection::h1(smg.main()).await;
    let mut from = async |origin: &'static str, method: Method, path: &str| {
        let mut ask = request(method, path, Bytes::new());
        let origin = http::HeaderValue::from_static(origin);
        ask.headers_mut().insert("origin", origin);
        connection.send(ask).await
    };
    for path in ["/admin/pools/p/drain", "/admin/reload", "/flush_cache"] {
        for origin in ["https://evil.example", "null"] {
            let refused = from(origin, Method::POST, path).await;
            assert_eq!(refused.status, 403, "{path}: {}", refused.text());
            assert_eq!(refused.header("x-smg-error-code"), "forbidden");
        }
        let taken = from("https://ops.example", Method::POST, path).await;
        assert!(taken.status < 300, "{path}: {}", taken.text());
    }
    // Reading is left to the browser, which shows the answer to no other origin.
    let read = from("https://evil.example", Method::GET, "/workers").await;
    assert_eq!(read.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_of_this_machine_is_a_strangers_too() {
    let Some(own) = own_address() else {
        println!("skipped: this machine has no address but loopback");
        return;
    };
    let listener = format!(
        "\n[[listeners]]\nname = \"outside\"\naddress = \"{own}:0\"\nserve = [\"admin\", \"probes\"]\n"
    );
    let smg = Smg::start(&(LISTENERS.to_owned() + &listener)).await;
    let outside = smg.address("outside");
    assert_eq!(outside.ip(), own);
    assert_eq!(get(outside, "/liveness").await.status, 200);
    for path in ["/workers", "/admin/config/status"] {
        assert_eq!(get(outside, path).await.status, 401, "{path}");
    }
}

/// The address that this machine would reach others from. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_listener_is_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = format!(
        "\n[[listeners]]\nname = \"local\"\naddress = \"unix:{}\"\nserve = [\"admin\"]\n",
        path.display()
    );
    let _smg = Smg::start(&(LISTENERS.to_owned() + &listener)).await;
    let mut connection =
        Connection::h1_over(UnixStream::connect(&path).await.unwrap(), "local").await;
    let reload = connection
        .send(json_request("/admin/reload", &json!({})))
        .await;
    assert_eq!(
        (reload.status, reload.json()["result"].as_str()),
        (200, Some("unchanged"))
    );
    let mut forwarded = json_request("/admin/reload", &json!({}));
    forwarded
        .headers_mut()
        .insert("x-forwarded-for", "127.0.0.1".parse().unwrap());
    assert_eq!(connection.send(forwarded).await.status, 401);
}

/// `smg reload` with these arguments.
fn reload(args: &[&str]) -> Output {
    let mut command = smg::command();
    command.arg("reload").args(args);
    tokio::task::block_in_place(|| process::run(&mut command, PATIENCE))
}

fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The listeners, and the control socket at this path.
fn with_socket(path: &Path, rest: &str) -> String {
    format!("{LISTENERS}\n[server]\ncontrol_socket = {path:?}\n{rest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn smg_reload_tells_the_outcome_by_its_exit_status() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let mut smg = Smg::start(&with_socket(&socket, "")).await;
    let config = smg.config_path();
    let args = ["--config", config.to_str().unwrap()];

    let unchanged = reload(&args);
    assert_eq!(unchanged.status.code(), Some(0), "{}", printed(&unchanged));
    assert!(
        printed(&unchanged).contains("unchanged"),
        "{}",
        printed(&unchanged)
    );

    smg.rewrite(&with_socket(&socket, "request_timeout = \"44s\"\n"));
    let applied = reload(&args);
    assert_eq!(applied.status.code(), Some(0), "{}", printed(&applied));
    assert!(
        printed(&applied).contains("generation 2"),
        "{}",
        printed(&applied)
    );
    assert_eq!(smg.status().await["live"]["generation"], 2);

    smg.rewrite(&with_socket(
        &socket,
        "request_timeout = \"44\"\nnonsense = 1\n",
    ));
    let rejected = reload(&args);
    assert_eq!(rejected.status.code(), Some(78), "{}", printed(&rejected));
    let told = String::from_utf8_lossy(&rejected.stderr).into_owned();
    assert!(
        told.contains("nonsense") && told.contains("request_timeout"),
        "{told}"
    );
    assert!(told.contains("smg.toml:"), "{told}");

    // By address, where the socket is not the way.
    smg.rewrite(&with_socket(&socket, ""));
    let url = format!("http://{}", smg.main());
    let by_url = reload(&["--url", &url]);
    assert_eq!(by_url.status.code(), Some(0), "{}", printed(&by_url));
    assert_eq!(smg.status().await["live"]["generation"], 3);

    assert_eq!(smg.term_and_wait().await.code(), Some(0));
    assert!(!socket.exists());
    for args in [&args[..], &["--url", &url]] {
        let unreachable = reload(args);
        assert_eq!(
            unreachable.status.code(),
            Some(1),
            "{}",
            printed(&unreachable)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn smg_reload_wait_waits_for_old_streams() {
    let gate = Gate::closed();
    let held = gate.clone();
    let engine = FakeEngine::serving("slow", move |_| {
        let token = json!({ "choices": [{ "index": 0, "text": "one" }] }).to_string();
        vec![
            Step::sse_head(),
            Step::event(&token),
            Step::Hold(held.clone()),
            Step::event("[DONE]"),
            Step::Close,
        ]
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let pool = format!(
        "\n[[pools]]\nname = \"slow\"\nworkers = [\"{}\"]\n",
        engine.url()
    );
    let smg = Smg::start(&with_socket(&socket, &pool)).await;
    let main = smg.main();
    eventually(PATIENCE, async || {
        get(main, "/readiness").await.status == 200
    })
    .await;
    let ask = json!({ "model": "slow", "prompt": "hi", "stream": true });
    let mut long = stream(main, "/v1/completions", &ask).await;
    assert!(long.event().await.unwrap().is_some());

    smg.rewrite(&with_socket(
        &socket,
        &format!("request_timeout = \"44s\"\n{pool}"),
    ));
    let mut command = smg::command();
    command
        .args(["reload", "--wait", "--config"])
        .arg(smg.config_path());
    let mut waiting = process::Process::spawn("smg reload --wait", &mut command);
    smg.serves(2).await;
    let plain = reload(&["--config", smg.config_path().to_str().unwrap()]);
    assert_eq!(plain.status.code(), Some(0), "{}", printed(&plain));
    assert!(waiting.output().is_empty(), "{:?}", waiting.output());
    gate.open();
    assert_eq!(long.events().await, ["data: [DONE]"]);
    assert_eq!(waiting.ended(PATIENCE).await.code(), Some(0));
}
