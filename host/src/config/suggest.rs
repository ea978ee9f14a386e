//! Suggestions for mistyped keys.

/// Words of this many characters and more may differ by two typos.
const LONG_WORD_CHARS: usize = 8;

/// Longer words get no suggestion.
const WORD_BYTES_MAX: usize = 128;

/// Returns the candidate that `word` is a typo of: at most one edit or swapped neighbours away (two in
/// long words), without regard to case and with `-` read as `_`.
pub(super) fn typo_of<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = fold(word);
    let distance_max = if word.chars().count() >= LONG_WORD_CHARS { 2 } else { 1 };
    nearest(&word, candidates, distance_max)
}

/// Returns the candidate that `word` most likely meant, for advice where the key is refused anyway.
pub(super) fn similar_to<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = fold(word);
    let distance_max = (word.chars().count() / 3).max(1);
    nearest(&word, candidates, distance_max)
}

fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    distance_max: usize,
) -> Option<&'a str> {
    // Time and memory of a distance grow with the product of the lengths.
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= WORD_BYTES_MAX)
        .map(|candidate| (strsim::damerau_levenshtein(word, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn fold(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 3] = ["chunk_size", "lanes", "local_cpu"];

    #[test]
    fn short_words_allow_one_typo_and_long_words_two() {
        assert_eq!(typo_of("lane", KEYS), Some("lanes"));
        assert_eq!(typo_of("alnes", KEYS), Some("lanes"));
        assert_eq!(typo_of("lan", KEYS), None);
        assert_eq!(typo_of("chunksizes", KEYS), Some("chunk_size"));
        assert_eq!(typo_of("chnksizes", KEYS), None);
        assert_eq!(typo_of("Local-CPU", KEYS), Some("local_cpu"));
    }

    #[test]
    fn advice_is_more_generous_and_picks_the_nearest() {
        assert_eq!(similar_to("chnksizes", KEYS), Some("chunk_size"));
        assert_eq!(similar_to("colour", KEYS), None);
        assert_eq!(similar_to("ab", ["ax", "ab"]), Some("ab"));
    }
}
