//! Did you mean: the known word nearest to one that is not known.

/// The candidate that `word` was most probably meant to be, if one is near enough.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let asked = plain(word);
    let allowed = 1 + asked.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&asked, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < plain(candidate).len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Case and the choice of `-`, `_` or nothing between words are no difference.
fn plain(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Words for a sentence: `` `a`, `b` and `c` ``.
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.pop() {
        None => String::new(),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} and {last}", words.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        let known = [
            "request_timeout",
            "max_payload_size",
            "pool",
            "pools",
            "url",
        ];
        for (word, found) in [
            ("requst_timeout", Some("request_timeout")),
            ("request-timeout", Some("request_timeout")),
            ("RequestTimeout", Some("request_timeout")),
            ("pol", Some("pool")),
            ("URL", Some("url")),
            ("auth", None),
            ("tls", None),
        ] {
            assert_eq!(nearest(word, known), found, "{word}");
        }
        assert_eq!(list(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
