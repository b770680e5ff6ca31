//! Diagnostics for programs: JSON, GitHub workflow commands, SARIF 2.1.0.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Diagnostic, Place, Severity, Spot};

/// One object with the counts and the list.
pub(super) fn json(diagnostics: &[Diagnostic]) -> String {
    let count = |severity| {
        diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .count()
    };
    let value = json!({
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "notes": count(Severity::Note),
        "diagnostics": diagnostics,
    });
    format!("{value:#}\n")
}

/// One command per line.
pub(super) fn github(diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let command = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        let mut properties = String::new();
        let mut message = diagnostic.message.clone();
        match &diagnostic.primary {
            Some(Place::File(spot)) => {
                let Spot {
                    file,
                    line,
                    column,
                    end_line,
                    ..
                } = spot;
                let file = escape_property(file);
                properties = format!("file={file},line={line},endLine={end_line},col={column},");
                if line == end_line {
                    // Writing into a string cannot fail.
                    let _ = write!(properties, "endColumn={},", spot.end_column);
                }
            }
            Some(Place::Flag(name)) => message = format!("{message} (flag {name})"),
            Some(Place::Environment(name)) => message = format!("{message} (variable {name})"),
            None => {}
        }
        for related in &diagnostic.secondary {
            if let Place::File(Spot {
                file, line, column, ..
            }) = &related.place
            {
                message = format!("{message}\n{}: {file}:{line}:{column}", related.label);
            }
        }
        if let Some(help) = &diagnostic.help {
            message = format!("{message}\nhelp: {help}");
        }
        let _ = writeln!(
            out,
            "::{command} {properties}title=smg {}::{}",
            diagnostic.slug,
            escape(&message)
        );
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn escape_property(text: &str) -> String {
    escape(text).replace(':', "%3A").replace(',', "%2C")
}

/// One run with one result per diagnostic.
pub(super) fn sarif(diagnostics: &[Diagnostic]) -> String {
    let rules: BTreeSet<&str> = diagnostics.iter().map(|d| d.slug).collect();
    let rules: Vec<Value> = rules.into_iter().map(|id| json!({ "id": id })).collect();
    let results: Vec<Value> = diagnostics.iter().map(result).collect();
    let value = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "smg",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{value:#}\n")
}

fn result(diagnostic: &Diagnostic) -> Value {
    let level = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let text = match &diagnostic.help {
        Some(help) => format!("{}\nhelp: {help}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    let mut value = json!({
        "ruleId": diagnostic.slug,
        "level": level,
        "message": { "text": text },
        "locations": diagnostic.primary.iter().map(|p| location(p, None)).collect::<Vec<_>>(),
    });
    if !diagnostic.secondary.is_empty() {
        value["relatedLocations"] = diagnostic
            .secondary
            .iter()
            .map(|related| location(&related.place, Some(&related.label)))
            .collect();
    }
    value
}

fn location(place: &Place, label: Option<&str>) -> Value {
    let mut value = match place {
        Place::File(spot) => json!({
            "physicalLocation": {
                "artifactLocation": { "uri": uri(&spot.file) },
                "region": {
                    "startLine": spot.line,
                    "startColumn": spot.column,
                    "endLine": spot.end_line,
                    "endColumn": spot.end_column,
                },
            },
        }),
        Place::Flag(name) | Place::Environment(name) => {
            json!({ "logicalLocations": [{ "name": name }] })
        }
    };
    if let Some(label) = label {
        value["message"] = json!({ "text": label });
    }
    value
}

/// A file name as a relative or `file:` URI.
fn uri(file: &str) -> String {
    let mut out = String::new();
    if file.starts_with('/') {
        out.push_str("file://");
    }
    for byte in file.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Vec<Diagnostic> {
        let spot = Spot {
            file: "a b.toml".into(),
            line: 3,
            column: 1,
            end_line: 3,
            end_column: 5,
            text: "port = 1".into(),
            skip: 0,
            len: 4,
        };
        vec![
            Diagnostic::error("unknown-key", "unknown key `port`")
                .about("port")
                .at(Some(Place::File(spot.clone())))
                .beside(Some(Place::File(Spot { line: 9, ..spot })), "here: too")
                .help("100 %"),
            Diagnostic::warning("x", "y").at(Some(Place::Flag("--port".into()))),
        ]
    }

    #[test]
    fn json_has_counts_and_places() {
        let value: Value = serde_json::from_str(&json(&one())).unwrap();
        assert_eq!(value["errors"], 1);
        assert_eq!(value["warnings"], 1);
        let first = &value["diagnostics"][0];
        assert_eq!(first["slug"], "unknown-key");
        assert_eq!(first["primary"]["file"]["line"], 3);
        assert_eq!(first["primary"]["file"]["end_column"], 5);
        assert_eq!(first["secondary"][0]["label"], "here: too");
        assert_eq!(value["diagnostics"][1]["primary"]["flag"], "--port");
    }

    #[test]
    fn github_escapes() {
        assert_eq!(
            github(&one()),
            "::error file=a b.toml,line=3,endLine=3,col=1,endColumn=5,title=smg unknown-key::\
             unknown key `port`%0Ahere: too: a b.toml:9:1%0Ahelp: 100 %25\n\
             ::warning title=smg x::y (flag --port)\n"
        );
    }

    #[test]
    fn sarif_has_rules_and_regions() {
        let value: Value = serde_json::from_str(&sarif(&one())).unwrap();
        assert_eq!(value["version"], "2.1.0");
        let run = &value["runs"][0];
        assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 2);
        let at = &run["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(at["artifactLocation"]["uri"], "a%20b.toml");
        assert_eq!(at["region"]["endColumn"], 5);
    }
}
