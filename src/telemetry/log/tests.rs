use std::io::Write;
use std::path::Path;

use parking_lot::Mutex;
use tracing::dispatcher::{self, Dispatch};

use super::*;

const LONG: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Vec<u8>>>);

impl Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logging that is not the process's.
pub(crate) struct Log {
    pub(crate) handle: Handle,
    dispatch: Dispatch,
    tape: Tape,
}

impl Log {
    pub(crate) fn start(settings: &Settings, terminal: bool) -> Self {
        let tape = Tape::default();
        let place = Place::Stream(Box::new(tape.clone()));
        let (handle, subscriber) = build(prepare(settings).unwrap(), terminal, place).unwrap();
        Self {
            handle,
            dispatch: Dispatch::new(subscriber),
            tape,
        }
    }

    pub(crate) fn output(&self) -> &Output {
        &self.handle.output
    }

    fn with(&self, log: impl FnOnce()) {
        dispatcher::with_default(&self.dispatch, log);
    }

    /// What was written since the last call.
    pub(crate) fn take(&self) -> String {
        assert!(self.handle.flush(LONG));
        String::from_utf8(std::mem::take(&mut *self.tape.0.lock())).unwrap()
    }
}

pub(crate) fn settings(filter: &str) -> Settings {
    Settings {
        filter: filter.to_owned(),
        format: Format::Text,
        journal: false,
        dir: None,
        rotate: Rotate::Daily,
        keep: 7,
        audit: Audit::default(),
    }
}

fn read(path: &Path) -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "the test looks at what was written"
    )]
    std::fs::read_to_string(path).unwrap()
}

fn only_file(dir: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(dir).unwrap();
    let path = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    path
}

/// The line without its date and time, whose shape is checked.
fn timeless(line: &str) -> &str {
    let (time, rest) = line.split_at(20);
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00 00:00:00 ", "{line}");
    rest
}

#[test]
fn events_become_text_lines() {
    let log = Log::start(&settings("debug"), false);
    let error = io::Error::other("it\nbroke");
    log.with(|| {
        tracing::info!(target: "smg::a", n = 1, path = "/x", error = %error, "hello {}", 2);
        tracing::debug!(target: "smg::a", "deep");
    });
    let text = log.take();
    let lines: Vec<_> = text.lines().map(timeless).collect();
    assert_eq!(
        lines[0],
        "INFO smg::a: hello 2 n=1 path=/x error=\"it\\nbroke\""
    );
    let (before, after) = lines[1].split_once("tests.rs:").unwrap();
    assert!(before.starts_with("DEBUG smg::a: src/"), "{}", lines[1]);
    assert!(after.ends_with(": deep"), "{}", lines[1]);
}

#[test]
fn events_become_json_objects() {
    let log = Log::start(
        &Settings {
            format: Format::Json,
            ..settings("info")
        },
        true,
    );
    log.with(|| {
        let outer = tracing::info_span!(target: "smg::s", "http_request", id = "r1", late = 0);
        outer.in_scope(|| {
            let inner = tracing::warn_span!(target: "smg::s", "attempt");
            inner.in_scope(|| tracing::warn!(target: "smg::a", ok = false, "a \"b\""));
        });
    });
    let text = log.take();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "timestamp",
            "level",
            "message",
            "target",
            "filename",
            "line_number",
            "ok",
            "span",
            "spans"
        ]
    );
    assert_eq!(value["level"], "WARN");
    assert_eq!(value["message"], "a \"b\"");
    assert_eq!(value["ok"], false);
    assert_eq!(value["span"], serde_json::json!({"name": "attempt"}));
    assert_eq!(
        value["spans"],
        serde_json::json!([
            {"name": "http_request", "id": "r1", "late": 0},
            {"name": "attempt"}
        ])
    );
}

