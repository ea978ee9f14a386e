//! Elements of SVG drawings. Text is escaped and tags are balanced by construction.

use maud::{Markup, html};

/// Colours of the style sheets, before they repeat.
const COLOURS: usize = 8;

/// Returns the class that colours the item at `index`.
pub fn colour(index: usize) -> String {
    format!("c{}", index % COLOURS)
}

/// Returns a length or a position with one decimal, a tenth of a pixel.
pub fn px(value: f64) -> String {
    format!("{value:.1}")
}

/// Draws text at a position. `anchor` is `start`, `middle` or `end`.
pub fn text(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> Markup {
    html! { text class=(class) x=(px(x)) y=(px(y)) text-anchor=(anchor) { (text) } }
}

/// Draws a line between two points.
pub fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> Markup {
    html! { line class=(class) x1=(px(from.0)) y1=(px(from.1)) x2=(px(to.0)) y2=(px(to.1)) {} }
}

/// Returns the path through `points`, for the attribute `d`.
pub fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let step = |(index, (x, y))| format!("{}{x:.1},{y:.1}", if index == 0 { 'M' } else { 'L' });
    points.enumerate().map(step).collect()
}

/// Shortens `text` to `n_max` characters, so that it fits its place in a drawing.
pub fn shorten(text: &str, n_max: usize) -> String {
    if text.chars().count() <= n_max {
        return text.to_owned();
    }
    let head: String = text.chars().take(n_max.saturating_sub(1)).collect();
    head + "…"
}

/// Renders a document. Control characters, on which a terminal or a page might act, become the replacement character.
pub fn document(markup: Markup) -> String {
    let is_harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    markup.into_string().replace(is_harmful, "\u{fffd}") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_text_stays_text() {
        let drawn = document(text(0.0, 1.04, "end", "ink", "<a href='x'>\"&\u{1b}\n"));
        let expected = "<text class=\"ink\" x=\"0.0\" y=\"1.0\" text-anchor=\"end\">\
                        &lt;a href='x'&gt;&quot;&amp;\u{fffd}\n</text>\n";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn long_names_are_shortened() {
        assert_eq!(shorten("grüße", 5), "grüße");
        assert_eq!(shorten("grüße!", 5), "grüß…");
    }

    #[test]
    fn a_path_moves_once() {
        assert_eq!(path([(0.0, 1.04), (2.0, 3.06)].into_iter()), "M0.0,1.0L2.0,3.1");
    }
}
