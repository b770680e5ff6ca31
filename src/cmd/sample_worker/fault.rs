//! Faults: what a request can ask the worker to do wrong, and how it is written.

use std::str::FromStr;
use std::time::Duration;

/// What goes wrong with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fault {
    /// Wait before anything else.
    pub(super) delay: Duration,
    /// What happens instead of the answer, or to it.
    pub(super) act: Option<Act>,
}

/// The fault proper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// An error answer; `retry_after` in seconds.
    Status {
        status: u16,
        retry_after: Option<u32>,
    },
    /// The connection is closed without an answer.
    Refuse,
    /// No answer, ever.
    StallHead,
    /// 200 with an HTML page.
    Html,
    /// The answer begins well and ends badly.
    Cut(Cut),
}

/// An answer that goes wrong after `after` tokens of a stream, or bytes of any other body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) after: u32,
    pub(super) end: End,
}

/// How a cut answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It never does.
    Stall,
    /// The connection is reset; over HTTP/2 the stream is.
    Reset,
    /// As if it were complete, without a terminator.
    Truncate,
    /// With bytes that are no event.
    Garbage,
    /// With an error event.
    ErrorFrame,
}

/// Why a fault or a duration could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum BadFault {
    #[error("`{0}` is no fault of the sample worker")]
    Unknown(String),
    #[error("fault `{0}` needs a number after the colon, such as `{0}:2`")]
    Count(String),
    #[error("`{0}` is no error status, expected 400 to 599")]
    Status(String),
    #[error("`{0}` is no duration, expected a number and a unit, such as `250ms` or `1.5s`")]
    Duration(String),
}

impl FromStr for Fault {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        let mut fault = Self::default();
        for part in text.split(',').map(str::trim) {
            match part.split_once(':') {
                Some(("slow-head", delay)) => fault.delay = parse_delay(delay)?,
                _ => fault.act = Some(part.parse()?),
            }
        }
        Ok(fault)
    }
}

impl FromStr for Act {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let end = match name {
            "status" => return status(value),
            "refuse" => return Ok(Self::Refuse),
            "stall-head" => return Ok(Self::StallHead),
            "html" => return Ok(Self::Html),
            "stall-first-token" => {
                return Ok(Self::Cut(Cut {
                    after: 0,
                    end: End::Stall,
                }));
            }
            "stall-after" => End::Stall,
            "reset-after" => End::Reset,
            "truncate-after" => End::Truncate,
            "garbage-after" => End::Garbage,
            "error-frame-after" => End::ErrorFrame,
            _ => return Err(BadFault::Unknown(text.to_owned())),
        };
        let after = value
            .trim()
            .parse()
            .map_err(|_| BadFault::Count(name.to_owned()))?;
        Ok(Self::Cut(Cut { after, end }))
    }
}

fn status(text: &str) -> Result<Act, BadFault> {
    let (status, extra) = text.split_once(';').unwrap_or((text, ""));
    let retry_after = match extra.trim().split_once('=') {
        Some(("retry-after", seconds)) => seconds.trim().parse().ok(),
        _ => None,
    };
    if retry_after.is_none() && !extra.trim().is_empty() {
        return Err(BadFault::Unknown(format!("status:{text}")));
    }
    match status.trim().parse() {
        Ok(status) if (400..600).contains(&status) => Ok(Act::Status {
            status,
            retry_after,
        }),
        _ => Err(BadFault::Status(status.to_owned())),
    }
}

/// Reads a duration: a number with the unit `us`, `ms`, `s` or `m`; a bare number is seconds.
pub(super) fn parse_delay(text: &str) -> Result<Duration, BadFault> {
    let text = text.trim();
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err(BadFault::Duration(text.to_owned())),
    };
    number
        .trim()
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * seconds).ok())
        .ok_or_else(|| BadFault::Duration(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(text: &str) -> Act {
        text.parse::<Fault>().unwrap().act.unwrap()
    }

    #[test]
    fn every_written_form() {
        assert_eq!(
            act("status:503"),
            Act::Status {
                status: 503,
                retry_after: None
            }
        );
        assert_eq!(
            act("status:429;retry-after=1"),
            Act::Status {
                status: 429,
                retry_after: Some(1)
            }
        );
        assert_eq!(act("refuse"), Act::Refuse);
        assert_eq!(act("html"), Act::Html);
        assert_eq!(act("stall-head"), Act::StallHead);
        for (text, after, end) in [
            ("stall-first-token", 0, End::Stall),
            ("stall-after:3", 3, End::Stall),
            ("reset-after:0", 0, End::Reset),
            ("truncate-after:2", 2, End::Truncate),
            ("garbage-after:2", 2, End::Garbage),
            ("error-frame-after:9", 9, End::ErrorFrame),
        ] {
            assert_eq!(act(text), Act::Cut(Cut { after, end }));
        }
        let both: Fault = "slow-head:500ms, status:500".parse().unwrap();
        assert_eq!(both.delay, Duration::from_millis(500));
        assert_eq!(
            both.act,
            Some(Act::Status {
                status: 500,
                retry_after: None
            })
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for text in [
            "",
            "stall",
            "status:200",
            "status:x",
            "status:500;x=1",
            "reset-after:",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
        assert_eq!(
            "slow-head:1y".parse::<Fault>().unwrap_err().to_string(),
            "`1y` is no duration, expected a number and a unit, such as `250ms` or `1.5s`"
        );
    }

    #[test]
    fn durations() {
        assert_eq!(parse_delay("0"), Ok(Duration::ZERO));
        assert_eq!(parse_delay("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_delay("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_delay("-1s").is_err());
    }
}
