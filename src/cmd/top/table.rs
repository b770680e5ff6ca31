//! Tables: which columns there is room for, which rows are wanted, in which order.

use std::cmp::Ordering;

use ratatui::text::Span;

use super::look::{Look, Tone};

/// Columns between two of which there is this much room.
pub(super) const GAP: usize = 2;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// What it shows.
    pub(super) title: &'static str,
    /// Figures, which stand at the right and of which the largest are of interest.
    pub(super) figures: bool,
    /// How long it is kept where there is little room: the columns of the lowest rank go first.
    pub(super) rank: u8,
    /// Width below which its text is not cut; 0: it is not cut at all.
    pub(super) least: usize,
}

/// What stands in one place.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
    /// What it is sorted by where its column has figures.
    pub(super) figure: Option<f64>,
}

/// What stands in one line.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
    /// What there is no column for.
    pub(super) detail: String,
}

/// What stands in columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
}

/// The order of rows: that of the gateway, or by a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) column: Option<usize>,
    /// The other way round than the column is first sorted.
    pub(super) reversed: bool,
}

impl Cell {
    /// Text; line ends have no place in a table.
    pub(super) fn text(text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        if text.contains('\n') {
            text = text.replace('\n', " ");
        }
        Self {
            text,
            ..Self::default()
        }
    }

    /// A figure, and how it is written.
    pub(super) fn figure(figure: impl Into<Option<f64>>, written: impl Fn(f64) -> String) -> Self {
        let figure = figure.into();
        match figure {
            Some(value) => Self {
                text: written(value),
                figure,
                tone: Tone::Plain,
            },
            None => Self::text(super::figures::NOTHING).toned(Tone::Dim),
        }
    }

    /// A count.
    pub(super) fn count(count: u64) -> Self {
        Self::figure(count as f64, |_| count.to_string())
    }

    /// The same in another tone.
    pub(super) fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

impl Table {
    /// The rows that hold `filter` anywhere, in this order, as indices.
    pub(super) fn chosen(&self, filter: &str, order: Order) -> Vec<usize> {
        let wanted = filter.to_lowercase();
        let holds = |text: &str| text.to_lowercase().contains(&wanted);
        let rows = self.rows.iter().enumerate().filter(|(_, row)| {
            wanted.is_empty()
                || holds(&row.detail)
                || row.cells.iter().any(|cell| holds(&cell.text))
        });
        let mut chosen: Vec<usize> = rows.map(|(index, _)| index).collect();
        let Some(at) = order.column else {
            return chosen;
        };
        let figures = self.columns.get(at).is_some_and(|column| column.figures);
        chosen.sort_by(|a, b| {
            let cell = |row: &usize| self.rows.get(*row).and_then(|row| row.cells.get(at));
            let (Some(a), Some(b)) = (cell(a), cell(b)) else {
                return Ordering::Equal;
            };
            compare(a, b, figures, order.reversed)
        });
        chosen
    }

