//! One look at the gateway as plain text, for pipes and logs.

use super::figures::{age, short};
use super::look::Look;
use super::panes;
use super::table::{GAP, Table, fitted};
use crate::api::overview::Overview;

/// Nothing is cut in a report, so that no sign of it is needed.
const LOOK: Look = Look {
    colour: false,
    unicode: false,
};

/// Width of the labels of the first lines.
const LABEL: usize = 12;

/// The report: facts, then a table of workers, of models, and of failures if there are any.
pub(super) fn text(overview: &Overview) -> String {
    let config = &overview.config;
    let mut out = String::new();
    let mut line = |label: &str, text: &str| {
        out.push_str(&fitted(label, LABEL, false, LOOK));
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(
        "smg",
        &format!(
            "{}, {}, up {}",
            overview.version,
            overview.phase,
            age(overview.time, overview.started)
        ),
    );
    line(
        "config",
        &format!(
            "generation {}, sha256 {}, applied {} ago ({})",
            config.generation,
            short(&config.sha256),
            age(overview.time, config.applied),
            config.trigger
        ),
    );
    for figure in panes::figures(overview) {
        let parts = figure.parts.iter().map(|(name, value, _)| match *name {
            "" => value.clone(),
            name => format!("{name} {value}"),
        });
        let of = (!figure.of.is_empty()).then(|| format!("({})", figure.of));
        let parts: Vec<String> = parts.chain(of).collect();
        line(figure.title, &parts.join("  "));
    }
    if let Some(rejected) = &config.rejected {
        let told = format!(
            "refused {} ago ({}), sha256 {}:",
            age(overview.time, rejected.time),
            rejected.trigger,
            short(&rejected.sha256)
        );
        line("reload", &told);
        for diagnostic in &rejected.diagnostics {
            for text in diagnostic.trim_end().lines() {
                line("", text);
            }
        }
    }
    let tables = [
        ("no workers", panes::workers(overview, None)),
        ("no models", panes::models(overview, None)),
        ("no recent failures", panes::failures(overview)),
    ];
    for (none, table) in tables {
        out.push('\n');
        match table.rows.is_empty() {
            true => out.push_str(&format!("{none}\n")),
            false => write(&table, &mut out),
        }
    }
    out
}

fn write(table: &Table, out: &mut String) {
    let columns = table.fit(usize::MAX);
    let mut row = |texts: &dyn Fn(usize) -> String| {
        let cells = columns.iter().map(|(at, width)| {
            let right = table.columns.get(*at).is_some_and(|column| column.figures);
            fitted(&texts(*at), *width, right, LOOK)
        });
        let cells: Vec<String> = cells.collect();
        out.push_str(cells.join(&" ".repeat(GAP)).trim_end());
        out.push('\n');
    };
    let title = |at: usize| table.columns.get(at).map(|column| column.title.to_owned());
    row(&|at| title(at).unwrap_or_default());
    for cells in table.rows.iter().map(|row| &row.cells) {
        row(&|at| {
            cells
                .get(at)
                .map(|cell| cell.text.clone())
                .unwrap_or_default()
        });
    }
}
