//! Components are compiled in a separate process, within limits, and never in this one if that fails. Shell scripts in
//! place of the compiler hang, die or deliver something else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kvtier::__internal::limits::COMPONENT_BYTES_MAX;
use kvtier::__internal::wasm::{CodeOrigin, Compilation, Compiled, compile_into_cache};
use kvtier::{
    BackendConfig, CompileCache, CompileLimit, CompileLimits, Compiler, ComponentError, Config, Engine,
    EngineBuilder, HotCache, OnLoadError, Sha256Digest,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::support::{self, eventually};

mod command;

/// The `kvtier` command.
const KVTIER: &str = env!("CARGO_BIN_EXE_kvtier-under-test");

/// Makes a program from shell commands.
fn script(folder: &Path, commands: &str) -> PathBuf {
    let program = folder.join("compiler");
    let text = folder.join("compiler.txt");
    fs::write(&text, format!("#!/bin/sh\n{commands}\n")).unwrap();
    // Another process copies it: a file that this process has open for writing cannot be run, even if only another
    // thread's child has it open, between fork and exec.
    let made = Command::new("install").args(["-m", "755"]).arg(&text).arg(&program).status().unwrap();
    assert!(made.success());
    program
}

/// Returns a configuration with the compiler `program` and a new cache in `folder`.
fn config(folder: &Path, program: impl Into<PathBuf>, backend: BackendConfig) -> Config {
    Config {
        compiler: Compiler::Program(program.into()),
        compile_cache: CompileCache::Directory(folder.join("cache")),
        ..support::config(vec![backend])
    }
}

fn alpha(name: &str) -> BackendConfig {
    support::backend(name, "plain", "AlphaBackend")
}

fn digest(path: &Path) -> Sha256Digest {
    Sha256Digest(Sha256::digest(fs::read(path).unwrap()).into())
}

/// Returns the error of an engine whose compiler is these shell commands, without paths, and checks that nothing got
/// into the cache.
fn refused(commands: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let program = script(folder.path(), commands);
    let backend = alpha("refused");
    let component = backend.module_path.display().to_string();
    let config = config(folder.path(), program, backend);
    let error = EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err().to_string();
    assert_eq!(fs::read_dir(folder.path().join("cache")).unwrap().count(), 0, "{error}");
    let error = error.strip_prefix("backend `refused`: ").unwrap();
    error.replace(&component, "plain.wasm").replace(folder.path().to_str().unwrap(), "[folder]")
}

#[test]
fn the_status_says_where_the_code_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let code = |compiler: Compiler, cache: &CompileCache| {
        let config =
            Config { compiler, compile_cache: cache.clone(), ..support::config(vec![alpha("where")]) };
        support::code(&support::engine(config), "where")
    };
    let cache = CompileCache::Directory(folder.path().join("cache"));
    let child = Compiler::Program(KVTIER.into());
    let here = "compiled in this process: kvtier.compiler is off";
    assert_eq!(code(child.clone(), &CompileCache::Off), "compiled");
    assert_eq!(code(Compiler::Off, &CompileCache::Off), here);
    assert_eq!(code(Compiler::Off, &cache), here);
    // Code that either has compiled fits the other's engine.
    assert_eq!(code(child.clone(), &cache), "cached");
    fs::remove_dir_all(folder.path().join("cache")).unwrap();
    assert_eq!(code(child, &cache), "compiled");
    assert_eq!(code(Compiler::Off, &cache), "cached");
}

#[test]
fn a_compiler_is_told_nothing_but_the_component() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let program = script(
        folder.path(),
        &format!(
            "exec 3>'{}'\n/usr/bin/tr '\\0' '\\n' < /proc/$$/environ >&3\npwd >&3\nexec 3>&-\nexec '{KVTIER}' \"$@\"",
            told.display()
        ),
    );
    assert!(std::env::vars().count() > 3, "there are variables to inherit");
    let backend = alpha("told");
    let engine =
        EngineBuilder::new(config(folder.path(), "/nowhere", backend), support::metadata()).compiler(program);
    assert_eq!(support::code(&engine.build_blocking().unwrap(), "told"), "compiled");
    let told = fs::read_to_string(told).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(lines[0].starts_with("RAYON_NUM_THREADS=") && lines[1] == "/", "{told}");
}

