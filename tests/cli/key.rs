//! `smg key`: what it prints is a key, and what the file takes for it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::binary::{GOOD, smg, status, stderr, stdout, write};

/// `smg key hash` with this on its standard input.
fn hashed(key: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_smg"))
        .args(["key", "hash"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(key.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (status(&output), stdout(&output), stderr(&output))
}

#[test]
fn a_new_key_comes_with_its_hash() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let output = smg(&["key", "new"], &[]);
        assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
        let text = stdout(&output);
        let (key, hash) = text.split_once('\n').unwrap();
        let random = key.strip_prefix("smg_").unwrap();
        assert_eq!(random.len(), 43, "{key}");
        assert!(
            random.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{key}"
        );
        assert_eq!(
            hashed(&format!("{key}\n")),
            (0, hash.to_owned(), String::new())
        );
        assert!(seen.insert(key.to_owned()), "{key} came twice");
    }
}

#[test]
fn what_is_printed_goes_into_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let output = smg(&["key", "new", "--name", "team \"a\""], &[]);
    let text = stdout(&output);
    let (key, tenant) = text.split_once('\n').unwrap();
    assert!(!tenant.contains(key), "{text}");
    let file = write(folder.path(), "smg.toml", &format!("{GOOD}{tenant}"));
    let checked = smg(&["check-config", "--deny-warnings", &file], &[]);
    assert_eq!(
        status(&checked),
        0,
        "{}{}",
        stdout(&checked),
        stderr(&checked)
    );
}

#[test]
fn what_no_header_can_carry_is_no_key() {
    let known =
        "{ sha256 = \"2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683\" }\n";
    assert_eq!(hashed("key"), (0, known.to_owned(), String::new()));
    for bad in ["", "\n", "two words", "two\nlines", "k\u{e9}y", "k\0"] {
        let (status, out, err) = hashed(bad);
        assert_eq!((status, out.as_str()), (1, ""), "{bad:?}");
        assert!(err.contains("holds no key"), "{err}");
    }
}
