//! The audit log: who asked what of the control plane, and what configured the gateway.
//!
//! A record is a line of the log at the level info whatever the filter says and, where there is a
//! file of its own, a JSON line there. It obeys `audit.enabled` alone. Nobody waits for a disk; a
//! record for which there is no room is counted, and the log says so.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ahash::RandomState;
use parking_lot::Mutex;
use tracing::Level;

use super::log::line::{Head, Line, Style};
use super::log::{self, Output};
use crate::base::clock;

/// Longest value, in characters.
const LONGEST: usize = 1024;

/// For how long the refused logins of one client are one record.
const PERIOD: Duration = Duration::from_secs(60);

/// Clients whose refused logins are counted each for itself.
const CLIENTS: usize = 4096;

/// Stands for every further client.
const OTHERS: &str = "other";

/// Who was not recognised.
const NOBODY: &str = "unauthenticated";

/// What is recorded. Empty texts and `None` are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// Who: the id of a key, the subject of a token, `uid:0`.
    pub principal: &'a str,
    /// By what it was recognised: `api_key`, `jwt`, `peer`, `none`.
    pub auth_method: &'a str,
    /// What it may do.
    pub role: &'a str,
    /// The HTTP method.
    pub method: &'a str,
    /// The path without its query.
    pub path: &'a str,
    /// The worker or pool that the path names.
    pub resource: &'a str,
    /// Whether it was let in.
    pub denied: bool,
    /// The HTTP status sent.
    pub status: Option<u16>,
    /// The request id.
    pub request_id: &'a str,
    /// Where the request came from.
    pub client: &'a str,
    /// The subject of the client's certificate.
    pub details: &'a str,
    /// For how many refused logins the record stands.
    pub count: Option<u64>,
}

/// A configuration that was read.
#[derive(Clone, Copy, Debug)]
pub struct Reload<'a> {
    /// What asked for it.
    pub trigger: &'a str,
    /// `applied`, `unchanged` or `rejected`.
    pub result: &'a str,
    /// The generation in force from now on.
    pub generation: u64,
    /// Hash of what was read.
    pub sha256: &'a str,
}

/// Whether records are kept.
pub fn enabled() -> bool {
    log::output().is_some_and(Output::audits)
}

/// Keeps a record.
pub fn emit(record: &Record<'_>) {
    if let Some(output) = log::output().filter(|output| output.audits()) {
        write(output, |line| fields(line, record));
    }
}

/// Keeps a record of a refused login; those of one client within a minute become one, which follows
/// once the minute is over.
pub fn refused(record: &Record<'_>) {
    if !enabled() {
        return;
    }
    let now = REFUSALS.lock().add(record, clock::now());
    if now {
        emit(&Record {
            principal: NOBODY,
            denied: true,
            count: Some(1),
            ..*record
        });
    }
}

/// Keeps the records of refused logins whose minute is over at `now`; `None`: of all.
pub fn sweep(now: Option<Instant>) {
    let due = REFUSALS.lock().due(now);
    for (client, refusals) in due {
        emit(&refusals.record(&client));
    }
}

/// Keeps a record of a reload.
pub fn reloaded(reload: &Reload<'_>) {
    let Some(output) = log::output().filter(|output| output.audits()) else {
        return;
    };
    let record = Record {
        principal: "system",
        auth_method: "none",
        denied: reload.result == "rejected",
        ..Record::default()
    };
    write(output, |line| {
        fields(line, &record);
        text(line, "trigger", reload.trigger);
        text(line, "result", reload.result);
        line.u64("generation", reload.generation);
        text(line, "sha256", reload.sha256);
    });
}

/// Keeps a record of an upgrade that `trigger` asked for; `pid`: who has taken over, if somebody has.
pub fn upgraded(trigger: &str, pid: Option<u32>) {
    let Some(output) = log::output().filter(|output| output.audits()) else {
        return;
    };
    let record = Record {
        principal: "system",
        auth_method: "none",
        denied: pid.is_none(),
        ..Record::default()
    };
    let result = if pid.is_some() { "upgraded" } else { "failed" };
    write(output, |line| {
        fields(line, &record);
        text(line, "trigger", trigger);
        text(line, "result", result);
        if let Some(pid) = pid {
            line.u64("pid", u64::from(pid));
        }
    });
}

