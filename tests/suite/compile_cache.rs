//! The cache of compiled code: what it keeps, and what it refuses and rebuilds.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kvtier::__internal::limits::CACHE_TEMPORARY_AGE_MAX;
use kvtier::{CompileCache, CompilePolicy, Compiler, Config, Engine, EngineBuilder};

use crate::support;

/// Starts an engine with its compiled code in `cache`, uses it, and returns the code's origin from the status.
fn code_from(cache: &Path, name: &str) -> String {
    code_with(CompileCache::Directory(cache.to_owned()), name)
}

fn code_with(compile_cache: CompileCache, name: &str) -> String {
    let backend = support::backend(name, "plain", "AlphaBackend");
    let config = Config { compile_cache, ..support::config(vec![backend]) };
    let engine: Engine = support::engine(config);
    let storage = engine.storage();
    let keys = support::keys(2);
    support::put_in(storage, &keys, name);
    assert_eq!(support::served(&support::get(storage, &keys)), [1, 1]);
    let code = support::code(&engine, name);
    engine.blocking().close().unwrap();
    code
}

fn files_in(directory: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn compiled_code_is_kept_and_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("made").join("on demand");
    assert_eq!(code_from(&cache, "cache-first"), "compiled");
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let files = files_in(&cache);
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(code_from(&cache, "cache-second"), "cached");
    assert_eq!(files_in(&cache), files);
}

#[test]
fn damaged_compiled_code_is_ignored_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    assert_eq!(code_from(&cache, "damage-first"), "compiled");
    let file = files_in(&cache).remove(0);
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (number, damaged) in
        [&flipped[..], &whole[..whole.len() / 2], b"", b"kvtierC1"].into_iter().enumerate()
    {
        fs::write(&file, damaged).unwrap();
        assert_eq!(code_from(&cache, &format!("damage-{number}")), "compiled");
        assert_eq!(fs::read(&file).unwrap().len(), whole.len(), "replaced");
        assert_eq!(code_from(&cache, &format!("damage-{number}-again")), "cached");
    }
}

#[test]
fn a_cache_that_others_can_write_to_is_not_used() {
    let log = support::log();
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("kvtier-shared-cache");
    assert_eq!(code_from(&cache, "shared-first"), "compiled");
    for mode in [0o770, 0o707] {
        fs::set_permissions(&cache, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(code_from(&cache, &format!("shared-{mode:o}")), "compiled");
    }
    let warnings = log.lines_with("kvtier-shared-cache");
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings.iter().all(|line| line.contains("WARN") && line.contains("chmod 700")), "{warnings:#?}");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(code_from(&cache, "shared-last"), "cached");
}

#[test]
fn a_cache_that_cannot_be_made_does_not_stop_the_engine() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a file");
    fs::write(&file, "").unwrap();
    assert_eq!(code_from(&file.join("below"), "no-cache"), "compiled");
}

#[test]
fn engines_that_start_at_the_same_time_share_one_cache() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    std::thread::scope(|scope| {
        for number in 0..3 {
            let cache = &cache;
            scope.spawn(move || code_from(cache, &format!("race-{number}")));
        }
    });
    let files = files_in(&cache);
    assert_eq!(files.len(), 1, "no temporary file is left: {files:?}");
    assert_eq!(code_from(&cache, "race-last"), "cached");
}

#[test]
fn no_compiled_code_is_kept_when_the_cache_is_off() {
    for name in ["cache-off", "cache-off-again"] {
        assert_eq!(code_with(CompileCache::Off, name), "compiled");
    }
}

