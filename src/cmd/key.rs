//! `smg key`: keys for the file, and their hashes.

use std::fmt::Write as _;
use std::io::{Read as _, stdin};

use clap::ArgMatches;
use rustls::crypto::ring;

use super::{exit, out};
use crate::plan::Digest;

/// What a key begins with, so that people and scanners know it when they see it.
const PREFIX: &str = "smg_";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Digits of 256 bits in that alphabet.
const DIGITS: usize = 43;

/// Most bytes of a key that is read.
const LONGEST: u64 = 64 * 1024;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    /// The system gives no random bytes.
    #[error("the system gives no random numbers")]
    Random,
    /// Nothing can be read.
    #[error("cannot read the key from standard input: {0}")]
    Stdin(#[from] std::io::Error),
    /// Nothing was read, or what no header can carry.
    #[error("standard input holds no key: one line of visible ASCII characters")]
    NoKey,
}

/// Runs `smg key new` or `smg key hash`.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    let made = match matches.subcommand() {
        Some(("new", own)) => made().map(|key| {
            let name = own.get_one::<String>("name").map(String::as_str);
            format!("{key}\n{}", shown(&key, name))
        }),
        Some(("hash", _)) => given().map(|key| shown(&key, None)),
        _ => return exit::USAGE,
    };
    match made {
        Ok(text) => {
            out::print(&text);
            exit::OK
        }
        Err(error) => {
            out::error(error);
            exit::FAILED
        }
    }
}

/// A new key of 256 bits.
fn made() -> Result<String, KeyError> {
    let mut bytes = [0; 32];
    let random = ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| KeyError::Random)?;
    Ok(format!("{PREFIX}{}", digits(bytes)))
}

/// The number that `bytes` are, highest first, in 43 digits.
fn digits(mut bytes: [u8; 32]) -> String {
    let mut digits = [0; DIGITS];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0;
        for byte in &mut bytes {
            let part = rest * 256 + u32::from(*byte);
            *byte = u8::try_from(part / 62).unwrap_or_default();
            rest = part % 62;
        }
        *digit = ALPHABET.get(rest as usize).copied().unwrap_or_default();
    }
    digits.map(char::from).iter().collect()
}

/// The key that standard input holds, without the end of its line.
fn given() -> Result<String, KeyError> {
    let mut text = String::new();
    stdin().take(LONGEST).read_to_string(&mut text)?;
    let key = text.trim();
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    match is_key {
        true => Ok(key.to_owned()),
        false => Err(KeyError::NoKey),
    }
}

/// What goes into the file for `key`: its hash, or a tenant of that name with it.
fn shown(key: &str, name: Option<&str>) -> String {
    let mut hash = String::with_capacity(64);
    for byte in Digest::of(key.as_bytes()).bytes() {
        // Writing to memory cannot fail.
        write!(hash, "{byte:02x}").ok();
    }
    let hash = format!("{{ sha256 = \"{hash}\" }}");
    match name {
        None => format!("{hash}\n"),
        Some(name) => {
            let name = toml::Value::from(name);
            format!("\n[[auth.tenants]]\nname = {name}\nkeys = [{hash}]\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_43_digits() {
        let zeros = "0".repeat(DIGITS);
        assert_eq!(digits([0; 32]), zeros);
        let mut bytes = [0; 32];
        bytes[31] = 61;
        assert_eq!(digits(bytes), format!("{}z", &zeros[1..]));
        bytes[31] = 62;
        assert_eq!(digits(bytes), format!("{}10", &zeros[2..]));
        // The highest one needs all digits and no more.
        let highest = digits([255; 32]);
        assert_eq!(highest.len(), DIGITS);
        assert!(!highest.starts_with('0'), "{highest}");
    }

    #[test]
    fn keys_differ() {
        let (one, other) = (made().unwrap(), made().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + DIGITS);
    }

    #[test]
    fn what_goes_into_the_file_can_be_read_there() {
        #[derive(serde::Deserialize)]
        struct File {
            auth: crate::config::spec::Auth,
        }
        let hash = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683";
        assert_eq!(shown("key", None), format!("{{ sha256 = \"{hash}\" }}\n"));
        let file: File = toml::from_str(&shown("key", Some("a \"b\""))).unwrap();
        assert_eq!(file.auth.tenants[0].name, "a \"b\"");
        let read = &file.auth.tenants[0].keys[0].material;
        assert!(matches!(
            read,
            crate::config::spec::Material::Sha256([0x2c, 0x70, ..])
        ));
    }
}