fn write(output: &Output, fields: impl Fn(&mut Line<'_>)) {
    let at = clock::unix();
    let render = |out: &mut Vec<u8>, style: Style| {
        let head = Head {
            at,
            level: Level::INFO,
            target: "smg::audit",
            place: None,
        };
        let mut line = Line::open(out, style, head, |message| {
            // Writing to memory cannot fail.
            message.write_str("control_plane_audit").ok();
        });
        fields(&mut line);
        line.close();
    };
    output.emit(render);
    if output.audits_to_file() {
        let mut line = Vec::new();
        render(&mut line, Style::Json);
        output.audit.push(&line);
    }
}

fn fields(line: &mut Line<'_>, record: &Record<'_>) {
    text(line, "principal", record.principal);
    text(line, "auth_method", record.auth_method);
    text(line, "role", record.role);
    text(line, "method", record.method);
    text(line, "path", record.path);
    text(line, "resource", record.resource);
    let outcome = if record.denied { "denied" } else { "success" };
    line.str("outcome", outcome);
    if let Some(status) = record.status {
        line.u64("status", u64::from(status));
    }
    text(line, "request_id", record.request_id);
    text(line, "client", record.client);
    text(line, "details", record.details);
    if let Some(count) = record.count {
        line.u64("count", count);
    }
}

fn text(line: &mut Line<'_>, name: &str, value: &str) {
    if !value.is_empty() {
        line.str(name, cut(value));
    }
}

fn cut(value: &str) -> &str {
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => value.get(..end).unwrap_or_default(),
        None => value,
    }
}

static REFUSALS: LazyLock<Mutex<Refusals>> = LazyLock::new(Mutex::default);

/// Refused logins by client.
#[derive(Default)]
struct Refusals(HashMap<String, Refused, RandomState>);

/// Those of one client that no record stands for yet.
struct Refused {
    since: Instant,
    count: u64,
    last: Last,
}

/// What the last of them asked for.
#[derive(Clone, Default)]
struct Last {
    method: String,
    path: String,
    resource: String,
    status: Option<u16>,
    request_id: String,
    details: String,
}

impl Refusals {
    /// Counts one. Whether it is the first, of which there is a record at once.
    fn add(&mut self, record: &Record<'_>, now: Instant) -> bool {
        let known = self.0.contains_key(record.client);
        let client = if known || self.0.len() < CLIENTS {
            record.client
        } else {
            OTHERS
        };
        if let Some(refused) = self.0.get_mut(client) {
            refused.count += 1;
            refused.last = Last::of(record);
            return false;
        }
        let refused = Refused {
            since: now,
            count: 0,
            last: Last::default(),
        };
        self.0.insert(client.to_owned(), refused);
        true
    }

    /// Takes out what is due. A client that was refused within its minute stays for another one.
    fn due(&mut self, now: Option<Instant>) -> Vec<(String, Refused)> {
        let over = |refused: &Refused| {
            now.is_none_or(|now| now.saturating_duration_since(refused.since) >= PERIOD)
        };
        let mut due = Vec::new();
        self.0.retain(|client, refused| {
            if !over(refused) {
                return true;
            }
            let Some(now) = now.filter(|_| refused.count > 0) else {
                if refused.count > 0 {
                    due.push((client.clone(), refused.take(refused.since)));
                }
                return false;
            };
            due.push((client.clone(), refused.take(now)));
            true
        });
        due
    }
}

impl Refused {
    fn take(&mut self, now: Instant) -> Self {
        let taken = Self {
            since: self.since,
            count: self.count,
            last: std::mem::take(&mut self.last),
        };
        (self.since, self.count) = (now, 0);
        taken
    }

