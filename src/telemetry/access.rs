//! The access log: one line per request, built without the machinery of `tracing`.
//!
//! It obeys the filter of the log like every event with the targets `smg::request` and
//! `smg::response`; a line that does not pass costs one look.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use tracing::Level;

use super::log::line::{Head, Line};
use super::log::{self, Output};
use crate::base::clock;

/// Longest value, in bytes.
const LONGEST: usize = 1024;

/// What is told about a finished request. Empty texts and `None` are left out of the line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access<'a> {
    /// The id that the client got.
    pub request_id: &'a str,
    /// The HTTP method.
    pub method: &'a str,
    /// The route template or the path, never with a query.
    pub path: &'a str,
    /// The HTTP status sent; the level follows from it.
    pub status: u16,
    /// From the head of the request to the end of the response.
    pub latency: Duration,
    /// How long it waited to be let in.
    pub queue: Duration,
    /// From the head of the request to the first event of a stream.
    pub ttft: Option<Duration>,
    /// Bytes of the request's body, where it was read.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Who asked: the name of a tenant, or against whom limits are counted. Empty where that is
    /// `client`.
    pub tenant: &'a str,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Canonical name of the model.
    pub model: &'a str,
    /// Pool that served it.
    pub pool: &'a str,
    /// Policy that chose the worker.
    pub policy: &'a str,
    /// The policy's reason.
    pub reason: &'a str,
    /// Id of the last worker tried.
    pub worker_id: &'a str,
    /// Attempts made at workers.
    pub attempts: u32,
    /// Tokens of the prompt, if the worker told.
    pub tokens_in: Option<u64>,
    /// Tokens of the prompt that the policy expected in the worker's cache, if it did.
    pub tokens_expected: Option<u64>,
    /// Tokens of the prompt that the worker found in its cache, if it told.
    pub tokens_cached: Option<u64>,
    /// Tokens of the answer, if the worker told.
    pub tokens_out: Option<u64>,
    /// Code of the error that the gateway answered or ended with.
    pub error_code: &'a str,
    /// Generation of the configuration that served the request.
    pub generation: u64,
    /// Whether it is one of those that who watches the gateway sends again and again.
    pub watches: bool,
}

/// The level of a finished request with `status`. Of one that `watches` only a failure is of interest.
pub fn level(status: u16, watches: bool) -> Level {
    match status {
        ..400 if watches => Level::DEBUG,
        500.. => Level::ERROR,
        400..=499 => Level::WARN,
        _ => Level::INFO,
    }
}

/// Whether lines of `level` would be written: [`Level::DEBUG`] asks for [`started`], the levels of
/// [`level`] for [`emit`].
pub fn enabled(level: Level) -> bool {
    log::output().is_some_and(|output| output.access_enabled(level))
}

/// Logs the end of a request.
pub fn emit(access: &Access<'_>) {
    if let Some(output) = log::output() {
        finish(output, access);
    }
}

/// Logs the arrival of a request, at debug level.
pub fn started(request_id: &str, method: &str, path: &str) {
    if let Some(output) = log::output() {
        begin(output, request_id, method, path);
    }
}

