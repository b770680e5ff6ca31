//! The screen, line by line. It may be of any size: what there is no room for is left out, the least
//! important first.

use std::time::Duration;

use ratatui::Frame;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::figures::{age, short, span};
use super::look::{Look, Tone};
use super::panes::{self, Figure};
use super::table::{GAP, Row, Table, cut, fitted, width};
use super::view::{Pane, View};
use crate::api::overview::Overview;

/// Rows from which there is room for more than the table.
const ROOM: usize = 5;

/// Rows from which there is room for the line about the marked row.
const WITH_DETAIL: usize = 14;

/// Most columns of a curve.
const CURVE: usize = 30;

const HELP: &[(&str, &str)] = &[
    (
        "q, Esc, Ctrl-C",
        "quit; Esc first leaves the help or the filter",
    ),
    (
        "Tab, arrows, 1-4",
        "workers, models, failures, configuration",
    ),
    (
        "j k, PgUp PgDn, g G",
        "move, by a line, by a page, to the ends",
    ),
    ("s, S", "sort by the next column, the other way round"),
    (
        "/",
        "show rows that hold a text; Enter keeps it, Esc ends it",
    ),
    ("p, Space", "pause, and go on"),
    ("e", "the configuration and why a reload was refused"),
    ("?", "this help"),
    ("", ""),
    ("flight", "requests that the worker serves for this gateway"),
    (
        "run, wait, use",
        "of its engine: running, waiting, share of memory in use",
    ),
    (
        "cache",
        "share of the prompt tokens that were in the worker's cache",
    ),
    ("answered, failed", "since the start of the gateway"),
    (
        "took, ttft",
        "of a request, to the last byte; of a stream, to the first token",
    ),
    (
        "ready, of",
        "workers of a route that get requests now, of all",
    ),
];

/// What there is to show.
pub(super) struct Scene<'a> {
    /// The figures.
    pub(super) overview: &'a Overview,
    /// For how long the gateway has not answered, and why; `None`: it answers.
    pub(super) silent: Option<(Duration, &'a str)>,
    /// Time between two looks.
    pub(super) interval: Duration,
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>, view: &mut View) {
    let area = frame.area();
    let lines = lines(scene, view, area.width.into(), area.height.into());
    let buffer = frame.buffer_mut();
    for (y, line) in (area.top()..area.bottom()).zip(&lines) {
        buffer.set_line(area.left(), y, line, area.width);
    }
}

fn lines(scene: &Scene<'_>, view: &mut View, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let banner = banner(scene, view.look, width);
    if height >= ROOM {
        lines = head(scene, view, width);
        // The body keeps half of the screen.
        let others = 1 + usize::from(banner.is_some());
        lines.truncate((height / 2).saturating_sub(others).max(1));
    }
    if let Some(banner) = banner {
        let at = lines.len().min(1);
        lines.insert(at, banner);
    }
    if height >= ROOM {
        lines.push(tabs(scene.overview, view, width));
    }
    lines.truncate(height.saturating_sub(1));
    let footer = usize::from(height >= ROOM || view.typing);
    let room = height.saturating_sub(lines.len() + footer);
    let mut body = body(scene, view, width, room, height >= WITH_DETAIL);
    body.resize(room, Line::default());
    lines.extend(body);
    if footer > 0 {
        lines.push(foot(scene, view, width));
    }
    lines
}