#[test]
fn a_pinned_digest_is_verified_before_the_compiler_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let program =
        script(folder.path(), &format!("echo started >> '{}'\nexec '{KVTIER}' \"$@\"", mark.display()));
    let mut backend = alpha("pinned");
    let digest = digest(&backend.module_path);
    let mut wrong = digest;
    wrong.0[31] ^= 1;
    let build = |pin: Sha256Digest, backend: &mut BackendConfig| {
        backend.digest = Some(pin);
        let config = config(folder.path(), &program, backend.clone());
        EngineBuilder::new(config, support::metadata()).build_blocking()
    };
    let error = build(wrong, &mut backend).unwrap_err().to_string();
    assert!(error.contains(&format!("has digest {digest}, but the configuration pins {wrong}")), "{error}");
    assert!(!mark.exists(), "the compiler was started");
    assert!(!folder.path().join("cache").exists());
    drop(build(digest, &mut backend).unwrap());
    assert_eq!(fs::read_to_string(&mark).unwrap(), "started\n");
}

/// Returns a component of `n_functions` functions, each of which multiplies `n_steps` times.
fn laborious(folder: &TempDir, n_functions: u32, n_steps: usize) -> PathBuf {
    fn number(mut n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    }
    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&number(bytes.len()), bytes].concat()
    }
    // No locals; square local 0, flip some bits, put it back, n times; return it.
    let step = |n: usize| [0x20, 0, 0x20, 0, 0x6c, 0x41, n as u8 % 64, 0x73, 0x21, 0];
    let body: Vec<u8> = [0].into_iter().chain((0..n_steps).flat_map(step)).chain([0x20, 0, 0x0b]).collect();
    let functions = number(n_functions as usize);
    let bodies = sized(&body).repeat(n_functions as usize);
    let module = [
        &b"\0asm\x01\0\0\0\x01\x06\x01\x60\x01\x7f\x01\x7f"[..],
        &[&[3][..], &sized(&[&functions[..], &vec![0; n_functions as usize]].concat())].concat(),
        &[&[10][..], &sized(&[functions, bodies].concat())].concat(),
    ]
    .concat();
    let path = folder.path().join(format!("{n_functions}x{n_steps}.wasm"));
    fs::write(&path, [&b"\0asm\x0d\0\x01\0\x01"[..], &sized(&module)].concat()).unwrap();
    path
}

fn compile(folder: &TempDir, path: &Path, limits: CompileLimits) -> Result<Compiled, ComponentError> {
    let config = Config { compile_limits: limits, ..config(folder.path(), KVTIER, alpha("unused")) };
    compile_into_cache(&Compilation::new(&config), path, COMPONENT_BYTES_MAX, None)
}

#[test]
fn memory_of_the_compiler_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let limits = CompileLimits { memory_bytes: 128 << 20, ..CompileLimits::default() };
    let small = compile(&folder, &laborious(&folder, 2, 10), limits).unwrap();
    assert_eq!(small.origin, CodeOrigin::Compiler);
    let large = laborious(&folder, 1, 150_000);
    let error = compile(&folder, &large, limits).unwrap_err();
    let ComponentError::CompileLimit { limit, .. } = &error else { panic!("{error}") };
    assert_eq!(*limit, CompileLimit::Memory(128 << 20));
    let text = error.to_string();
    assert!(
        text.ends_with(
            "takes more than 128 MiB of memory; raise kvtier.compile_memory if you trust the component"
        ),
        "{text}"
    );
    // The limit was the cause, not the component.
    compile(&folder, &large, CompileLimits::default()).unwrap();
}

