use super::*;

#[test]
fn structural_bytes_are_found_at_every_offset() {
    for byte in *b"\"[]{}" {
        for at in 0..120 {
            let mut text = vec![b'1'; 121];
            text[at] = byte;
            for from in 0..=at {
                assert_eq!(
                    structural(&text, from),
                    Some(at),
                    "{} at {at}",
                    byte as char
                );
            }
            assert_eq!(structural(&text, at + 1), None);
        }
    }
}

#[test]
fn other_bytes_are_no_structural_bytes() {
    for byte in 0..=255u8 {
        let text = [byte; 100];
        let hit = structural(&text, 0).is_some();
        assert_eq!(hit, b"\"[]{}".contains(&byte), "{byte:#x}");
        let hit = quote_or_escape(&text, 0).is_some();
        assert_eq!(hit, b"\"\\".contains(&byte), "{byte:#x}");
    }
}

#[test]
fn strings_end_at_their_own_quote() {
    for (text, end, escaped) in [
        (&b"abc\""[..], 3, false),
        (b"\"", 0, false),
        (b"a\\\"b\"", 4, true),
        (b"a\\\\\"", 3, true),
        (b"\\u0022\"", 6, true),
    ] {
        assert_eq!(string_end(text, 0), Ok((end, escaped)));
    }
    for text in [&b"abc"[..], b"", b"abc\\", b"abc\\\""] {
        assert_eq!(string_end(text, 0), Err(Fault::Syntax(text.len())));
    }
}

#[test]
fn numbers_follow_the_grammar() {
    for good in ["0", "-0", "12", "1.5", "1e5", "1E+05", "-1.25e-3"] {
        assert_eq!(number_end(good.as_bytes(), 0), Ok(good.len()), "{good}");
    }
    for bad in ["-", "1.", "1e", "1e+", "-a", ".5"] {
        assert!(number_end(bad.as_bytes(), 0).is_err(), "{bad}");
    }
    // The rest is for the caller to refuse.
    assert_eq!(number_end(b"012", 0), Ok(1));
}

#[test]
fn brackets_must_pair() {
    for bad in ["[}", "{]", "[[]", "{\"a\":[}]", "[\"]"] {
        assert!(
            matches!(value_end(bad.as_bytes(), 0, 1), Err(Fault::Syntax(_))),
            "{bad}"
        );
    }
    let text = br#"[{"a":"}]"},[]] tail"#;
    assert_eq!(value_end(text, 0, 1), Ok(15));
}

/// Byte by byte, as plainly as can be.
fn plain_container_end(bytes: &[u8]) -> Result<usize, Fault> {
    let mut open = Vec::new();
    let (mut string, mut at) = (false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => string = !string,
            b'\\' if string => at += 1,
            b'\\' => return Err(Fault::Syntax(at)),
            b'{' | b'[' if !string => open.push(bytes[at] == b'{'),
            b'}' | b']' if !string => {
                if open.pop() != Some(bytes[at] == b'}') {
                    return Err(Fault::Syntax(at));
                }
                if open.is_empty() {
                    return Ok(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    Err(Fault::Syntax(bytes.len()))
}

#[test]
fn blocks_see_what_single_bytes_show() {
    // A small generator, so that quotes, escapes and brackets meet every place in a block.
    let mut seed = 1u64;
    let mut next = move |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for round in 0..20_000 {
        let alphabet: &[u8] = match round % 4 {
            0 => b"[]{}\"\"\\a1,",
            1 => b"\"\\\\\\x",
            2 => b"\"[]aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            _ => b"Yy_\x7f{}\"\"",
        };
        let mut text = vec![b'['];
        text.extend((0..next(300)).map(|_| alphabet[next(alphabet.len())]));
        let shown = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(
            container_end(&text, 0, 1),
            plain_container_end(&text),
            "{shown}"
        );
        let mut at = 0;
        let plain = loop {
            match text.get(at) {
                None => break Err(Fault::Syntax(text.len())),
                Some(b'"') => break Ok((at, text[..at].contains(&b'\\'))),
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
            }
        };
        assert_eq!(string_end(&text, 0), plain, "{shown}");
    }
}

#[test]
fn escapes_become_characters() {
    let text = |raw: &str| {
        let mut out = String::new();
        unescape(raw, |c| out.push(c)).map(|()| out)
    };
    assert_eq!(
        text(r#"a\"\\\/\b\f\n\r\tz"#),
        Ok("a\"\\/\u{8}\u{c}\n\r\tz".into())
    );
    assert_eq!(text(r"\u00e9\uD83D\ude00"), Ok("é😀".into()));
    assert_eq!(text(r"x\q"), Err(BadEscape::Unknown(1)));
    assert_eq!(text(r"\u12"), Err(BadEscape::Unknown(0)));
    for lone in [
        r"\ud800",
        r"\ud800x",
        r"\ud800\n",
        r"\ud800\u0041",
        r"\udc00",
    ] {
        assert_eq!(text(lone), Err(BadEscape::Surrogate(0)), "{lone}");
    }
}

#[test]
fn keys_match_however_they_are_spelled() {
    assert!(key_is(b"model", false, "model"));
    assert!(key_is(br"mod\u0065l", true, "model"));
    assert!(!key_is(br"mod\u0065l2", true, "model"));
    assert!(!key_is(br"mod\u0065", true, "model"));
    assert!(!key_is(br"model\ud800", true, "model"));
}

#[test]
fn members_of_a_truncated_object_are_seen_as_far_as_they_go() {
    let text = br#"{"a":1,"b":{"c":2},"d":[1,"#;
    let whole = Span::new(0, text.len());
    let b = member(text, whole, "b").unwrap();
    assert_eq!(member(text, b, "c").unwrap().of(text), b"2");
    assert_eq!(member(text, whole, "d"), None);
}