/// What holds for the whole gateway.
fn head(scene: &Scene<'_>, view: &View, width: usize) -> Vec<Line<'static>> {
    let Scene { overview, .. } = scene;
    let config = &overview.config;
    let plain = |text: String| (text, Tone::Plain);
    let phase = match overview.phase.as_str() {
        "running" => Tone::Good,
        _ => Tone::Warn,
    };
    let mut first = vec![
        (format!("smg {}", overview.version), Tone::Strong),
        (overview.phase.clone(), phase),
        plain(format!("up {}", age(overview.time, overview.started))),
        plain(format!(
            "config {} {}",
            config.generation,
            short(&config.sha256)
        )),
    ];
    if view.paused {
        first.insert(0, ("PAUSED".to_owned(), Tone::Warn));
    }
    if width >= 100 {
        let applied = age(overview.time, config.applied);
        first.push((
            format!("applied {applied} ago ({})", config.trigger),
            Tone::Dim,
        ));
        first.push((format!("every {:?}", scene.interval), Tone::Dim));
    }
    let mut line = Vec::new();
    let mut used = 0;
    for (text, tone) in first.into_iter().filter(|(text, _)| !text.is_empty()) {
        let gap = if line.is_empty() { 0 } else { GAP };
        let needed = gap + self::width(&text);
        if used + needed > width && used > 0 {
            break;
        }
        used += needed;
        line.push(Span::raw(" ".repeat(gap)));
        line.push(Span::styled(text, view.look.style(tone)));
    }
    let mut lines = vec![Line::from(line)];
    lines.extend(flowed(&panes::figures(overview), view.look, width));
    lines
}

/// Groups of figures, as many side by side as there is room for.
fn flowed(figures: &[Figure], look: Look, width: usize) -> Vec<Line<'static>> {
    /// Between two groups.
    const BETWEEN: usize = 4;
    let mut lines: Vec<Line<'static>> = Vec::new();
    let mut used = 0;
    for figure in figures {
        let spans = spans(figure, look, width);
        let needed: usize = spans.iter().map(Span::width).sum();
        match lines.last_mut() {
            Some(line) if used + BETWEEN + needed <= width => {
                line.push_span(Span::raw(" ".repeat(BETWEEN)));
                line.spans.extend(spans);
                used += BETWEEN + needed;
            }
            _ => {
                lines.push(Line::from(spans));
                used = needed;
            }
        }
    }
    lines
}

/// A group of figures, without its last ones where they exceed the width.
fn spans(figure: &Figure, look: Look, width: usize) -> Vec<Span<'static>> {
    let dim = look.style(Tone::Dim);
    let mut spans = vec![Span::styled(figure.title, dim)];
    let mut used = figure.title.len();
    for (index, (name, value, tone)) in figure.parts.iter().enumerate() {
        let name = match *name {
            "" => " ".to_owned(),
            name => format!("  {name} "),
        };
        let curve = match index {
            0 if !figure.curve.is_empty() => {
                format!(" {}", look.curve(&figure.curve, (width / 8).min(CURVE)))
            }
            _ => String::new(),
        };
        used += [&name, value, &curve]
            .map(|text| self::width(text))
            .iter()
            .sum::<usize>();
        if used > width {
            break;
        }
        let tone = match tone {
            Tone::Plain => Tone::Strong,
            tone => *tone,
        };
        spans.push(Span::styled(name, dim));
        spans.push(Span::styled(value.clone(), look.style(tone)));
        spans.push(Span::raw(curve));
    }
    spans
}

/// What the reader must not miss: silence, else a refusal.
fn banner(scene: &Scene<'_>, look: Look, width: usize) -> Option<Line<'static>> {
    let text = match scene.silent {
        Some((since, why)) => {
            let since = span(since.as_secs());
            format!("no answer for {since}, last figures: {why}")
        }
        None => {
            let refused = panes::refusal(scene.overview)?;
            let hint = ", key e tells more";
            let room = width.saturating_sub(hint.len() + 2);
            match room >= 40 {
                true => format!("{}{hint}", ended(&refused, room, look)),
                false => refused,
            }
        }
    };
    let text = format!(" {}", ended(&text, width.saturating_sub(2), look));
    let style = look.style(Tone::Bad).add_modifier(Modifier::REVERSED);
    Some(Line::styled(fitted(&text, width, false, look), style))
}

/// The beginning of a sentence.
fn ended(text: &str, room: usize, look: Look) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        out.push(c);
        if width(&out) > room.saturating_sub(1) {
            out.pop();
            break;
        }
    }
    match room {
        0 => out,
        _ => out + look.cut(),
    }
}