/// Returns a cache with the code of the `plain` component, and the file of that code.
fn filled(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let cache = folder.join(name);
    assert_eq!(code_from(&cache, &format!("{name}-fills")), "compiled");
    let file = files_in(&cache).remove(0);
    (cache, file)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn entries_that_others_could_have_written_are_refused_and_replaced() {
    let log = support::log();
    let directory = tempfile::tempdir().unwrap();
    let (cache, file) = filled(directory.path(), "kvtier-entries-of-others");
    let whole = fs::read(&file).unwrap();
    let beside = directory.path().join("beside");
    fs::write(&beside, &whole).unwrap();
    let make: [(&str, &dyn Fn()); 4] = [
        ("can be written to by others", &|| {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
        }),
        ("can be written to by others", &|| {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o602)).unwrap();
        }),
        ("is a symbolic link", &|| {
            fs::remove_file(&file).unwrap();
            symlink(&beside, &file).unwrap();
        }),
        ("is not a regular file", &|| {
            fs::remove_file(&file).unwrap();
            let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
            assert!(made.success());
        }),
    ];
    for (number, (reason, make)) in make.into_iter().enumerate() {
        make();
        let n_before = log.lines_with("kvtier-entries-of-others").len();
        assert_eq!(code_from(&cache, &format!("others-{number}")), "compiled", "{reason}");
        let warnings = log.lines_with("kvtier-entries-of-others").split_off(n_before);
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert!(warnings[0].contains(reason) && warnings[0].contains("compiling again"), "{warnings:#?}");
        assert!(fs::symlink_metadata(&file).unwrap().is_file() && mode(&file) == 0o600, "replaced: {reason}");
        assert_eq!(code_from(&cache, &format!("others-{number}-again")), "cached");
    }
    assert_eq!(fs::read(&beside).unwrap(), whole, "nothing was written through the link");
}

#[test]
fn an_entry_under_the_name_of_another_component_is_refused_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, file) = filled(directory.path(), "renamed");
    let other = directory.path().join("other");
    let config = Config {
        compile_cache: CompileCache::Directory(other.clone()),
        ..support::config(vec![support::backend("renamed-other", "memory", "MemoryBackend")])
    };
    support::engine(config).blocking().close().unwrap();
    let foreign = fs::read(files_in(&other).remove(0)).unwrap();
    let own = fs::read(&file).unwrap();
    fs::write(&file, &foreign).unwrap();
    // A host that loaded it would not find its class.
    assert_eq!(code_from(&cache, "renamed-again"), "compiled");
    assert_eq!(fs::read(&file).unwrap().len(), own.len());
    assert_eq!(code_from(&cache, "renamed-last"), "cached");
}

#[test]
fn a_cache_that_is_a_link_or_of_another_user_is_not_used() {
    let log = support::log();
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = filled(directory.path(), "linked");
    let link = directory.path().join("kvtier-linked-cache");
    symlink(&cache, &link).unwrap();
    assert_eq!(code_from(&link, "linked-again"), "compiled");
    assert!(log.lines_with("kvtier-linked-cache")[0].contains("is a symbolic link"));

    // Root can give a directory away; for other users, some directories belong to root.
    let foreign = directory.path().join("kvtier-foreign-cache");
    fs::create_dir(&foreign).unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o700)).unwrap();
    let foreign = match std::os::unix::fs::chown(&foreign, Some(1), None) {
        Ok(()) => foreign,
        Err(_) => PathBuf::from("/usr/share"),
    };
    assert_eq!(code_from(&foreign, "foreign-again"), "compiled");
    let warnings = log.lines_with(foreign.to_str().unwrap());
    assert!(warnings[0].contains("belongs to another user"), "{warnings:#?}");
}

#[test]
fn temporary_files_of_writers_that_were_killed_go_and_younger_ones_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, file) = filled(directory.path(), "swept");
    let aged = |name: &str, age: Duration| {
        let path = cache.join(name);
        let made = fs::File::create(&path).unwrap();
        made.set_modified(SystemTime::now() - age).unwrap();
        path
    };
    let old = aged("sha256-00.cwasm.0123.tmp", CACHE_TEMPORARY_AGE_MAX * 2);
    let young = aged("sha256-00.cwasm.4567.tmp", CACHE_TEMPORARY_AGE_MAX / 2);
    let other = aged("sha256-00.cwasm", CACHE_TEMPORARY_AGE_MAX * 2);
    assert_eq!(code_from(&cache, "swept-cached"), "cached");
    assert!(old.exists(), "only writers sweep");
    fs::remove_file(&file).unwrap();
    assert_eq!(code_from(&cache, "swept-compiled"), "compiled");
    assert!(!old.exists() && young.exists() && other.exists());
}

/// Returns the error of an engine that may load only cached code, without the folder's path.
fn refused_without_code(cache: CompileCache, folder: &Path) -> String {
    let backend = support::backend("only-cached", "plain", "AlphaBackend");
    let component = backend.module_path.display().to_string();
    let config =
        Config { compile_cache: cache, compile: CompilePolicy::CachedOnly, ..support::config(vec![backend]) };
    let error = kvtier::EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err();
    error.to_string().replace(&component, "plain.wasm").replace(folder.to_str().unwrap(), "[folder]")
}

