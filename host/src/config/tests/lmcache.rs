//! Files and rules of `LMCache`, under the numbers of the behaviour page's test cases.

use std::path::Path;

use super::super::Config;
use super::{extra_config, names, read, read_all, read_all_with, read_with};
use crate::cpu::EvictionPolicy;

#[test]
fn the_template_example_loads_with_its_placeholders_filled() {
    let read = read_all(
        "chunk_size: 64\n\
         local_cpu: False\n\
         max_local_cpu_size: 5\n\
         external_backends: my_backend\n\
         extra_config:\n\
         \x20 external_backend.my_backend.module_path: backends/mine.wasm\n\
         \x20 external_backend.my_backend.class_name: MyBackend\n",
    )
    .unwrap();
    assert_eq!(read.config.chunk_size, 64);
    assert!(!read.config.local_cpu);
    assert_eq!(read.config.pool_size_bytes, 5 << 30);
    assert_eq!(names(&read.config), ["my_backend"]);
    assert_eq!(read.config.backends[0].module_path, Path::new("/etc/kvtier/backends/mine.wasm"));
    assert_eq!(read.config.backends[0].class_name, "MyBackend");
    assert!(read.warnings.is_empty() && read.notes.is_empty());
}

#[test]
fn the_logging_example_loads_as_it_stands() {
    let config = read(
        r#"chunk_size: 64
local_cpu: False
max_local_cpu_size: 5
external_backends: "log_external_backend"
extra_config:
  external_backend.log_external_backend.module_path: log.wasm
  external_backend.log_external_backend.class_name: ExternalLogBackend
"#,
    )
    .unwrap();
    assert_eq!(names(&config), ["log_external_backend"]);
    assert_eq!(config.backends[0].class_name, "ExternalLogBackend");
}

#[test]
fn t1_a_text_list_is_split_and_a_yaml_list_is_kept_as_given() {
    let extra = extra_config(&["a", "b", "c"]);
    let config = read(&format!("storage_plugins: \"b, a,,c\"\n{extra}")).unwrap();
    assert_eq!(names(&config), ["b", "a", "c"]);
    let config = read(&format!("storage_plugins: [c, a, b]\n{extra}")).unwrap();
    assert_eq!(names(&config), ["c", "a", "b"]);
    // Kept unchanged: nothing is trimmed, so the name is not valid.
    let error = read(&format!("storage_plugins: [\"a \"]\n{extra}")).unwrap_err();
    assert!(error.to_string().contains("\"a \" cannot name a backend"));
}

#[test]
fn t2_tiers_come_in_the_order_of_the_list() {
    // The sections are in another order, on purpose.
    let extra = extra_config(&["a", "m", "z"]);
    let config = read(&format!("external_backends: [z, a, m]\n{extra}")).unwrap();
    assert_eq!(names(&config), ["z", "a", "m"]);
}

#[test]
fn t3_keys_without_a_list_load_nothing_and_warn() {
    let read = read_all(&extra_config(&["a"])).unwrap();
    assert!(read.config.backends.is_empty());
    assert_eq!(
        read.warnings,
        ["backend `a` has keys under `extra_config` but is not listed in `external_backends`; \
          it is not loaded"]
    );
}

#[test]
fn t4_a_listed_name_without_module_or_class_refuses_start() {
    for key in ["module_path", "class_name"] {
        let text = format!(
            "external_backends: a, b\n{}",
            extra_config(&["a", "b"]).replace(&format!("backend.b.{key}"), "backend.b.config.x")
        );
        let error = read(&text).unwrap_err().to_string();
        assert!(
            error.contains(&format!("backend `b` is listed but `external_backend.b.{key}` is missing")),
            "{error}"
        );
    }
}

#[test]
fn t6_a_list_with_an_empty_extra_config_refuses_start() {
    for extra in ["", "extra_config:\n", "extra_config: {}\n", "extra_config: ''\n"] {
        let error = read(&format!("external_backends: a\n{extra}")).unwrap_err().to_string();
        assert!(error.contains("`a` is listed but"), "{error}");
    }
}