    fn record<'a>(&'a self, client: &'a str) -> Record<'a> {
        Record {
            principal: NOBODY,
            auth_method: "none",
            role: "",
            method: &self.last.method,
            path: &self.last.path,
            resource: &self.last.resource,
            denied: true,
            status: self.last.status,
            request_id: &self.last.request_id,
            client,
            details: &self.last.details,
            count: Some(self.count),
        }
    }
}

impl Last {
    fn of(record: &Record<'_>) -> Self {
        Self {
            method: cut(record.method).to_owned(),
            path: cut(record.path).to_owned(),
            resource: cut(record.resource).to_owned(),
            status: record.status,
            request_id: cut(record.request_id).to_owned(),
            details: cut(record.details).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::tests::{Log, settings};
    use crate::telemetry::log::{Audit, Format, Settings};

    fn refused(client: &str) -> Record<'_> {
        Record {
            method: "GET",
            path: "/workers",
            client,
            status: Some(401),
            ..Record::default()
        }
    }

    #[test]
    fn a_record_obeys_no_level_and_stays_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audited = Settings {
            format: Format::Text,
            audit: Audit {
                enabled: true,
                path: Some(path.clone()),
            },
            ..settings("error")
        };
        let log = Log::start(&audited, false);
        let long = format!("/workers/a\nb\u{1b}[2J{}", "ü".repeat(2000));
        let record = Record {
            principal: "deploy",
            auth_method: "api_key",
            role: "admin",
            method: "DELETE",
            path: &long,
            resource: "a\nb",
            status: Some(202),
            client: "10.0.0.1",
            ..Record::default()
        };
        write(log.output(), |line| fields(line, &record));
        let text = log.take();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let start = "INFO smg::audit: control_plane_audit principal=deploy auth_method=api_key \
                     role=admin method=DELETE path=\"/workers/a\\nb\\u001b[2Jü";
        assert!(text.contains(start), "{text}");
        assert!(text.ends_with("resource=\"a\\nb\" outcome=success status=202 client=10.0.0.1\n"));
        #[expect(
            clippy::disallowed_methods,
            reason = "the test looks at what was written"
        )]
        let file = std::fs::read_to_string(&path).unwrap();
        let json: serde_json::Value = serde_json::from_str(&file).unwrap();
        assert_eq!(json["message"], "control_plane_audit");
        assert_eq!(json["target"], "smg::audit");
        assert_eq!(json["path"].as_str().unwrap().chars().count(), 1024);
        assert_eq!(json["outcome"], "success");
        assert!(json.get("details").is_none());

        let off = Settings {
            audit: Audit::default(),
            ..audited
        };
        log.handle.reconfigure(&off).unwrap();
        assert!(!log.output().audits() && !log.output().audits_to_file());
    }

    #[test]
    fn refused_logins_of_a_minute_are_two_records() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut refusals = Refusals::default();
        assert!(refusals.add(&refused("a"), at(0)));
        assert!(!refusals.add(&refused("a"), at(1)));
        assert!(refusals.add(&refused("b"), at(1)));
        assert!(!refusals.add(&refused("a"), at(59)));
        assert!(refusals.due(Some(at(59))).is_empty());
        let due = refusals.due(Some(at(61)));
        let due: Vec<_> = due.iter().map(|(client, r)| (&**client, r.count)).collect();
        assert_eq!(due, [("a", 2)]);
        // It has not stopped, so that what follows waits for its minute.
        assert!(!refusals.add(&refused("a"), at(62)));
        assert!(refusals.add(&refused("b"), at(62)));
        let left = refusals.due(None);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].1.record("a").path, "/workers");
        assert!(refusals.0.is_empty());
    }

    #[test]
    fn many_clients_share_a_record() {
        let now = clock::now();
        let mut refusals = Refusals::default();
        for n in 0..2 * CLIENTS {
            refusals.add(&refused(&n.to_string()), now);
        }
        assert_eq!(refusals.0.len(), CLIENTS + 1);
        assert_eq!(refusals.0[OTHERS].count as usize, CLIENTS - 1);
    }
}
