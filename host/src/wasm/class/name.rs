//! Class names and resource names.

/// Returns the kebab form of a class name: a word begins at an upper-case letter that follows a
/// lower-case letter or a digit, or that precedes a lower-case letter. `MyHTTPBackend` is
/// `my-http-backend`. A name in kebab form stays as it is.
pub fn kebab(class_name: &str) -> String {
    let letters: Vec<char> = class_name.chars().collect();
    let mut kebab = String::with_capacity(letters.len() + 4);
    for (index, letter) in letters.iter().enumerate() {
        let follows = |is: fn(char) -> bool| index > 0 && is(letters[index - 1]);
        let precedes_lower = letters.get(index + 1).is_some_and(char::is_ascii_lowercase);
        let begins = letter.is_ascii_uppercase()
            && (follows(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
                || (follows(|c| c.is_ascii_uppercase()) && precedes_lower));
        if begins {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

/// Returns the class name of a resource: `my-backend` is `MyBackend`.
pub(super) fn pascal(kebab: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
    };
    kebab.split('-').map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names_become_the_resource_names_of_the_shared_vectors() {
        let vectors = include_str!("../../../wit/class-names.txt");
        let mut n_vectors = 0;
        for line in vectors.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (Some(class), Some(expected)) = (words.next(), words.next()) else { panic!("{line}") };
            if expected == "-" {
                // The SDK's macro exports no such class, so the host is free to interpret the name. It accepts all
                // characters, and converting a result again does not change it.
                let read = kebab(class);
                assert_eq!(kebab(&read), read, "{class}");
                continue;
            }
            assert_eq!(kebab(class), expected);
            assert_eq!(kebab(expected), expected, "the kebab form is accepted too");
            n_vectors += 1;
        }
        assert!(n_vectors > 10);
    }
}