fn finish(output: &Output, access: &Access<'_>) {
    let level = level(access.status, access.watches);
    if !output.access_enabled(level) {
        return;
    }
    let at = clock::unix();
    output.emit(|out, style| {
        let head = Head {
            at,
            level,
            target: "smg::response",
            place: Some((file!(), line!())),
        };
        let mut line = Line::open(out, style, head, |message| {
            // Writing to memory cannot fail.
            message.write_str("finished processing request").ok();
        });
        text(&mut line, "request_id", access.request_id);
        text(&mut line, "method", access.method);
        text(&mut line, "path", access.path);
        line.u64("status", u64::from(access.status));
        line.u64("latency_us", micros(access.latency));
        if !access.queue.is_zero() {
            line.u64("queue_us", micros(access.queue));
        }
        if let Some(ttft) = access.ttft {
            line.u64("ttft_us", micros(ttft));
        }
        line.u64("bytes_in", access.bytes_in);
        line.u64("bytes_out", access.bytes_out);
        match access.client {
            Some(address) if access.tenant.is_empty() => by_address(&mut line, address),
            _ => text(&mut line, "tenant", access.tenant),
        }
        text(&mut line, "model", access.model);
        text(&mut line, "pool", access.pool);
        text(&mut line, "policy", access.policy);
        text(&mut line, "reason", access.reason);
        text(&mut line, "worker_id", access.worker_id);
        line.u64("attempts", u64::from(access.attempts));
        if let Some(tokens) = access.tokens_in {
            line.u64("tokens_in", tokens);
        }
        if let Some(tokens) = access.tokens_expected {
            line.u64("tokens_expected", tokens);
        }
        if let Some(tokens) = access.tokens_cached {
            line.u64("tokens_cached", tokens);
        }
        if let Some(tokens) = access.tokens_out {
            line.u64("tokens_out", tokens);
        }
        text(&mut line, "error_code", access.error_code);
        line.u64("generation", access.generation);
        span(&mut line, access.request_id, access.method, access.path);
        line.close();
    });
}

fn begin(output: &Output, request_id: &str, method: &str, path: &str) {
    if !output.access_enabled(Level::DEBUG) {
        return;
    }
    let at = clock::unix();
    output.emit(|out, style| {
        let place = Some((file!(), line!()));
        let head = Head {
            at,
            level: Level::DEBUG,
            target: "smg::request",
            place,
        };
        let mut line = Line::open(out, style, head, |message| {
            message.write_str("started processing request").ok();
        });
        text(&mut line, "request_id", request_id);
        text(&mut line, "method", method);
        text(&mut line, "path", path);
        span(&mut line, request_id, method, path);
        line.close();
    });
}

