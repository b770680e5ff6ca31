//! What the hardening of the unit takes away, and what it must not take away.

use std::time::Duration;

use serde_json::json;

use super::{PATIENCE, Stage, low, probe};
use crate::support::tls::Authority;
use crate::support::tls_front::{TlsFront, showing};
use crate::support::{eventually, get, post};

/// Tries, from within the sandbox, what must fail there although the modes would allow it.
const ATTEMPTS: &str = r#"
touch /srv/open/file && echo wrote to /srv
touch /etc/open/file && echo wrote to /etc
touch /usr/open/file && echo wrote to /usr
touch /dev/shm/file && test -e /dev/kmsg && echo saw devices
ls /home/someone && echo read /home
ls /tmp/of-others && echo read /tmp
kill -0 1 && echo may signal init
ls -d /proc/1 && echo saw init
touch /run/smg/file && touch /var/lib/smg/file && touch /var/log/smg/file && echo writes where it should
rm -f /run/smg/file /var/lib/smg/file /var/log/smg/file
true
"#;

pub(super) async fn is_shut(stage: &Stage) {
    let machine = &stage.machine;
    for folder in [
        "/srv/open",
        "/etc/open",
        "/usr/open",
        "/home/someone",
        "/tmp/of-others",
    ] {
        machine.ok(&["install", "-d", "-m", "0777", folder]);
    }
    machine.write("/srv/attempts", ATTEMPTS);
    machine.drop_in(
        "smg.service",
        "[Service]\nExecStartPre=/bin/sh /srv/attempts\n",
    );
    stage.start();
    machine.logged("writes where it should").await;
    let journal = machine.journal();
    for done in [
        "wrote to",
        "saw devices",
        "read /",
        "may signal",
        "saw init",
    ] {
        let line = journal.lines().find(|line| line.starts_with(done));
        assert_eq!(line, None, "{journal}");
    }
    assert!(journal.contains("Read-only file system"), "{journal}");

    let status = machine.read(&format!("/proc/{}/status", machine.main_pid()));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    // Low ports, and nothing else.
    let low_ports = format!("{:016x}", 1 << 10);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), low_ports, "{set}");
    }
    assert_eq!((&*field("NoNewPrivs:"), &*field("Seccomp:")), ("1", "2"));
}

/// Names, the system's authorities, collectors and the size of the memory.
pub(super) async fn lets_through_what_is_needed(stage: &Stage) {
    let machine = &stage.machine;
    let authority = Authority::new();
    let front = TlsFront::start(
        stage.engine.address(),
        showing(&authority.issue("worker.test"), None, &["http/1.1"]),
    )
    .await;
    let bundle = std::fs::read_to_string(authority.path()).unwrap();
    machine.write("/etc/ssl/certs/ca-certificates.crt", &bundle);
    machine.write(
        "/etc/hosts",
        "127.0.0.1 localhost worker.test collector.test\n",
    );
    stage.pool(&front.url_of("worker.test"), "");
    let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = collector.local_addr().unwrap();
    stage.configure(&stage.example().replace(
        "[tracing]\n",
        &format!(
            "[tracing]\nenabled = true\notlp_endpoint = \"collector.test:{}\"\n",
            endpoint.port()
        ),
    ));
    stage.start();
    stage.serves().await;
    assert!(!front.shaken().is_empty());
    let exported = tokio::time::timeout(PATIENCE, collector.accept()).await;
    exported.expect("spans are exported").unwrap();

    let meminfo = machine.read("/proc/meminfo");
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let total: f64 = line
        .unwrap()
        .trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse()
        .unwrap();
    let limit = stage
        .metric("smg_memory_budget_bytes", &[("state", "limit")])
        .await;
    assert!(
        limit > 0.0 && limit <= total * 1024.0 / 4.0,
        "{limit} of {total} KiB"
    );
    drop(collector);
}

pub(super) async fn keeps_state_and_logs(stage: &Stage) {
    let machine = &stage.machine;
    stage.configure(
        &stage
            .example()
            .replace("# dir = \"/var/log/smg\"", "dir = \"/var/log/smg\"")
            .replace(
                "# path = \"/var/log/smg/audit.log\"",
                "path = \"/var/log/smg/audit.log\"",
            )
            .replace(
                "# enabled = true                      # who",
                "enabled = true # who",
            ),
    );
    stage.start();
    let added = post(
        stage.main,
        "/workers",
        &json!({ "url": "http://127.0.0.1:9", "pool": "p" }),
    )
    .await;
    assert_eq!(added.status, 202, "{}", added.text());
    let owned = machine.ok(&["stat", "-c", "%a %U", "/var/lib/smg/workers.json"]);
    assert_eq!(owned.trim(), "600 smg");
    eventually(PATIENCE, async || {
        machine
            .ok(&["sh", "-c", "cat /var/log/smg/*"])
            .contains("/workers")
    })
    .await;
    assert!(machine.read("/var/log/smg/audit.log").contains("POST"));
    machine.ok(&["systemctl", "restart", "smg"]);
    eventually(PATIENCE, async || {
        let workers = get(stage.main, "/workers").await.text();
        workers.contains("http://127.0.0.1:9")
    })
    .await;
}

pub(super) async fn takes_a_low_port(stage: &Stage) {
    let address = low();
    let main = format!("\"{}\"", stage.main);
    let text = stage
        .example()
        .replacen(&main, &format!("\"{address}\""), 1);
    stage.configure(&text);
    stage.start();
    assert_eq!(probe(address, "/liveness").await, Some(200));
    // And gives it back.
    stage.machine.ok(&["systemctl", "stop", "smg"]);
    eventually(Duration::from_secs(5), async || {
        probe(address, "/liveness").await.is_none()
    })
    .await;
}
