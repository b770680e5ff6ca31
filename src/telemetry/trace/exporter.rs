//! The queue of spans and the thread that sends them: OTLP over gRPC.
//!
//! Invariant: whoever has spans to hand over never waits, neither for the collector nor for the
//! thread; and the thread is woken for a batch, not for a span.

use std::io;
use std::sync::mpsc::{Receiver as Done, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use metrics::Counter;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::timeout;
use tonic::transport::{ClientTlsConfig, Endpoint};

use super::span::Span;
use super::{Settings, count};
use crate::base::clock;
use crate::telemetry::log::Repeat;
use crate::telemetry::metrics::{self as names, Metric};

/// Spans that may wait.
const QUEUE: usize = 4096;
/// Spans of one message.
const BATCH: usize = 64;
/// Longest that a span waits for others.
const DELAY: Duration = Duration::from_millis(500);
/// Longest that the collector may take for a message, further tries included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause behind a message that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// How long what is left is sent once no more spans come.
const LAST: Duration = Duration::from_secs(5);

/// The running exporter. It ends, having sent what it was given, when this is dropped.
pub(super) struct Exporter {
    settings: Settings,
    queue: Sender<SpanData>,
    full: Arc<Notify>,
    dropped: Counter,
    done: parking_lot::Mutex<Done<()>>,
}

/// Why spans were not sent.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("{}", chain(.0))]
    Address(#[from] tonic::transport::Error),
    #[error(transparent)]
    Build(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error(transparent)]
    Sdk(#[from] opentelemetry_sdk::error::OTelSdkError),
    #[error("the collector did not answer within {PATIENCE:?}")]
    Late,
}

/// An error of the transport with its causes, without which it says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl Exporter {
    pub(super) fn start(settings: Settings) -> io::Result<Self> {
        let (queue, spans) = mpsc::channel(QUEUE);
        let full = Arc::new(Notify::new());
        let (ending, done) = sync_channel(0);
        let work = Work {
            settings: settings.clone(),
            spans,
            full: Arc::clone(&full),
            notices: Repeat::every_minute(),
            _ending: ending,
        };
        // Not one of the threads that serve requests: encoding and encrypting are work.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || runtime.block_on(work.run()))?;
        Ok(Self {
            settings,
            queue,
            full,
            dropped: names::counter(Metric::TraceSpans, &[("result", "dropped")]),
            done: parking_lot::Mutex::new(done),
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes all of `spans`, or counts them as dropped.
    pub(super) fn send(&self, spans: Vec<Span>) {
        let Ok(permits) = self.queue.try_reserve_many(spans.len()) else {
            self.dropped.increment(spans.len() as u64);
            return;
        };
        for (permit, span) in permits.zip(spans) {
            permit.send(span.0);
        }
        if self.queue.max_capacity() - self.queue.capacity() >= BATCH {
            self.full.notify_one();
        }
    }

    /// Takes no more; the channel is closed once what is there has been sent.
    pub(super) fn leave(self) -> Done<()> {
        self.full.notify_one();
        self.done.into_inner()
    }
}

struct Work {
    settings: Settings,
    spans: Receiver<SpanData>,
    full: Arc<Notify>,
    notices: Repeat<()>,
    /// Closes with the thread.
    _ending: SyncSender<()>,
}

impl Work {
    async fn run(mut self) {
        let mut otlp = connect(&self.settings).map_err(ExportError::from);
        if let Ok(otlp) = &mut otlp {
            otlp.set_resource(&resource(&self.settings));
        }
        let mut batch = Vec::with_capacity(BATCH);
        let mut end = None;
        while let Some(first) = self.spans.recv().await {
            batch.push(first);
            if self.spans.len() + 1 < BATCH && !self.spans.is_closed() {
                // Either way there is something to be sent.
                timeout(DELAY, self.full.notified()).await.ok();
            }
            if !self.spans.is_empty() {
                self.spans.recv_many(&mut batch, BATCH - 1).await;
            }
            if self.spans.is_closed() {
                let end = *end.get_or_insert_with(|| clock::now() + LAST);
                if clock::now() >= end {
                    count("dropped", batch.len() + self.spans.len());
                    return;
                }
            }
            let size = batch.len();
            let spans = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            let sent = match &otlp {
                Ok(otlp) => export(otlp, spans).await,
                Err(error) => Err(error.to_string()),
            };
            match sent {
                Ok(()) => count("exported", size),
                Err(error) => {
                    count("failed", size);
                    self.tell(&error);
                    timeout(PAUSE, self.closed()).await.ok();
                }
            }
        }
    }

    fn tell(&self, error: &str) {
        if let Some(silent) = self.notices.allow((), clock::now()) {
            tracing::warn!(
                target: "smg::tracing",
                error, failures = silent + 1,
                "spans were not taken by the collector and are lost"
            );
        }
    }

    /// Ready once no more spans come.
    async fn closed(&self) {
        while !self.spans.is_closed() {
            self.full.notified().await;
        }
    }
}

async fn export(otlp: &Otlp, spans: Vec<SpanData>) -> Result<(), String> {
    let sent = timeout(PATIENCE, otlp.export(spans)).await;
    let sent = sent.map_err(|_| ExportError::Late);
    let sent = sent.and_then(|sent| sent.map_err(ExportError::from));
    sent.map_err(|error| error.to_string())
}

/// A connection is made when there is something to be sent, and again when it was lost.
fn connect(settings: &Settings) -> Result<Otlp, ExportError> {
    let endpoint = Endpoint::from_shared(settings.endpoint.to_string())?;
    let endpoint = if settings.endpoint.starts_with("https:") {
        endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?
    } else {
        endpoint
    };
    let channel = endpoint
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .connect_lazy();
    let otlp = Otlp::builder()
        .with_tonic()
        .with_channel(channel)
        .with_timeout(PATIENCE)
        .build()?;
    Ok(otlp)
}

fn resource(settings: &Settings) -> Resource {
    // The same for as long as the process lives, whatever becomes of the exporter.
    static INSTANCE: LazyLock<String> = LazyLock::new(|| {
        let random = fastrand::u128(..).to_be_bytes();
        uuid::Builder::from_random_bytes(random)
            .into_uuid()
            .to_string()
    });
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", Arc::clone(&settings.service_name)),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", INSTANCE.clone()),
        ])
        .build()
}
