//! The trace that a request is part of: read from its head, passed on to workers and back.
//! W3C Trace Context, level 1.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Names the trace and the span above.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems keep beside it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// A longer `tracestate` is not passed on.
const LONGEST_STATE: usize = 512;

/// So many members it has at most.
const MOST_MEMBERS: usize = 32;

/// The place of one request in its trace.
#[derive(Debug, Clone)]
pub struct Context {
    trace: TraceId,
    own: SpanId,
    parent: Option<SpanId>,
    sampled: bool,
    state: Option<(HeaderValue, TraceState)>,
}

/// What whoever is asked on behalf of a request gets to know of its trace.
#[derive(Debug, Clone)]
pub struct Link {
    parent: HeaderValue,
    state: Option<HeaderValue>,
}

impl Context {
    /// Goes on with the trace that `headers` name, or begins a new one, of which the share `ratio`
    /// is recorded. What is not exactly as the standard has it counts as absent.
    pub fn begin(headers: &HeaderMap, ratio: f64) -> Self {
        let own = new_span();
        if let Some((trace, parent, sampled)) = parent(headers) {
            return Self {
                trace,
                own,
                parent: Some(parent),
                sampled,
                state: state(headers),
            };
        }
        let trace = TraceId::from(fastrand::u128(1..));
        Self {
            trace,
            own,
            parent: None,
            sampled: is_drawn(trace, ratio),
            state: None,
        }
    }

    /// Whether spans are recorded.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The request's own span.
    pub fn own(&self) -> SpanId {
        self.own
    }

    /// The span of whoever sent the request.
    pub fn parent(&self) -> Option<SpanId> {
        self.parent
    }

    /// The `traceparent` of a span of this trace.
    pub fn header(&self, span: SpanId) -> HeaderValue {
        let text = format!(
            "00-{:032x}-{:016x}-0{}",
            self.trace,
            span,
            u8::from(self.sampled)
        );
        // Hexadecimal digits are always allowed.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// What is passed on to whoever is asked under `span`.
    pub fn link(&self, span: SpanId) -> Link {
        Link {
            parent: self.header(span),
            state: self.state.as_ref().map(|(header, _)| header.clone()),
        }
    }

    /// The identity of a span of this trace.
    pub(super) fn of(&self, span: SpanId) -> SpanContext {
        let state = self.state.as_ref().map(|(_, state)| state.clone());
        let flags = if self.sampled {
            TraceFlags::SAMPLED
        } else {
            TraceFlags::default()
        };
        SpanContext::new(self.trace, span, flags, false, state.unwrap_or_default())
    }
}

impl Link {
    /// Puts it into the head of a request, in place of what the client said.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.parent.clone());
        match &self.state {
            Some(state) => headers.insert(TRACESTATE, state.clone()),
            None => headers.remove(TRACESTATE),
        };
    }
}

/// An id for a span of ours.
pub(super) fn new_span() -> SpanId {
    SpanId::from(fastrand::u64(1..))
}

/// Whether a new trace is recorded. Its id decides, so that all who hold to the same ratio decide
/// the same.
fn is_drawn(trace: TraceId, ratio: f64) -> bool {
    let low = u128::from_be_bytes(trace.to_bytes()) as u64 >> 1;
    // Every number below 2^63 is below the bound of a ratio of 1.
    (low as f64) < ratio * (1_u64 << 63) as f64 || ratio >= 1.0
}

/// The trace, the span above, and whether it is recorded.
fn parent(headers: &HeaderMap) -> Option<(TraceId, SpanId, bool)> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let bytes = value.as_bytes();
    let (head, rest) = bytes.split_at_checked(LENGTH)?;
    let dashes = [2, 35, 52].iter().all(|at| head.get(*at) == Some(&b'-'));
    let version = hexadecimal(head.get(..2)?)?;
    // Later versions may say more, but not otherwise.
    let ends = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.first().is_none_or(|byte| *byte == b'-'),
    };
    if !dashes || !ends {
        return None;
    }
    let trace = hexadecimal(head.get(3..35)?).filter(|id| *id != 0)?;
    let span = hexadecimal(head.get(36..52)?).filter(|id| *id != 0)?;
    let flags = hexadecimal(head.get(53..55)?)?;
    let span = SpanId::from(u64::try_from(span).ok()?);
    Some((TraceId::from(trace), span, flags & 1 == 1))
}

