//! The bytes that each tier delivered and took.

use maud::{Markup, html};

use super::{WIDTH, drawing};
use crate::format::bytes;
use crate::replay::{Outcome, ratio};
use crate::svg::{colour, px, shorten, text};

const ROW: f64 = 52.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = WIDTH - 110.0;

/// Draws two bars for each tier. Returns nothing if no byte was moved.
pub(in crate::report) fn bytes_moved(outcome: &Outcome) -> Markup {
    let most = outcome.tiers.iter().map(|tier| tier.bytes_read.max(tier.bytes_written)).max().unwrap_or(0);
    if most == 0 {
        return Markup::default();
    }
    let content = html! {
        @for (index, (name, tier)) in outcome.tier_names.iter().zip(&outcome.tiers).enumerate() {
            @let top = ROW * index as f64 + 14.0;
            (text(0.0, top + 22.0, "start", "ink", &shorten(name, 18)))
            (bar(top, "read", tier.bytes_read, most, &format!("bar {}", colour(index))))
            (bar(top + 20.0, "written", tier.bytes_written, most, &format!("bar light {}", colour(index))))
        }
    };
    drawing(ROW * outcome.tiers.len() as f64 + 10.0, "Bytes moved by tier", &content)
}

fn bar(y: f64, label: &str, n_bytes: u64, most: u64, class: &str) -> Markup {
    let width = ratio(n_bytes, most) * (RIGHT - LEFT);
    html! {
        (text(LEFT - 12.0, y + 12.0, "end", "", label))
        rect class=(class) x=(px(LEFT)) y=(px(y)) width=(px(width)) height="15" rx="3" {}
        (text(LEFT + width + 8.0, y + 12.0, "start", "ink", &bytes(n_bytes)))
    }
}
