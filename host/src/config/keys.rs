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
pub(super) const BACKEND: [&str; 34] = [
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

/// Variables with `LMCache`'s prefix that are not overrides of a key.
pub(super) fn is_other_variable(variable: &str) -> bool {
    const OTHERS: [&str; 8] = [
        super::CONFIG_FILE_VARIABLE,
        "LMCACHE_FORCE_SKIP_SAVE",
        "LMCACHE_LOG_LEVEL",
        "LMCACHE_TRACK_USAGE",
        "LMCACHE_USAGE_TRACKER_URL",
        "LMCACHE_USE_EXPERIMENTAL",
        "LMCACHE_DEBUG",
        "LMCACHE_HOME",
    ];
    OTHERS.contains(&variable) || variable.starts_with("LMCACHE_EC_")
}

/// Finds `key` in a table of keys.
pub(super) fn find(table: &[&'static str], key: &str) -> Option<&'static str> {
    table.iter().copied().find(|known| *known == key)
}

/// Returns the section of `extra_config` that a dotted key belongs to.
pub(super) fn section_of(key: &str) -> Option<&'static str> {
    find(&SECTIONS, key.split('.').next().unwrap_or_default())
}

/// All known top-level keys.
pub(super) fn top_level() -> impl Iterator<Item = &'static str> {
    // The used ones first: of two equally near suggestions the first wins.
    TOP_LEVEL_USED.into_iter().chain([EXTRA_CONFIG]).chain(TOP_LEVEL_UNUSED)
}

/// Top-level keys of `LMCache` without a meaning for kvtier. Files that have them load as they are.
pub(super) const TOP_LEVEL_UNUSED: [&str; 113] = [
    "app_id",
    "audit_actual_remote_url",
    "blend_check_layers",
    "blend_min_tokens",
    "blend_recompute_ratios",
    "blend_special_str",
    "blend_thresholds",
    "chunk_statistics_auto_exit_target_unique_chunks",
    "chunk_statistics_auto_exit_timeout_hours",
    "chunk_statistics_auto_start_statistics",
    "chunk_statistics_strategy",
    "controller_pull_url",
    "controller_reply_url",
    "controller_url",
    "cost_aware_ewma_alpha",
    "cost_aware_half_life_seconds",
    "enable_async_loading",
    "enable_blending",
    "enable_chunk_statistics",
    "enable_controller",
    "enable_hidden_state_cache",
    "enable_kv_events",
    "enable_lazy_memory_allocator",
    "enable_p2p",
    "enable_pd",
    "enable_scheduler_bypass_lookup",
    "enable_xpyd",
    "external_lookup_client",
    "gds_backend",
    "gds_buffer_size",
    "gds_path",
    "gds_path_sharding",
    "hidden_state_layers",
    "hidden_states_retrieve_mode",
    "hit_miss_ratio",
    "internal_api_server_enabled",
    "internal_api_server_host",
    "internal_api_server_include_index_list",
    "internal_api_server_port_start",
    "internal_api_server_socket_path_prefix",
    "lazy_memory_expand_trigger_ratio",
    "lazy_memory_initial_ratio",
    "lazy_memory_safe_size",
    "lazy_memory_step_ratio",
    "lmcache_instance_id",
    "lmcache_worker_heartbeat_delay_time",
    "lmcache_worker_heartbeat_time",
    "lmcache_worker_ids",
    "lmcache_worker_port",
    "lmcache_worker_ports",
    "local_cpu_use_hugepages",
    "local_disk",
    "local_disk_path_sharding",
    "lookup_server_worker_ids",
    "maru_path",
    "maru_pool_size",
    "max_hidden_state_cpu_size",
    "max_local_disk_size",
    "min_retrieve_tokens",
    "mp_host",
    "mp_port",
    "nixl_backends",
    "nixl_buffer_device",
    "nixl_buffer_size",
    "nixl_peer_alloc_port",
    "nixl_peer_host",
    "nixl_peer_init_port",
    "nixl_peer_port",
    "nixl_proxy_host",
    "nixl_proxy_port",
    "nixl_receiver_port",
    "nixl_role",
    "numa_mode",
    "p2p_host",
    "p2p_init_ports",
    "p2p_lookup_ports",
    "pd_allocation_timeout_sec",
    "pd_backend_mode",
    "pd_bidirectional",
    "pd_buffer_device",
    "pd_buffer_size",
    "pd_condition_poll_interval_sec",
    "pd_max_prefill_len",
    "pd_peer_alloc_port",
    "pd_peer_host",
    "pd_peer_init_port",
    "pd_peer_query_port",
    "pd_proxy_host",
    "pd_proxy_port",
    "pd_role",
    "pd_shutdown_timeout_sec",
    "pd_skip_proxy_notification",
    "pin_check_interval_sec",
    "plugin_locations",
    "pre_caching_hash_algorithm",
    "priority_limit",
    "py_enable_gc",
    "remote_config_url",
    "remote_serde",
    "remote_storage_plugins",
    "remote_url",
    "reserve_local_cpu_size",
    "retrieve_locations",
    "run_script_api_enabled",
    "runtime_plugin_locations",
    "save_decode_cache",
    "script_allowed_imports",
    "store_location",
    "transfer_channel",
    "use_gds",
    "use_gpu_connector_v3",
    "use_layerwise",
    "weka_path",
];
