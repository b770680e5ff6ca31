//! Text of a gateway on a terminal: names and messages may hold characters that steer one.

use serde_json::Value;

/// Takes out of every string of `value` what a terminal could act on. Line ends stay, as
/// diagnostics have several lines.
pub(super) fn clean(value: &mut Value) {
    match value {
        Value::String(text) => {
            if text.chars().any(|c| c != '\n' && steers(c)) {
                *text = cleaned(text);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(members) => members.values_mut().for_each(clean),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `text` without what a terminal could act on, but for line ends.
pub(super) fn cleaned(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            '\t' => out.push(' '),
            c if steers(c) => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

/// JSON that says the same, in which nothing is left that a terminal could act on: what JSON lets
/// stand, such as DEL and the C1 controls, is escaped, too.
pub(super) fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => out.push(c),
            c if steers(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether a character does something else than to be seen: controls, and marks that hide text or
/// change its direction.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_steers_the_terminal() {
        let mut value =
            json!({ "a": ["\u{1b}[2J\u{9b}1m", { "b": "one\ntwo\tthree\r\u{202e}x" }], "n": 1 });
        clean(&mut value);
        assert_eq!(
            value,
            json!({ "a": ["?[2J?1m", { "b": "one\ntwo three??x" }], "n": 1 })
        );
    }

    #[test]
    fn json_says_the_same() {
        let value = json!({ "a": "\u{7f}\u{9b}é\u{e0041}\u{1b}" });
        let text = escaped(&serde_json::to_string(&value).unwrap());
        assert!(!text.chars().any(steers), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
