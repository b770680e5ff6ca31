//! One of two workers that serve a request together: what prefill has computed is fetched by decode.
//!
//! The cache itself is not moved, only who may go on: decode asks prefill over HTTP and is answered
//! once the prompt has been computed. As with the engines, SGLang's meet in a room that the request
//! names, and neither ends without the other; vLLM's prefill says in its answer where to fetch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::args::{Disaggregation, Runtime};
use super::engine::Engine;
use super::job::Job;
use super::reply::{Refusal, Reply};

/// Longest wait for the other worker.
const WAIT: Duration = Duration::from_secs(30);

/// Rooms that may be in use at the same time.
const MOST_ROOMS: usize = 65_536;

/// Where other workers ask, before the name of the room.
pub(super) const PATH: &str = "/sample/room/";

/// The rooms of a prefill worker.
#[derive(Debug, Default)]
pub(super) struct Rooms(Mutex<HashMap<String, watch::Sender<Stage>>>);

/// How far a room is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Decode has asked, prefill has not begun.
    Awaited,
    /// Prefill is at work.
    Entered,
    /// The prompt has been computed.
    Ready,
    /// Decode has fetched it.
    Fetched,
}

/// A room that a prefill uses. It is empty again when this is dropped.
struct Place<'a> {
    rooms: &'a Rooms,
    room: String,
    stage: watch::Sender<Stage>,
}

/// What a request says about where to meet.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Meeting {
    #[serde(default)]
    bootstrap_host: Value,
    #[serde(default)]
    bootstrap_port: Value,
    #[serde(default)]
    bootstrap_room: Value,
    #[serde(default)]
    kv_transfer_params: Value,
}

impl Rooms {
    fn enter(&self, room: &str) -> Result<Place<'_>, Refusal> {
        let mut rooms = self.0.lock();
        if rooms.len() >= MOST_ROOMS {
            return Err(Refusal::internal("all rooms are in use"));
        }
        let stage = rooms
            .entry(room.to_owned())
            .or_insert_with(|| watch::Sender::new(Stage::Awaited));
        if *stage.borrow() != Stage::Awaited {
            return Err(Refusal::internal(format!("room {room} is in use")));
        }
        stage.send_replace(Stage::Entered);
        Ok(Place {
            rooms: self,
            room: room.to_owned(),
            stage: stage.clone(),
        })
    }

    /// Waits until what is in `room` has been computed, and takes it. Whether it came to that.
    pub(super) async fn fetch(&self, room: &str) -> bool {
        let stage = {
            let mut rooms = self.0.lock();
            let awaited = || watch::Sender::new(Stage::Awaited);
            rooms.entry(room.to_owned()).or_insert_with(awaited).clone()
        };
        // Also where nobody waits any more for what is asked here.
        let _leave = Leave { rooms: self, room };
        let mut changes = stage.subscribe();
        let ready = changes.wait_for(|stage| *stage == Stage::Ready);
        // What is waited for lends out the stage, which must be over before it changes.
        let ready = matches!(timeout(WAIT, ready).await, Ok(Ok(_)));
        if ready {
            stage.send_replace(Stage::Fetched);
        }
        ready
    }
}

/// A room that somebody asks for; it is forgotten with the question.
struct Leave<'a> {
    rooms: &'a Rooms,
    room: &'a str,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.rooms.0.lock().remove(self.room);
    }
}

impl Place<'_> {
    async fn fetched(&self) -> bool {
        self.stage.send_replace(Stage::Ready);
        let mut changes = self.stage.subscribe();
        let fetched = changes.wait_for(|stage| *stage == Stage::Fetched);
        matches!(timeout(WAIT, fetched).await, Ok(Ok(_)))
    }

    /// Leaves it as it is, for whoever fetches it later.
    fn keep(mut self) {
        self.stage.send_replace(Stage::Ready);
        self.room.clear();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.room.is_empty() {
            self.rooms.0.lock().remove(&self.room);
        }
    }
}

impl Meeting {
    /// The meeting of a request, for a worker that is one of two.
    pub(super) fn read(engine: &Engine, body: &[u8]) -> Option<Box<Self>> {
        engine.args.disaggregation?;
        serde_json::from_slice(body).ok()
    }