#[test]
fn t7_variables_override_the_files_list_in_either_spelling_without_a_warning() {
    let extra = extra_config(&["a", "b", "c"]);
    for file_key in ["external_backends", "storage_plugins"] {
        for variable in ["LMCACHE_EXTERNAL_BACKENDS", "LMCACHE_STORAGE_PLUGINS"] {
            let text = format!("{file_key}: a\n{extra}");
            let read = read_all_with(&text, &[(variable, "c,b")]).unwrap();
            assert_eq!(names(&read.config), ["c", "b"], "{file_key} {variable}");
            // The only warning is about `a`, which lost its place in the list.
            assert_eq!(read.warnings.len(), 1, "{:?}", read.warnings);
        }
    }
    let read = read_all_with("external_backends: a", &[("LMCACHE_STORAGE_PLUGINS", "")]).unwrap();
    assert!(read.config.backends.is_empty());
}

#[test]
fn t7_two_spellings_of_the_list_must_agree() {
    let extra = extra_config(&["a", "b"]);
    let same = format!("external_backends: 'a, b'\nstorage_plugins: [a, b]\n{extra}");
    assert_eq!(names(&read(&same).unwrap()), ["a", "b"]);
    let other = format!("external_backends: [a, b]\nstorage_plugins: [b, a]\n{extra}");
    assert!(read(&other).unwrap_err().to_string().contains("two spellings"));
    let variables = [("LMCACHE_EXTERNAL_BACKENDS", "a"), ("LMCACHE_STORAGE_PLUGINS", "b")];
    let error = read_with(&extra, &variables).unwrap_err().to_string();
    assert!(error.contains("two spellings"), "{error}");
}

#[test]
fn t8_both_spellings_of_a_backends_keys_work_under_either_list_without_a_warning() {
    let old = extra_config(&["a"]);
    let new = old.replace("external_backend.", "storage_plugin.");
    for list in ["external_backends", "storage_plugins"] {
        for extra in [&old, &new] {
            let read = read_all(&format!("{list}: a\n{extra}")).unwrap();
            assert_eq!(read.config.backends[0].class_name, "Class");
            assert!(read.warnings.is_empty() && read.notes.is_empty());
        }
    }
}

#[test]
fn t8_both_spellings_of_a_key_must_agree() {
    let text = |class: &str| {
        format!(
            "external_backends: a\n{}  storage_plugin: {{a: {{class_name: {class}}}}}\n",
            extra_config(&["a"])
        )
    };
    assert_eq!(read(&text("Class")).unwrap().backends.len(), 1);
    let error = read(&text("Other")).unwrap_err().to_string();
    assert!(error.contains("`external_backend.a.class_name` and `storage_plugin.a.class_name`"), "{error}");
}

#[test]
fn t9_names_of_built_in_tiers_and_repeated_names_are_refused() {
    for name in ["cpu", "LOCAL_CPU", "LocalCPUBackend", "pdbackend", "RemoteBackend-x"] {
        let text = format!("external_backends: {name}\n{}", extra_config(&[name]));
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains("belongs to a built-in tier"), "{error}");
    }
    let text = format!("external_backends: a, b, a\n{}", extra_config(&["a", "b"]));
    let error = read(&text).unwrap_err().to_string();
    assert!(error.contains("`a` is listed twice"), "{error}");
}

#[test]
fn t11_the_extra_config_variable_replaces_the_files() {
    let text = format!("external_backends: a\n{}  kvtier.on_full: wait\n", extra_config(&["a"]));
    let json = r#"{"external_backend.a.module_path": "b.wasm",
                   "external_backend": {"a": {"class_name": "B", "limits.memory": 1e9}}}"#;
    for value in [json.to_owned(), format!("'{json}'")] {
        let config = read_with(&text, &[("LMCACHE_EXTRA_CONFIG", &value)]).unwrap();
        assert_eq!(config.backends[0].class_name, "B");
        assert_eq!(config.backends[0].module_path, Path::new("/etc/kvtier/b.wasm"));
        assert_eq!(config.backends[0].limits.memory_bytes, 1_000_000_000);
        // The file's `extra_config` is gone as a whole.
        assert_eq!(config.on_full, Config::default().on_full);
    }
    let error = read_with(&text, &[("LMCACHE_EXTRA_CONFIG", "")]).unwrap_err();
    assert!(error.to_string().contains("`a` is listed but"));
}

