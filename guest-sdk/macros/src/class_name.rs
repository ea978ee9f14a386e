//! The name of a class in the component model.
//!
//! Host and guests must agree on it: both are tested against `wit/class-names.txt`.

/// Names that the contract already gives to something else in a class's interface.
pub(crate) const RESERVED: [&str; 5] = ["Init", "ChunkKey", "Error", "Sources", "Sinks"];

/// Turns `ExternalLogBackend` into `external-log-backend`.
///
/// A word begins at a capital letter that follows a lower-case letter or a digit, and at a capital letter that is
/// followed by a lower-case letter. Returns `None` for names that do not begin with a capital ASCII letter or hold
/// anything but ASCII letters and digits.
pub(crate) fn kebab(rust_name: &str) -> Option<String> {
    let bytes = rust_name.as_bytes();
    if !bytes.first()?.is_ascii_uppercase() || !bytes.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    let mut out = String::with_capacity(rust_name.len() + 4);
    for (i, byte) in bytes.iter().enumerate() {
        let begins_word = i > 0
            && byte.is_ascii_uppercase()
            && (!bytes[i - 1].is_ascii_uppercase() || bytes.get(i + 1).is_some_and(u8::is_ascii_lowercase));
        if begins_word {
            out.push('-');
        }
        out.push(char::from(byte.to_ascii_lowercase()));
    }
    Some(out)
}

/// Turns `my-http-backend` into `MyHttpBackend`, the name that the bindings generator uses.
pub(crate) fn camel(kebab: &str) -> String {
    kebab
        .split('-')
        .flat_map(|word| {
            let (first, rest) = word.split_at(1);
            [first.to_ascii_uppercase(), rest.to_owned()]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{camel, kebab};

    const VECTORS: &str = include_str!("../wit/class-names.txt");

    #[test]
    fn class_names_agree_with_the_shared_vectors() {
        let mut n_vectors = 0;
        for line in VECTORS.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (rust, expected) = line.split_once(' ').expect(line);
            let expected = (expected != "-").then(|| expected.to_owned());
            assert_eq!(kebab(rust), expected, "{rust}");
            n_vectors += 1;
        }
        assert!(n_vectors > 40, "only {n_vectors} vectors were read");
    }

    #[test]
    fn the_empty_name_is_refused() {
        assert_eq!(kebab(""), None);
    }

    #[test]
    fn camel_case_is_that_of_the_bindings_generator() {
        assert_eq!(camel("external-log-backend"), "ExternalLogBackend");
        assert_eq!(camel("my-http-backend"), "MyHttpBackend");
        assert_eq!(camel("redis-kv-store2"), "RedisKvStore2");
        assert_eq!(camel("a"), "A");
    }
}
