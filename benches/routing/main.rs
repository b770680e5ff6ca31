//! `make bench-routing`: the routing policies under traces of chats, agents and long prompts, in
//! virtual time.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "a program of its own: tables are what it is for, and a broken run must not count"
)]

mod report;
mod sim;
mod work;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compares routing policies in a simulation of engines with prefix caches.
#[derive(Debug, Parser)]
#[command(name = "bench-routing")]
struct Cli {
    /// Only these traces.
    #[arg(long, value_name = "TRACE")]
    only: Vec<String>,
    /// Only these policies.
    #[arg(long, value_name = "POLICY")]
    policy: Vec<String>,
    /// Only one seed.
    #[arg(long)]
    quick: bool,
    /// Seeds: traces of each kind, of which the median is shown.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// The figures of each seed as well.
    #[arg(long)]
    each: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let cli = Cli::parse();
    let seeds = if cli.quick { 1 } else { cli.seeds };
    let kinds = chosen(&sim::traces::ALL, &cli.only, |kind| kind.name, "trace");
    let contenders = chosen(
        &sim::contender::ALL,
        &cli.policy,
        |contender| contender.name,
        "policy",
    );
    let results = work::simulate(&kinds, &contenders, seeds);
    for result in &results {
        report::print(result, cli.each);
    }
}

fn chosen<T: Copy>(
    all: &[T],
    names: &[String],
    name: fn(&T) -> &'static str,
    what: &str,
) -> Vec<T> {
    for wanted in names {
        if !all.iter().any(|one| name(one) == wanted) {
            let known: Vec<_> = all.iter().map(name).collect();
            eprintln!(
                "no {what} is called `{wanted}`; there are {}",
                known.join(", ")
            );
            std::process::exit(2)
        }
    }
    all.iter()
        .filter(|one| names.is_empty() || names.iter().any(|wanted| name(one) == wanted))
        .copied()
        .collect()
}