/// The request as the span that the line lies in, in JSON: readers of spans find it there.
fn span(line: &mut Line<'_>, request_id: &str, method: &str, path: &str) {
    if !line.is_json() {
        return;
    }
    let mut members = Vec::with_capacity(128);
    let mut fields = Line::fragment(&mut members);
    text(&mut fields, "request_id", request_id);
    text(&mut fields, "method", method);
    text(&mut fields, "path", path);
    let object: [&[u8]; 3] = [b"{\"name\":\"http_request\"", &members, b"}"];
    line.raw(b",\"span\":");
    object.iter().for_each(|part| line.raw(part));
    line.raw(b",\"spans\":[");
    object.iter().for_each(|part| line.raw(part));
    line.raw(b"]");
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Who is known by address alone, without a string on the way.
fn by_address(line: &mut Line<'_>, address: IpAddr) {
    use std::io::Write as _;
    let mut buffer = [0; 64];
    let mut rest = buffer.as_mut_slice();
    // The longest address is shorter than the buffer.
    write!(rest, "ip:{address}").ok();
    let left = rest.len();
    let whole = buffer.len() - left;
    if let Some(Ok(shown)) = buffer.get(..whole).map(std::str::from_utf8) {
        line.str("tenant", shown);
    }
}

fn text(line: &mut Line<'_>, name: &str, value: &str) {
    if !value.is_empty() {
        let end = value.floor_char_boundary(LONGEST);
        line.str(name, value.get(..end).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::tests::{Log, settings};
    use crate::telemetry::log::{Format, Settings};

    fn full() -> Access<'static> {
        Access {
            request_id: "chatcmpl-0123456789abcdef01234567",
            method: "POST",
            path: "/v1/chat/completions",
            status: 200,
            latency: Duration::from_micros(1234),
            queue: Duration::from_micros(55),
            ttft: Some(Duration::from_micros(800)),
            bytes_in: 70,
            bytes_out: 90,
            tenant: "team-a",
            client: None,
            model: "llama-3.1-8b",
            pool: "llama",
            policy: "cache_aware",
            reason: "cache_hit",
            worker_id: "6f1c",
            attempts: 2,
            tokens_in: Some(10),
            tokens_expected: Some(8),
            tokens_cached: Some(6),
            tokens_out: Some(0),
            error_code: "",
            generation: 3,
            watches: false,
        }
    }

    #[test]
    fn a_text_line() {
        let log = Log::start(
            &Settings {
                journal: true,
                ..settings("info")
            },
            false,
        );
        finish(log.output(), &full());
        assert_eq!(
            log.take(),
            "<6>INFO smg::response: finished processing request \
             request_id=chatcmpl-0123456789abcdef01234567 method=POST path=/v1/chat/completions \
             status=200 latency_us=1234 queue_us=55 ttft_us=800 bytes_in=70 bytes_out=90 tenant=team-a model=llama-3.1-8b pool=llama \
             policy=cache_aware reason=cache_hit worker_id=6f1c attempts=2 tokens_in=10 \
             tokens_expected=8 tokens_cached=6 tokens_out=0 generation=3\n"
        );
        let refused = Access {
            client: Some([192, 0, 2, 9].into()),
            status: 404,
            path: "/x",
            error_code: "not_found",
            ..Access::default()
        };
        finish(log.output(), &refused);
        assert_eq!(
            log.take(),
            "<4>WARN smg::response: finished processing request path=/x status=404 latency_us=0 \
             bytes_in=0 bytes_out=0 tenant=ip:192.0.2.9 attempts=0 error_code=not_found generation=0\n"
        );
    }

    #[test]
    fn a_json_line() {
        let log = Log::start(
            &Settings {
                format: Format::Json,
                ..settings("info")
            },
            false,
        );
        finish(
            log.output(),
            &Access {
                status: 503,
                ..full()
            },
        );
        let value: serde_json::Value = serde_json::from_str(&log.take()).unwrap();
        assert_eq!(value["level"], "ERROR");
        assert_eq!(value["target"], "smg::response");
        assert_eq!(value["message"], "finished processing request");
        assert_eq!(value["status"], 503);
        assert_eq!(value["latency_us"], 1234);
        assert_eq!(value["tokens_in"], 10);
        let span = &value["span"];
        assert_eq!(span["name"], "http_request");
        assert_eq!(span["request_id"], value["request_id"]);
        assert_eq!(span["path"], "/v1/chat/completions");
        assert_eq!(value["spans"], serde_json::json!([span]));
        assert_eq!(value["request_id"], "chatcmpl-0123456789abcdef01234567");
        assert_eq!(value["filename"], "src/telemetry/access.rs");
    }

    #[test]
    fn what_a_client_sends_stays_one_line_of_bounded_length() {
        let log = Log::start(
            &Settings {
                journal: true,
                ..settings("info")
            },
            false,
        );
        let path = format!("/a b\n<0>EMERG x: y=\"z\"\u{1b}[2J{}", "ü".repeat(4000));
        finish(
            log.output(),
            &Access {
                path: &path,
                ..full()
            },
        );
        let text = log.take();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(
            text.contains(" path=\"/a b\\n<0>EMERG x: y=\\\"z\\\"\\u001b[2Jü"),
            "{text}"
        );
        assert!(text.len() < 1500, "{}", text.len());
    }

    #[test]
    fn the_filter_decides() {
        let log = Log::start(&settings("warn"), false);
        finish(log.output(), &full());
        begin(log.output(), "r", "GET", "/x");
        assert_eq!(log.take(), "");
        finish(
            log.output(),
            &Access {
                status: 500,
                ..full()
            },
        );
        assert_eq!(log.take().lines().count(), 1);
        log.handle.reconfigure(&settings("debug")).unwrap();
        begin(log.output(), "r", "GET", "/x");
        let text = log.take();
        assert!(
            text.contains(" DEBUG smg::request: src/telemetry/access.rs:")
                && text.ends_with(": started processing request request_id=r method=GET path=/x\n"),
            "{text}"
        );
    }

    #[test]
    fn levels_follow_statuses() {
        let levels = |watches| [200, 304, 400, 499, 500, 599].map(|status| level(status, watches));
        let (debug, info) = (Level::DEBUG, Level::INFO);
        let (warn, error) = (Level::WARN, Level::ERROR);
        assert_eq!(levels(false), [info, info, warn, warn, error, error]);
        assert_eq!(levels(true), [debug, debug, warn, warn, error, error]);
    }
}
