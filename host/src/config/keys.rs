//! The known keys, except those in the tables of settings.

use super::engine::{CompileLimits, Config};
use super::setting::Settings as _;
use crate::memory::PoolOptions;

/// The environment variable that names the configuration file.
pub const CONFIG_FILE_VARIABLE: &str = "LMCACHE_CONFIG_FILE";

/// The environment variable that disables storing.
pub const SKIP_SAVE_VARIABLE: &str = "LMCACHE_FORCE_SKIP_SAVE";

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
/// Prefix of all keys of that section.
pub(super) const KVTIER_PREFIX: &str = "kvtier.";
/// The group of its settings of the buffer pool.
pub(super) const POOL_GROUP: &str = "kvtier.pool";
/// All sections of `extra_config` that kvtier reads.
pub(super) const SECTIONS: [&str; 3] = [BACKEND_SECTIONS[0], BACKEND_SECTIONS[1], KVTIER_SECTION];

/// Groups of a backend whose keys its author chooses.
pub(super) const BACKEND_FREE_GROUPS: [&str; 2] = ["config", "secrets"];
/// Groups of a backend that are mappings.
pub(super) const BACKEND_GROUPS: [&str; 6] = ["config", "secrets", "allow", "tls", "limits", "breaker"];

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

/// Reports whether a backend may not have this name because a built-in tier has it.
pub(super) fn is_reserved_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // LMCache names its remote tiers `RemoteBackend-<name>`.
    RESERVED_NAMES.contains(&name.as_str()) || name.starts_with("remotebackend-")
}

/// Finds a key of the top level that kvtier uses, except `extra_config`.
pub(super) fn find_top_level(key: &str) -> Option<&'static str> {
    top_level_settings().chain(BACKEND_LISTS).find(|known| *known == key)
}

/// Returns the section of `extra_config` that a dotted key belongs to.
pub(super) fn section_of(key: &str) -> Option<&'static str> {
    let first = key.split('.').next().unwrap_or_default();
    SECTIONS.into_iter().find(|section| *section == first)
}

/// Returns the settings of the engine at the top level.
pub(super) fn top_level_settings() -> impl Iterator<Item = &'static str> {
    Config::keys().filter(|key| !key.starts_with(KVTIER_PREFIX))
}

/// Returns all keys of the top level that kvtier uses, which a mistyped key may mean.
pub(super) fn top_level() -> impl Iterator<Item = &'static str> {
    top_level_settings().chain(BACKEND_LISTS).chain([EXTRA_CONFIG])
}

/// Returns all keys of `kvtier.*`.
pub(super) fn kvtier() -> impl Iterator<Item = &'static str> {
    let own = Config::keys().filter(|key| key.starts_with(KVTIER_PREFIX));
    own.chain(CompileLimits::keys()).chain(PoolOptions::keys())
}