#[test]
fn processor_time_of_the_compiler_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let limits = CompileLimits { cpu: Duration::from_secs(1), ..CompileLimits::default() };
    compile(&folder, &laborious(&folder, 2, 10), limits).unwrap();
    let error = compile(&folder, &laborious(&folder, 4_000, 1_000), limits).unwrap_err();
    let ComponentError::CompileLimit { limit, .. } = &error else { panic!("{error}") };
    assert_eq!(*limit, CompileLimit::Cpu(Duration::from_secs(1)));
    let text = error.to_string();
    assert!(text.contains("more than 1 s of processor time; raise kvtier.compile_cpu_secs"), "{text}");
}

/// Reports whether a process runs. A zombie does not.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_compiler_that_hangs_is_ended_with_what_it_has_started() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let program =
        script(folder.path(), &format!("/bin/sleep 3600 &\necho $$ $! > '{}'\nwait", pids.display()));
    let hung = |timeout: Duration| {
        let limits = CompileLimits { timeout, ..CompileLimits::default() };
        let config = Config { compile_limits: limits, ..config(folder.path(), &program, alpha("hung")) };
        EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err().to_string()
    };
    // A loaded machine may need more than the first limit before the script writes.
    for timeout_ms in [1_000, 4_000, 16_000, 64_000] {
        let error = hung(Duration::from_millis(timeout_ms));
        let expected = format!("takes longer than {timeout_ms} ms; raise kvtier.compile_timeout_ms");
        assert!(error.contains(&expected), "{error}");
        if fs::read_to_string(&pids).is_ok_and(|pids| pids.ends_with('\n')) {
            break;
        }
    }
    let pids = fs::read_to_string(&pids).unwrap();
    assert_eq!(pids.split_whitespace().count(), 2);
    for pid in pids.split_whitespace() {
        eventually("the compiler and its child are ended", || !runs(pid));
    }
}

#[test]
fn a_compiler_that_leaves_a_process_behind_is_not_waited_for() {
    // The remaining process holds both pipes; only the limit of ten minutes would end the wait for them.
    let error = refused("/bin/sleep 3600 &\necho $! >&2\nexit 0");
    let (text, pid) = error.split_once(" and wrote: ").unwrap();
    assert_eq!(
        text,
        "component `plain.wasm` was not compiled: the compiler `[folder]/compiler` delivered output that is empty"
    );
    let pid = pid.split(';').next().unwrap();
    eventually("its child is ended", || !runs(pid));
}

