//! What is printed.

use crate::sim::figures::Figures;
use crate::work::Outcome;

/// Prints the table of a trace.
pub(crate) fn print(outcome: &Outcome, each: bool) {
    println!("\n## {}\n", outcome.name);
    println!(
        "{} requests: {}. Deadline of the first token: {} s.\n",
        outcome.requests, outcome.about, outcome.deadline
    );
    println!(
        "| {:<20} | hit % | of oracle % | TTFT p50 ms | TTFT p99 ms | max/mean | good % | good/s | busy % | pick µs |",
        "policy"
    );
    println!("|{:-<22}|--:|--:|--:|--:|--:|--:|--:|--:|--:|", "");
    for row in &outcome.rows {
        line(row.contender.name, &row.median);
        if each {
            for figures in &row.each {
                line("", figures);
            }
        }
    }
    println!(
        "| {:<20} | {:5.1} | {:11.1} | {:>11} | {:>11} | {:>8} | {:>6} | {:>6} | {:>6} | {:>7} |",
        "oracle",
        outcome.oracle * 100.0,
        100.0,
        "",
        "",
        "",
        "",
        "",
        "",
        ""
    );
}

fn line(name: &str, figures: &Figures) {
    println!(
        "| {name:<20} | {:5.1} | {:11.2} | {:11.0} | {:11.0} | {:8.3} | {:6.1} | {:6.1} | {:6.1} | {:7.1} |",
        figures.hit * 100.0,
        figures.of_oracle * 100.0,
        figures.ttft_p50 * 1e3,
        figures.ttft_p99 * 1e3,
        figures.spread,
        figures.good * 100.0,
        figures.goodput,
        figures.busy * 100.0,
        figures.pick_micros,
    );
}
