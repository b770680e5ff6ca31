//! An explanation for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::serve::explain::{CandidateExplained, Explanation, LegExplained};

/// The explanation as text, a line per step and a table of candidates per leg.
pub(super) fn human(told: &Explanation) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to memory cannot fail.
        writeln!(text, "{name:<9} {value}").ok();
    };
    line("listener", &told.listener);
    line("identity", &told.identity);
    if let Some(endpoint) = &told.endpoint {
        line("endpoint", endpoint);
    }
    if let Some(asked) = &told.asked {
        line("asked", asked);
    }
    for step in &told.steps {
        line("", step);
    }
    if let Some(model) = &told.model {
        line("model", model);
    }
    if let Some(pool) = &told.pool {
        line("pool", pool);
    }
    for leg in &told.legs {
        text.push('\n');
        text.push_str(&one_leg(leg, told.legs.len() > 1));
    }
    if let Some(message) = &told.message {
        let code = told.code.as_deref().unwrap_or_default();
        writeln!(text, "\nrefused: {} {code}: {message}", told.status).ok();
    }
    text
}

fn one_leg(leg: &LegExplained, named: bool) -> String {
    let mut text = String::new();
    let role = match named {
        true => format!("{}: ", leg.role),
        false => String::new(),
    };
    let algorithm = match &leg.algorithm {
        Some(algorithm) => format!(" ({algorithm})"),
        None => String::new(),
    };
    let verdict = match &leg.worker {
        Some(worker) => {
            let reason = leg.reason.as_deref().unwrap_or("no reason");
            format!("{worker}: {reason}")
        }
        None => "nobody can be chosen".to_owned(),
    };
    writeln!(text, "{role}{}{algorithm} → {verdict}", leg.policy).ok();
    text.push_str(&table(&leg.candidates));
    text
}

/// One row per worker; the columns are the figures that any of them has.
fn table(candidates: &[CandidateExplained]) -> String {
    let names: BTreeSet<&str> = candidates
        .iter()
        .flat_map(|candidate| candidate.scores.keys().map(String::as_str))
        .collect();
    let mut header = vec!["", "worker", "state", "priority", "cost", "load"];
    header.extend(&names);
    let mut rows = vec![header.iter().map(|name| (*name).to_owned()).collect()];
    for candidate in candidates {
        let mark = if candidate.chosen { "*" } else { "" };
        let mut row = vec![
            mark.to_owned(),
            candidate.worker.clone(),
            candidate.state.clone(),
            candidate.priority.to_string(),
            figure(candidate.cost),
            candidate.load.to_string(),
        ];
        row.extend(names.iter().map(|name| {
            let score = candidate.scores.get(*name);
            score.map_or_else(|| "-".to_owned(), |score| figure(*score))
        }));
        rows.push(row);
    }
    aligned(&rows)
}

/// Texts to the left, figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    const TEXTS: usize = 3;
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match column < TEXTS {
                true => write!(line, "{cell:<width$}  ").ok(),
                false => write!(line, "{cell:>width$}  ").ok(),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Whole numbers as such, others with three digits.
fn figure(value: f64) -> String {
    if value.fract().abs() < f64::EPSILON {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}
