//! Logging and metrics of a whole process: what it writes to a pipe, up to its very last line, and
//! what it counts.

use std::process::Command;
use std::time::Duration;

use smg::telemetry::access::{self, Access};
use smg::telemetry::event::{ConfigApplied, ConfigRejected, ConfigUnchanged, Trigger};
use smg::telemetry::log::{self, Audit, Format, LogError, Rotate, Settings};
use smg::telemetry::metrics;
use tracing::Level;

const LINES: usize = 5000;

/// Not a test by itself: the process that [`a_process_says_everything_before_it_ends`] watches.
#[test]
#[ignore = "run by another test"]
fn child() {
    assert!(!access::enabled(Level::ERROR));
    access::emit(&Access::default());
    let settings = Settings {
        filter: "info".to_owned(),
        format: Format::Json,
        journal: false,
        dir: None,
        rotate: Rotate::Daily,
        keep: 7,
        audit: Audit::default(),
    };
    let handle = log::init(&settings).unwrap();
    assert!(matches!(log::init(&settings), Err(LogError::Taken)));
    assert!(access::enabled(Level::INFO) && !access::enabled(Level::DEBUG));
    access::started("r", "GET", "/hidden");
    tracing::info!(target: "smg::test", "begin");
    for n in 0..LINES {
        access::emit(&Access {
            status: 200,
            generation: n as u64,
            ..Access::default()
        });
    }
    handle
        .reconfigure(&Settings {
            format: Format::Text,
            filter: "error".to_owned(),
            ..settings
        })
        .unwrap();
    access::emit(&Access {
        status: 200,
        ..Access::default()
    });
    access::emit(&Access {
        status: 500,
        path: "/last",
        ..Access::default()
    });
    assert!(log::flush(Duration::from_secs(30)));
}

#[test]
fn a_process_says_everything_before_it_ends() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!text.contains('\u{1b}'));
    assert!(!text.contains("/hidden"));

    let objects: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| line.find("{\"timestamp\"").and_then(|at| line.get(at..)))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), LINES + 1);
    assert_eq!(objects[0]["message"], "begin");
    for (n, object) in objects.iter().skip(1).enumerate() {
        assert_eq!(object["generation"], n);
    }
    let last: Vec<_> = text
        .lines()
        .filter(|line| line.contains(" smg::response: "))
        .collect();
    assert_eq!(last.len(), 1, "{last:?}");
    assert!(
        last[0].ends_with(
            " ERROR smg::response: finished processing request path=/last status=500 \
             latency_us=0 attempts=0 generation=0"
        ),
        "{last:?}"
    );
}

/// Nobody else in this process touches these series: the recorder is the process's.
#[test]
fn loads_of_the_configuration_are_counted_by_their_end() {
    metrics::install(metrics::default_buckets()).unwrap();
    let shows = |line: &str| {
        let text = metrics::render();
        assert!(
            text.lines().any(|found| found == line),
            "no `{line}` in\n{text}"
        );
    };
    let applied = ConfigApplied {
        trigger: Trigger::Start,
        generation: 1,
        sha256: "00",
        changes: "",
    };
    applied.emit();
    assert!(!metrics::render().contains("smg_config_reloads_total{"));
    shows("smg_config_generation 1");
    shows("smg_config_synchronized 1");
    ConfigRejected {
        trigger: Trigger::Signal,
        errors: 2,
        first: "x",
    }
    .emit();
    shows("smg_config_synchronized 0");
    shows("smg_config_last_reload_successful 0");
    shows("smg_config_generation 1");
    shows("smg_config_reloads_total{trigger=\"signal\",result=\"rejected\"} 1");
    ConfigApplied {
        trigger: Trigger::File,
        generation: 2,
        ..applied
    }
    .emit();
    ConfigUnchanged {
        trigger: Trigger::Admin,
    }
    .emit();
    shows("smg_config_generation 2");
    shows("smg_config_last_reload_successful 1");
    shows("smg_config_reloads_total{trigger=\"file\",result=\"applied\"} 1");
    shows("smg_config_reloads_total{trigger=\"admin\",result=\"unchanged\"} 1");
}
