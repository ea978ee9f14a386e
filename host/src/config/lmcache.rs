//! Rules for the keys and variables of `LMCache`.
//!
//! A genuine file of `LMCache` loads unchanged: none of these keys is taken for a mistyped one.

mod names;

pub(super) use names::UNUSED_KEYS;
use names::{QUIET_VARIABLES, TIER_KEYS, VARIABLE_GROUPS, VARIABLES};

use super::format::Node;

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
