//! Pieces of HTML and SVG.

/// Colours of the style sheet, before they repeat.
const COLOURS: usize = 8;

/// Answers the class that colours the tier at `index`.
pub(super) fn colour(index: usize) -> String {
    format!("c{}", index % COLOURS)
}

/// Escapes text for element content and quoted attributes. Control characters, which a terminal or a page might
/// act on, become the replacement character.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            plain => escaped.push(plain),
        }
    }
    escaped
}

/// Answers `text`, cut to `n_max` characters so that it fits its place in a drawing. Not escaped.
pub fn shorten(text: &str, n_max: usize) -> String {
    if text.chars().count() <= n_max {
        return text.to_owned();
    }
    let head: String = text.chars().take(n_max.saturating_sub(1)).collect();
    head + "…"
}

/// Answers the path through `points`, in SVG's form. One decimal is a tenth of a pixel.
pub fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (index, (x, y)) in points.enumerate() {
        path += &format!("{}{x:.1},{y:.1}", if index == 0 { 'M' } else { 'L' });
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_text_stays_text() {
        assert_eq!(escape("<a href='x'>\"&\u{1b}\n"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;\u{fffd}\n");
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(shorten("grüße", 5), "grüße");
        assert_eq!(shorten("grüße!", 5), "grüß…");
    }

    #[test]
    fn a_path_moves_once() {
        assert_eq!(path([(0.0, 1.04), (2.0, 3.06)].into_iter()), "M0.0,1.0L2.0,3.1");
    }
}