#[test]
fn a_plain_level_is_for_smg_alone() {
    let log = Log::start(&settings("DEBUG"), false);
    log.with(|| {
        tracing::debug!(target: "smg::a", "ours");
        tracing::info!(target: "hyper::proto", "theirs");
        tracing::warn!(target: "hyper::proto", "theirs, warning");
    });
    let text = log.take();
    assert!(text.contains("ours"), "{text}");
    assert!(text.contains("theirs, warning"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn bad_filters_are_refused() {
    for bad in ["smg=loud", "a=b=c", "smg=info,=,"] {
        let error = check_filter(bad).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("invalid log filter `{bad}`: "))
        );
    }
    for good in [
        "info",
        "Warn",
        "smg=debug,hyper=warn",
        "off",
        "trace,smg::dispatch=info",
    ] {
        check_filter(good).unwrap();
    }
}

#[test]
fn terminals_have_colour_and_journals_priorities() {
    let log = Log::start(&settings("info"), true);
    let say = || log.with(|| tracing::error!(target: "smg::a", "x"));
    say();
    assert!(
        log.take()
            .ends_with(" \u{1b}[31mERROR\u{1b}[0m smg::a: x\n")
    );
    log.handle
        .reconfigure(&Settings {
            journal: true,
            ..settings("info")
        })
        .unwrap();
    say();
    assert_eq!(log.take(), "<3>ERROR smg::a: x\n");
    let json = Settings {
        journal: true,
        format: Format::Json,
        ..settings("info")
    };
    log.handle.reconfigure(&json).unwrap();
    say();
    assert!(log.take().starts_with("{\"timestamp\""));
}

#[test]
fn everything_can_change_at_once_and_a_mistake_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1"), dir.path().join("2"));
    let log = Log::start(
        &Settings {
            dir: Some(first.clone()),
            ..settings("info")
        },
        true,
    );
    let say = |text: &str| log.with(|| tracing::info!(target: "smg::a", "{text}"));
    say("one");
    let blocked = dir.path().join("blocked");
    File::create(&blocked).unwrap();
    let mistake = Settings {
        dir: Some(blocked),
        ..settings("off")
    };
    assert!(matches!(
        log.handle.reconfigure(&mistake),
        Err(LogError::Dir { .. })
    ));
    say("two");
    let changed = Settings {
        dir: Some(second.clone()),
        format: Format::Json,
        rotate: Rotate::Never,
        ..settings("debug")
    };
    log.handle.reconfigure(&changed).unwrap();
    say("three");
    log.with(|| tracing::debug!(target: "smg::a", "four"));
    log.handle.reconfigure(&settings("warn")).unwrap();
    say("five");
    let console = log.take();
    assert_eq!(console.lines().count(), 4, "{console}");

    let path = only_file(&first);
    let text = read(&path);
    assert!(
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("smg.2")
    );
    let lines: Vec<_> = text.lines().map(timeless).collect();
    assert_eq!(lines, ["INFO smg::a: one", "INFO smg::a: two"]);
    let path = only_file(&second);
    assert_eq!(path.file_name().unwrap(), "smg.log");
    let messages: Vec<_> = read(&path)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].clone())
        .collect();
    assert_eq!(messages, ["three", "four"]);
}

#[test]
fn a_moved_file_is_let_go_on_reload() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        dir: Some(dir.path().to_owned()),
        rotate: Rotate::Never,
        ..settings("info")
    };
    let log = Log::start(&settings, false);
    let say = |text: &str| log.with(|| tracing::info!(target: "smg::a", "{text}"));
    say("old");
    let (current, moved) = (dir.path().join("smg.log"), dir.path().join("smg.log.1"));
    std::fs::rename(&current, &moved).unwrap();
    say("late");
    log.handle.reconfigure(&settings).unwrap();
    say("new");
    assert!(log.handle.flush(LONG));
    assert_eq!(read(&moved).lines().count(), 2);
    assert!(read(&current).ends_with(": new\n"));
}

#[test]
fn access_lines_obey_the_filter() {
    let verdict = |filter| access_verdict(&parse_filter(filter).unwrap());
    assert_eq!(verdict("debug"), 15);
    assert_eq!(verdict("info"), 7);
    assert_eq!(verdict("warn"), 3);
    assert_eq!(verdict("error"), 1);
    assert_eq!(verdict("off"), 0);
    assert_eq!(verdict("info,smg::response=warn"), 3);
    assert_eq!(verdict("smg=warn,smg::response=info"), 7);
    assert_eq!(verdict("warn,smg=info,smg::request=debug"), 15);
    assert_eq!(verdict("hyper=trace"), 0);
}
