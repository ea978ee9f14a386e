//! The drawings. Each is an SVG of a fixed size that the page scales.

mod bytes_moved;
mod hit_ratio;
mod latencies;

use maud::{Markup, html};

pub(super) use bytes_moved::bytes_moved;
pub(super) use hit_ratio::hit_ratio;
pub(super) use latencies::latencies;

const WIDTH: f64 = 1000.0;

/// Frames a drawing. `title` is its text for screen readers.
fn drawing(height: f64, title: &str, content: &Markup) -> Markup {
    html! {
        div class="scroll" {
            svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) { (content) }
        }
    }
}
