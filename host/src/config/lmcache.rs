//! The keys and variables of `LMCache`, and how those without a meaning for kvtier are treated.
//!
//! A genuine file of `LMCache` loads unchanged: none of these keys is taken for a mistyped one. The lists are from its
//! releases 0.3.7, 0.3.9 and 0.5.6, and from older files. They are half of this file, which is longer than others for
//! it.

use super::format::Node;
use super::keys::CONFIG_FILE_VARIABLE;

/// Reports whether this top-level key, or one like it, exists in `LMCache` and has no meaning for kvtier.
pub(super) fn is_unused_key(key: &str) -> bool {
    // Settings of its encoder cache: `ec_chunk_size` and so on, or a mapping.
    UNUSED_KEYS.binary_search(&key).is_ok() || key == "ec" || key.starts_with("ec_")
}

/// Reports whether the value of an unused top-level key asks for a tier, or a source of chunks, that kvtier does not
/// have.
pub(super) fn asks_for_tier(key: &str, value: &Node) -> bool {
    if !TIER_KEYS.contains(&key) {
        return false;
    }
    match value {
        Node::Null | Node::Bool(false) => false,
        Node::Int(value) => *value != 0,
        Node::Float(value) => *value != 0.0,
        Node::Text(text) => {
            !matches!(text.trim().to_ascii_lowercase().as_str(), "" | "0" | "false" | "none" | "null")
        }
        Node::List(items) => !items.is_empty(),
        Node::Map(entries) => !entries.is_empty(),
        Node::Bool(true) => true,
    }
}

/// Reports whether a key of `extra_config` switches on a tier of `LMCache`.
pub(super) fn asks_for_tier_in_extra(key: &str, value: &Node) -> bool {
    let first = key.split('.').next().unwrap_or_default();
    matches!(first, "remote_storage_plugin" | "rust_raw_block" | "dax")
        || (key == "enable_nixl_storage" && matches!(value, Node::Bool(true)))
}

/// Returns the kind of a known variable with `LMCache`'s prefix that overrides no key.
pub(super) fn other_variable(name: &str, value: &str) -> Option<OtherVariable> {
    if is_service_link(name, value) {
        return Some(OtherVariable::ServiceLink);
    }
    if QUIET_VARIABLES.contains(&name) {
        return Some(OtherVariable::Quiet);
    }
    let is_known = VARIABLES.contains(&name) || VARIABLE_GROUPS.iter().any(|group| name.starts_with(group));
    is_known.then_some(OtherVariable::Ignored)
}

/// A variable that is not part of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtherVariable {
    /// It concerns the log, banner or telemetry of `LMCache`, and can be ignored in silence.
    Quiet,
    /// It changes how `LMCache` behaves, and has no effect here.
    Ignored,
    /// Kubernetes sets it for a service whose name begins with `lmcache`.
    ServiceLink,
}

