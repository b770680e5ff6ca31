//! `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$$` in string values, after parsing.

use super::environment::Environment;

/// Why a string could not be expanded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpandError {
    /// A variable without default is not set.
    #[error("the variable `{name}` is not set{}", message.as_ref().map(|m| format!(": {m}")).unwrap_or_default())]
    Unset {
        name: String,
        message: Option<String>,
    },
    /// `${` without its `}`.
    #[error("`${{` is not closed; a plain `$` before `{{` is written `$$`")]
    Open,
    /// What stands in the braces is no name.
    #[error("`${{{0}}}` does not name a variable; a plain `$` before `{{` is written `$$`")]
    Name(String),
}

/// The string with its variables expanded; `None` if there is nothing to expand.
///
/// A variable that is set but empty expands to nothing, and counts as unset for `:-` and `:?`. The
/// text of a default is expanded in turn.
pub(crate) fn expand(text: &str, environment: &Environment) -> Result<Option<String>, ExpandError> {
    if !text.contains('$') {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
            changed = true;
        } else if let Some(tail) = after.strip_prefix('{') {
            let end = closing(tail).ok_or(ExpandError::Open)?;
            let (inner, tail) = tail.split_at(end);
            out.push_str(&variable(inner, environment)?);
            rest = tail.strip_prefix('}').unwrap_or_default();
            changed = true;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(changed.then_some(out))
}

/// Offset of the brace that closes what has been opened.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut previous = None;
    for (i, c) in text.char_indices() {
        match c {
            '{' if previous == Some('$') => depth += 1,
            '}' if depth == 0 => return Some(i),
            '}' => depth -= 1,
            _ => {}
        }
        previous = Some(c);
    }
    None
}

fn variable(inner: &str, environment: &Environment) -> Result<String, ExpandError> {
    let end = inner
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(inner.len());
    let (name, rest) = inner.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(ExpandError::Name(inner.to_owned()));
    }
    let value = environment.get(name);
    let filled = value.clone().filter(|value| !value.is_empty());
    if let Some(default) = rest.strip_prefix(":-") {
        return match filled {
            Some(value) => Ok(value),
            None => Ok(expand(default, environment)?.unwrap_or_else(|| default.to_owned())),
        };
    }
    let (value, message) = match rest.strip_prefix(":?") {
        Some(message) => (filled, Some(message.to_owned()).filter(|m| !m.is_empty())),
        None if rest.is_empty() => (value, None),
        None => return Err(ExpandError::Name(inner.to_owned())),
    };
    value.ok_or_else(|| ExpandError::Unset {
        name: name.to_owned(),
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let env: Environment = [("A", "1"), ("EMPTY", ""), ("B_2", "two")]
            .into_iter()
            .collect();
        let all = |text: &str| expand(text, &env).map(|out| out.unwrap_or_else(|| text.to_owned()));
        for (text, value) in [
            ("plain", "plain"),
            ("${A}", "1"),
            ("x${A}y${B_2}z", "x1ytwoz"),
            ("${NO:-d}", "d"),
            ("${NO:-}", ""),
            ("${A:-d}", "1"),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${NO:-a:b/c}", "a:b/c"),
            ("${NO:-${A}}/${B_2}", "1/two"),
            ("$$", "$"),
            ("$${A}", "${A}"),
            ("$A $ ${A}", "$A $ 1"),
            ("${A:?must}", "1"),
        ] {
            assert_eq!(all(text).as_deref(), Ok(value), "{text}");
        }
        assert_eq!(expand("100 $ and $A", &env), Ok(None));
        for (text, message) in [
            ("${NO}", "the variable `NO` is not set"),
            ("${NO:?set it}", "the variable `NO` is not set: set it"),
            ("${EMPTY:?}", "the variable `EMPTY` is not set"),
            (
                "${A",
                "`${` is not closed; a plain `$` before `{` is written `$$`",
            ),
            (
                "${}",
                "`${}` does not name a variable; a plain `$` before `{` is written `$$`",
            ),
            (
                "${1A}",
                "`${1A}` does not name a variable; a plain `$` before `{` is written `$$`",
            ),
            (
                "${A-x}",
                "`${A-x}` does not name a variable; a plain `$` before `{` is written `$$`",
            ),
        ] {
            assert_eq!(all(text).unwrap_err().to_string(), message, "{text}");
        }
    }
}