#[test]
fn compilers_that_die_or_deliver_something_else_are_errors() {
    insta::assert_snapshot!(refused("kill -KILL $$"), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` was ended by signal 9; kvtier.compiler names the compiler");
    insta::assert_snapshot!(refused("kill -SEGV $$"), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` was ended by signal 11; kvtier.compiler names the compiler");
    insta::assert_snapshot!(refused("exit 0"), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` delivered output that is empty; kvtier.compiler names the compiler");
    insta::assert_snapshot!(refused("/bin/cat"), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` delivered output that is not compiled code of this version of kvtier; kvtier.compiler names the compiler");
    insta::assert_snapshot!(refused("printf kvtierC2; /bin/cat"), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` delivered output that is damaged; kvtier.compiler names the compiler");
    insta::assert_snapshot!(refused(&format!("'{KVTIER}' \"$@\"; exit 3")), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` failed with exit code 3; kvtier.compiler names the compiler");
    insta::assert_snapshot!(refused(&format!("'{KVTIER}' \"$@\" 2> /dev/null | /usr/bin/head -c 1000")), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` delivered output that is damaged; kvtier.compiler names the compiler");
    // Like a program without this command.
    insta::assert_snapshot!(refused("echo \"error: unrecognized subcommand '$1'\" >&2; exit 2"), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` failed with exit code 2 and wrote: error: unrecognized subcommand 'compile-one'; kvtier.compiler names the compiler");
}

#[test]
fn a_compiler_that_cannot_be_run_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = |program: &Path| {
        let config = config(folder.path(), program, alpha("unrun"));
        let error = EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err().to_string();
        error
            .split_once(" was not compiled: ")
            .unwrap()
            .1
            .replace(folder.path().to_str().unwrap(), "[folder]")
    };
    insta::assert_snapshot!(error(&folder.path().join("absent")), @"the compiler `[folder]/absent` cannot be run: No such file or directory (os error 2); kvtier.compiler names the compiler");
    let plain = folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    insta::assert_snapshot!(error(&plain), @"the compiler `[folder]/plain` cannot be run: Permission denied (os error 13); kvtier.compiler names the compiler");
}

#[test]
fn a_compiler_of_another_version_says_so_and_is_not_used() {
    let other_engine = format!("exec '{KVTIER}' \"$1\" \"$2\" engine=00 \"$4\" \"$5\"");
    let error = refused(&other_engine);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        error,
        format!(
            "component `plain.wasm` was not compiled: the compiler `[folder]/compiler` is kvtier {version}, of another \
             version or build than this host; kvtier.compiler names the compiler"
        )
    );
    let other_words = format!("exec '{KVTIER}' \"$@\" nice=19");
    assert_eq!(refused(&other_words), error);
}

#[test]
fn code_of_another_component_is_refused_wherever_it_was_exchanged() {
    let other = support::component("memory");
    let exchanged = format!("exec '{KVTIER}' \"$@\" < '{}'", other.display());
    insta::assert_snapshot!(refused(&exchanged), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` was given another file than the host has read; it changed meanwhile; kvtier.compiler names the compiler");
    let exchanged = format!(
        "exec '{KVTIER}' \"$1\" component={} \"$3\" \"$4\" \"$5\" \"$6\" < '{}'",
        digest(&other),
        other.display()
    );
    insta::assert_snapshot!(refused(&exchanged), @"component `plain.wasm` was not compiled: the compiler `[folder]/compiler` delivered output that belongs to another component; kvtier.compiler names the compiler");
}

#[test]
fn what_a_compiler_says_of_a_component_is_escaped_and_cut() {
    let error = refused(r"printf 'kvtierE1 refused\nbad \033[2J\007name\nsecond line\n'; exit 1");
    assert!(error.contains(r"does not compile: bad \u{1b}[2J\u{7}name / second line; the file"), "{error}");
    let error = refused("/usr/bin/head -c 5000000 /dev/zero | /usr/bin/tr '\\0' '\\033' >&2; exit 7");
    assert!(error.contains(r"failed with exit code 7 and wrote: \u{1b}\u{1b}"), "{error}");
    assert!(error.len() < 10_000, "{} bytes", error.len());
}

#[test]
fn a_component_is_refused_with_the_same_words_in_either_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(support::component("plain")).unwrap();
    bytes.truncate(bytes.len() / 2);
    let path = folder.path().join("torn.wasm");
    fs::write(&path, bytes).unwrap();
    let error = |compiler: Compiler| {
        let backend = support::patient(BackendConfig::new("torn", &path, "AlphaBackend"));
        let config = Config { compiler, ..config(folder.path(), KVTIER, backend) };
        EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err().to_string()
    };
    let here = error(Compiler::Off);
    assert!(here.contains("torn.wasm` does not compile: "), "{here}");
    assert_eq!(error(Compiler::Program(KVTIER.into())), here);
}

/// Checks that a compiler with these commands is not started again when the backend is retried.
fn started_once(commands: &str, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let program = script(folder.path(), &format!("echo started >> '{}'\n{commands}", mark.display()));
    let path = folder.path().join("again.wasm");
    let good = fs::read(support::component("plain")).unwrap();
    fs::write(&path, &good).unwrap();
    let backend = support::patient(BackendConfig::new("again", &path, "AlphaBackend"));
    let config = Config { on_load_error: OnLoadError::Continue, ..config(folder.path(), &program, backend) };
    let engine = support::engine(config);
    let down = || support::health(engine.storage(), "again").down.unwrap_or_default();
    assert!(down().contains(expected), "{}", down());
    // The file disappears and reappears, so that retries become visible. It reappears in one step.
    let (away, back) = (folder.path().join("away"), || down().contains(expected));
    for _ in 0..2 {
        fs::rename(&path, &away).unwrap();
        eventually("a retry finds no file", || down().contains("does not exist"));
        fs::rename(&away, &path).unwrap();
        eventually("a retry finds the file", back);
    }
    assert_eq!(fs::read_to_string(&mark).unwrap(), "started\n");
}

#[test]
fn a_component_that_does_not_compile_is_not_compiled_at_every_retry() {
    started_once("printf 'kvtierE1 refused\nno good'\nexit 1", "does not compile: no good");
}

#[test]
fn a_component_that_brings_the_compiler_down_is_not_compiled_at_every_retry() {
    started_once("kill -SEGV $$", "was ended by signal 11");
    started_once("echo panicked >&2; exit 101", "failed with exit code 101 and wrote: panicked");
}

#[test]
fn backends_of_one_component_share_one_compilation() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let program =
        script(folder.path(), &format!("echo started >> '{}'\nexec '{KVTIER}' \"$@\"", mark.display()));
    let names = ["shares-a", "shares-b", "shares-c"];
    let mut config = config(folder.path(), program, alpha("unused"));
    config.backends = names.map(alpha).to_vec();
    let engine: Engine = support::engine(config);
    let mut codes = names.map(|name| support::code(&engine, name));
    codes.sort();
    assert_eq!(codes, ["cached", "cached", "compiled"]);
    assert_eq!(fs::read_to_string(&mark).unwrap(), "started\n");
}

#[test]
fn a_component_that_compiles_for_ever_delays_neither_the_start_nor_other_backends() {
    let folder = tempfile::tempdir().unwrap();
    let (go, slow) = (folder.path().join("go"), alpha("slow"));
    let slow_digest = digest(&slow.module_path);
    let program = script(
        folder.path(),
        &format!(
            "case \"$2\" in *{slow_digest}) while [ ! -e '{}' ]; do /bin/sleep 0.1; done;; esac\nexec '{KVTIER}' \"$@\"",
            go.display()
        ),
    );
    let mut config = config(folder.path(), program, slow);
    config.on_load_error = OnLoadError::Continue;
    config.backends.push(support::backend("beside", "memory", "MemoryBackend"));
    // This returns, although one of its components is being compiled until a file exists.
    let engine = EngineBuilder::new(config, support::metadata()).build_blocking().unwrap();
    let storage = engine.storage();
    let down = |name: &str| support::health(storage, name).down;
    eventually("the other component is compiled", || down("beside").is_none());
    assert_eq!(down("slow").as_deref(), Some("its component is being compiled"));
    let keys = support::keys(2);
    support::put_in(storage, &keys, "beside");
    storage.set_hot_cache(HotCache::Off);
    assert_eq!(support::served(&support::get(storage, &keys)), [2, 2]);
    fs::write(go, "").unwrap();
    eventually("it is compiled", || down("slow").is_none());
    support::put_in(storage, &support::keys(3), "slow");
    assert_eq!(support::in_tier(storage, &support::keys(3), "slow"), 3);
}

#[test]
fn closing_an_engine_ends_what_compiles_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let program =
        script(folder.path(), &format!("/bin/sleep 3600 &\necho $$ $! > '{}'\nwait", pids.display()));
    let mut config = config(folder.path(), program, alpha("slow"));
    config.on_load_error = OnLoadError::Continue;
    let engine = EngineBuilder::new(config, support::metadata()).build_blocking().unwrap();
    let read = || fs::read_to_string(&pids).unwrap_or_default();
    eventually("the compiler has started", || read().ends_with('\n'));
    engine.blocking().close().unwrap();
    for pid in read().split_whitespace() {
        eventually("the compiler and its child are ended", || !runs(pid));
    }
}
