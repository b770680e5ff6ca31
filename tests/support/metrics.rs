//! The Prometheus text format, as far as tests ask about it.

use std::collections::BTreeMap;

/// One scrape.
pub(crate) struct Samples(Vec<Sample>);

struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Samples {
    /// Panics on a line that is neither a comment nor a sample.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line}")))
                .collect(),
        )
    }

    /// The sum over the series of this family that carry all these labels; 0 without any.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// How many series of this family carry all these labels.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.matching(name, labels).count()
    }

    /// How many series each family has.
    pub(crate) fn families(&self) -> BTreeMap<&str, usize> {
        let mut families = BTreeMap::new();
        for sample in &self.0 {
            *families.entry(&*sample.name).or_default() += 1;
        }
        families
    }

    /// By how much the counters of this family have grown since `before`, those that began anew
    /// in between counted from 0.
    pub(crate) fn growth(&self, before: &Self, name: &str) -> f64 {
        let series = self.matching(name, &[]);
        let growth = series.map(|now| {
            let same = |then: &&Sample| then.labels == now.labels;
            let then = before.matching(name, &[]).find(same);
            let then = then.map_or(0.0, |then| then.value);
            if then <= now.value {
                now.value - then
            } else {
                now.value
            }
        });
        growth.sum()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| {
            let has = |(key, value): &(&str, &str)| {
                sample.labels.iter().any(|(k, v)| k == key && v == value)
            };
            sample.name == name && labels.iter().all(has)
        })
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, mut rest)) = series.strip_suffix('}').and_then(|s| s.split_once('{')) else {
        return Some(Sample {
            name: series.to_owned(),
            labels: Vec::new(),
            value,
        });
    };
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (key, quoted) = rest.split_once("=\"")?;
        let (text, after) = unquote(quoted)?;
        labels.push((key.trim_start_matches(',').to_owned(), text));
        rest = after.trim_matches(',');
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The label's value up to its closing quote, and what follows.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((text, quoted.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => text.push('\n'),
                escaped => text.push(escaped),
            },
            plain => text.push(plain),
        }
    }
    None
}

#[test]
fn reads_samples_with_their_labels() {
    let samples = Samples::parse(
        "# HELP a b\na 1\nb{x=\"1\",y=\"p, \\\"q\\\" {r}\"} 2.5\nb{x=\"2\",y=\"\",} 1e3\n\nc{le=\"+Inf\"} +Inf\n",
    );
    assert_eq!(samples.sum("a", &[]), 1.0);
    assert_eq!(samples.sum("b", &[]), 1002.5);
    assert_eq!(samples.sum("b", &[("y", "p, \"q\" {r}")]), 2.5);
    assert_eq!(samples.count("b", &[("x", "2"), ("y", "")]), 1);
    assert_eq!(samples.count("b", &[("x", "3")]), 0);
    assert!(samples.sum("c", &[("le", "+Inf")]).is_infinite());
    let families: Vec<_> = samples.families().into_iter().collect();
    assert_eq!(families, [("a", 1), ("b", 2), ("c", 1)]);
    let before = Samples::parse("a 3\nb{x=\"2\",y=\"\"} 900\nd 1\n");
    assert_eq!(samples.growth(&before, "a"), 1.0);
    assert_eq!(samples.growth(&before, "b"), 102.5);
    assert_eq!(samples.growth(&before, "d"), 0.0);
}
