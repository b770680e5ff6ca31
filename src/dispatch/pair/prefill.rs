//! The leg that reads the prompt, where the other runs beside it: its answer is read to the end and
//! nobody sees it.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use futures_util::future::poll_fn;
use http_body::Body as _;

use super::super::attempt::is_event_stream;
use super::super::error::{Deadline, Fault, Shortage};
use super::leg::{Letter, Lost};
use super::{SGLANG, record_prefill};
use crate::api::logprobs::Logprobs;
use crate::api::sse;
use crate::api::usage::{Finder, Usage};
use crate::base::clock;
use crate::state::{InFlight, ModelCell, Reservation};

/// Logprobs of an answer longer than this are not kept.
const MAX: usize = 64 * 1024 * 1024;

/// A prefill under way.
pub(super) type Running = Pin<Box<dyn Future<Output = Result<Prefilled, Box<Lost>>> + Send>>;

/// What an answer said.
#[derive(Debug)]
pub(super) struct Prefilled {
    pub(super) usage: Option<Usage>,
    /// When it had come to its end.
    pub(super) at: Instant,
    /// Empty unless they were wanted.
    pub(super) logprobs: Logprobs,
    /// What the answer took up, of which the logprobs are a part.
    _memory: Reservation,
}

/// A prefill to be run.
pub(super) struct Prefill {
    pub(super) letter: Letter,
    /// Held until the answer is complete.
    pub(super) guard: InFlight,
    pub(super) model: std::sync::Arc<ModelCell>,
    pub(super) sent: Instant,
    pub(super) head_by: (Instant, Deadline),
    pub(super) dialect: sse::Dialect,
    /// Whether the logprobs of the prompt are wanted.
    pub(super) gather: bool,
}

impl Prefill {
    /// Sends it and reads the answer.
    ///
    /// Cancel safety: dropping the future closes the connection, and the worker is free again.
    pub(super) fn run(mut self) -> Running {
        Box::pin(async move {
            let done = tokio::select! {
                biased;
                done = self.read() => done,
                lost = self.letter.worker_lost() => Err(lost),
            };
            match &done {
                Ok(_) => {
                    self.guard.prefilled(clock::now());
                    self.letter.succeeded(&mut self.guard);
                }
                Err(lost) => self.letter.failed(lost, &mut self.guard),
            }
            drop(self.guard);
            done
        })
    }

    async fn read(&self) -> Result<Prefilled, Box<Lost>> {
        let (by, late) = self.head_by;
        let (parts, mut answer) = self.letter.post(by, late).await?;
        let mut stream = is_event_stream(&parts.headers).then(|| sse::Reader::new(self.dialect));
        let mut finder = Finder::new();
        let mut usage = None;
        let mut gathered = self.gather.then(Vec::new);
        let mut memory = self.letter.memory().none();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await {
            let frame = frame.map_err(|_| self.letter.lost(Fault::BrokeOff))?;
            let data = frame.into_data().unwrap_or_default();
            match &mut stream {
                Some(reader) => {
                    let seen = reader.read(&data);
                    usage = seen.usage.or(usage);
                    if let Some(failure) = seen.error {
                        let fault = Fault::Status(failure.code.unwrap_or(500));
                        let lost = *self.letter.lost(fault);
                        return Err(Box::new(lost.saying(data.to_vec())));
                    }
                }
                None => finder.feed(&data),
            }
            // Read to its end all the same, as the worker takes a closed connection for an order to stop.
            if let Some(kept) = &mut gathered {
                if !memory.grow(data.len()) {
                    return Err(self.letter.lost(Fault::Short(Shortage::Memory)));
                }
                kept.extend_from_slice(&data);
                if kept.len() > MAX {
                    gathered = None;
                    memory.shrink_to(0);
                }
            }
        }
        let mut logprobs = Logprobs::default();
        let gathered = gathered.unwrap_or_default();
        match &mut stream {
            Some(reader) => {
                usage = reader.finish().usage.or(usage);
                if !reader.ended() {
                    return Err(self.letter.lost(Fault::Stream));
                }
                for line in gathered.split(|byte| *byte == b'\n') {
                    if let Some(event) = line.strip_prefix(b"data:") {
                        logprobs.learn(event);
                    }
                }
            }
            None => {
                usage = finder.usage();
                logprobs = Logprobs::of(&gathered);
            }
        }
        record_prefill(&self.model, SGLANG, self.sent);
        if logprobs.is_empty() {
            memory.shrink_to(0);
        }
        Ok(Prefilled {
            usage,
            at: clock::now(),
            logprobs,
            _memory: memory,
        })
    }
}
