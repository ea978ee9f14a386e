//! What an author can do about a trap: known causes by the words that wasmtime, Rust or Python has for them.

use crate::config::show_size;

/// The errors of Python by which a guest says that it missed a file.
const FILE_ERRORS: [&str; 6] = [
    "FileExistsError",
    "FileNotFoundError",
    "IsADirectoryError",
    "NotADirectoryError",
    "OSError",
    "PermissionError",
];

const REMEDIES: [(&str, &str); 6] = [
    ("already borrowed", "calls overlap, so end each borrow before the next await"),
    ("already mutably borrowed", "calls overlap, so end each borrow before the next await"),
    (
        "called `Option::unwrap()` on a `None` value",
        "return an error in the place of `unwrap`; `Init::require` names a missing key",
    ),
    ("ModuleNotFoundError", "nothing can be imported after the build, so import it at the top of the module"),
    ("_async_start_", "a class in Python inherits the generated class of its name"),
    ("failed to spawn thread", "a component has one thread; let calls overlap by `await`"),
];

/// Returns what to do about a trap with this text, if the text has a known cause.
pub(in crate::wasm) fn remedy_for(text: &str) -> Option<&'static str> {
    REMEDIES.iter().find(|(words, _)| text.contains(words)).map(|(_, remedy)| *remedy)
}

/// Reports whether this is the end of a guest in Python that missed no file. Its interpreter asks for directories
/// nevertheless: it looks for modules, and for the source of the lines that it prints.
pub(in crate::wasm) fn is_traceback_without_files(text: &str) -> bool {
    let is_traceback = text.contains("File ") && text.contains(", line ") && text.contains("Error");
    is_traceback && !FILE_ERRORS.iter().any(|error| text.contains(error))
}

/// Returns the limit that caused a trap of wasmtime's. Not all of these traps have a type.
pub(super) fn limit_in(cause: &str) -> Option<&'static str> {
    const LIMITS: [(&str, &str); 5] = [
        ("resource table has no free keys", "handles_max"),
        ("store handle limit exceeded", "handles_max"),
        ("fuel allocated for hostcalls has been exhausted", "hostcall_bytes"),
        ("requested len ", "random_bytes"),
        ("HTTP objects allowed by http_requests_max", "http_requests_max"),
    ];
    LIMITS.iter().find(|(words, _)| cause.contains(words)).map(|(_, limit)| *limit)
}

/// Returns what to do about a component whose memory is larger than the limit from the beginning on, in the place of
/// wasmtime's message, which counts pages.
pub(super) fn first_memory(cause: &str) -> Option<String> {
    const PAGE_BYTES: u64 = 64 << 10;
    let pages =
        cause.strip_prefix("memory minimum size of ")?.strip_suffix(" pages exceeds memory limits")?;
    let needed = show_size(pages.parse::<u64>().ok()?.saturating_mul(PAGE_BYTES));
    Some(format!(
        "its memory has {needed} from the beginning on, more than limits.memory; raise limits.memory, or link with a smaller stack"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_memory_is_told_in_bytes() {
        let told = first_memory("memory minimum size of 17 pages exceeds memory limits").unwrap();
        assert!(told.starts_with("its memory has 1088 KiB from the beginning on"), "{told}");
        assert_eq!(first_memory("memory minimum size of many pages"), None);
    }

    #[test]
    fn a_known_cause_has_a_remedy_and_others_have_none() {
        let text = "panicked at src/lib.rs:32:92: / RefCell already borrowed";
        assert!(remedy_for(text).unwrap().contains("before the next await"));
        assert!(remedy_for("wasm trap: wasm `unreachable` instruction executed").is_none());
    }

    #[test]
    fn a_traceback_of_python_misses_files_only_if_it_says_so() {
        let traceback =
            |error: &str| format!("unreachable; its last output: File \"/b.py\", line 3, in put / {error}");
        for error in ["ModuleNotFoundError: No module named 'sqlite3'", "ValueError: 3", "MemoryError"] {
            assert!(is_traceback_without_files(&traceback(error)), "{error}");
        }
        assert!(!is_traceback_without_files(&traceback("FileNotFoundError: [Errno 2] '/data/x'")));
        assert!(!is_traceback_without_files("unreachable; its last output: I/O error: no such file"));
    }
}
