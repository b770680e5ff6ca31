//! Logs: where they go, how they look, which pass; all of it changes without a restart.
//!
//! An event becomes bytes on the thread that logs it and is written by the thread of its sink, so
//! that nothing waits for a disk, a pipe or a terminal. What a sink cannot take is dropped and
//! counted.

mod file;
mod layer;
pub(crate) mod line;
mod output;
mod repeat;
mod sink;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

pub use file::Rotate;
pub(crate) use output::Output;
pub use repeat::Repeat;

use crate::base::clock;
use file::DayFile;
use sink::{Place, Sink};

static OUTPUT: OnceLock<Arc<Output>> = OnceLock::new();

/// How lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// For people: `YYYY-MM-DD HH:MM:SS LEVEL target: message k=v`, in UTC.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What logging is told to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What passes: a level (`trace`, `debug`, `info`, `warn`, `error`) that counts for smg while
    /// other crates are heard from `warn` on; or a filter such as `smg=debug,hyper=warn`.
    pub filter: String,
    /// How lines are written.
    pub format: Format,
    /// The standard output is the journal: text lines have a `<N>` priority instead of a time.
    pub journal: bool,
    /// Directory of log files, in addition to the standard output.
    pub dir: Option<PathBuf>,
    /// When a new file is begun.
    pub rotate: Rotate,
    /// Daily files that stay; 0: all.
    pub keep: usize,
}

/// Why logging cannot do as told.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is neither a level nor a filter expression.
    #[error("invalid log filter `{filter}`: {source}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// No file can be written in the directory.
    #[error("cannot write logs into `{}`: {source}", dir.display())]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The standard output or a thread is not to be had.
    #[error("cannot start logging: {0}")]
    Start(#[from] io::Error),
    /// Logging was started before.
    #[error("logging is set up already")]
    Taken,
}

/// Settings that are known to work; see [`Handle::apply`].
pub struct Prepared {
    filter: EnvFilter,
    access: u8,
    format: Format,
    journal: bool,
    files: Place,
}

/// The running log.
#[derive(Clone)]
pub struct Handle {
    output: Arc<Output>,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging for this process.
///
/// # Errors
/// Any [`LogError`].
pub fn init(settings: &Settings) -> Result<Handle, LogError> {
    let prepared = prepare(settings)?;
    // Unbuffered and without the lock of `std::io::stdout`: the sink's thread is the only writer.
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let place = Place::Stream(Box::new(stdout));
    let (handle, subscriber) = build(prepared, io::stdout().is_terminal(), place)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Taken)?;
    OUTPUT.get_or_init(|| Arc::clone(&handle.output));
    Ok(handle)
}

/// Checks what [`Settings::filter`] may be.
///
/// # Errors
/// [`LogError::Filter`].
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse_filter(filter).map(drop)
}

/// Does everything that may fail; opens the log file, but writes nothing yet.
///
/// # Errors
/// [`LogError::Filter`], [`LogError::Dir`].
pub fn prepare(settings: &Settings) -> Result<Prepared, LogError> {
    let filter = parse_filter(&settings.filter)?;
    let files = match &settings.dir {
        None => Place::Closed,
        Some(dir) => DayFile::open(dir, settings.rotate, settings.keep, clock::unix())
            .map(Place::Files)
            .map_err(|source| LogError::Dir {
                dir: dir.clone(),
                source,
            })?,
    };
    Ok(Prepared {
        access: access_verdict(&filter),
        filter,
        format: settings.format,
        journal: settings.journal,
        files,
    })
}

/// Waits until the lines logged so far are written, at most `timeout`; `false` if they are not.
/// To be called before the process ends, on every way out.
pub fn flush(timeout: Duration) -> bool {
    OUTPUT
        .get()
        .is_none_or(|output| flush_output(output, timeout))
}

impl Handle {
    /// Goes over to prepared settings. The log file is opened anew even if nothing changed, so
    /// that a file moved away by others is let go.
    pub fn apply(&self, prepared: Prepared) {
        let Prepared {
            filter,
            access,
            format,
            journal,
            files,
        } = prepared;
        self.output.configure(format, journal, access, files);
        // It fails only without its subscriber, and then nobody logs.
        self.filter.reload(filter).ok();
    }

    /// [`prepare`] and [`Handle::apply`] in one; on error everything stays as it was.
    ///
    /// # Errors
    /// [`LogError::Filter`], [`LogError::Dir`].
    pub fn reconfigure(&self, settings: &Settings) -> Result<(), LogError> {
        self.apply(prepare(settings)?);
        Ok(())
    }

    /// See [`flush`].
    pub fn flush(&self, timeout: Duration) -> bool {
        flush_output(&self.output, timeout)
    }
}

/// Lines lost at a sink, one of [`label::LOG_SINKS`](super::metrics::label::LOG_SINKS).
pub(crate) fn dropped(sink: &str) -> u64 {
    OUTPUT.get().map_or(0, |output| match sink {
        "stdout" => output.stdout.dropped(),
        _ => output.files.dropped(),
    })
}

/// The sinks of the process, once logging has started.
pub(crate) fn output() -> Option<&'static Output> {
    OUTPUT.get().map(Arc::as_ref)
}

fn build(
    prepared: Prepared,
    terminal: bool,
    stdout: Place,
) -> Result<(Handle, impl Subscriber + Send + Sync), LogError> {
    let Prepared {
        filter,
        access,
        format,
        journal,
        files,
    } = prepared;
    let stdout = Sink::start("stdout", stdout)?;
    let output = Arc::new(Output::new(
        terminal,
        stdout,
        Sink::start("file", Place::Closed)?,
    ));
    output.configure(format, journal, access, files);
    let (filter, reloadable) = reload::Layer::new(filter);
    let lines = layer::Lines(Arc::clone(&output));
    let subscriber = Registry::default().with(filter).with(lines);
    Ok((
        Handle {
            output,
            filter: reloadable,
        },
        subscriber,
    ))
}

fn flush_output(output: &Output, timeout: Duration) -> bool {
    let deadline = clock::now() + timeout;
    let stdout = output.stdout.flush(deadline);
    output.files.flush(deadline) && stdout
}

fn parse_filter(text: &str) -> Result<EnvFilter, LogError> {
    let word = text.trim().to_ascii_lowercase();
    let expression = match word.as_str() {
        "trace" | "debug" | "info" | "warn" | "error" => format!("warn,smg={word}"),
        _ => text.to_owned(),
    };
    EnvFilter::builder()
        .parse(expression)
        .map_err(|source| LogError::Filter {
            filter: text.to_owned(),
            source,
        })
}

/// The levels at which access lines pass `filter`, as bits of [`output::access_bit`].
fn access_verdict(filter: &EnvFilter) -> u8 {
    let probe = Registry::default().with(filter.clone());
    tracing::subscriber::with_default(probe, || {
        let mut bits = 0;
        let mut add = |level, enabled| {
            bits |= if enabled {
                output::access_bit(level)
            } else {
                0
            }
        };
        add(
            Level::ERROR,
            tracing::enabled!(target: "smg::response", Level::ERROR),
        );
        add(
            Level::WARN,
            tracing::enabled!(target: "smg::response", Level::WARN),
        );
        add(
            Level::INFO,
            tracing::enabled!(target: "smg::response", Level::INFO),
        );
        add(
            Level::DEBUG,
            tracing::enabled!(target: "smg::request", Level::DEBUG),
        );
        bits
    })
}

#[cfg(test)]
pub(crate) mod tests {
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
        let (before, after) = lines[1].split_once("mod.rs:").unwrap();
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
}
