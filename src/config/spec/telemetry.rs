//! `[metrics]`, `[tracing]`, `[logging]` and `[audit]`: what can be seen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::word::words;
use crate::base::file::FilePath;

/// `[metrics]`: what `/metrics` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Upper bounds of the buckets of every duration histogram.
    ///
    /// Unit: list of seconds. Default: 29 bounds from 0.001 to 7200. Range: ascending, > 0,
    /// finite. Reload: restart.
    /// The histogram of the gateway's own overhead keeps buckets of its own.
    pub duration_buckets: Vec<f64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            duration_buckets: vec![
                0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0,
                45.0, 60.0, 90.0, 120.0, 180.0, 240.0, 300.0, 480.0, 900.0, 1200.0, 1800.0, 2700.0,
                3600.0, 5400.0, 7200.0,
            ],
        }
    }
}

/// `[tracing]`: spans of requests, sent to a collector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    /// Whether spans are made and sent.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// Without it a client's `traceparent` and `tracestate` go on to the workers as they are.
    pub enabled: bool,

    /// The collector.
    ///
    /// Unit: `host:port` or URL. Default: localhost:4317. Range: scheme http or https.
    /// Reload: live.
    /// It is spoken to in OTLP over gRPC. One that is down costs requests nothing.
    pub otlp_endpoint: String,

    /// The name under which the spans stand.
    ///
    /// Unit: string. Default: smg. Range: not empty. Reload: live.
    /// The resource attribute `service.name`.
    pub service_name: String,

    /// The share of requests that are traced where the client does not decide.
    ///
    /// Unit: ratio. Default: 1. Range: 0 to 1. Reload: live.
    /// A request that comes with a `traceparent` is traced if that says so.
    pub sample_ratio: f64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            enabled: false,
            otlp_endpoint: "localhost:4317".to_owned(),
            service_name: "smg".to_owned(),
            sample_ratio: 1.0,
        }
    }
}

/// `[audit]`: the record of who asked and changed the gateway itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Whether the record is kept.
    ///
    /// Unit: boolean. Default: true. Range: any. Reload: live.
    /// It stands in the log under the target `smg::audit`, whatever the level.
    pub enabled: bool,

    /// A file of its own.
    ///
    /// Unit: path. Default: none, only the log. Range: a file that can be written. Reload: live.
    /// One JSON object per line. It is opened anew on a reload, so that it can be rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<FilePath>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            enabled: true,
            path: None,
        }
    }
}

/// `[logging]`: what is logged, and where to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// The least important messages that are logged.
    ///
    /// Unit: word. Default: info. Range: trace, debug, info, warn, error. Reload: live.
    /// `--log-level`, `SMG_LOG_LEVEL` and `RUST_LOG` come before it.
    pub level: LogLevel,

    /// The form of a log line.
    ///
    /// Unit: word. Default: text. Range: text, json. Reload: live.
    /// `text` has colours only on a terminal.
    pub format: LogFormat,

    /// Directory of the log files.
    ///
    /// Unit: path. Default: none, the log goes to the console. Range: a directory. Reload: live.
    /// See `rotate` and `keep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<FilePath>,

    /// When a new log file is begun.
    ///
    /// Unit: word. Default: daily. Range: daily, never. Reload: live.
    /// Only with `dir`.
    pub rotate: Rotate,

    /// How many log files are kept.
    ///
    /// Unit: number. Default: 7. Range: >= 0, 0 keeps all. Reload: live.
    /// Older ones are removed when a new one is begun. Only with `dir`.
    pub keep: u32,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Text,
            dir: None,
            rotate: Rotate::Daily,
            keep: 7,
        }
    }
}

words! {
    /// Importance of a log message.
    pub enum LogLevel ("log level", compare str::to_owned) {
        /// Everything.
        Trace = "trace",
        /// What helps to find a mistake.
        Debug = "debug",
        /// What an operator did or should know.
        Info = "info",
        /// What may need attention.
        Warn = "warn",
        /// What failed.
        Error = "error",
    }
    later []
}

words! {
    /// Form of a log line.
    pub enum LogFormat ("log format", compare str::to_owned) {
        /// For reading.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
    later []
}

words! {
    /// When a new log file is begun.
    pub enum Rotate ("word", compare str::to_owned) {
        /// At midnight, UTC.
        Daily = "daily",
        /// Never.
        Never = "never",
    }
    later []
}
