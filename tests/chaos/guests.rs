//! Workers that come and go over the admin API while they are in use. All of them are well, so
//! nobody may notice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::client::{Answer, request};
use crate::support::{Connection, get};

/// The longest that a job may take; with a probe or a drain it is some hundred milliseconds.
const JOB: Duration = Duration::from_secs(15);

/// The pool they are guests of.
pub(crate) const POOL: &str = "guests";

/// Comes and goes until it is stopped. An error is what the gateway did wrong.
pub(crate) async fn visit(
    to: SocketAddr,
    url: &str,
    mut rng: Rng,
    done: impl Fn(&'static str),
) -> String {
    loop {
        if let Err(wrong) = stay(to, url, &mut rng, &done).await {
            return format!("guest {url}: {wrong}");
        }
    }
}

async fn stay(
    to: SocketAddr,
    url: &str,
    rng: &mut Rng,
    done: &impl Fn(&'static str),
) -> Result<(), String> {
    let body = json!({ "url": url, "pool": POOL });
    let added = send(to, Method::POST, "/workers", &body).await;
    let path = format!(
        "/workers/{}",
        added.json()["worker_id"].as_str().unwrap_or("?")
    );
    accepted(&added)?;
    becomes(to, &path, Some("ready")).await?;
    done("worker added");
    let again = send(to, Method::POST, "/workers", &body).await;
    if again.status != 409 {
        return Err(format!("added twice: {} {}", again.status, again.text()));
    }
    sleep(Duration::from_millis(rng.u64(50..400))).await;
    if rng.bool() {
        let change = json!({ "priority": rng.u8(50..53), "labels": { "rack": "7" } });
        accepted(&send(to, Method::PATCH, &path, &change).await)?;
        done("worker changed");
    }
    if rng.bool() {
        accepted(&send(to, Method::PATCH, &path, &json!({ "drain": true })).await)?;
        becomes(to, &path, Some("draining")).await?;
        done("worker drained");
        if rng.bool() {
            accepted(&send(to, Method::PATCH, &path, &json!({ "drain": false })).await)?;
            becomes(to, &path, Some("ready")).await?;
            sleep(Duration::from_millis(rng.u64(0..200))).await;
        }
    }
    leave(to, &path).await?;
    done("worker removed");
    sleep(Duration::from_millis(rng.u64(0..200))).await;
    Ok(())
}

/// Sees off whoever is still there.
pub(crate) async fn leave_all(to: SocketAddr) -> Result<(), String> {
    let all = get(to, &format!("/workers?pool={POOL}")).await.json();
    for worker in all["workers"].as_array().into_iter().flatten() {
        if worker["source"] == "api" {
            let id = worker["id"].as_str().unwrap_or("?");
            leave(to, &format!("/workers/{id}")).await?;
        }
    }
    Ok(())
}

async fn leave(to: SocketAddr, path: &str) -> Result<(), String> {
    let removed = send(to, Method::DELETE, path, &Value::Null).await;
    // It may have been on its way out already.
    if removed.status != 404 && removed.status != 409 {
        accepted(&removed)?;
    }
    becomes(to, path, None).await
}

fn accepted(answer: &Answer) -> Result<(), String> {
    if answer.status == 202 {
        return Ok(());
    }
    Err(format!("{} {}", answer.status, answer.text()))
}

/// Waits until the worker has this status, or is gone.
async fn becomes(to: SocketAddr, path: &str, status: Option<&str>) -> Result<(), String> {
    let deadline = Instant::now() + JOB;
    loop {
        let shown = get(to, path).await;
        let so = match status {
            Some(status) => shown.status == 200 && shown.json()["status"] == status,
            None => shown.status == 404,
        };
        if so {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("not {status:?} but {}", shown.text()));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn send(to: SocketAddr, method: Method, path: &str, body: &Value) -> Answer {
    let text = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    let mut asked = request(method, path, text);
    let json = HeaderValue::from_static("application/json");
    asked.headers_mut().insert("content-type", json);
    Connection::h1(to).await.send(asked).await
}
