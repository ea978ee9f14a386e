//! How files and directories are called.
//!
//! `ab/ab….kv` is a chunk. In `tmp/` are those that are being written, and in `new/` an empty file for each chunk that
//! another process has stored or removed, until the owner of the capacity has looked after it.

use std::hash::{BuildHasher as _, RandomState};

use kvtier_guest::ChunkKey;

pub(super) const TEMPORARY: &str = "tmp";
pub(super) const NOTES: &str = "new";
const SUFFIX: &str = ".kv";

/// Returns a name for this instance, for its temporary files: no other has it, in this process or another.
pub(super) fn of_instance() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// Returns the path of a temporary file, the `n`th of an instance.
pub(super) fn temporary(key: ChunkKey, instance: u64, n: u64) -> String {
    format!("{TEMPORARY}/{key}-{instance:016x}-{n}")
}

/// Returns the path of a chunk's file.
pub(super) fn of_chunk(key: ChunkKey) -> String {
    format!("{}/{key}{SUFFIX}", directory_of(key))
}

/// Returns the first two digits of the key: 256 directories, so that none grows too large to be listed.
pub(super) fn directory_of(key: ChunkKey) -> String {
    format!("{:02x}", key.hi >> 56)
}

pub(super) fn is_directory_of_chunks(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the chunk of a file. `None` if it has another name, or is in the wrong place: then it is not ours, and
/// stays.
pub(super) fn key_in(directory: &str, name: &str) -> Option<ChunkKey> {
    let key = ChunkKey::from_hex(name.strip_suffix(SUFFIX)?)?;
    name.starts_with(directory).then_some(key)
}

/// Reports whether a file in `tmp/` is one of ours: a key, the name of an instance, which earlier versions left out,
/// and a number.
pub(super) fn is_temporary(name: &str) -> bool {
    let Some((key, rest)) = name.split_once('-') else { return false };
    let (instance, number) = rest.split_once('-').unwrap_or(("0", rest));
    ChunkKey::from_hex(key).is_some()
        && u64::from_str_radix(instance, 16).is_ok()
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use kvtier_guest::ChunkKey;

    use super::*;

    #[test]
    fn only_our_own_temporary_files_are_ours() {
        let key = ChunkKey { hi: 1, lo: 2 };
        let name = temporary(key, 7, 12);
        assert!(is_temporary(name.strip_prefix("tmp/").expect("a directory")));
        let key = key.to_hex();
        assert!(is_temporary(&format!("{key}-0")) && is_temporary(&format!("{key}-123")));
        for other in
            [&key[1..], &key, "notes.txt", &format!("{key}-"), &format!("{key}-1.bak"), &format!("{key}-x-1")]
        {
            assert!(!is_temporary(other), "{other}");
        }
    }

    #[test]
    fn two_instances_have_two_names() {
        assert_ne!(of_instance(), of_instance());
    }

    #[test]
    fn the_directory_is_the_beginning_of_the_name() {
        let key = ChunkKey { hi: 0x0a12_0000_0000_0000, lo: 7 };
        assert_eq!(of_chunk(key), format!("0a/{key}.kv"));
        assert_eq!(key_in("0a", &format!("{key}.kv")), Some(key));
        for (directory, name) in
            [("0b", format!("{key}.kv")), ("0a", key.to_hex()), ("0a", "notes.kv".into())]
        {
            assert_eq!(key_in(directory, &name), None, "{directory}/{name}");
        }
        assert!(
            is_directory_of_chunks("0a") && !is_directory_of_chunks("0A") && !is_directory_of_chunks("tmp")
        );
    }
}
