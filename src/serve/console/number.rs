//! Figures as people read them.

/// A rate or a count: three figures, thousands as `k`, millions as `M`.
pub(super) fn short(value: f64) -> String {
    match value {
        v if v <= 0.0 || !v.is_finite() => "0".to_owned(),
        v if v < 0.095 => format!("{v:.2}"),
        v if v < 9.95 => format!("{v:.1}"),
        v if v < 9_999.5 => grouped(&format!("{v:.0}")),
        v if v < 99_950.0 => format!("{:.1}k", v / 1e3),
        v if v < 999_500.0 => format!("{:.0}k", v / 1e3),
        v if v < 9_995_000.0 => format!("{:.2}M", v / 1e6),
        v => format!("{:.0}M", v / 1e6),
    }
}

/// A whole number, its thousands apart.
pub(super) fn count(value: u64) -> String {
    grouped(&value.to_string())
}

fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // A narrow space that does not break.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A latency in seconds.
pub(super) fn latency(seconds: f64) -> String {
    match seconds {
        s if s <= 0.0 || !s.is_finite() => "0 ms".to_owned(),
        s if s < 0.000_95 => format!("{:.2} ms", s * 1e3),
        s if s < 0.009_95 => format!("{:.1} ms", s * 1e3),
        s if s < 0.999_5 => format!("{:.0} ms", s * 1e3),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 99.95 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}

/// A share of a whole, from 0 to 1.
pub(super) fn percent(share: f64) -> String {
    let percent = share.clamp(0.0, 1.0) * 100.0;
    match percent {
        p if p > 0.0 && p < 0.95 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

/// A time that has passed, in milliseconds, by its two largest units.
pub(super) fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// An amount of memory.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit_name = UNITS.get(unit).copied().unwrap_or_default();
    if unit > 0 && value < 9.95 {
        format!("{value:.1} {unit_name}")
    } else {
        format!("{value:.0} {unit_name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.04, "0.04"),
            (1.25, "1.2"),
            (9.96, "10"),
            (348.4, "348"),
            (1234.0, "1\u{202f}234"),
            (12_345.0, "12.3k"),
            (345_678.0, "346k"),
            (1_234_567.0, "1.23M"),
            (f64::NAN, "0"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(999), "999");
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.000_4, "0.40 ms"),
            (0.002_5, "2.5 ms"),
            (0.348, "348 ms"),
            (2.345, "2.35 s"),
            (48.2, "48.2 s"),
            (1234.0, "1234 s"),
        ] {
            assert_eq!(latency(seconds), text);
        }
        for (seconds, text) in [
            (5, "5 s"),
            (125, "2 min"),
            (7300, "2 h 1 min"),
            (190_000, "2 d 4 h"),
        ] {
            assert_eq!(age(seconds * 1000), text);
        }
    }

    #[test]
    fn shares_and_sizes() {
        assert_eq!(percent(0.004), "0.4 %");
        assert_eq!(percent(0.734), "73 %");
        assert_eq!(percent(7.0), "100 %");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(6_319_125_500), "5.9 GiB");
        assert_eq!(bytes(1 << 20), "1.0 MiB");
    }
}