    /// As decode: waits until prefill is done.
    ///
    /// # Errors
    /// The request names no room, or prefill did not come.
    pub(super) async fn fetch(&self, engine: &Engine, job: &Job) -> Result<(), Refusal> {
        let places = match engine.args.runtime {
            Runtime::Sglang => self.places()?,
            Runtime::Vllm if self.kv_transfer_params["do_remote_prefill"] == true => {
                let from = &self.kv_transfer_params;
                let host = from["remote_host"].as_str().unwrap_or_default();
                let port = from["remote_port"].as_u64().unwrap_or_default();
                let room = from["remote_engine_id"].as_str().unwrap_or_default();
                vec![(host.to_owned(), port, room.to_owned())]
            }
            Runtime::Vllm => return Ok(()),
        };
        for (host, port, room) in places {
            let asked = timeout(WAIT, ask(&host, port, &room)).await;
            if !matches!(asked, Ok(Ok(true))) {
                let message = format!("nothing was to be fetched in room {room}");
                return Err(Refusal::internal(message));
            }
        }
        engine.adopt(job.rank, &job.prompts);
        Ok(())
    }

    /// As prefill: turns the answer of a prompt computed by `run` into what a prefill says, once
    /// decode has it or knows where it is.
    ///
    /// # Errors
    /// A room is in use, or decode did not come.
    pub(super) async fn offer(
        &self,
        engine: &Arc<Engine>,
        stream: bool,
        run: impl Future<Output = Reply>,
    ) -> Result<Reply, Refusal> {
        if engine.args.runtime == Runtime::Vllm {
            return self.hand_over(engine, run).await;
        }
        let rooms = self.places()?.into_iter();
        let places = rooms
            .map(|(_, _, room)| engine.rooms.enter(&room))
            .collect::<Result<Vec<_>, _>>()?;
        let reply = run.await;
        for place in &places {
            if !place.fetched().await {
                let message = format!("nobody has fetched room {}", place.room);
                return Err(Refusal::internal(message));
            }
        }
        Ok(if stream { as_stream(reply) } else { reply })
    }

    async fn hand_over(
        &self,
        engine: &Engine,
        run: impl Future<Output = Reply>,
    ) -> Result<Reply, Refusal> {
        let reply = run.await;
        if self.kv_transfer_params["do_remote_decode"] != true {
            return Ok(reply);
        }
        let room = format!("sample-{:016x}", engine.id());
        engine.rooms.enter(&room)?.keep();
        let (parts, body) = reply.into_parts();
        let mut answer: Value = serde_json::from_slice(&body)?;
        answer["kv_transfer_params"] = json!({
            "do_remote_prefill": true, "do_remote_decode": false, "remote_engine_id": room,
            "remote_block_ids": [0], "remote_host": engine.args.host, "remote_port": engine.port,
        });
        Ok(Reply::from_parts(parts, answer.to_string().into()))
    }

    fn places(&self) -> Result<Vec<(String, u64, String)>, Refusal> {
        let each = |value: &Value| value.as_array().map_or(1, Vec::len);
        let of = |value: &Value, index: usize| -> Value {
            let element = value.as_array().map(|all| all.get(index).cloned());
            element
                .unwrap_or_else(|| Some(value.clone()))
                .unwrap_or_default()
        };
        (0..each(&self.bootstrap_room))
            .map(|index| {
                let host = of(&self.bootstrap_host, index);
                let room = of(&self.bootstrap_room, index).as_u64();
                let (Some(host), Some(room)) = (host.as_str(), room) else {
                    return Err(Refusal::bad_request("one of two workers needs a room"));
                };
                let port = of(&self.bootstrap_port, index).as_u64().unwrap_or(0);
                Ok((host.to_owned(), port, room.to_string()))
            })
            .collect()
    }
}

/// The answer as a stream of one event.
fn as_stream(reply: Reply) -> Reply {
    let (mut parts, body) = reply.into_parts();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    parts.headers.insert(CONTENT_TYPE, kind);
    let events = [b"data: ", &*body, b"\n\ndata: [DONE]\n\n"].concat();
    Reply::from_parts(parts, Bytes::from(events))
}

/// Whether the worker at `host` and `port` says that `room` is done.
async fn ask(host: &str, port: u64, room: &str) -> std::io::Result<bool> {
    let port = u16::try_from(port).unwrap_or(0);
    let mut stream = TcpStream::connect((host, port)).await?;
    let request =
        format!("GET {PATH}{room} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

impl Engine {
    /// Whether it only computes prompts.
    pub(super) fn is_prefill(&self) -> bool {
        self.args.disaggregation == Some(Disaggregation::Prefill)
    }
}
