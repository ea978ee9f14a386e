//! Figures and targets for people.

use crate::report::{Figure, Row, Target, Unit};

/// Returns a value with a fitting unit and three significant digits: `83.1 ns`, `4.20 GB/s`.
pub(crate) fn value(value: f64, unit: Unit) -> String {
    let steps: &[(f64, &str)] = match unit {
        Unit::Seconds => &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")],
        Unit::BytesPerSecond => &[(1e9, "GB/s"), (1e6, "MB/s")],
        Unit::TokensPerSecond => &[(1e6, "M tokens/s")],
        Unit::RequestsPerSecond => &[(1.0, "req/s")],
    };
    let fitting = steps.iter().find(|(step, _)| value >= step * 0.9995).or(steps.last());
    let (step, name) = fitting.copied().unwrap_or((1.0, ""));
    format!("{} {name}", digits(value / step))
}

/// Returns three significant digits: `0.93`, `4.20`, `83.1`, `412`, `21,345`.
pub(crate) fn digits(value: f64) -> String {
    match value {
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value if value < 999.5 => format!("{value:.0}"),
        value => kvtier_cli::format::count(value.round() as u64),
    }
}

/// Returns a label for the axis of a series: `4 KiB`, `32 MiB`, `1,000`.
pub(crate) fn place(at: u64, over: &str) -> String {
    match at {
        at if over.starts_with("bytes") && at >= 1 << 20 => format!("{} MiB", at >> 20),
        at if over.starts_with("bytes") => format!("{} KiB", at >> 10),
        at => kvtier_cli::format::count(at),
    }
}

/// Returns a figure's value as text.
pub(crate) fn figure(figure: &Figure) -> String {
    value(figure.value, figure.unit)
}

/// Returns half of the distance between the quartiles, as percent of the median.
pub(crate) fn spread(figure: &Figure) -> String {
    format!("±{:.0} %", figure.spread * 50.0)
}

/// Returns a target as text: `at most 5.00 µs`.
pub(crate) fn target(row: &Row) -> String {
    match row.target {
        None => String::new(),
        Some(Target::AtMost(limit)) => format!("≤ {}", value(limit, row.figure.unit)),
        Some(Target::AtLeast(limit)) => format!("≥ {}", value(limit, row.figure.unit)),
        Some(Target::OfReference(share)) => format!("≥ {share:.1} ×"),
        Some(Target::Ahead) => "> 1.0 ×".to_owned(),
    }
}

/// Returns the verdict on the target.
pub(crate) fn verdict(row: &Row) -> &'static str {
    match row.is_met() {
        None => "",
        Some(true) => "met",
        Some(false) => "not met",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits_and_a_fitting_unit() {
        let time = |seconds| value(seconds, Unit::Seconds);
        assert_eq!(
            [83.14e-9, 999.9e-9, 4.2e-6, 12.34e-3, 1.0, 0.4e-9].map(time),
            ["83.1 ns", "1.00 µs", "4.20 µs", "12.3 ms", "1.00 s", "0.40 ns"]
        );
        assert_eq!(value(12.3e9, Unit::BytesPerSecond), "12.3 GB/s");
        assert_eq!(value(250e6, Unit::BytesPerSecond), "250 MB/s");
        assert_eq!(value(412e6, Unit::TokensPerSecond), "412 M tokens/s");
        assert_eq!(value(21_345.0, Unit::RequestsPerSecond), "21,345 req/s");
        assert_eq!([4 << 10, 32 << 20].map(|at| place(at, "bytes of a chunk")), ["4 KiB", "32 MiB"]);
        assert_eq!(place(1000, "entries"), "1,000");
    }
}
