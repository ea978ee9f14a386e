//! The machine's memory.

use anyhow::{Context, Result, ensure};

use crate::format::bytes;

/// Returns the machine's memory in bytes, or `None` where `/proc/meminfo` does not exist.
pub fn memory_bytes() -> Option<u64> {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns the bytes of a pool of `chunks` chunks.
///
/// # Errors
/// If the number overflows.
pub fn pool_bytes(chunks: u64, chunk_bytes: u64) -> Result<u64> {
    chunks.checked_mul(chunk_bytes).with_context(|| {
        format!("a CPU tier of {chunks} chunks of {chunk_bytes} bytes is beyond any machine; lower --capacity-chunks")
    })
}

/// Refuses a pool that is larger than the machine's memory: a replay fills it and would measure swapping.
///
/// # Errors
/// Names both sizes.
pub fn ensure_fits(pool_bytes: u64, memory_bytes: u64) -> Result<()> {
    ensure!(
        pool_bytes <= memory_bytes,
        "the CPU tier's pool of {} is larger than the machine's memory of {}; \
         lower max_local_cpu_size or --capacity-chunks, or use smaller chunks with --chunk-bytes",
        bytes(pool_bytes),
        bytes(memory_bytes)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_meminfo() {
        let text = "MemTotal:       24576000 kB\nMemFree:        1 kB\n";
        assert_eq!(parse_meminfo(text), Some(24_576_000 * 1024));
        assert_eq!(parse_meminfo("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn a_pool_larger_than_memory_is_refused_with_both_figures() {
        assert!(ensure_fits(1 << 30, 1 << 30).is_ok());
        let error = ensure_fits(40 << 30, 24 << 30).unwrap_err().to_string();
        assert!(error.contains("40.0 GiB") && error.contains("24.0 GiB"), "{error}");
        assert!(pool_bytes(u64::MAX, 2).is_err());
        assert_eq!(pool_bytes(10, 4096).unwrap(), 40_960);
    }
}
