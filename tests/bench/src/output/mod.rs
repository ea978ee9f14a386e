//! The forms of a report: tables, JSON, a drawing.

pub(crate) mod json;
pub(crate) mod svg;
pub(crate) mod table;
mod words;

use kvtier_cli::machine;

/// The conditions of the figures: the machine and the build.
pub(crate) fn machine() -> Vec<(String, String)> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cache = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").unwrap_or_default();
    let n_cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = machine::memory_bytes().unwrap_or(0) >> 30;
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    [
        ("processor", model.map_or("unknown", |(_, model)| model.trim()).to_owned()),
        ("cores", n_cores.to_string()),
        ("last-level cache", cache.trim().to_owned()),
        ("memory", format!("{memory} GiB")),
        ("kvtier", format!("{}, {profile} profile", env!("CARGO_PKG_VERSION"))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
