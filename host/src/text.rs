//! Makes foreign text safe to show: one line, no control characters, bounded length.

/// Escapes control characters and everything else that does not print. Quotes and backslashes stay.
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

/// Escapes as [`one_line`], and cuts the middle out of a text that is longer than `bytes_max`: the beginning of a
/// message is what is wrong, its end what to do.
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

/// Joins as many of `texts` as fit into `bytes_max`, the first in any case, and adds the number of the rest.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
