//! Keys and variables of `LMCache`, of Kubernetes and of others that have no meaning for kvtier.

use super::super::lmcache::UNUSED_KEYS;
use super::{read_all, read_all_with};
use crate::limits::MESSAGES_OF_A_KIND_MAX;

#[test]
fn keys_of_lmcache_without_a_meaning_here_are_noted_and_do_not_refuse_start() {
    let read = read_all(
        "use_layerwise: true\npd_role: null\nnixl_receiver_host: h\nblend_recompute_ratio: 0.15\n\
         use_gpu_connector_v2: true\nec_chunk_size: 64\nlocal_disk: null\nremote_url: ''\n\
         extra_config: {audit_backend_enabled: true, gpu_to_numa_mapping: {0: 1}}\n",
    )
    .unwrap();
    assert_eq!(read.notes.len(), 10);
    assert_eq!(read.notes[0], "configuration text: `use_layerwise` is not used by kvtier");
    assert!(read.warnings.is_empty());
}

#[test]
fn a_key_that_lmcache_has_is_never_taken_for_a_typo() {
    for key in UNUSED_KEYS {
        let read = read_all(&format!("{key}: null")).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert!(read.warnings.is_empty(), "{key}: {:?}", read.warnings);
        let variable = format!("LMCACHE_{}", key.to_uppercase());
        read_all_with("", &[(variable.as_str(), "")]).unwrap_or_else(|error| panic!("{variable}: {error}"));
    }
    // A neighbour of a key without a meaning also has none.
    let read = read_all("nixl_receiver_hots: h").unwrap();
    assert_eq!(read.warnings, ["configuration text: unknown key `nixl_receiver_hots` is ignored"]);
}

#[test]
fn tiers_that_kvtier_does_not_have_are_warned_of_wherever_they_are_asked_for() {
    let read = read_all_with(
        "local_disk: file:///data/x\nremote_url: lm://user:hunter2@h:1\nenable_p2p: false\n\
         extra_config: {enable_nixl_storage: true, dax.path: /dev/dax0}\n",
        &[("LMCACHE_GDS_PATH", "/mnt")],
    )
    .unwrap();
    let asked = [
        "`local_disk` is",
        "`remote_url` is",
        "`LMCACHE_GDS_PATH`: it is",
        "enable_nixl_storage",
        "dax.path",
    ];
    for what in asked {
        let found = read.warnings.iter().filter(|warning| warning.contains(what)).count();
        assert_eq!(found, 1, "{what}: {:?}", read.warnings);
    }
    assert_eq!(read.warnings.len(), asked.len());
    assert!(!format!("{:?}", read.warnings).contains("hunter2"));
}

#[test]
fn no_hot_cache_and_the_smallest_pool_is_what_a_size_of_zero_means() {
    for zero in ["0", "0.0", "'0'"] {
        let read = read_all(&format!("local_cpu: true\nmax_local_cpu_size: {zero}")).unwrap();
        assert_eq!((read.config.local_cpu, read.config.pool_size_bytes), (false, 0));
        assert!(read.warnings[0].contains("`max_local_cpu_size` is 0: the CPU tier keeps no chunks"));
        // The bytes in flight, and the batch that exceeds them.
        assert_eq!(read.config.pool_bytes(1), (128 + 16) << 20);
        assert_eq!(read.config.pool_bytes((64 << 20) + 1), (192 << 20) + 4096);
    }
    assert_eq!(read_all("max_local_cpu_size: 1").unwrap().config.pool_bytes(64 << 20), 1 << 30);
}

#[test]
fn variables_with_unknown_names_never_refuse_start() {
    let read = read_all_with(
        "",
        &[
            // What Kubernetes sets for services called `lmcache-p2p` and `lmcache-mp`.
            ("LMCACHE_P2P_PORT", "tcp://10.96.0.12:8200"),
            ("LMCACHE_P2P_SERVICE_HOST", "10.96.0.12"),
            ("LMCACHE_P2P_PORT_8200_TCP_ADDR", "10.96.0.12"),
            ("LMCACHE_MP_PORT", "tcp://10.96.0.13:5555"),
            ("LMCACHE_STORAGE_PLUGIN", "a"),
            ("LMCACHE_USE_EXPERIMENTAL", "True"),
            ("LMCACHE_RESP_PASSWORD", "hunter2"),
        ],
    )
    .unwrap();
    assert_eq!(read.notes.len(), 4);
    assert_eq!(
        read.notes[0],
        "environment variable `LMCACHE_MP_PORT`: ignored; Kubernetes sets it for a service of that name"
    );
    assert_eq!(
        read.warnings,
        [
            "environment variable `LMCACHE_RESP_PASSWORD`: a variable of LMCache that has no effect on kvtier",
            "environment variable `LMCACHE_STORAGE_PLUGIN`: unknown, and ignored; did you mean `LMCACHE_STORAGE_PLUGINS`?",
        ]
    );
}

#[test]
fn the_variable_that_forbids_storing_is_read() {
    let skip = |value: &str| read_all_with("", &[("LMCACHE_FORCE_SKIP_SAVE", value)]).unwrap();
    for (value, skips) in [("1", true), ("True", true), ("0", false), ("false", false), ("", false)] {
        assert_eq!(skip(value).config.skip_save, skips, "{value}");
    }
    assert_eq!(skip("1").warnings, ["environment variable `LMCACHE_FORCE_SKIP_SAVE`: nothing is stored"]);
}

#[test]
fn ninety_thousand_unknown_keys_are_a_few_lines() {
    // The distance to each known key was computed for each of them, which took 18 s.
    let text: Vec<String> = (0..90_000).map(|index| format!("xk{index}:\n")).collect();
    let read = read_all(&text.concat()).unwrap();
    let warnings = &read.warnings;
    assert_eq!(warnings.len(), MESSAGES_OF_A_KIND_MAX + 1);
    assert_eq!(
        warnings.last().unwrap(),
        "there are 89984 more unknown keys and variables, which are ignored"
    );
    // The same for keys of LMCache's, extra keys, and unlisted backends.
    let extra = |index| format!("  e{index}: 1\n  external_backend.b{index}.lanes: 1\n");
    let extra: Vec<String> = (0..20_000).map(extra).collect();
    let read = read_all(&format!("extra_config:\n{}", extra.concat())).unwrap();
    assert_eq!(read.warnings.len(), MESSAGES_OF_A_KIND_MAX + 1);
    assert_eq!(read.notes.len(), MESSAGES_OF_A_KIND_MAX + 1);
}
