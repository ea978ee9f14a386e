//! The hit ratio by tier over the trace.

use maud::{Markup, html};

use super::{WIDTH, drawing};
use crate::format::{count, percent};
use crate::replay::{Outcome, ratio};
use crate::series::Point;
use crate::svg::{colour, line, path, px, text};

const HEIGHT: f64 = 300.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = WIDTH - 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = HEIGHT - 30.0;

/// Stretches of the trace in the drawing.
const STRETCHES_MAX: usize = 96;

/// Draws one area for each tier, stacked, and the hit ratio from the start on.
pub(in crate::report) fn hit_ratio(outcome: &Outcome) -> Markup {
    let plot = Plot::new(outcome);
    let content = html! {
        (plot.axes())
        @for tier in 0..outcome.tier_names.len() { (plot.area(tier)) }
        (plot.mean())
        (plot.tips(&outcome.tier_names))
    };
    drawing(HEIGHT, "Hit ratio by tier over the trace", &content)
}

fn y(share: f64) -> f64 {
    BOTTOM - share * (BOTTOM - TOP)
}

struct Plot {
    points: Vec<Point>,
    /// Number of requests before each point.
    starts: Vec<f64>,
    requests: u64,
}

impl Plot {
    fn new(outcome: &Outcome) -> Self {
        let points = outcome.series.coarse(STRETCHES_MAX);
        let mut requests = 0;
        let mut starts = Vec::with_capacity(points.len());
        for point in &points {
            starts.push(requests as f64);
            requests += point.requests;
        }
        Self { points, starts, requests }
    }

    fn x(&self, request: f64) -> f64 {
        LEFT + request / self.requests.max(1) as f64 * (RIGHT - LEFT)
    }

    /// Returns the points with the number of requests before and after them.
    fn stretches(&self) -> impl DoubleEndedIterator<Item = (&Point, f64, f64)> {
        let stretches = self.points.iter().zip(&self.starts);
        stretches.map(|(point, start)| (point, *start, start + point.requests as f64))
    }

    fn axes(&self) -> Markup {
        html! {
            @for (step, anchor) in ["start", "middle", "middle", "middle", "end"].iter().enumerate() {
                @let share = step as f64 / 4.0;
                @let request = self.requests * step as u64 / 4;
                @let unit = if step == 4 { " requests" } else { "" };
                (line("grid", (LEFT, y(share)), (RIGHT, y(share))))
                (text(LEFT - 8.0, y(share) + 4.0, "end", "", &format!("{:.0} %", share * 100.0)))
                (text(self.x(request as f64), HEIGHT - 8.0, anchor, "", &format!("{}{unit}", count(request))))
            }
        }
    }

    /// Draws the area of a tier above the tiers before it. Each stretch is a step: its ratio holds for all its
    /// requests.
    fn area(&self, tier: usize) -> Markup {
        let edge = |n_tiers: usize| {
            self.stretches().flat_map(move |(point, start, end)| {
                let y = y(ratio(point.hits[..n_tiers].iter().sum(), point.chunks));
                [(self.x(start), y), (self.x(end), y)]
            })
        };
        let outline = path(edge(tier + 1).chain(edge(tier).rev()));
        html! { path class=(format!("area {}", colour(tier))) d=(format!("{outline}Z")) {} }
    }

    /// Draws the hit ratio of all tiers from the start of the trace.
    fn mean(&self) -> Markup {
        let mut sums = (0, 0);
        let points = self.stretches().map(|(point, _, end)| {
            sums = (sums.0 + point.hits.iter().sum::<u64>(), sums.1 + point.chunks);
            (self.x(end), y(ratio(sums.0, sums.1)))
        });
        html! { path class="mean" d=(path(points)) {} }
    }

    /// Adds the text that is shown while the reader points at a stretch.
    fn tips(&self, tier_names: &[String]) -> Markup {
        html! {
            @for (point, start, end) in self.stretches() {
                rect class="tip" x=(px(self.x(start))) y=(px(TOP))
                    width=(px(self.x(end) - self.x(start))) height=(px(BOTTOM - TOP)) {
                    title {
                        "requests " (count(start as u64 + 1)) " to " (count(end as u64))
                        @for (name, hits) in tier_names.iter().zip(&point.hits) {
                            "\n" (name) ": " (percent(ratio(*hits, point.chunks)))
                        }
                    }
                }
            }
        }
    }
}
