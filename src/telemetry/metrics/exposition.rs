//! Text exposition of the families whose samples live outside the recorder.

use std::fmt::Write;

use ::metrics::Key;

use super::{Metric, Source};

/// Appends families to an exposition, each with its `HELP` and `TYPE` once.
///
/// A family that gets no sample leaves no trace. A family must be opened only once per
/// exposition: the format wants its samples together.
#[derive(Debug)]
pub struct Families<'a> {
    out: &'a mut String,
    seen: u128,
}

impl<'a> Families<'a> {
    /// Appends to `out`, which may already hold what [`render`](super::render) gave.
    pub fn new(out: &'a mut String) -> Self {
        Self { out, seen: 0 }
    }

    /// Opens a family of [`Source::Scrape`].
    pub fn family(&mut self, metric: Metric) -> Family<'_> {
        debug_assert_eq!(
            metric.source(),
            Source::Scrape,
            "{metric:?} lives in the recorder"
        );
        let bit = 1_u128.checked_shl(metric as u32).unwrap_or(0);
        debug_assert_eq!(self.seen & bit, 0, "{metric:?} opened twice");
        self.seen |= bit;
        Family {
            out: self.out,
            metric,
            named: false,
        }
    }
}

/// One family being written.
#[derive(Debug)]
pub struct Family<'a> {
    out: &'a mut String,
    metric: Metric,
    named: bool,
}

impl Family<'_> {
    /// Writes one series. `labels` are those of [`Metric::labels`], in that order; the twin label
    /// is added here. Callers see to it that no label set comes twice.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        debug_assert!(
            labels.iter().map(|(name, _)| name).eq(self.metric.labels()),
            "{:?} wants {:?}",
            self.metric,
            self.metric.labels()
        );
        let name = self.metric.name();
        if !self.named {
            self.named = true;
            header(self.out, self.metric);
        }
        self.out.push_str(name);
        let mut open = '{';
        for (label, value) in labels {
            pair(self.out, open, label, value);
            open = ',';
        }
        if let Some((twin, first)) = self.metric.twin()
            && let Some((_, value)) = labels.iter().find(|(label, _)| *label == first)
        {
            pair(self.out, open, twin, value);
            open = ',';
        }
        if open == ',' {
            self.out.push('}');
        }
        self.out.push(' ');
        number(self.out, value);
        self.out.push('\n');
        self
    }
}

/// Writes the `HELP` and `TYPE` of a family.
pub(super) fn header(out: &mut String, metric: Metric) {
    let name = metric.name();
    let kind = metric.kind().as_str();
    for part in [
        "# HELP ",
        name,
        " ",
        metric.help(),
        "\n# TYPE ",
        name,
        " ",
        kind,
        "\n",
    ] {
        out.push_str(part);
    }
}

/// Writes the labels and returns what comes before another one.
pub(super) fn labels(out: &mut String, key: &Key) -> char {
    let mut open = '{';
    for label in key.labels() {
        pair(out, open, label.key(), label.value());
        open = ',';
    }
    open
}

/// Writes one label behind `open`.
pub(super) fn pair(out: &mut String, open: char, label: &str, value: &str) {
    out.push(open);
    out.push_str(label);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Writes a value.
pub(super) fn number(out: &mut String, value: f64) {
    if value == f64::INFINITY {
        out.push_str("+Inf");
    } else if value == f64::NEG_INFINITY {
        out.push_str("-Inf");
    } else {
        // Writing to a `String` cannot fail.
        write!(out, "{value}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_named_once_and_its_labels_are_escaped() {
        let mut out = String::new();
        let mut families = Families::new(&mut out);
        families
            .family(Metric::WorkerHealth)
            .sample(&[("worker", "http://a\"b\\c\nd"), ("worker_id", "w1")], 1.0)
            .sample(&[("worker", "http://ü"), ("worker_id", "w2")], 0.0);
        families
            .family(Metric::ConfigOldestSnapshotAge)
            .sample(&[], 1.5);
        families.family(Metric::WorkerRequests);
        assert_eq!(
            out,
            "# HELP smg_worker_health 1 while a worker is healthy, else 0.\n\
             # TYPE smg_worker_health gauge\n\
             smg_worker_health{worker=\"http://a\\\"b\\\\c\\nd\",worker_id=\"w1\"} 1\n\
             smg_worker_health{worker=\"http://ü\",worker_id=\"w2\"} 0\n\
             # HELP smg_config_oldest_snapshot_age_seconds Age of the oldest snapshot that is \
             alive, in seconds.\n\
             # TYPE smg_config_oldest_snapshot_age_seconds gauge\n\
             smg_config_oldest_snapshot_age_seconds 1.5\n"
        );
    }

    #[test]
    fn numbers_have_the_spelling_of_the_format() {
        let spell = |value| {
            let mut out = String::new();
            number(&mut out, value);
            out
        };
        let values = [
            0.0,
            12_345_678_901.0,
            0.25,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ];
        assert_eq!(
            values.map(spell),
            ["0", "12345678901", "0.25", "+Inf", "-Inf", "NaN"]
        );
    }

    #[test]
    #[should_panic(expected = "opened twice")]
    fn a_family_cannot_be_split() {
        let mut out = String::new();
        let mut families = Families::new(&mut out);
        families.family(Metric::WorkerHealth);
        families.family(Metric::WorkerHealth);
    }
}
