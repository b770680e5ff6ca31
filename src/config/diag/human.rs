//! Diagnostics for reading: the line, a caret and a `help:`. Works without colour.

use std::fmt::{self, Display, Write as _};

use super::{Diagnostic, Place, Spot};

/// Writes diagnostics with an empty line between two.
pub(super) fn render(diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for (i, diagnostic) in diagnostics.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        // Writing into a string cannot fail.
        let _ = write!(out, "{diagnostic}");
    }
    out
}

impl Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{}[{}]: {}",
            self.severity.as_str(),
            self.slug,
            self.message
        )?;
        let places = || {
            self.primary
                .iter()
                .chain(self.secondary.iter().map(|r| &r.place))
        };
        let width = places().map(digits).max().unwrap_or(1);
        let gutter = " ".repeat(width);
        if let Some(place) = &self.primary {
            draw(out, place, "-->", &gutter, '^', "")?;
        }
        for related in &self.secondary {
            let arrow = if self.primary.is_some() { ":::" } else { "-->" };
            draw(out, &related.place, arrow, &gutter, '-', &related.label)?;
        }
        if let Some(help) = &self.help {
            writeln!(out, "{gutter} = help: {help}")?;
        }
        Ok(())
    }
}

fn digits(place: &Place) -> usize {
    match place {
        Place::File(spot) => spot.line.to_string().len(),
        Place::Flag(_) | Place::Environment(_) => 1,
    }
}

fn draw(
    out: &mut fmt::Formatter<'_>,
    place: &Place,
    arrow: &str,
    gutter: &str,
    mark: char,
    label: &str,
) -> fmt::Result {
    write!(out, "{gutter}{arrow} ")?;
    match place {
        Place::File(spot) => {
            writeln!(out, "{}:{}:{}", spot.file, spot.line, spot.column)?;
            snippet(out, spot, gutter, mark, label)
        }
        Place::Flag(name) => named(out, "flag", name, label),
        Place::Environment(name) => named(out, "environment", name, label),
    }
}

fn named(out: &mut fmt::Formatter<'_>, what: &str, name: &str, label: &str) -> fmt::Result {
    match label {
        "" => writeln!(out, "{what} {name}"),
        label => writeln!(out, "{what} {name}: {label}"),
    }
}

fn snippet(
    out: &mut fmt::Formatter<'_>,
    spot: &Spot,
    gutter: &str,
    mark: char,
    label: &str,
) -> fmt::Result {
    let width = gutter.len();
    writeln!(out, "{gutter} |")?;
    writeln!(out, "{:>width$} | {}", spot.line, spot.text.trim_end())?;
    // Tabs stay tabs, so that the caret stands under its text at any tab width.
    let pad: String = spot
        .text
        .chars()
        .take(spot.skip)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    let carets: String = std::iter::repeat_n(mark, spot.len.max(1)).collect();
    match label {
        "" => writeln!(out, "{gutter} | {pad}{carets}"),
        label => writeln!(out, "{gutter} | {pad}{carets} {label}"),
    }
}
