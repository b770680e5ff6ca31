//! Curves and bars: the numbers of SVG shapes.

use std::fmt::Write as _;

use serde::Serialize;

/// Width of a curve's drawing.
const WIDTH: f64 = 120.0;

/// Height of a curve's drawing.
const HEIGHT: f64 = 32.0;

/// A curve over the last minutes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Curve {
    /// The line, as path data; empty where there is nothing to draw yet.
    pub(super) line: String,
    /// The same, closed towards the ground.
    pub(super) area: String,
}

/// The curve of `values`, oldest first; the newest stands at the right end, and a full drawing has
/// `full` of them.
pub(super) fn curve(values: &[f64], full: usize) -> Curve {
    let most = values.iter().copied().fold(0.0, f64::max);
    if values.len() < 2 {
        return Curve::default();
    }
    let step = WIDTH / full.saturating_sub(1).max(1) as f64;
    let left = WIDTH - step * (values.len() - 1) as f64;
    let mut line = String::new();
    for (at, value) in values.iter().enumerate() {
        let x = left + step * at as f64;
        // A line lies within the drawing with its whole width.
        let share = if most > 0.0 { value / most } else { 0.0 };
        let y = HEIGHT - 1.5 - share.clamp(0.0, 1.0) * (HEIGHT - 3.0);
        let command = if at == 0 { 'M' } else { 'L' };
        // Writing to a `String` cannot fail.
        write!(line, "{command}{x:.1} {y:.1}").ok();
    }
    let area = format!("{line}L{WIDTH:.1} {HEIGHT:.1}L{left:.1} {HEIGHT:.1}Z");
    Curve { line, area }
}

/// A part of a bar that is 100 wide.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    /// Its class.
    pub(super) class: &'static str,
    /// Where it begins.
    pub(super) x: String,
    /// How wide it is.
    pub(super) width: String,
}

/// The parts of a bar, in proportion to their counts; nothing is too small to be seen.
pub(super) fn bar(counts: &[(&'static str, u64)]) -> Vec<Part> {
    const LEAST: f64 = 1.0;
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let wanted = |count: u64| (100.0 * count as f64 / total as f64).max(LEAST);
    let there = || counts.iter().filter(|(_, count)| *count > 0);
    let all: f64 = there().map(|(_, count)| wanted(*count)).sum();
    let mut x = 0.0;
    there()
        .map(|(class, count)| {
            let width = wanted(*count) * 100.0 / all;
            let from = x;
            x += width;
            Part {
                class,
                x: format!("{from:.2}"),
                width: format!("{width:.2}"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_stands_at_the_right_end() {
        assert_eq!(curve(&[], 60).line, "");
        assert_eq!(curve(&[1.0], 60).line, "");
        let drawn = curve(&[0.0, 5.0, 10.0], 61);
        assert_eq!(drawn.line, "M116.0 30.5L118.0 16.0L120.0 1.5");
        assert!(drawn.area.ends_with("L120.0 32.0L116.0 32.0Z"));
        assert_eq!(curve(&[0.0, 0.0], 2).line, "M0.0 30.5L120.0 30.5");
    }

    #[test]
    fn the_parts_of_a_bar_fill_it_and_none_vanishes() {
        let parts = bar(&[("ok", 9_999), ("limited", 0), ("bad", 1)]);
        assert_eq!(parts.len(), 2);
        let width = |part: &Part| part.width.parse::<f64>().unwrap();
        assert!((parts.iter().map(width).sum::<f64>() - 100.0).abs() < 0.1);
        assert!(width(&parts[1]) > 0.9);
        assert!(bar(&[("ok", 0)]).is_empty());
    }
}
