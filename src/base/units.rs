//! Durations and sizes as an operator writes them: a whole number with its unit.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const DURATION_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Largest first, so that a size is written in the largest unit that divides it.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A duration in whole milliseconds; in text a whole number with `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(u64);

impl Millis {
    /// Zero, which many keys read as "off".
    pub const ZERO: Self = Self(0);

    /// From milliseconds.
    pub const fn new(millis: u64) -> Self {
        Self(millis)
    }

    /// From seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(secs * 1_000)
    }

    /// The same as a standard duration.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Number of milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whether it is zero.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// A number of bytes; in text a whole number with `B`, `KiB` … `TiB` or `KB` … `TB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// From bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// From multiples of 1024 bytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// From multiples of 1024² bytes.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// Number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Why a text is no duration or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a whole number followed by a known unit.
    #[error("`{text}` is not {expected}")]
    Malformed {
        /// The text.
        text: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// A number without its unit.
    #[error("`{text}` has no unit: expected {expected}")]
    NoUnit {
        /// The text.
        text: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// More than 64 bits can hold.
    #[error("`{text}` is too large")]
    TooLarge {
        /// The text.
        text: String,
    },
}

const A_DURATION: &str = "a duration with its unit, such as \"250ms\", \"60s\" or \"30m\"";
const A_SIZE: &str = "a size with its unit, such as \"512MiB\" or \"32KiB\"";

fn parse(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, UnitError> {
    let trimmed = text.trim();
    let unit = trimmed.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = trimmed.strip_suffix(unit).unwrap_or_default();
    let malformed = || UnitError::Malformed {
        text: text.to_owned(),
        expected,
    };
    if digits.is_empty() {
        return Err(malformed());
    }
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(UnitError::NoUnit {
            text: text.to_owned(),
            expected,
        });
    }
    let factor = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(malformed)?
        .1;
    let too_large = || UnitError::TooLarge {
        text: text.to_owned(),
    };
    let number: u64 = digits.parse().map_err(|_| too_large())?;
    number
        .checked_mul(factor)
        .filter(|n| *n <= i64::MAX as u64)
        .ok_or_else(too_large)
}

/// Writes `value` in the largest unit that divides it.
fn write(
    value: u64,
    units: &[(&str, u64)],
    zero: &str,
    out: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    if value == 0 {
        return out.write_str(zero);
    }
    for (name, factor) in units {
        if value.is_multiple_of(*factor) {
            return write!(out, "{}{name}", value / factor);
        }
    }
    Ok(())
}

impl FromStr for Millis {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, DURATION_UNITS, A_DURATION).map(Self)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, SIZE_UNITS, A_SIZE).map(Self)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, DURATION_UNITS, "0s", out)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, SIZE_UNITS, "0B", out)
    }
}

/// Serde and schema of a type that is a string in the file.
macro_rules! textual {
    ($name:ident, $expected:expr, $pattern:literal, $description:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                        out.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                from.deserialize_str(Visitor)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "pattern": $pattern,
                    "description": $description,
                })
            }
        }
    };
}

textual!(
    Millis,
    A_DURATION,
    r"^\s*[0-9]+\s*(ms|s|m|h|d)\s*$",
    "A duration: a whole number with `ms`, `s`, `m`, `h` or `d`."
);
textual!(
    ByteSize,
    A_SIZE,
    r"^\s*[0-9]+\s*(B|[KMGT]iB|[KMGT]B|kB)\s*$",
    "A size in bytes: a whole number with `B`, `KiB`, `MiB`, `GiB`, `TiB`, `KB`, `MB`, `GB` or `TB`."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis, shown) in [
            ("250ms", 250, "250ms"),
            ("60s", 60_000, "1m"),
            ("90s", 90_000, "90s"),
            ("30m", 1_800_000, "30m"),
            ("2h", 7_200_000, "2h"),
            ("1d", 86_400_000, "1d"),
            ("0s", 0, "0s"),
            ("0ms", 0, "0s"),
            (" 5 s ", 5_000, "5s"),
        ] {
            let value: Millis = text.parse().unwrap();
            assert_eq!(value.as_millis(), millis, "{text}");
            assert_eq!(value.to_string(), shown, "{text}");
            assert_eq!(value.to_string().parse::<Millis>().unwrap(), value);
        }
        assert!(matches!(
            "60".parse::<Millis>(),
            Err(UnitError::NoUnit { .. })
        ));
        assert!(matches!(
            "0".parse::<Millis>(),
            Err(UnitError::NoUnit { .. })
        ));
        for text in ["", "s", "-1s", "1.5s", "1w", "1S", "1h30m"] {
            assert!(
                matches!(text.parse::<Millis>(), Err(UnitError::Malformed { .. })),
                "{text}"
            );
        }
        for text in ["99999999999999999999s", "9223372036854775807d"] {
            assert!(
                matches!(text.parse::<Millis>(), Err(UnitError::TooLarge { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("512MiB", 536_870_912, "512MiB"),
            ("32KiB", 32_768, "32KiB"),
            ("1MB", 1_000_000, "1MB"),
            ("512MB", 512_000_000, "512MB"),
            ("256B", 256, "256B"),
            ("0B", 0, "0B"),
            ("1024B", 1_024, "1KiB"),
        ] {
            let value: ByteSize = text.parse().unwrap();
            assert_eq!(value.get(), bytes, "{text}");
            assert_eq!(value.to_string(), shown, "{text}");
        }
        for text in ["1mib", "MiB", "1 apple", "-1B"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
