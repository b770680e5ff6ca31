//! Long files: checking them takes time in proportion, whatever they are long of.

use std::time::Duration;

use crate::binary::{smg, status, stdout, write};

/// For 10,000 lines. An unoptimised build on a busy machine is slower by far.
const SOON: Duration = Duration::from_millis(if cfg!(debug_assertions) { 4000 } else { 100 });

/// Twice the lines take twice the time, and a machine that does other things meanwhile some more.
/// What is quadratic takes four times as long.
const MOST: f64 = 3.0;

const HEAD: &str = "version = 1\n[[listeners]]\nname = 'main'\naddress = '127.0.0.1:0'\n\
                    serve = ['inference', 'probes']\n";

/// A file as people write it: pools of eight workers with comments, and a model for each.
fn mixed(lines: usize) -> String {
    let mut text = HEAD.to_owned();
    for pool in 0..lines / 36 {
        text.push_str(&format!(
            "\n# Rack {pool}, rented until spring\n[[pools]]\nname = 'pool-{pool}'\nruntime = 'vllm'\n"
        ));
        for at in 0..8 {
            text.push_str(&format!(
                "[[pools.workers]]\nurl = 'http://10.{}.{}.{at}:8000' # slot {at}\nlabels = {{ slot = '{at}' }}\n",
                pool / 250,
                pool % 250
            ));
        }
        text.push_str(&format!(
            "\n# What the pool serves\n[[models]]\nname = 'org/model-{pool}'\npool = 'pool-{pool}'\n\
             aliases = ['model-{pool}']\npolicy = 'cache_aware'\n"
        ));
    }
    text
}

/// One list of workers.
fn flat(lines: usize) -> String {
    let hosts = (0..lines).map(|at| format!("  'http://w{at}.test:8000',\n"));
    let hosts: String = hosts.collect();
    format!("{HEAD}[[pools]]\nname = 'p'\nworkers = [\n{hosts}]\n")
}

/// Nothing but pools of one worker.
fn pools(lines: usize) -> String {
    let pools = (0..lines / 3)
        .map(|at| format!("[[pools]]\nname = 'p{at}'\nworkers = ['http://w{at}.test:8000']\n"));
    format!("{HEAD}{}", pools.collect::<String>())
}

/// Workers each of which is warned of.
fn warned(lines: usize) -> String {
    let workers = (0..lines / 3).map(|at| {
        format!("[[pools.workers]]\nurl = 'http://w{at}.test:8000'\napi_key = 'key-{at}'\n")
    });
    let workers: String = workers.collect();
    format!("{HEAD}[[pools]]\nname = 'p'\n{workers}")
}

/// How long a processor worked for one check. The clock would count what else the machine does.
fn check(file: &str) -> Duration {
    const RUNS: u32 = 3;
    let before = worked();
    for _ in 0..RUNS {
        let output = smg(&["check-config", file], &[]);
        assert_eq!(status(&output), 0, "{}", stdout(&output));
    }
    (worked() - before) / RUNS
}

/// Time that processors have spent on children that have ended, in steps of 10 ms: `cutime` and `cstime`
/// of proc(5).
fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = fields[13..15]
        .iter()
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn twice_the_lines_take_twice_the_time() {
    let dir = tempfile::tempdir().unwrap();
    type Text = fn(usize) -> String;
    let kinds: [(&str, Text); 4] = [
        ("mixed", mixed),
        ("flat", flat),
        ("pools", pools),
        ("warned", warned),
    ];
    for (kind, text) in kinds {
        let file = |lines: usize| write(dir.path(), &format!("{kind}-{lines}.toml"), &text(lines));
        let (one, two) = (check(&file(10_000)), check(&file(20_000)));
        println!("{kind}: {one:?} for 10,000 lines, {two:?} for 20,000");
        assert!(one < SOON, "{kind}: {one:?}");
        assert!(!one.is_zero(), "{kind}: too little to compare");
        let ratio = two.as_secs_f64() / one.as_secs_f64();
        assert!(ratio < MOST, "{kind}: {one:?}, then {two:?}");
    }
}
