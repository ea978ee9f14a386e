//! Which keys exist.

/// Prefix of the variables that override top-level keys.
pub(super) const VARIABLE_PREFIX: &str = "LMCACHE_";
/// Key of the mapping that holds kvtier's and the backends' sections.
pub(super) const EXTRA_CONFIG: &str = "extra_config";
/// The two spellings of the list of backends, `LMCache`'s older one first.
pub(super) const BACKEND_LISTS: [&str; 2] = ["external_backends", "storage_plugins"];
/// The two spellings of the section of a backend, in the order of [`BACKEND_LISTS`].
pub(super) const BACKEND_SECTIONS: [&str; 2] = ["external_backend", "storage_plugin"];
/// The section of kvtier's own settings.
pub(super) const KVTIER_SECTION: &str = "kvtier";
/// All sections of `extra_config` that kvtier reads.
pub(super) const SECTIONS: [&str; 3] = [BACKEND_SECTIONS[0], BACKEND_SECTIONS[1], KVTIER_SECTION];

/// Top-level keys that kvtier uses, except `extra_config`.
pub(super) const TOP_LEVEL_USED: [&str; 10] = [
    "chunk_size",
    "local_cpu",
    "max_local_cpu_size",
    "cache_policy",
    "save_unfull_chunk",
    "lookup_timeout_ms",
    "blocking_timeout_secs",
    "pin_timeout_sec",
    BACKEND_LISTS[0],
    BACKEND_LISTS[1],
];

/// Keys of `kvtier.*`.
pub(super) const KVTIER: [&str; 14] = [
    "on_load_error",
    "on_full",
    "integrity_key",
    "compile_cache",
    "lane_threads",
    "close_timeout_ms",
    "compile",
    "compiler",
    "compile_memory",
    "compile_cpu_secs",
    "compile_timeout_ms",
    "pool.huge_pages",
    "pool.mlock",
    "pool.prefault",
];

/// Keys of one backend, apart from those below [`BACKEND_FREE_GROUPS`].
pub(super) const BACKEND: [&str; 36] = [
    "module_path",
    "class_name",
    "digest",
    "lanes",
    "allow.fs",
    "allow.net",
    "allow.env",
    "tls.ca_file",
    "limits.memory",
    "limits.call_timeout_ms",
    "limits.min_bytes_per_s",
    "limits.open_timeout_ms",
    "limits.close_timeout_ms",
    "limits.lane_stall_ms",
    "limits.abandoned_calls_max",
    "limits.calls_in_flight_max",
    "limits.batch_chunks_max",
    "limits.table_elements",
    "limits.handles_max",
    "limits.hostcall_bytes",
    "limits.random_bytes",
    "limits.log_lines_per_s",
    "limits.log_bytes_per_s",
    "limits.bytes_in_flight",
    "limits.open_files_max",
    "limits.file_operations_max",
    "limits.file_names_bytes",
    "limits.connect_timeout_ms",
    "limits.tls_timeout_ms",
    "limits.request_timeout_ms",
    "limits.http_requests_max",
    "limits.component_bytes",
    "breaker.failures",
    "breaker.window",
    "breaker.pause_ms",
    "breaker.pause_max_ms",
];

/// Groups of a backend whose keys the backend's author chooses.
pub(super) const BACKEND_FREE_GROUPS: [&str; 2] = ["config", "secrets"];
/// Groups of a backend that are mappings.
pub(super) const BACKEND_GROUPS: [&str; 6] = ["config", "secrets", "allow", "tls", "limits", "breaker"];

/// Keys of `kvtier.*` that name a place or a secret. An empty value of these is refused, since whatever left it empty
/// meant one; other settings are then as if they were not given.
const KVTIER_NEVER_BLANK: [&str; 3] = ["integrity_key", "compile_cache", "compiler"];

/// Reports whether an empty value of this key of `kvtier.*` counts as not given.
pub(super) fn may_be_blank(kvtier_key: &str) -> bool {
    KVTIER.contains(&kvtier_key) && !KVTIER_NEVER_BLANK.contains(&kvtier_key)
}

/// Reports whether an empty value of this key of a backend counts as not given. Grants, certificates and digests that a
/// template left empty are refused.
pub(super) fn backend_may_be_blank(key: &str) -> bool {
    // LMCache takes an empty `module_path` or `class_name` as missing; so does the check after the last key.
    let is_number = key.starts_with("limits.") || key.starts_with("breaker.") || key == "lanes";
    BACKEND.contains(&key) && (is_number || matches!(key, "module_path" | "class_name"))
}

/// Lower-case names of built-in tiers, here and in `LMCache`.
const RESERVED_NAMES: [&str; 16] = [
    "cpu",
    "local_cpu",
    "localcpubackend",
    "local_disk",
    "localdiskbackend",
    "remote",
    "remotebackend",
    "pdbackend",
    "p2pbackend",
    "nixlbackend",
    "nixlstoragebackend",
    "nixldynamicstoragebackend",
    "nixlstaticstoragebackend",
    "gdsbackend",
    "wekagdsbackend",
    "marubackend",
];

/// Tells whether a backend may not have this name because a built-in tier has it.
pub(super) fn is_reserved_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // LMCache names its remote tiers `RemoteBackend-<name>`.
    RESERVED_NAMES.contains(&name.as_str()) || name.starts_with("remotebackend-")
}

/// Finds `key` in a table of keys.
pub(super) fn find(table: &[&'static str], key: &str) -> Option<&'static str> {
    table.iter().copied().find(|known| *known == key)
}

/// Returns the section of `extra_config` that a dotted key belongs to.
pub(super) fn section_of(key: &str) -> Option<&'static str> {
    find(&SECTIONS, key.split('.').next().unwrap_or_default())
}

/// Top-level keys that kvtier uses, which a mistyped key may mean.
pub(super) fn top_level() -> impl Iterator<Item = &'static str> {
    TOP_LEVEL_USED.into_iter().chain([EXTRA_CONFIG])
}