/// Reports whether Kubernetes sets this variable for a service such as `lmcache-p2p`: `LMCACHE_P2P_SERVICE_HOST`,
/// `LMCACHE_P2P_SERVICE_PORT`, `LMCACHE_P2P_SERVICE_PORT_HTTP`, `LMCACHE_P2P_PORT=tcp://10.0.0.1:80`, and
/// `LMCACHE_P2P_PORT_80_TCP` with `_PROTO`, `_PORT` and `_ADDR` behind it.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let value = value.trim();
    let protocols = ["tcp", "udp", "sctp"];
    let is_link = value.split_once("://").is_some_and(|(scheme, _)| protocols.contains(&scheme));
    if is_link && (name.ends_with("_PORT") || name.contains("_PORT_")) {
        return true;
    }
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return true;
    }
    // The parts of one port follow `_PORT_80_TCP`.
    let parts: Vec<&str> = name.rsplitn(5, '_').collect();
    matches!(parts.as_slice(), ["PROTO" | "PORT" | "ADDR", protocol, number, "PORT", _]
        if protocols.contains(&protocol.to_ascii_lowercase().as_str())
            && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Unused keys that are whole tiers or sources of chunks, unless their value switches them off.
const TIER_KEYS: [&str; 12] = [
    "enable_p2p",
    "enable_pd",
    "enable_xpyd",
    "external_lookup_client",
    "gds_path",
    "local_disk",
    "maru_path",
    "nixl_role",
    "remote_storage_plugins",
    "remote_url",
    "use_gds",
    "weka_path",
];

/// Variables that are ignored in silence.
const QUIET_VARIABLES: [&str; 12] = [
    CONFIG_FILE_VARIABLE,
    "LMCACHE_DEBUG",
    "LMCACHE_DISABLE_BANNER",
    "LMCACHE_HOME",
    "LMCACHE_LOG_LEVEL",
    "LMCACHE_REQUEST_TELEMETRY_ENDPOINT",
    "LMCACHE_REQUEST_TELEMETRY_TYPE",
    "LMCACHE_TRACK_USAGE",
    "LMCACHE_USAGE_TRACK_INTERVAL",
    "LMCACHE_USAGE_TRACK_URL",
    "LMCACHE_USAGE_TRACKER_URL",
    "LMCACHE_USE_EXPERIMENTAL",
];

/// Variables that change how `LMCache` behaves.
const VARIABLES: [&str; 9] = [
    "LMCACHE_DEVICE_BACKEND",
    "LMCACHE_GPU_STAGING_BUFFER_BYTES",
    "LMCACHE_MP_TRANSFER_MODE",
    "LMCACHE_MQ_TIMEOUT",
    "LMCACHE_MUSA_HANDLE_TRANSFER",
    "LMCACHE_MUSA_NATIVE_KV_TRANSFER",
    "LMCACHE_OFFLOAD_RPC_PORT",
    "LMCACHE_ROCM_ENABLE_BATCH_MEMCPY",
    "LMCACHE_SERVER_URL",
];

/// Prefixes of such variables of one part of `LMCache`.
const VARIABLE_GROUPS: [&str; 7] = [
    "LMCACHE_AEROSPIKE_",
    "LMCACHE_CONTROLLER_",
    "LMCACHE_COORDINATOR_",
    "LMCACHE_EC_",
    "LMCACHE_PLUGIN_",
    "LMCACHE_RESP_",
    "LMCACHE_RUNTIME_PLUGIN_",
];

/// Top-level keys without a meaning for kvtier, sorted.
pub(super) const UNUSED_KEYS: [&str; 123] = [
    "app_id",
    "audit_actual_remote_url",
    "blend_add_special_in_precomp",
    "blend_check_layers",
    "blend_min_tokens",
    "blend_recompute_ratio",
    "blend_recompute_ratios",
    "blend_separator",
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
    "cufile_buffer_size",
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
    "local_device",
    "local_disk",
    "local_disk_path_sharding",
    "lookup_server_worker_ids",
    "maru_path",
    "maru_pool_size",
    "max_hidden_state_cpu_size",
    "max_local_cache_size",
    "max_local_disk_size",
    "min_retrieve_tokens",
    "mla_lookup_server_worker_id",
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
    "nixl_receiver_host",
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
    "pipelined_backend",
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
    "use_gpu_connector_v2",
    "use_gpu_connector_v3",
    "use_layerwise",
    "weka_path",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_sorted_and_none_is_used() {
        assert!(UNUSED_KEYS.is_sorted());
        assert!(UNUSED_KEYS.iter().all(|key| !crate::config::keys::top_level().any(|used| used == *key)));
        assert!(TIER_KEYS.iter().all(|key| is_unused_key(key)));
    }

    #[test]
    fn service_links_are_told_by_their_form() {
        for (name, value) in [
            ("LMCACHE_P2P_PORT", "tcp://10.96.0.12:8200"),
            ("LMCACHE_PORT", "udp://[fd00::1]:53"),
            ("LMCACHE_P2P_SERVICE_HOST", "10.96.0.12"),
            ("LMCACHE_P2P_SERVICE_PORT", "8200"),
            ("LMCACHE_P2P_SERVICE_PORT_HTTP", "8200"),
            ("LMCACHE_P2P_PORT_8200_TCP", "tcp://10.96.0.12:8200"),
            ("LMCACHE_P2P_PORT_8200_TCP_PROTO", "tcp"),
            ("LMCACHE_P2P_PORT_8200_TCP_PORT", "8200"),
            ("LMCACHE_P2P_PORT_8200_UDP_ADDR", "10.96.0.12"),
            // The name of a key that kvtier does not use.
            ("LMCACHE_MP_PORT", "tcp://10.96.0.12:5555"),
        ] {
            assert!(is_service_link(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("LMCACHE_MP_PORT", "5555"),
            ("LMCACHE_REMOTE_URL", "tcp://10.96.0.12:8200"),
            ("LMCACHE_PORT_X_TCP_ADDR", "10.96.0.12"),
            ("LMCACHE_CHUNK_SIZE", "256"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }

    #[test]
    fn what_is_switched_off_asks_for_nothing() {
        let text = |text: &str| Node::Text(text.to_owned());
        for value in
            [Node::Null, Node::Bool(false), Node::Int(0), text(" "), text("False"), Node::List(vec![])]
        {
            assert!(!asks_for_tier("remote_url", &value), "{value:?}");
        }
        assert!(asks_for_tier("remote_url", &text("lm://host:1")));
        assert!(asks_for_tier("enable_p2p", &Node::Bool(true)));
        assert!(!asks_for_tier("use_layerwise", &Node::Bool(true)));
    }
}