/// A number in lower-case digits.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// What is to be passed on beside the parent, if it is well formed.
fn state(headers: &HeaderMap) -> Option<(HeaderValue, TraceState)> {
    let mut values = headers.get_all(TRACESTATE).iter();
    let first = values.next()?;
    let mut text = first.to_str().ok()?.to_owned();
    for value in values {
        text.push(',');
        text.push_str(value.to_str().ok()?);
    }
    let members = text.split(',').map(str::trim);
    let members: Vec<&str> = members.filter(|member| !member.is_empty()).collect();
    let text = members.join(",");
    if text.is_empty() || text.len() > LONGEST_STATE || members.len() > MOST_MEMBERS {
        return None;
    }
    let state: TraceState = text.parse().ok()?;
    Some((HeaderValue::try_from(text).ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn read(value: &str) -> Option<(TraceId, SpanId, bool)> {
        parent(&headers(&[("traceparent", value)]))
    }

    #[test]
    fn a_parent_is_read_strictly() {
        let (trace, span, sampled) = read(VALID).unwrap();
        assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.to_string(), "00f067aa0ba902b7");
        assert!(sampled);
        assert!(!read(&VALID.replace("-01", "-00")).unwrap().2);
        assert!(read(&VALID.replace("-01", "-03")).unwrap().2);
        for later in ["cc-", "01-"] {
            assert!(read(&VALID.replacen("00-", later, 1)).is_some());
            let more = format!("{}-more", VALID.replacen("00-", later, 1));
            assert!(read(&more).is_some());
            assert!(read(&more.replace("-more", "more")).is_none());
        }
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e47360-00f067aa0ba902b7-01",
        ] {
            assert!(read(bad).is_none(), "{bad}");
        }
        let twice = headers(&[("traceparent", VALID), ("traceparent", VALID)]);
        assert!(parent(&twice).is_none());
    }

    #[test]
    fn the_state_goes_on_as_one_header() {
        let of = |values: &[&str]| {
            let pairs: Vec<_> = values.iter().map(|value| ("tracestate", *value)).collect();
            state(&headers(&pairs)).map(|(header, _)| header.to_str().unwrap().to_owned())
        };
        assert_eq!(of(&["a=1,b=2", "c=3"]).as_deref(), Some("a=1,b=2,c=3"));
        assert_eq!(of(&["a=1, ,b=2"]).as_deref(), Some("a=1,b=2"));
        assert_eq!(of(&["no member"]), None);
        assert_eq!(of(&[""]), None);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[&format!("a={}", "x".repeat(600))]), None);
        let members = |count: usize| {
            let members: Vec<_> = (0..count).map(|n| format!("m{n}=1")).collect();
            members.join(",")
        };
        assert_eq!(of(&[&members(32)]), Some(members(32)));
        assert_eq!(of(&[&members(33)]), None);
    }

    #[test]
    fn what_is_passed_on() {
        let client = headers(&[("traceparent", VALID), ("tracestate", "a=1")]);
        let context = Context::begin(&client, 0.0);
        assert!(context.is_sampled() && context.parent().is_some());
        let span = new_span();
        let mut sent = client.clone();
        context.link(span).put(&mut sent);
        let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01");
        assert_eq!(sent["traceparent"], expected);
        assert_eq!(sent["tracestate"], "a=1");

        // Without a parent that counts, what came with it does not count either.
        let client = headers(&[("traceparent", "00-1-2-01"), ("tracestate", "a=1")]);
        let context = Context::begin(&client, 0.0);
        assert!(!context.is_sampled() && context.parent().is_none());
        let mut sent = client.clone();
        context.link(span).put(&mut sent);
        assert!(sent["traceparent"].to_str().unwrap().ends_with("-00"));
        assert!(!sent.contains_key("tracestate"));
    }

    #[test]
    fn the_ratio_is_kept() {
        let none = HeaderMap::new();
        let share = |ratio| {
            let drawn = (0..4000).filter(|_| Context::begin(&none, ratio).is_sampled());
            drawn.count()
        };
        assert_eq!(share(0.0), 0);
        assert_eq!(share(1.0), 4000);
        assert!((800..1200).contains(&share(0.25)));
    }
}
