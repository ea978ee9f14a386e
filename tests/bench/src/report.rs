//! The results: rows with their references and targets, and series that show how a cost grows.

use crate::sample::Samples;

/// The quantity that a sample's seconds are converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantity {
    /// The time itself.
    Time,
    /// Bytes per second, for a sample of this many bytes.
    Bytes(u64),
    /// Tokens per second, for a sample of this many tokens.
    Tokens(u64),
    /// Requests per second, for a sample of this many requests.
    Requests(u64),
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    BytesPerSecond,
    TokensPerSecond,
    RequestsPerSecond,
}

impl Quantity {
    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::Time => Unit::Seconds,
            Self::Bytes(_) => Unit::BytesPerSecond,
            Self::Tokens(_) => Unit::TokensPerSecond,
            Self::Requests(_) => Unit::RequestsPerSecond,
        }
    }

    /// Converts a sample's seconds to a figure's value.
    pub(crate) fn of(self, seconds: f64) -> f64 {
        match self {
            Self::Time => seconds,
            Self::Bytes(n) | Self::Tokens(n) | Self::Requests(n) => n as f64 / seconds,
        }
    }
}

/// A median and the spread of its samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) unit: Unit,
    /// The distance between the quartiles as a share of the median.
    pub(crate) spread: f64,
    pub(crate) n_samples: usize,
}

impl Figure {
    pub(crate) fn new(quantity: Quantity, samples: &Samples) -> Self {
        Self {
            value: quantity.of(samples.median()),
            unit: quantity.unit(),
            spread: samples.spread(),
            n_samples: samples.len(),
        }
    }

    /// Returns how many times as fast this is as `reference`.
    pub(crate) fn speed_against(&self, reference: &Self) -> f64 {
        match self.unit {
            Unit::Seconds => reference.value / self.value,
            _ => self.value / reference.value,
        }
    }
}

/// A target for a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// A time, in seconds.
    AtMost(f64),
    /// A rate, in the figure's unit.
    AtLeast(f64),
    /// This share of the fastest reference's speed.
    OfReference(f64),
    /// More than the fastest reference's speed.
    Ahead,
}

/// One figure beside its references.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) part: &'static str,
    pub(crate) what: String,
    pub(crate) figure: Figure,
    pub(crate) references: Vec<(String, Figure)>,
    pub(crate) target: Option<Target>,
    /// A note that is needed to read the row; may be empty.
    pub(crate) note: String,
}

impl Row {
    /// Returns the speed against the fastest reference.
    pub(crate) fn speed(&self) -> Option<f64> {
        self.references.iter().map(|(_, reference)| self.figure.speed_against(reference)).reduce(f64::min)
    }

    /// Reports whether the target is met, if there is one.
    pub(crate) fn is_met(&self) -> Option<bool> {
        let speed = self.speed().unwrap_or(f64::NAN);
        Some(match self.target? {
            Target::AtMost(limit) => self.figure.value <= limit,
            Target::AtLeast(limit) => self.figure.value >= limit,
            Target::OfReference(share) => speed >= share,
            Target::Ahead => speed > 1.0,
        })
    }
}

/// How a cost grows with something.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) part: &'static str,
    pub(crate) title: String,
    /// What grows.
    pub(crate) over: &'static str,
    pub(crate) unit: Unit,
    pub(crate) lines: Vec<Line>,
}

/// One line of a series.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Ascending.
    pub(crate) points: Vec<(u64, Figure)>,
}

impl Series {
    /// Makes an empty series.
    pub(crate) fn new(part: &'static str, title: impl Into<String>, over: &'static str, unit: Unit) -> Self {
        Self { part, title: title.into(), over, unit, lines: Vec::new() }
    }

    /// Appends a point to the line of that name.
    pub(crate) fn push(&mut self, line: &str, at: u64, figure: Figure) {
        match self.lines.iter_mut().find(|known| known.name == line) {
            Some(known) => known.points.push((at, figure)),
            None => self.lines.push(Line { name: line.to_owned(), points: vec![(at, figure)] }),
        }
    }

    /// Returns the values at which any line has a point, ascending.
    pub(crate) fn places(&self) -> Vec<u64> {
        let mut places: Vec<u64> =
            self.lines.iter().flat_map(|line| &line.points).map(|(at, _)| *at).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// Everything that one run has measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// What the figures depend on: name and value.
    pub(crate) facts: Vec<(String, String)>,
    /// Whether this was a quick run, whose figures mean nothing.
    pub(crate) is_quick: bool,
    /// The parts in the order in which they ran.
    pub(crate) parts: Vec<&'static str>,
    pub(crate) rows: Vec<Row>,
    pub(crate) series: Vec<Series>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn figure(value: f64, unit: Unit) -> Figure {
        Figure { value, unit, spread: 0.02, n_samples: 5 }
    }

    pub(crate) fn row(value: f64, references: &[f64], unit: Unit, target: Target) -> Row {
        let references = references.iter().enumerate();
        Row {
            part: "part",
            what: "what".into(),
            figure: figure(value, unit),
            references: references
                .map(|(n, value)| (format!("reference {n}"), figure(*value, unit)))
                .collect(),
            target: Some(target),
            note: String::new(),
        }
    }

    #[test]
    fn speed_is_against_the_fastest_reference() {
        let time = row(2.0, &[1.0, 4.0], Unit::Seconds, Target::Ahead);
        assert_eq!(time.speed(), Some(0.5));
        let rate = row(2.0, &[1.0, 4.0], Unit::BytesPerSecond, Target::Ahead);
        assert_eq!(rate.speed(), Some(0.5));
        assert_eq!(row(2.0, &[], Unit::Seconds, Target::Ahead).speed(), None);
    }

    #[test]
    fn targets_are_met_or_not() {
        let cases = [
            (row(2.0, &[], Unit::Seconds, Target::AtMost(2.0)), true),
            (row(2.1, &[], Unit::Seconds, Target::AtMost(2.0)), false),
            (row(2.0, &[], Unit::TokensPerSecond, Target::AtLeast(2.0)), true),
            (row(1.9, &[], Unit::TokensPerSecond, Target::AtLeast(2.0)), false),
            (row(9.0, &[10.0], Unit::BytesPerSecond, Target::OfReference(0.9)), true),
            (row(9.0, &[10.0, 11.0], Unit::BytesPerSecond, Target::OfReference(0.9)), false),
            (row(1.0, &[1.1, 1.2], Unit::Seconds, Target::Ahead), true),
            (row(1.0, &[1.0, 1.2], Unit::Seconds, Target::Ahead), false),
            // Without a reference, no such target counts as met.
            (row(1.0, &[], Unit::Seconds, Target::Ahead), false),
            (row(1.0, &[], Unit::Seconds, Target::OfReference(0.1)), false),
        ];
        for (row, is_met) in cases {
            assert_eq!(row.is_met(), Some(is_met), "{row:?}");
        }
    }
}
