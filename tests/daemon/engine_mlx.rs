//! A real inference engine behind the gateway: MLX on the CPU with a tiny model of random weights.
//! Its words mean nothing, so counts, shapes and endings are what is asserted.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use crate::support::smg::LISTENERS;
use crate::support::venv::{built, python, run_script};
use crate::support::{Process, Smg, eventually, get};

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_talks_to_mlx_through_the_gateway() {
    let (Some(sdk), Some(mlx)) = (python("sdk"), python("mlx")) else {
        return;
    };
    let engine = free_address();
    let _engine = Process::spawn(
        "the MLX engine",
        Command::new(mlx)
            .args(["-m", "mlx_lm.server", "--model"])
            .arg(built("tiny-model"))
            .args(["--host", "127.0.0.1", "--port", &engine.port().to_string()])
            .env("HF_HUB_OFFLINE", "1"),
    );
    eventually(Duration::from_secs(120), async || {
        tokio::net::TcpStream::connect(engine).await.is_ok()
            && get(engine, "/health").await.status == 200
    })
    .await;

    let smg = Smg::start(&format!(
        r#"
{LISTENERS}
[[pools]]
name = "mlx"
runtime = "mlx"
workers = [{{ url = "http://{engine}", model = "default_model" }}]

[[models]]
name = "default_model"
aliases = ["tiny"]
pool = "mlx"
"#
    ))
    .await;
    eventually(Duration::from_secs(20), async || {
        get(smg.main(), "/readiness").await.status == 200
    })
    .await;
    let url = format!("http://{}/v1", smg.main());
    tokio::task::block_in_place(|| run_script(&sdk, "engine.py", &[&url]));
}

/// A port that was free a moment ago: the engine can't be given port 0.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}
