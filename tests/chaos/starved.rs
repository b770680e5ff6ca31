//! A gateway from which the system takes what it needs: descriptors, room on the disk.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Ask, Client, Version};
use crate::dialect::Api;
use crate::judge::{Rule, judge, tell};
use crate::ledger::Ledger;
use crate::support::{Smg, eventually};
use crate::worker::Scripted;

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway before two healthy workers, with `more` in its file.
struct Place {
    smg: Smg,
    ledger: std::sync::Arc<Ledger>,
    _workers: Vec<Scripted>,
    asked: usize,
}

impl Place {
    async fn new(more: &str) -> Self {
        Self::start(more, |_| {}).await
    }

    async fn start(more: &str, prepare: impl FnOnce(&std::path::Path)) -> Self {
        let ledger = std::sync::Arc::<Ledger>::default();
        let workers: Vec<_> = ["w0", "w1"]
            .iter()
            .map(|name| Scripted::start(name, &ledger, true))
            .collect();
        let urls: Vec<_> = workers.iter().map(Scripted::url).collect();
        let toml = format!(
            "{}\n[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nworkers = {urls:?}\n\
             health.enabled = false\n\n[[models]]\nname = \"m\"\n{more}\n",
            crate::support::smg::LISTENERS
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("smg.toml"), toml).unwrap();
        prepare(folder.path());
        Self {
            smg: Smg::start_in(folder, |_| {}).await,
            ledger,
            _workers: workers,
            asked: 0,
        }
    }

    /// A request that must be answered in full.
    async fn ask(&mut self, client: &mut Client) {
        self.asked += 1;
        let ask = Ask {
            id: format!("s{}", self.asked),
            api: Api::Chat,
            model: "m".to_owned(),
            tokens: 3,
            stream: self.asked.is_multiple_of(2),
        };
        let told = client.ask(ask, Rule::Well).await;
        let attempts = self.ledger.attempts(&told.ask.id);
        if let Err(wrong) = judge(&told, &attempts) {
            panic!("{}", tell(&told, &attempts, &wrong));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_it_waits_and_then_goes_on() {
    let mut place = Place::new("").await;
    let main = place.smg.main();
    // Both workers are known and connections to them are kept.
    let mut client = Client::new(main, Version::Http1, PATIENCE);
    for _ in 0..4 {
        place.ask(&mut client).await;
    }
    let process = place.smg.process();
    let few = Some(process.fd_count() as u64 + 8);
    let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap());
    let limit = Rlimit {
        current: few,
        maximum: few,
    };
    prlimit(pid, Resource::Nofile, limit).unwrap();

    // More than it can take: the system makes these connections, nobody accepts them yet.
    let mut crowd = Vec::new();
    for _ in 0..64 {
        crowd.push(TcpStream::connect(main).await.unwrap());
    }
    let starved = |output: Vec<String>| {
        let said = output
            .iter()
            .filter(|line| line.contains("cannot accept") || line.contains("descriptors"));
        said.count() > 0
    };
    eventually(PATIENCE, async || starved(place.smg.process().output())).await;

    // Who is connected goes on being served, and nothing spins.
    let (began, spent) = (Instant::now(), processor_time(place.smg.process().pid()));
    for _ in 0..20 {
        place.ask(&mut client).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = processor_time(place.smg.process().pid()) - spent;
    assert!(
        spent < began.elapsed() / 2,
        "{spent:?} of processor time in {:?}",
        began.elapsed()
    );
    let lines = place.smg.process().output().len();
    assert!(lines < 500, "{lines} log lines");

    // Once there is room the others get their turn, those in the queue as well.
    let mut waiting = crowd.split_off(40);
    drop(crowd);
    for stream in &mut waiting {
        let got = timeout(PATIENCE, liveness(stream)).await;
        assert!(got.unwrap().contains("200 OK"));
        // The next one needs the room.
        stream.shutdown().await.unwrap();
    }
    place.ask(&mut client).await;
    let status = place.smg.term_and_wait().await;
    assert!(status.success(), "{status}");
}

async fn liveness(stream: &mut TcpStream) -> String {
    let ask = "GET /liveness HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// User and system time of the process so far.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Fields are counted behind the name, which may hold anything.
    let rest = stat.rsplit_once(") ").unwrap().1;
    let ticks: u64 = rest
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    // What the kernel tells programs is in hundredths of a second on every Linux.
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_log_lines_and_nothing_else() {
    let more = "[logging]\ndir = \"logs\"\nrotate = \"never\"";
    let full = |folder: &std::path::Path| {
        std::fs::create_dir(folder.join("logs")).unwrap();
        // Every write to it finds the disk full.
        symlink("/dev/full", folder.join("logs/smg.log")).unwrap();
    };
    let mut place = Place::start(more, full).await;
    let mut client = Client::new(place.smg.main(), Version::Http1, PATIENCE);
    let dropped = async |place: &Place| {
        let metrics = place.smg.metrics().await;
        metrics.sum("smg_log_dropped_total", &[("sink", "file")])
    };
    for _ in 0..50 {
        place.ask(&mut client).await;
    }
    eventually(PATIENCE, async || dropped(&place).await > 0.0).await;

    // There is room again, and the file is opened anew.
    let logs = place.smg.folder().join("logs");
    std::fs::remove_file(logs.join("smg.log")).unwrap();
    place.smg.sighup();
    eventually(PATIENCE, async || logs.join("smg.log").is_file()).await;
    let before = dropped(&place).await;
    for _ in 0..10 {
        place.ask(&mut client).await;
    }
    let written = || std::fs::read_to_string(logs.join("smg.log")).unwrap();
    eventually(PATIENCE, async || written().contains("request_id=s60")).await;
    assert!(dropped(&place).await <= before + 5.0);
    let status = place.smg.term_and_wait().await;
    assert!(status.success(), "{status}");
}