fn tabs(overview: &Overview, view: &View, width: usize) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, pane) in Pane::ALL.into_iter().enumerate() {
        let count = match pane {
            Pane::Workers => overview.pools.iter().map(|pool| pool.workers.len()).sum(),
            Pane::Models => overview.models.len(),
            Pane::Failures => overview.failures.len(),
            Pane::Config => 0,
        };
        let count = match pane {
            Pane::Config if overview.config.rejected.is_some() => " !".to_owned(),
            Pane::Config => String::new(),
            _ => format!(" {count}"),
        };
        let text = match width {
            60.. => format!(" {} {}{count} ", index + 1, pane.title()),
            30.. => format!(" {} ", pane.title()),
            _ => format!(" {} ", index + 1),
        };
        let style = match pane == view.pane && !view.help {
            true => view
                .look
                .style(Tone::Strong)
                .add_modifier(Modifier::REVERSED),
            false => view.look.style(Tone::Plain),
        };
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}

fn body(
    scene: &Scene<'_>,
    view: &mut View,
    width: usize,
    height: usize,
    with_detail: bool,
) -> Vec<Line<'static>> {
    let look = view.look;
    if view.help {
        let lines: Vec<Line<'static>> = HELP
            .iter()
            .map(|(key, text)| {
                let key = fitted(key, 20, false, look);
                Line::from(vec![
                    Span::styled(format!(" {key} "), look.style(Tone::Strong)),
                    Span::raw(*text),
                ])
            })
            .collect();
        return page(lines, view, height);
    }
    match view.pane.table(scene.overview, look) {
        Some(table) => rows(&table, view, width, height, with_detail),
        None => {
            let lines = panes::configuration(scene.overview);
            let wanted = view.filter.to_lowercase();
            let lines = lines
                .into_iter()
                .filter(|(_, text, _)| wanted.is_empty() || text.to_lowercase().contains(&wanted));
            let lines = lines.flat_map(|(label, text, tone)| {
                let label =
                    (!label.is_empty()).then(|| format!(" {}", fitted(label, 11, false, look)));
                let indent = label.as_deref().map_or(1, self::width);
                wrapped(&text, width.saturating_sub(indent))
                    .into_iter()
                    .enumerate()
                    .map(move |(index, text)| {
                        let label = label.clone().filter(|_| index == 0);
                        let label = label.unwrap_or_else(|| " ".repeat(indent));
                        Line::from(vec![
                            Span::styled(label, look.style(Tone::Dim)),
                            Span::styled(text, look.style(tone)),
                        ])
                    })
                    .collect::<Vec<_>>()
            });
            page(lines.collect(), view, height)
        }
    }
}

/// The text in lines of this width. Blanks stay as they are, as marks stand under what they mark.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for c in text.chars() {
        if let Some(line) = lines.last_mut() {
            line.push(c);
            if width(line) > room && line.chars().count() > 1 {
                line.pop();
                lines.push(c.to_string());
            }
        }
    }
    lines
}