#[test]
fn cached_only_loads_what_the_cache_has_and_says_what_fills_it() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let only = CompileCache::Directory(cache.clone());
    let error = refused_without_code(only.clone(), folder.path());
    let (before, after) = error.split_once("sha256:").unwrap();
    assert_eq!(
        before,
        "backend `only-cached`: component `plain.wasm` is not loaded, because kvtier.compile is cached_only and \
         `[folder]/cache` has no code of "
    );
    assert_eq!(&after[64..], "; fill the cache with `kvtier compile --config FILE`");
    assert_eq!(files_in(&cache), [""; 0].map(PathBuf::from), "nothing was compiled");
    insta::assert_snapshot!(refused_without_code(CompileCache::Off, folder.path()), @"backend `only-cached`: component `plain.wasm` is not loaded, because kvtier.compile is cached_only and kvtier.compile_cache is off; fill the cache with `kvtier compile --config FILE`");

    let config = folder.path().join("kvtier.yaml");
    let text = format!(
        "external_backends: filled\nextra_config:\n  kvtier.compile: cached_only\n  kvtier.compile_cache: cache\n  \
         external_backend.filled: {{module_path: '{}', class_name: AlphaBackend}}\n",
        support::component("plain").display()
    );
    fs::write(&config, text).unwrap();
    let output = support::kvtier().args(["compile", "--config"]).arg(&config).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let config = Config {
        compile: CompilePolicy::CachedOnly,
        compile_cache: only.clone(),
        ..support::config(vec![support::backend("filled", "plain", "AlphaBackend")])
    };
    let engine = support::engine(config);
    assert_eq!(support::code(&engine, "filled"), "cached");
    drop(engine);

    // A damaged entry is not loaded, and stays for the operator to see.
    let file = files_in(&cache).remove(0);
    fs::write(&file, "kvtierC2").unwrap();
    let error = refused_without_code(only, folder.path());
    assert!(error.contains("is cached_only and the cached code `[folder]/cache/sha256-"), "{error}");
    assert!(error.contains(".cwasm` is damaged; fill the cache with `kvtier compile"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"kvtierC2");
}

#[test]
fn a_backend_that_may_write_to_the_compile_cache_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |granted: &Path, cache: CompileCache, compiler: Compiler| {
        let backend = support::fs("writer", granted);
        let config = Config { compile_cache: cache, compiler, ..support::config(vec![backend]) };
        let error = EngineBuilder::new(config, support::metadata()).build_blocking().err()?.to_string();
        let folder = folder.path().canonicalize().unwrap();
        Some(error.replace(folder.to_str().unwrap(), "[folder]"))
    };
    let cache = CompileCache::Directory(folder.path().join("home/cache"));
    let program = Compiler::Program(support::kvtier_program());
    fs::create_dir_all(folder.path().join("home/data")).unwrap();
    let error = refused(&folder.path().join("home"), cache.clone(), program.clone()).unwrap();
    insta::assert_snapshot!(error, @"backend `writer`: allow.fs grants `[folder]/home` for writing, and the compile cache `[folder]/home/cache` is in it: what a backend writes there, this host would run outside of any sandbox; grant another directory, or set kvtier.compile_cache to a place that no backend may write to");
    assert!(!folder.path().join("home/cache").exists(), "nothing was compiled");
    let error = refused(&folder.path().join("home/cache/sub"), cache.clone(), program.clone()).unwrap();
    assert!(error.contains("`[folder]/home/cache` is above it"), "{error}");
    let compiler = Compiler::Program(folder.path().join("home/data/kvtier"));
    let error = refused(&folder.path().join("home/data"), cache.clone(), compiler).unwrap();
    assert!(error.contains("the compiler `[folder]/home/data/kvtier` is in it"), "{error}");
    // Allowed: without a cache there is no code to replace, and a directory beside the cache is no risk.
    assert_eq!(refused(&folder.path().join("home"), CompileCache::Off, program.clone()), None);
    assert_eq!(refused(&folder.path().join("home/data"), cache, program), None);
}
