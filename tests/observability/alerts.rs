//! Every alert is seen firing while there is the trouble that it is about, and gone when that is over.
//! Ranges and waits are those of the rules in seconds instead of minutes; thresholds are untouched.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;

use crate::bustle::{LISTENERS, PATIENCE};
use crate::prometheus::{Job, Prometheus, hurried, promtool, tool};
use crate::support::{Gate, eventually, post};
use crate::troubles::{self, Site};

const RULES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/packaging/prometheus/smg.rules.yml"
);
const RULES_TEST: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/observability/smg.rules.test.yml"
);

/// Alerts about features that no gateway here has.
const AWAITED: &[&str] = &[
    "SmgAuthenticationFailures",
    "SmgCertificateExpiresSoon",
    "SmgCertificateRefused",
    "SmgIssuerKeysUnavailable",
];

fn rules() -> String {
    std::fs::read_to_string(RULES).unwrap()
}

/// Watches for alerts, and keeps the names of those that fired and went away again.
struct Watch<'a> {
    prometheus: &'a Prometheus,
    seen: Mutex<BTreeSet<String>>,
}

impl Watch<'_> {
    async fn is_firing(&self, alert: &str, label: (&str, &str)) -> bool {
        let alerts = self.prometheus.alerts(alert).await;
        alerts
            .iter()
            .any(|alert| alert.firing && alert.labels[label.0] == label.1)
    }

    /// Waits until these alerts with this label fire.
    async fn fire(&self, alerts: &[&str], label: (&str, &str)) {
        for alert in alerts {
            let fires = tokio::time::timeout(PATIENCE, async {
                while !self.is_firing(alert, label).await {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
            assert!(fires.await.is_ok(), "{alert} never fires for {label:?}");
        }
    }

    /// Waits until they no longer do.
    async fn end(&self, alerts: &[&str], label: (&str, &str)) {
        for alert in alerts {
            let ends = tokio::time::timeout(PATIENCE, async {
                while self.is_firing(alert, label).await {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
            assert!(ends.await.is_ok(), "{alert} fires on for {label:?}");
            self.seen.lock().insert((*alert).to_owned());
        }
    }

    async fn failing(&self, site: &Site) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        let alerts = [
            "SmgHighErrorRate",
            "SmgBreakerOpen",
            "SmgRetriesOutOfBudget",
        ];
        let _clients = site.clients(&["m", "b"], false);
        self.fire(&alerts, label).await;
        site.wrong.turn_off();
        self.end(&alerts, label).await;
    }

    async fn slow(&self, site: &Site) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        let clients = site.clients(&["m"; 8], true);
        self.fire(&["SmgSlowFirstToken"], label).await;
        site.wrong.turn_off();
        drop(clients);
        let _clients = site.clients(&["m"], true);
        self.end(&["SmgSlowFirstToken"], label).await;
    }

    async fn crowded(&self, site: &Site) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        let alerts = ["SmgLongQueue", "SmgRequestsRejected"];
        let clients = site.clients(&["m"; 4], false);
        self.fire(&alerts, label).await;
        site.wrong.turn_off();
        drop(clients);
        let _clients = site.clients(&["m"], false);
        self.end(&alerts, label).await;
    }

    async fn full(&self, site: &Site, gate: &Gate) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        let to = site.smg.main();
        let client =
            tokio::spawn(
                async move { post(to, "/v1/completions", &troubles::large()).await.status },
            );
        self.fire(&["SmgMemoryBudget"], label).await;
        gate.open();
        assert_eq!(client.await.unwrap(), 200);
        self.end(&["SmgMemoryBudget"], label).await;
    }

    async fn unhealthy(&self, site: &Site) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        let alerts = ["SmgNoHealthyWorkers", "SmgWorkerUnhealthy"];
        self.fire(&alerts, label).await;
        site.wrong.turn_off();
        self.end(&alerts, label).await;
    }

    async fn silent(&self, site: &Site) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        self.fire(&["SmgPolicyDegraded"], label).await;
        site.wrong.turn_off();
        self.end(&["SmgPolicyDegraded"], label).await;
    }

    /// A worker that does not answer, until it is taken out of the file.
    async fn strange(&self, site: &Site) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        self.fire(&["SmgDiscoveryNotSynchronized"], label).await;
        site.smg.apply(&troubles::without_workers()).await;
        self.end(&["SmgDiscoveryNotSynchronized"], label).await;
    }

    async fn misconfigured(&self, site: &Site) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        let alerts = ["SmgReloadFailed", "SmgConfigNotSynchronized"];
        site.smg.rewrite("version = 1\nno_such_key = 1\n");
        assert_eq!(site.smg.reload().await.result(), "rejected");
        self.fire(&alerts, label).await;
        site.smg.apply(LISTENERS).await;
        self.end(&alerts, label).await;
    }

    async fn differing(&self, one: &Site) {
        let label = ("job", "replicas");
        one.smg.apply(&format!("{LISTENERS}# edited\n")).await;
        self.fire(&["SmgReplicasDiffer"], label).await;
        one.smg.apply(LISTENERS).await;
        self.end(&["SmgReplicasDiffer"], label).await;
    }

    /// Dies, comes back, and is started anew once more.
    async fn mortal(&self, mut site: Site, toml: &str) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        site.smg.kill9();
        self.fire(&["SmgDown"], label).await;
        site = troubles::alone(toml).await;
        self.end(&["SmgDown"], label).await;
        let fires = tokio::time::timeout(PATIENCE, async {
            while !self.is_firing("SmgRestarted", label).await {
                site.smg.kill9();
                site = troubles::alone(toml).await;
                let up = ("up{instance=\"", "\"} == 1");
                let up = format!("{}{instance}{}", up.0, up.1);
                eventually(PATIENCE, async || {
                    !self.prometheus.query(&up).await.is_empty()
                })
                .await;
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
        assert!(fires.await.is_ok(), "SmgRestarted never fires");
        self.end(&["SmgRestarted"], label).await;
    }

    /// Its log file lies on a full disk, until it is moved.
    async fn speechless(&self, site: &Site, file: &Path) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        self.fire(&["SmgLogLinesDropped"], label).await;
        std::fs::remove_file(file).unwrap();
        assert_eq!(site.smg.reload().await.result(), "unchanged");
        self.end(&["SmgLogLinesDropped"], label).await;
    }

    /// The machine gives it no time now and then.
    async fn starved(&self, site: &mut Site) {
        let instance = site.instance();
        let label = ("instance", instance.as_str());
        let fires = tokio::time::timeout(PATIENCE, async {
            while !self.is_firing("SmgEventLoopStalls", label).await {
                site.smg.process().signal("STOP");
                tokio::time::sleep(Duration::from_millis(300)).await;
                site.smg.process().signal("CONT");
                tokio::time::sleep(Duration::from_millis(1500)).await;
            }
        });
        assert!(fires.await.is_ok(), "SmgEventLoopStalls never fires");
        self.end(&["SmgEventLoopStalls"], label).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_alert_fires_in_trouble_and_ends_with_it() {
    let Some(program) = tool("prometheus") else {
        return;
    };
    let gate = Gate::closed();
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("smg.log");
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    let mortal_toml = troubles::at(troubles::free_address());

    let failing = troubles::failing().await;
    let slow = troubles::slow().await;
    let crowded = troubles::crowded().await;
    let full = troubles::full(&gate).await;
    let unhealthy = troubles::unhealthy().await;
    let silent = troubles::silent().await;
    let strange = troubles::alone(&troubles::with_a_stranger()).await;
    let misconfigured = troubles::alone(LISTENERS).await;
    let mortal = troubles::alone(&mortal_toml).await;
    let speechless = troubles::alone(&troubles::logging_to(logs.path())).await;
    let mut starved = troubles::alone(LISTENERS).await;
    let (one, other) = (
        troubles::alone(LISTENERS).await,
        troubles::alone(LISTENERS).await,
    );

    let metrics = |site: &Site| site.smg.address("metrics");
    let jobs = [
        Job {
            name: "smg",
            targets: [
                &failing,
                &slow,
                &crowded,
                &full,
                &unhealthy,
                &silent,
                &strange,
                &misconfigured,
                &mortal,
                &speechless,
                &starved,
            ]
            .map(metrics)
            .to_vec(),
        },
        Job {
            name: "replicas",
            targets: [&one, &other].map(metrics).to_vec(),
        },
    ];
    let prometheus = Prometheus::start(&program, &jobs, Some(&hurried(&rules()))).await;
    let watch = Watch {
        prometheus: &prometheus,
        seen: Mutex::default(),
    };
    tokio::join!(
        watch.failing(&failing),
        watch.slow(&slow),
        watch.crowded(&crowded),
        watch.full(&full, &gate),
        watch.unhealthy(&unhealthy),
        watch.silent(&silent),
        watch.strange(&strange),
        watch.misconfigured(&misconfigured),
        watch.differing(&one),
        watch.mortal(mortal, &mortal_toml),
        watch.speechless(&speechless, &log),
        watch.starved(&mut starved),
    );
    let mut unseen = prometheus.rules().await;
    assert!(unseen.len() > 15, "{unseen:?}");
    let seen = watch.seen.into_inner();
    unseen.retain(|alert| !seen.contains(alert) && !AWAITED.contains(&&**alert));
    assert!(unseen.is_empty(), "never seen: {unseen:?}");
}

#[test]
fn the_rules_are_in_order() {
    let text = rules();
    let alerts = text.matches("- alert: ").count();
    for part in ["severity: ", "summary: ", "description: "] {
        assert_eq!(text.matches(part).count(), alerts, "{part}");
    }
    let Some(program) = tool("promtool") else {
        return;
    };
    for args in [
        &["check", "rules", "--lint=all", "--lint-fatal", RULES][..],
        &["test", "rules", RULES_TEST],
    ] {
        let output = promtool(&program, args, None);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{args:?}:\n{said}");
    }
}
