//! Explains errors for which the system has only "Cannot allocate memory": how much was refused, and why.

use std::io;

use rustix::process::{Resource, getrlimit};

use crate::config::show_size;

/// Explains an error that was caused by the system refusing memory; `None` for all others.
pub(super) fn explain(error: &wasmtime::Error) -> Option<String> {
    if !error.chain().any(is_refusal) {
        return None;
    }
    let refused_bytes = error.chain().find_map(|cause| asked_for(&cause.to_string()));
    Some(text(refused_bytes, getrlimit(Resource::As).current, in_use()))
}

/// Formats an error of the system's, with an explanation if memory was refused.
pub(super) fn shown(error: &io::Error) -> String {
    if is_refusal(error) { text(None, getrlimit(Resource::As).current, in_use()) } else { error.to_string() }
}

/// Reports whether an error was caused by the system refusing memory.
pub(super) fn is_refusal(cause: &(dyn std::error::Error + 'static)) -> bool {
    let of_system =
        cause.downcast_ref::<io::Error>().map(io::Error::kind) == Some(io::ErrorKind::OutOfMemory);
    of_system || cause.downcast_ref::<rustix::io::Errno>() == Some(&rustix::io::Errno::NOMEM)
}

/// Finds the number of bytes in wasmtime's message, such as `mmap failed to reserve 0x104000000 bytes`.
fn asked_for(words: &str) -> Option<u64> {
    let digits = words.strip_prefix("mmap failed to ")?.split("0x").nth(1)?.split(' ').next()?;
    u64::from_str_radix(digits, 16).ok()
}

/// Returns the address space that this process has taken, in bytes.
fn in_use() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').next()?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

fn text(refused_bytes: Option<u64>, limit: Option<u64>, in_use: Option<u64>) -> String {
    let refused_bytes = refused_bytes
        .map_or_else(|| "memory".to_owned(), |bytes| format!("{} of address space", about(bytes)));
    let used = in_use.map(|bytes| format!(" and has taken {}", about(bytes))).unwrap_or_default();
    match limit {
        Some(limit) => format!(
            "the system refused {refused_bytes}: this process may have {} (ulimit -v, RLIMIT_AS){used}; raise that limit, \
             since each memory of a component reserves 4 GiB",
            about(limit)
        ),
        None => format!(
            "the system refused {refused_bytes}, though this process has no limit (ulimit -v){used}: the machine or its \
             container has no more (vm.overcommit_memory, vm.max_map_count, memory.max); give it more, or lower \
             max_local_cpu_size"
        ),
    }
}

/// Formats a size in whole MiB, which is exact enough to compare it with another.
fn about(bytes: u64) -> String {
    show_size(bytes.checked_next_multiple_of(1 << 20).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use wasmtime::error::Context as _;

    use super::*;

    #[test]
    fn the_message_says_how_much_which_limit_and_what_to_do() {
        let text =
            text(asked_for("mmap failed to reserve 0x102000000 bytes"), Some(2 << 30), Some(300 << 20));
        assert_eq!(
            text,
            "the system refused 4128 MiB of address space: this process may have 2 GiB (ulimit -v, RLIMIT_AS) and has \
             taken 300 MiB; raise that limit, since each memory of a component reserves 4 GiB"
        );
    }

    #[test]
    fn without_a_limit_the_machine_is_named() {
        let text = text(None, None, None);
        assert!(text.starts_with("the system refused memory, though this process has no limit"), "{text}");
        assert!(text.contains("vm.overcommit_memory"), "{text}");
    }

    #[test]
    fn only_refusals_of_memory_are_explained() {
        let refused: Result<(), _> = Err(io::Error::from(io::ErrorKind::OutOfMemory));
        let refused = refused.context("mmap failed to allocate 0x300000 bytes").context("outer").unwrap_err();
        let text = explain(&refused).unwrap();
        assert!(text.contains("the system refused 3 MiB of address space"), "{text}");
        assert!(in_use().is_none_or(|bytes| bytes > 1 << 20));
        let other: Result<(), _> = Err(io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(explain(&other.context("mmap failed to allocate 0x3 bytes").unwrap_err()), None);
    }
}
