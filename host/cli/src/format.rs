//! Numbers and lines for people.

/// Formats a count with thousands separators: `12,031`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats bytes with a binary unit: `32.0 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // From 1023.95 on, one decimal would round to 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Formats a share as a percentage: `21.16 %`.
pub fn percent(ratio: f64) -> String {
    format!("{:.2} %", ratio * 100.0)
}

/// Formats microseconds with at least three significant digits and without a unit: `0.84`, `12.3`, `1,250`.
pub fn microseconds(us: f64) -> String {
    if us >= 100.0 {
        count(us.round() as u64)
    } else if us >= 10.0 {
        format!("{us:.1}")
    } else {
        format!("{us:.2}")
    }
}

/// Formats a duration with a suitable unit: `840 ns`, `12 µs`, `3.4 ms`, `1.2 s`.
pub fn duration_ns(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    if value < 10.0 && value.fract() > 0.05 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// Indents each line by two blanks.
pub fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["  ", line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1_000, 12_031, 1_234_567].map(count),
            ["0", "999", "1,000", "12,031", "1,234,567"]
        );
        let sizes = [0, 1023, 1024, 33_554_432, 1_048_575, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "32.0 MiB", "1.0 MiB", "16.0 EiB"]);
        assert_eq!(percent(0.211_64), "21.16 %");
        assert_eq!([0.84, 12.34, 1_250.4].map(microseconds), ["0.84", "12.3", "1,250"]);
        let times = [840.0, 12_000.0, 3.4e6, 1.2e9, 1e9].map(duration_ns);
        assert_eq!(times, ["840 ns", "12 µs", "3.4 ms", "1.2 s", "1 s"]);
    }
}
