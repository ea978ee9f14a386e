//! Makes foreign text safe to show: one line, no control characters, bounded length.

use crate::limits::FOREIGN_TEXT_CHARS_MAX;

/// Escapes control characters and other characters that do not print. Quotes and backslashes stay.
pub(crate) fn one_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\'' | '"' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

/// Escapes as [`one_line`], and cuts the middle out of a text longer than `bytes_max`: the beginning of a message is
/// the problem, its end the remedy.
pub(crate) fn shown(text: &str, bytes_max: usize) -> String {
    const CUT: &str = " [...] ";
    let line = one_line(text);
    if line.len() <= bytes_max {
        return line;
    }
    let kept = bytes_max.saturating_sub(CUT.len());
    let (head, tail) = (line.floor_char_boundary(kept / 2), line.ceil_char_boundary(line.len() - kept / 2));
    format!("{}{CUT}{}", &line[..head], &line[tail..])
}

/// Joins as many of `texts` as fit into `bytes_max`, at least the first, and adds the number of the rest.
pub(crate) fn joined<T: AsRef<str>>(texts: &[T], separator: &str, bytes_max: usize) -> String {
    let mut line = String::new();
    for (index, text) in texts.iter().map(AsRef::as_ref).enumerate() {
        if index > 0 {
            if line.len() + separator.len() + text.len() > bytes_max {
                return format!("{line}{separator}and {} more", texts.len() - index);
            }
            line.push_str(separator);
        }
        line.push_str(text);
    }
    line
}

/// Escapes everything that could pass for another line or move the reader's cursor, and cuts the result if it is
/// longer. Quotes stay.
pub(crate) fn escaped(message: &str, bytes_max: usize) -> String {
    let mut text = String::with_capacity(message.len().min(bytes_max));
    for character in message.chars() {
        let whole = text.len();
        match character {
            '"' | '\'' => text.push(character),
            other => text.extend(other.escape_debug()),
        }
        if text.len() > bytes_max {
            text.truncate(whole);
            break;
        }
    }
    text
}

/// What [`harmless`] does with quotes. Texts that are then shown in quotes need `Escape`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quotes {
    Keep,
    Escape,
}

/// Makes a harmless line of at most `chars_max` characters: escapes control characters and everything else that does
/// not print. A text that is cut ends in "...".
pub(crate) fn harmless(text: &str, chars_max: usize, quotes: Quotes) -> String {
    let mut shown = String::new();
    let mut n_chars = 0;
    for character in text.chars() {
        let whole = shown.len();
        match character {
            '\'' | '"' | '\\' if quotes == Quotes::Keep => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
        n_chars += shown[whole..].chars().count();
        if n_chars > chars_max {
            shown.truncate(whole);
            shown.push_str("...");
            break;
        }
    }
    shown
}

/// Makes a harmless line of a text of several lines that may quote a component.
pub(crate) fn foreign_text(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    harmless(&lines.join(" / "), FOREIGN_TEXT_CHARS_MAX, Quotes::Keep)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOG_BYTES_MAX;

    #[test]
    fn a_text_becomes_one_printable_line() {
        assert_eq!(
            one_line("a\n\u{1b}[31m\u{202e} \"b\" 'c' \\d é"),
            "a\\n\\u{1b}[31m\\u{202e} \"b\" 'c' \\d é"
        );
    }

    #[test]
    fn a_long_text_loses_its_middle_and_no_half_character() {
        for bytes_max in 10..40 {
            let text = shown(&format!("begin {} end", "é".repeat(500)), bytes_max);
            assert!(text.len() <= bytes_max, "{text}");
            assert!(text.contains(" [...] "), "{text}");
        }
        assert_eq!(shown(&format!("begin{}end", "x".repeat(500)), 23), "beginxxx [...] xxxxxend");
        assert_eq!(shown("short", 5), "short");
        assert_eq!(shown(&"\u{1b}".repeat(1_000), 100).len(), 99, "measured after it was escaped");
    }

    #[test]
    fn a_long_list_is_cut_and_the_rest_counted() {
        assert_eq!(joined(&["a", "b", "c"], ", ", 7), "a, b, c");
        assert_eq!(joined(&["a", "b", "c"], ", ", 6), "a, b, and 1 more");
        assert_eq!(joined(&["long", "b"], ", ", 2), "long, and 1 more");
        assert_eq!(joined::<&str>(&[], ", ", 2), "");
    }

    #[test]
    fn messages_are_cut_after_they_were_escaped() {
        let escaped = |message: &str| escaped(message, LOG_BYTES_MAX);
        assert_eq!(escaped("a \"b\" 'c'\n\u{1b}[31m\u{202e}é"), "a \"b\" 'c'\\n\\u{1b}[31m\\u{202e}é");
        assert_eq!(escaped(&"x".repeat(LOG_BYTES_MAX)).len(), LOG_BYTES_MAX);
        assert_eq!(escaped(&"x".repeat(LOG_BYTES_MAX + 1)).len(), LOG_BYTES_MAX);
        let text = escaped(&"\u{1b}".repeat(LOG_BYTES_MAX));
        assert!(text.ends_with("\\u{1b}") && text.len() <= LOG_BYTES_MAX && text.len() > LOG_BYTES_MAX - 6);
    }

    #[test]
    fn foreign_text_is_one_printable_line_of_bounded_length() {
        let hostile = "first\n  \"second\"\r\n\n\u{1b}[31mred\u{7}\u{202e}lanif \0";
        assert_eq!(foreign_text(hostile), r#"first / "second" / \u{1b}[31mred\u{7}\u{202e}lanif \0"#);
        let long = foreign_text(&"\u{1b}".repeat(5_000));
        assert_eq!(long.len(), FOREIGN_TEXT_CHARS_MAX / 6 * 6 + 3);
        assert!(long.ends_with("}..."));
    }

    #[test]
    fn a_harmless_text_is_cut_after_it_was_escaped_and_shows_the_cut() {
        for quotes in [Quotes::Keep, Quotes::Escape] {
            assert_eq!(harmless("é\n", 3, quotes), "é\\n");
            assert_eq!(harmless("é\n", 2, quotes), "é...");
        }
        assert_eq!(harmless("\"\\", 2, Quotes::Keep), "\"\\");
        assert_eq!(harmless("\"\\", 4, Quotes::Escape), "\\\"\\\\");
    }
}
