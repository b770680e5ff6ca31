//! A span that has ended.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{Event, SpanId, SpanKind, Status};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::context::Context;
use crate::base::clock;

/// Longest text of an attribute, in bytes.
const LONGEST: usize = 1024;

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request of a client.
    Server,
    /// A request to a worker.
    Client,
    /// Something within.
    Internal,
}

/// A span that has ended.
#[derive(Debug)]
pub struct Span(pub(super) SpanData);

/// Turns points of the monotonic time into those of the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    wall: SystemTime,
    now: Instant,
}

impl Times {
    /// As both clocks stand at `now`, the present.
    pub fn at(now: Instant) -> Self {
        Self {
            wall: clock::wall(),
            now,
        }
    }

    fn of(&self, at: Instant) -> SystemTime {
        let ago = self.now.saturating_duration_since(at);
        self.wall.checked_sub(ago).unwrap_or(self.wall)
    }
}

impl Span {
    /// The span `id` of the trace of `context`: the request's own, or one right below it.
    pub fn new(
        context: &Context,
        id: SpanId,
        name: &'static str,
        kind: Kind,
        times: Times,
        (from, to): (Instant, Instant),
    ) -> Self {
        static SCOPE: LazyLock<InstrumentationScope> = LazyLock::new(|| {
            InstrumentationScope::builder("smg")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build()
        });
        let own = id == context.own();
        let parent = if own {
            context.parent()
        } else {
            Some(context.own())
        };
        Self(SpanData {
            span_context: context.of(id),
            parent_span_id: parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: own && parent.is_some(),
            span_kind: match kind {
                Kind::Server => SpanKind::Server,
                Kind::Client => SpanKind::Client,
                Kind::Internal => SpanKind::Internal,
            },
            name: Cow::Borrowed(name),
            start_time: times.of(from),
            end_time: times.of(to),
            attributes: Vec::with_capacity(16),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: SCOPE.clone(),
        })
    }

    /// An id for one more span.
    pub fn id() -> SpanId {
        super::context::new_span()
    }

    /// Adds an attribute.
    pub fn put(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.attributes.push(KeyValue::new(name, value));
    }

    /// Adds a number.
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.put(name, i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Adds what a client said, shortened where it is long.
    pub fn text(&mut self, name: &'static str, value: &str) {
        let end = value.floor_char_boundary(LONGEST);
        self.put(name, value.get(..end).unwrap_or_default().to_owned());
    }

    /// Adds something that happened in between.
    pub fn event(&mut self, name: &'static str, times: Times, at: Instant) {
        let event = Event::new(name, times.of(at), Vec::new(), 0);
        self.0.events.events.push(event);
    }

    /// Says that it failed, and how.
    pub fn fail(&mut self, what: impl Into<Cow<'static, str>>) {
        self.0.status = Status::error(what);
    }
}
