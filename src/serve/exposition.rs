//! Metrics of several engines in one exposition.

use std::fmt::Write as _;

/// One family: its comment lines, and its samples of all engines.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    comments: Vec<&'a str>,
    samples: String,
}

/// Joins expositions: each family once, with its HELP and TYPE lines, and each sample with a label
/// `worker_addr` that names where it came from.
pub(crate) fn merge(texts: &[(&str, String)]) -> String {
    let mut families: Vec<Family<'_>> = Vec::new();
    for (worker, text) in texts {
        let mut current = None;
        for line in text
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
        {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.split_whitespace();
                let (Some("HELP" | "TYPE"), Some(name)) = (words.next(), words.next()) else {
                    continue;
                };
                let at = position(&mut families, name);
                current = Some(at);
                if let Some(family) = families.get_mut(at) {
                    let keyword = comment.get(..4);
                    let known = family
                        .comments
                        .iter()
                        .any(|known| known.get(2..6) == keyword);
                    if !known {
                        family.comments.push(line);
                    }
                }
                continue;
            }
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            let (Some(name), Some(rest)) = (line.get(..end), line.get(end..)) else {
                continue;
            };
            // Samples of a histogram carry a suffix to the family's name.
            let belongs = current.filter(|at| {
                families
                    .get(*at)
                    .is_some_and(|family| name.starts_with(family.name))
            });
            let at = belongs.unwrap_or_else(|| position(&mut families, name));
            if let Some(family) = families.get_mut(at) {
                sample(&mut family.samples, worker, name, rest);
            }
        }
    }
    let mut out = String::new();
    for family in families {
        for comment in family.comments {
            out.push_str(comment);
            out.push('\n');
        }
        out.push_str(&family.samples);
    }
    out
}

fn position<'a>(families: &mut Vec<Family<'a>>, name: &'a str) -> usize {
    if let Some(at) = families.iter().position(|family| family.name == name) {
        return at;
    }
    families.push(Family {
        name,
        ..Family::default()
    });
    families.len() - 1
}

fn sample(out: &mut String, worker: &str, name: &str, rest: &str) {
    let worker = worker.replace('\\', "\\\\").replace('"', "\\\"");
    let _written = match rest.strip_prefix('{') {
        Some(labels) if labels.starts_with('}') => {
            writeln!(out, "{name}{{worker_addr=\"{worker}\"{labels}")
        }
        Some(labels) => writeln!(out, "{name}{{worker_addr=\"{worker}\",{labels}"),
        None => writeln!(out, "{name}{{worker_addr=\"{worker}\"}}{rest}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stand_once_and_samples_say_where_from() {
        let one = "# HELP a_total things\n# TYPE a_total counter\na_total{x=\"1\"} 2\n\
                   # TYPE h histogram\nh_bucket{le=\"1\"} 3\nh_sum 4\n";
        let two = "# HELP a_total things\n# TYPE a_total counter\na_total{x=\"1\"} 5\nplain 1\n";
        let merged = merge(&[
            ("http://a:1", one.to_owned()),
            ("http://b:2", two.to_owned()),
        ]);
        let expected = "# HELP a_total things\n# TYPE a_total counter\n\
             a_total{worker_addr=\"http://a:1\",x=\"1\"} 2\n\
             a_total{worker_addr=\"http://b:2\",x=\"1\"} 5\n\
             # TYPE h histogram\n\
             h_bucket{worker_addr=\"http://a:1\",le=\"1\"} 3\n\
             h_sum{worker_addr=\"http://a:1\"} 4\n\
             plain{worker_addr=\"http://b:2\"} 1\n";
        assert_eq!(merged, expected);
    }
}
