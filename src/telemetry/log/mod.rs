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
use file::{DayFile, OneFile};
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
    /// The audit log.
    pub audit: Audit,
}

/// Where the audit log goes. It is told of no level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Whether there is one: in the log, and in `path`.
    pub enabled: bool,
    /// A file of its own.
    pub path: Option<PathBuf>,
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
    /// The file of the audit log cannot be written.
    #[error("cannot write the audit log to `{}`: {source}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
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
    audits: bool,
    audit: Place,
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
/// [`LogError::Filter`], [`LogError::Dir`], [`LogError::Audit`].
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
    let Audit { enabled, path } = &settings.audit;
    let audit = match path.as_ref().filter(|_| *enabled) {
        None => Place::Closed,
        Some(path) => OneFile::open(path)
            .map(Place::File)
            .map_err(|source| LogError::Audit {
                path: path.clone(),
                source,
            })?,
    };
    Ok(Prepared {
        access: access_verdict(&filter),
        filter,
        format: settings.format,
        journal: settings.journal,
        files,
        audits: *enabled,
        audit,
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
            audits,
            audit,
        } = prepared;
        self.output.configure(format, journal, access, files);
        self.output.configure_audit(audits, audit);
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
        "audit" => output.audit.dropped(),
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
        audits,
        audit,
    } = prepared;
    let stdout = Sink::start("stdout", stdout)?;
    let output = Arc::new(Output::new(
        terminal,
        stdout,
        Sink::start("file", Place::Closed)?,
        Sink::start("audit", Place::Closed)?,
    ));
    output.configure(format, journal, access, files);
    output.configure_audit(audits, audit);
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
    let files = output.files.flush(deadline);
    output.audit.flush(deadline) && files && stdout
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
pub(crate) mod tests;
