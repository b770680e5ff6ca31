//! What the tests that run the binary share: the gateway and the sample worker as child processes,
//! a scripted engine, a small HTTP client, and waiting for conditions. Nothing here looks into the
//! library; it sees what an operator and a client see.

pub(crate) mod client;
pub(crate) mod engine;
pub(crate) mod eventually;
pub(crate) mod http2_engine;
pub(crate) mod issuer;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod smg;
pub(crate) mod tls;
pub(crate) mod tls_front;
pub(crate) mod venv;
pub(crate) mod worker;

pub(crate) use client::{Connection, get, post, stream};
pub(crate) use engine::{FakeEngine, Gate, Step};
pub(crate) use eventually::eventually;
pub(crate) use http2_engine::{Act, Http2Engine};
pub(crate) use issuer::{Issuer, Signer};
pub(crate) use process::Process;
pub(crate) use smg::Smg;
pub(crate) use tls::{Authority, Pair, TlsClient};
pub(crate) use worker::Worker;
