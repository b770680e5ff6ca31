//! The plot: for each trace, two bars for each policy.

use std::fmt::Write as _;

use crate::sim::contender::{DEFAULT, REFERENCE};
use crate::work::Outcome;

const COLUMNS: usize = 2;
const BLOCK: f64 = 560.0;
const LABELS: f64 = 130.0;
const BARS: f64 = 170.0;
const GAP: f64 = 45.0;
const LINE: f64 = 16.0;
const HEAD: f64 = 46.0;
const MARGIN: f64 = 16.0;

/// Both schemes in one file: whoever shows it says which one it is.
const STYLE: &str = "
  text { font: 11px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 13px; font-weight: 600 }
  .axis { fill: #57606a }
  .value { font-size: 10px; fill: #57606a }
  .back { fill: #ffffff }
  .track { fill: #eaeef2 }
  .bar { fill: #8c959f }
  .ours { fill: #0969da }
  .reference { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .axis, .value { fill: #9198a1 }
    .back { fill: #0d1117 }
    .track { fill: #21262d }
    .bar { fill: #6e7681 }
    .ours { fill: #4493f8 }
    .reference { fill: #db6d28 }
  }
";

/// The plot of all traces.
pub(crate) fn plot(outcomes: &[Outcome]) -> String {
    let rows = outcomes.iter().map(|outcome| outcome.rows.len()).max();
    let height = HEAD + LINE * rows.unwrap_or(0) as f64 + 18.0;
    let width = BLOCK * COLUMNS as f64 + 2.0 * MARGIN;
    let total = height * outcomes.len().div_ceil(COLUMNS) as f64 + 2.0 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {total}\" \
         role=\"img\" aria-label=\"Cache hits and time to first token by routing policy\">\n\
         <style>{STYLE}</style>\n<rect class=\"back\" width=\"{width}\" height=\"{total}\"/>\n"
    );
    for (at, outcome) in outcomes.iter().enumerate() {
        let x = MARGIN + BLOCK * (at % COLUMNS) as f64;
        let y = MARGIN + height * (at / COLUMNS) as f64;
        block(outcome, x, y, &mut out);
    }
    out += "</svg>\n";
    out
}

fn block(outcome: &Outcome, x: f64, y: f64, out: &mut String) {
    let hits = x + LABELS;
    let waits = hits + BARS + GAP;
    let texts = [
        ("title", x, y + 14.0, outcome.name),
        ("axis", hits, y + 34.0, "share of the oracle's hits"),
        ("axis", waits, y + 34.0, "p99 to first token (log)"),
    ];
    for (class, x, y, text) in texts {
        put(
            out,
            &format!("<text class=\"{class}\" x=\"{x}\" y=\"{y:.0}\">{text}</text>"),
        );
    }
    let times = || outcome.rows.iter().map(|row| row.median.ttft_p99);
    let (low, high) = (
        times().fold(f64::INFINITY, f64::min) / 2.0,
        times().fold(0.0, f64::max),
    );
    for (at, row) in outcome.rows.iter().enumerate() {
        let y = y + HEAD + LINE * at as f64;
        let class = match row.contender.name {
            DEFAULT => "bar ours",
            REFERENCE => "bar reference",
            _ => "bar",
        };
        put(
            out,
            &format!(
                "<text x=\"{x}\" y=\"{:.0}\">{}</text>",
                y + 9.0,
                row.contender.name
            ),
        );
        let share = row.median.of_oracle.clamp(0.0, 1.0);
        let hit = format!("{:.1} %", row.median.of_oracle * 100.0);
        bar(out, class, hits, y, share, &hit);
        let wait = row.median.ttft_p99;
        let share = (wait / low).ln() / (high / low).ln().max(f64::MIN_POSITIVE);
        let text = if wait < 10.0 {
            format!("{:.0} ms", wait * 1e3)
        } else {
            format!("{wait:.0} s")
        };
        bar(out, class, waits, y, share.clamp(0.0, 1.0), &text);
    }
}

fn bar(out: &mut String, class: &str, x: f64, y: f64, share: f64, value: &str) {
    let length = BARS * share;
    put(
        out,
        &format!(
            "<rect class=\"track\" x=\"{x}\" y=\"{y:.0}\" width=\"{BARS}\" height=\"11\" rx=\"2\"/>\
             <rect class=\"{class}\" x=\"{x}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"11\" rx=\"2\"/>\
             <text class=\"value\" x=\"{:.0}\" y=\"{:.0}\">{value}</text>",
            x + BARS + 4.0,
            y + 9.0
        ),
    );
}

fn put(out: &mut String, line: &str) {
    let _infallible = writeln!(out, "{line}");
}
