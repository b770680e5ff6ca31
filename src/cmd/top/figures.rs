//! Figures as people read them: a few characters, the unit with them.

/// What stands where nothing is known.
pub(super) const NOTHING: &str = "-";

/// A number per second, or any other that needs no more than two or three digits.
pub(super) fn rate(value: f64) -> String {
    const UNITS: [&str; 4] = ["k", "M", "G", "T"];
    // Beyond this there is nothing to count, and digits enough to fill the screen.
    let mut value = value.clamp(0.0, 1e18);
    if value < 1000.0 {
        return digits(value);
    }
    let mut unit = "";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{}{unit}", digits(value))
}

fn digits(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value < 9.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// A length of time in seconds, as of a request.
pub(super) fn seconds(value: f64) -> String {
    match value.max(0.0) {
        value if value < 0.000_95 => format!("{:.0}us", value * 1e6),
        value if value < 0.009_95 => format!("{:.1}ms", value * 1e3),
        value if value < 0.9995 => format!("{:.0}ms", value * 1e3),
        value if value < 9.995 => format!("{value:.2}s"),
        value if value < 99.95 => format!("{value:.1}s"),
        value => span(value as u64),
    }
}

/// A length of time in whole seconds, as of a process: its two largest units.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d{}h", hours % 24),
        () if hours > 0 => format!("{hours}h{:02}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{:02}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

/// The time from `then` to `now`, both in Unix milliseconds.
pub(super) fn age(now: u64, then: u64) -> String {
    span(now.saturating_sub(then) / 1000)
}

/// A share of 1.
pub(super) fn share(value: f64) -> String {
    match value.max(0.0) * 100.0 {
        0.0 => "0%".to_owned(),
        value if value < 0.05 => "<0.1%".to_owned(),
        value if value < 9.95 => format!("{value:.1}%"),
        value => format!("{value:.0}%"),
    }
}

/// A number of bytes.
pub(super) fn bytes(value: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = "B";
    for next in UNITS {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    format!("{}{unit}", digits(scaled))
}

/// The first digits of a hash.
pub(super) fn short(sha256: &str) -> String {
    match sha256.is_empty() {
        true => NOTHING.to_owned(),
        false => sha256.chars().take(8).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_characters_and_a_unit() {
        let rates = [0.0, 0.04, 3.44, 9.99, 123.4, 1234.0, 56_789.0, 2.5e6, 1e15];
        assert_eq!(
            rates.map(rate).join(" "),
            "0 0.0 3.4 10 123 1.2k 57k 2.5M 1000T"
        );
        let times = [0.0, 0.0002, 0.0012, 0.0421, 0.9996, 3.456, 42.0, 130.0, 1e5];
        assert_eq!(
            times.map(seconds).join(" "),
            "0us 200us 1.2ms 42ms 1.00s 3.46s 42.0s 2m10s 1d3h"
        );
        assert_eq!(
            [0, 59, 61, 3600, 90_000].map(span).join(" "),
            "0s 59s 1m01s 1h00m 1d1h"
        );
        assert_eq!(
            [0.0, 0.0001, 0.004, 0.123, 1.0].map(share).join(" "),
            "0% <0.1% 0.4% 12% 100%"
        );
        assert_eq!(
            [0, 512, 1536, 1 << 30].map(bytes).join(" "),
            "0B 512B 1.5KiB 1.0GiB"
        );
        assert_eq!(age(5000, 9000), "0s");
        assert_eq!(short("0123456789abcdef"), "01234567");
        assert_eq!(rate(-1.0), "0");
        assert_eq!(rate(1e308), "1000000T");
    }
}