    /// The columns that fit into `width`, as indices, each with its width.
    pub(super) fn fit(&self, width: usize) -> Vec<(usize, usize)> {
        let natural: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(wide(&self.rows))
            .collect();
        let natural = |at: usize| natural.get(at).copied().unwrap_or_default();
        let column = |at: usize| self.columns.get(at);
        let least = |at: usize| match column(at).map_or(0, |column| column.least) {
            0 => natural(at),
            least => natural(at).min(least),
        };
        let mut kept: Vec<usize> = (0..self.columns.len()).collect();
        let gaps = |kept: &[usize]| GAP * kept.len().saturating_sub(1);
        while kept.len() > 1
            && kept.iter().map(|at| least(*at)).sum::<usize>() + gaps(&kept) > width
        {
            let rank = |at: &usize| column(*at).map(|column| column.rank);
            // Of several with the lowest rank the last one goes.
            let Some(least) = kept.iter().map(rank).min() else {
                break;
            };
            let Some(gone) = kept.iter().rposition(|at| rank(at) == least) else {
                break;
            };
            kept.remove(gone);
        }
        let used = kept.iter().map(|at| least(*at)).sum::<usize>() + gaps(&kept);
        let mut left = width.saturating_sub(used);
        let mut widths: Vec<(usize, usize)> =
            kept.iter().map(|at| (*at, least(*at).min(width))).collect();
        // Those that lack the least come first, so that few are cut.
        let lack = |at: usize| natural(at) - least(at);
        kept.sort_by_key(|at| lack(*at));
        for at in kept {
            let more = lack(at).min(left);
            left -= more;
            if let Some((_, width)) = widths.iter_mut().find(|(kept, _)| *kept == at) {
                *width += more;
            }
        }
        widths
    }
}

/// The width that a column would like to have.
fn wide(rows: &[Row]) -> impl Fn((usize, &Column)) -> usize {
    move |(at, column)| {
        let cells = rows.iter().filter_map(|row| row.cells.get(at));
        let widest = cells.map(|cell| width(&cell.text)).max();
        width(column.title).max(widest.unwrap_or_default())
    }
}

/// What is unknown comes last, whichever way it goes.
fn compare(a: &Cell, b: &Cell, figures: bool, reversed: bool) -> Ordering {
    let turned = |order: Ordering| if reversed { order.reverse() } else { order };
    if !figures {
        return turned(a.text.cmp(&b.text));
    }
    match (a.figure, b.figure) {
        (Some(a), Some(b)) => turned(b.total_cmp(&a)),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

/// Columns of the terminal that a text takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text in exactly `room` columns: cut in its middle, as names often differ at their end, or
/// filled with blanks.
pub(super) fn fitted(text: &str, room: usize, right: bool, look: Look) -> String {
    let cut = cut(text, room, look);
    let blanks = " ".repeat(room.saturating_sub(width(&cut)));
    match right {
        true => blanks + &cut,
        false => cut + &blanks,
    }
}

/// The text in at most `room` columns.
pub(super) fn cut(text: &str, room: usize, look: Look) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let Some(rest) = room.checked_sub(1) else {
        return String::new();
    };
    let head = taken(text.chars(), rest / 3);
    let tail = taken(text.chars().rev(), rest - width(&head));
    head + look.cut() + &tail.chars().rev().collect::<String>()
}

fn taken(chars: impl Iterator<Item = char>, room: usize) -> String {
    let mut out = String::new();
    for c in chars {
        out.push(c);
        if width(&out) > room {
            out.pop();
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look {
        colour: true,
        unicode: true,
    };

    fn table() -> Table {
        let column = |title, figures, rank, least| Column {
            title,
            figures,
            rank,
            least,
        };
        let row = |name: &str, figure: Option<f64>| Row {
            cells: vec![
                Cell::text(name),
                Cell::figure(figure, super::super::figures::rate),
                Cell::text("word"),
            ],
            detail: format!("about {name}"),
        };
        Table {
            columns: vec![
                column("name", false, 9, 6),
                column("n", true, 5, 0),
                column("extra", false, 1, 0),
            ],
            rows: vec![
                row("beta-and-more", Some(2.0)),
                row("alpha", None),
                row("gamma", Some(30.0)),
            ],
        }
    }

    #[test]
    fn columns_go_by_rank_and_shrink_before() {
        let table = table();
        assert_eq!(table.fit(200), [(0, 13), (1, 3), (2, 5)]);
        assert_eq!(table.fit(20), [(0, 8), (1, 3), (2, 5)]);
        assert_eq!(table.fit(17), [(0, 12), (1, 3)]);
        assert_eq!(table.fit(10), [(0, 10)]);
        assert_eq!(table.fit(1), [(0, 1)]);
        assert_eq!(table.fit(0), [(0, 0)]);
        assert_eq!(Table::default().fit(9), []);
    }

    #[test]
    fn rows_by_figure_text_and_filter() {
        let table = table();
        let by = |column, reversed| Order {
            column: Some(column),
            reversed,
        };
        assert_eq!(table.chosen("", Order::default()), [0, 1, 2]);
        assert_eq!(table.chosen("", by(1, false)), [2, 0, 1]);
        assert_eq!(table.chosen("", by(1, true)), [0, 2, 1]);
        assert_eq!(table.chosen("", by(0, false)), [1, 0, 2]);
        assert_eq!(table.chosen("", by(0, true)), [2, 0, 1]);
        assert_eq!(table.chosen("", by(77, true)), [0, 1, 2]);
        assert_eq!(table.chosen("ABOUT g", Order::default()), [2]);
    }

    #[test]
    fn text_is_cut_in_its_middle() {
        assert_eq!(cut("10.0.0.11:8000", 8, LOOK), "10…:8000");
        assert_eq!(cut("日本語日本語", 5, LOOK), "…本語");
        assert_eq!(cut("abc", 1, LOOK), "…");
        assert_eq!(cut("abc", 0, LOOK), "");
        assert_eq!(fitted("ab", 4, true, LOOK), "  ab");
        assert_eq!(fitted("ab", 4, false, LOOK), "ab  ");
    }
}
