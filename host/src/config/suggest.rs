//! Suggestions for mistyped keys.

/// Words of at least this many characters may differ by two typos.
const LONG_WORD_CHARS: usize = 8;

/// Longer words get no suggestion.
const WORD_BYTES_MAX: usize = 128;

/// Returns the candidate that `word` is a typo of: at most one edit or swapped neighbours away (two in long words),
/// ignoring case and with `-` read as `_`.
pub(super) fn typo_of<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = fold(word);
    let distance_max = if word.chars().count() >= LONG_WORD_CHARS { 2 } else { 1 };
    nearest(&word, candidates, distance_max)
}

/// Returns the candidate most similar to `word`, for advice where the key is refused.
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
    let letters = Letters::of(word);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= WORD_BYTES_MAX)
        .filter(|candidate| letters.n.abs_diff(candidate.chars().count()) <= distance_max)
        .map(|candidate| (fold(candidate), candidate))
        .filter(|(folded, _)| letters.edits_min(&Letters::of(folded)) <= distance_max)
        .map(|(folded, candidate)| (strsim::damerau_levenshtein(word, &folded), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The length of a word, and how often each character occurs in it, by its last five bits. Words that differ by few
/// edits have nearly the same counts. Counting costs a fraction of computing a distance, which a file of unknown keys
/// would need a million times.
struct Letters {
    n: usize,
    counts: [u8; 32],
}

impl Letters {
    fn of(word: &str) -> Self {
        let (mut n, mut counts) = (0, [0_u8; 32]);
        for character in word.chars() {
            n += 1;
            let count = &mut counts[character as usize % 32];
            *count = count.saturating_add(1);
        }
        Self { n, counts }
    }

    /// Returns a lower bound of the number of edits between the words.
    fn edits_min(&self, other: &Self) -> usize {
        let (mut more, mut fewer) = (0_usize, 0_usize);
        for (a, b) in self.counts.iter().zip(&other.counts) {
            more += usize::from(a.saturating_sub(*b));
            fewer += usize::from(b.saturating_sub(*a));
        }
        more.max(fewer)
    }
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
    fn the_quick_bound_never_exceeds_the_distance() {
        let words =
            ["", "chunk_size", "chnuk_size", "size_chunk", "kvtier", "köstlich", "aaaa", "aab", "日本語"];
        for (a, b) in words.into_iter().flat_map(|a| words.map(|b| (a, b))) {
            let bound = Letters::of(a).edits_min(&Letters::of(b));
            assert!(bound <= strsim::damerau_levenshtein(a, b), "{a} {b}");
        }
        assert_eq!(Letters::of("chunk_size").edits_min(&Letters::of("unknown_key")), 6);
    }

    #[test]
    fn advice_is_more_generous_and_picks_the_nearest() {
        assert_eq!(similar_to("chnksizes", KEYS), Some("chunk_size"));
        assert_eq!(similar_to("colour", KEYS), None);
        assert_eq!(similar_to("ab", ["ax", "ab"]), Some("ab"));
    }
}
