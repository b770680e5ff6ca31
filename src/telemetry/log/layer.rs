//! From `tracing` events to lines.

use std::fmt::{self, Write};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::line::{Escaped, Head, Line};
use super::output::Output;
use crate::base::clock;

/// Renders events into an [`Output`].
pub(crate) struct Lines(pub(crate) Arc<Output>);

/// Fields of a span, as JSON members each after a comma.
struct Members(Vec<u8>);

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut members = Vec::new();
        attributes.record(&mut Fields(&mut Line::fragment(&mut members)));
        span.extensions_mut().replace(Members(members));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(Members(members)) = span.extensions_mut().get_mut() {
            values.record(&mut Fields(&mut Line::fragment(members)));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let head = Head {
            at: clock::unix(),
            level: *metadata.level(),
            target: metadata.target(),
            place: metadata.file().zip(metadata.line()),
        };
        self.0.emit(|out, style| {
            let mut line = Line::open(out, style, head, |text| event.record(&mut Message(text)));
            event.record(&mut Fields(&mut line));
            if line.is_json() {
                spans(&mut line, event, &context);
            }
            line.close();
        });
    }
}

fn spans<S>(line: &mut Line<'_>, event: &Event<'_>, context: &Context<'_, S>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let Some(leaf) = context.event_span(event) else {
        return;
    };
    let object = |line: &mut Line<'_>, span: &tracing_subscriber::registry::SpanRef<'_, S>| {
        line.raw(b"{\"name\":\"");
        line.raw(span.name().as_bytes());
        line.raw(b"\"");
        if let Some(Members(members)) = span.extensions().get() {
            line.raw(members);
        }
        line.raw(b"}");
    };
    line.raw(b",\"span\":");
    object(line, &leaf);
    line.raw(b",\"spans\":[");
    for (at, span) in leaf.scope().from_root().enumerate() {
        if at > 0 {
            line.raw(b",");
        }
        object(line, &span);
    }
    line.raw(b"]");
}

/// Writes the message alone.
struct Message<'a, 'b>(&'a mut Escaped<'b>);

impl Visit for Message<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            // Writing to memory cannot fail.
            self.0.write_str(value).ok();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").ok();
        }
    }
}

/// Writes every field but the message.
struct Fields<'a, 'b>(&'a mut Line<'b>);

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.f64(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.i64(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.u64(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.bool(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            self.0.str(field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            self.0.debug(field.name(), value);
        }
    }
}
