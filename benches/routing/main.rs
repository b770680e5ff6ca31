//! `make bench-routing`: the routing policies under traces of chats, agents and long prompts, in
//! virtual time; and small ones of them through the real gateway.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "a program of its own: tables are what it is for, and a broken run must not count"
)]

mod live;
mod report;
mod sim;
mod svg;
mod work;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;
use smg::base::file;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compares routing policies in a simulation of engines with prefix caches.
///
/// Prints a table for each trace and whether the targets are met; writes the same as JSON and as a
/// plot.
#[derive(Debug, Parser)]
#[command(name = "bench-routing")]
struct Cli {
    /// Only these traces.
    #[arg(long, value_name = "TRACE", value_parser = sim::traces::ALL.map(|kind| kind.name))]
    only: Vec<String>,
    /// Only these policies.
    #[arg(long, value_name = "POLICY", value_parser = sim::contender::ALL.map(|one| one.name))]
    policy: Vec<String>,
    /// Only one seed.
    #[arg(long)]
    quick: bool,
    /// Traces of each kind, of which the median is shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The seed of the first of them; later ones were not there when the policy was tuned.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// The figures of each seed as well.
    #[arg(long)]
    each: bool,
    /// Small traces through the real gateway and sample workers as well; takes minutes.
    #[arg(long)]
    live: bool,
    /// Those alone.
    #[arg(long)]
    live_only: bool,
    /// The gateway to run them through. Default: the one built with this program.
    #[arg(long, value_name = "FILE")]
    smg: Option<PathBuf>,
    /// Where `routing.json` and `routing.svg` are written.
    #[arg(long, value_name = "FOLDER", default_value = "build")]
    out: PathBuf,
    /// Writes docs/routing.svg and the figures of docs/ROUTING-BENCH.md.
    #[arg(long)]
    publish: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nbench-routing: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error + Send + Sync>> {
    let wanted = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let kinds: Vec<_> = sim::traces::ALL
        .into_iter()
        .filter(|kind| wanted(&cli.only, kind.name) && !cli.live_only)
        .collect();
    let contenders: Vec<_> = sim::contender::ALL
        .into_iter()
        .filter(|one| wanted(&cli.policy, one.name))
        .collect();
    let last = if cli.quick { 0 } else { cli.seeds - 1 };
    let seeds = cli.first_seed..=cli.first_seed.saturating_add(last);
    let outcomes = work::simulate(&kinds, &contenders, &seeds);
    let verdict = report::verdict(&outcomes);

    let mut text = String::new();
    if !verdict.is_empty() {
        text += "## Targets\n\n";
        text.extend(verdict.iter().map(report::Target::line));
        text.push('\n');
    }
    if !outcomes.is_empty() {
        text += "## Simulated\n\n";
    }
    for outcome in &outcomes {
        text += &report::table(outcome, cli.each);
        text.push('\n');
    }
    print!("{text}");
    let mut real = Value::Null;
    if cli.live || cli.live_only {
        let beside = std::env::current_exe()?;
        let beside = beside.ancestors().nth(2).map(|folder| folder.join("smg"));
        let smg = cli.smg.clone().or(beside).unwrap_or_default();
        let report = live::run(&smg, &cli.only, &contenders)?;
        let live = format!("## Through the gateway\n\n{}", report.text);
        print!("{live}");
        text += &live;
        real = report.json;
    }
    fs::create_dir_all(&cli.out)?;
    let json = report::json(&outcomes, &verdict, &real);
    fs::write(cli.out.join("routing.json"), format!("{json:#}\n"))?;
    if !outcomes.is_empty() {
        fs::write(cli.out.join("routing.svg"), svg::plot(&outcomes))?;
    }
    if cli.publish {
        fs::write("docs/routing.svg", svg::plot(&outcomes))?;
        publish(Path::new("docs/ROUTING-BENCH.md"), &text)?;
    }
    Ok(())
}

/// Puts `figures` between the marks of the page.
fn publish(page: &Path, figures: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    const FROM: &str = "<!-- figures -->\n";
    const UNTIL: &str = "<!-- end of figures -->";
    let text = file::read_to_string(page)?;
    let (before, rest) = text.split_once(FROM).ok_or("the page has no mark")?;
    let (_, after) = rest
        .split_once(UNTIL)
        .ok_or("the page has no second mark")?;
    fs::write(page, format!("{before}{FROM}\n{figures}{UNTIL}{after}"))?;
    Ok(())
}