#[test]
fn t12_the_pool_is_whole_bytes_of_gib() {
    for (size, bytes) in [("0.1", 107_374_182), ("5", 5 << 30), ("'2.5'", 5 << 29)] {
        let config = read(&format!("max_local_cpu_size: {size}")).unwrap();
        assert_eq!(config.pool_size_bytes, bytes, "{size}");
    }
}

#[test]
fn t13_booleans_are_read_in_the_usual_words_and_nothing_else() {
    let local_cpu = |word: &str| read(&format!("local_cpu: {word}")).map(|config| config.local_cpu);
    for word in ["1", "'1'", "True", "true", "' tRue '", "yes", "YES", "on"] {
        assert!(local_cpu(word).unwrap(), "{word}");
    }
    for word in ["0", "'0'", "False", "FALSE", "' no '", "no", "Off"] {
        assert!(!local_cpu(word).unwrap(), "{word}");
    }
    for word in ["2", "1.0", "'y'", "'tru'", "[true]", "enabled", "-1"] {
        let error = local_cpu(word).unwrap_err().to_string();
        assert!(error.contains("expected true or false"), "{word}: {error}");
    }
}

#[test]
fn t44_policies_are_named_in_any_case() {
    for (name, policy) in [
        ("LRU", EvictionPolicy::Lru),
        ("lfu", EvictionPolicy::Lfu),
        ("Fifo", EvictionPolicy::Fifo),
        ("mru", EvictionPolicy::Mru),
    ] {
        let config = read(&format!("cache_policy: {name}")).unwrap();
        assert_eq!(config.cache_policy, policy);
        assert_eq!(name.trim().parse(), Ok(policy));
        assert_eq!(policy.name(), name.to_uppercase());
    }
    assert!(read("cache_policy: ARC").is_err());
}

#[test]
fn every_variable_overrides_its_key_and_loses_its_quotes() {
    let variables = [
        ("LMCACHE_CHUNK_SIZE", "32"),
        ("LMCACHE_LOCAL_CPU", "'off'"),
        ("LMCACHE_MAX_LOCAL_CPU_SIZE", "\"0.5\""),
        ("LMCACHE_CACHE_POLICY", " mru "),
        ("LMCACHE_SAVE_UNFULL_CHUNK", "TRUE"),
        ("LMCACHE_LOOKUP_TIMEOUT_MS", "7"),
        ("LMCACHE_BLOCKING_TIMEOUT_SECS", "8"),
        ("LMCACHE_PIN_TIMEOUT_SEC", "9"),
        ("LMCACHE_CONFIG_FILE", "/nowhere"),
        ("LMCACHE_LOG_LEVEL", "DEBUG"),
        ("PATH", "/bin"),
    ];
    // The file's value would refuse start. The variable replaces it before it is read.
    let read = read_all_with("chunk_size: many\nlocal_cpu: true\n", &variables).unwrap();
    assert_eq!(read.config.chunk_size, 32);
    assert!(!read.config.local_cpu);
    assert_eq!(read.config.pool_size_bytes, 1 << 29);
    assert_eq!(read.config.cache_policy, EvictionPolicy::Mru);
    assert!(read.config.save_unfull_chunk);
    assert_eq!(read.config.lookup_timeout.as_millis(), 7);
    assert_eq!(read.config.blocking_timeout.as_secs(), 8);
    assert_eq!(read.config.pin_timeout.as_secs(), 9);
    assert!(read.warnings.is_empty() && read.notes.is_empty());
}