fn page(lines: Vec<Line<'static>>, view: &mut View, height: usize) -> Vec<Line<'static>> {
    let first = view.scroll(lines.len(), height);
    lines.into_iter().skip(first).take(height).collect()
}

fn rows(
    table: &Table,
    view: &mut View,
    width: usize,
    height: usize,
    with_detail: bool,
) -> Vec<Line<'static>> {
    let look = view.look;
    let order = view.place().order;
    let chosen = table.chosen(&view.filter, order);
    let columns = table.fit(width);
    let mut lines = Vec::new();
    if height > 1 {
        let plain = look.style(Tone::Dim).add_modifier(Modifier::UNDERLINED);
        let sorted = look.style(Tone::Strong).add_modifier(Modifier::UNDERLINED);
        let mut spans = Vec::new();
        for (at, room) in &columns {
            if !spans.is_empty() {
                spans.push(Span::styled(" ".repeat(GAP), plain));
            }
            if let Some(column) = table.columns.get(*at) {
                let title = fitted(column.title, *room, column.figures, look);
                let by = order.column == Some(*at);
                spans.push(Span::styled(title, if by { sorted } else { plain }));
            }
        }
        let used: usize = spans.iter().map(Span::width).sum();
        spans.push(Span::styled(" ".repeat(width.saturating_sub(used)), plain));
        lines.push(Line::from(spans));
    }
    let detail = with_detail && !chosen.is_empty();
    let room = height.saturating_sub(lines.len() + usize::from(detail));
    let place = view.follow(chosen.len(), room);
    if chosen.is_empty() && room > 0 {
        let text = match (view.filter.is_empty(), view.pane) {
            (false, _) => "nothing holds this text",
            (true, Pane::Failures) => "no failures that the gateway remembers",
            (true, _) => "none",
        };
        lines.push(Line::styled(format!(" {text}"), look.style(Tone::Dim)));
    }
    for (index, row) in chosen.iter().enumerate().skip(place.top).take(room) {
        if let Some(row) = table.rows.get(*row) {
            lines.push(self::row(table, row, &columns, look, index == place.line));
        }
    }
    if detail {
        lines.resize(height.saturating_sub(1), Line::default());
        let row = chosen.get(place.line).and_then(|row| table.rows.get(*row));
        let text = row.map_or("", |row| row.detail.as_str());
        let text = match look.unicode {
            true => text.to_owned(),
            false => text.replace(" · ", ", "),
        };
        let text = format!(" {}", ended(&text, width.saturating_sub(2), look));
        lines.push(Line::styled(text, look.style(Tone::Dim)));
    }
    lines
}

fn row(
    table: &Table,
    row: &Row,
    columns: &[(usize, usize)],
    look: Look,
    marked: bool,
) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, room) in columns {
        if !spans.is_empty() {
            spans.push(Span::raw(" ".repeat(GAP)));
        }
        let right = table.columns.get(*at).is_some_and(|column| column.figures);
        if let Some(cell) = row.cells.get(*at) {
            let text = fitted(&cell.text, *room, right, look);
            spans.push(Span::styled(text, look.style(cell.tone)));
        }
    }
    let line = Line::from(spans);
    match marked {
        true => line.patch_style(ratatui::style::Style::new().add_modifier(Modifier::REVERSED)),
        false => line,
    }
}

fn foot(scene: &Scene<'_>, view: &mut View, width: usize) -> Line<'static> {
    let look = view.look;
    if view.typing {
        let text = format!("/{}_", view.filter);
        return Line::styled(cut(&text, width, look), look.style(Tone::Strong));
    }
    let filter = match view.filter.is_empty() {
        true => "filter".to_owned(),
        false => format!("only `{}`", view.filter),
    };
    let keys = [
        ("q", "quit".to_owned()),
        ("?", "help".to_owned()),
        ("Tab", "pane".to_owned()),
        ("s", sorted(scene, view)),
        ("/", filter),
        ("p", if view.paused { "go on" } else { "pause" }.to_owned()),
        ("j k", "move".to_owned()),
    ];
    let mut spans = Vec::new();
    let mut used = 0;
    for (key, text) in keys {
        let text = format!(" {text}  ");
        used += self::width(key) + self::width(&text);
        if used > width {
            break;
        }
        spans.push(Span::styled(key, look.style(Tone::Strong)));
        spans.push(Span::styled(text, look.style(Tone::Dim)));
    }
    Line::from(spans)
}

/// By which column the rows are sorted, which may be one that there is no room for.
fn sorted(scene: &Scene<'_>, view: &mut View) -> String {
    let order = view.place().order;
    let table = view.pane.table(scene.overview, view.look);
    let column = table.and_then(|table| table.columns.get(order.column?).copied());
    match column {
        Some(column) => {
            let arrow = view.look.arrow(column.figures != order.reversed);
            format!("sorted by {}{arrow}", column.title)
        }
        None => "sort".to_owned(),
    }
}
