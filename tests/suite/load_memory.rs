//! The cost of a component to the host before it runs: memory for each lane is bounded, whatever its instances consist
//! of, and a component that would cost more is refused before it is compiled.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use kvtier::__internal::limits::{
    COMPONENT_BYTES_MAX, COMPONENT_INSTANCES_MAX, INSTANCE_ITEM_BYTES, INSTANCE_ITEMS_MAX,
};
use kvtier::__internal::wasm::{Compilation, compile_into_cache};
use kvtier::{BackendConfig, CompileCache, Config, EngineBuilder};
use tempfile::TempDir;

use crate::support;

/// The component of `hoarder.wat` with additional content.
fn hoarder_with(more: &str) -> Vec<u8> {
    let text =
        include_str!("hoarder.wat").replace("PAGES", "1").replace("ELEMENTS", "1").replace("TAKE", "memory");
    let body = text.trim_end().strip_suffix(')').unwrap();
    wat::parse_str(format!("{body}\n{more})")).unwrap()
}

/// Starts an engine with a component of these bytes, which is refused, and returns the error.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refused.wasm");
    fs::write(&path, bytes).unwrap();
    // No compiler could run.
    let mut config = support::config(vec![BackendConfig::new("store", &path, "HoarderBackend")]);
    config.compiler = kvtier::Compiler::Program("/nowhere/kvtier".into());
    config.compile_cache = CompileCache::Directory(folder.path().join("cache"));
    let error = EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err().to_string();
    error.replace(&path.display().to_string(), "refused.wasm")
}

/// Empty components in levels, each of which instantiates the one below 12 times.
fn tower(n_levels: usize) -> String {
    let mut text = "(component $c0)".to_owned();
    for level in 1..=n_levels {
        let twelve = format!("(instance (instantiate $c{})) ", level - 1).repeat(12);
        write!(text, "(component $c{level} {twelve})").unwrap();
    }
    format!("{text} (instance (instantiate $c{n_levels}))")
}

#[test]
fn component_instances_are_counted_after_multiplication_and_refused_before_compiling() {
    let bytes = hoarder_with(&tower(7));
    assert!(bytes.len() < 4_000, "{}", bytes.len());
    insta::assert_snapshot!(refusal(&bytes), @"backend `store`: component `refused.wasm` instantiates 39089247 components, itself included, more than the 128 that are accepted; build it of fewer");
    let error = refusal(&hoarder_with(&tower(40)));
    assert!(error.contains("instantiates uncountably many components"), "{error}");
}

#[test]
fn exports_are_counted_with_those_of_exported_instances_and_refused_before_compiling() {
    let mut text =
        "(component $e (type $t u8) (export \"t\" (type $t))) (instance $e0 (instantiate $e))".to_owned();
    for level in 1..=5 {
        let one = |n| format!("(export \"e{n}\" (instance $e{}))", level - 1);
        let twelve = (0..12).map(one).collect::<String>();
        write!(text, "(instance $e{level} {twelve})").unwrap();
    }
    let error = refusal(&hoarder_with(&format!("{text} (export \"a:b/c\" (instance $e5))")));
    assert!(error.contains("exports, those of exported instances included, more than the 32768"), "{error}");
}

#[test]
fn the_elements_of_passive_segments_are_counted_and_refused_before_compiling() {
    let elements = "(ref.null func) ".repeat(20_000);
    let instances = "(core instance (instantiate $many))".repeat(100);
    let error = refusal(&hoarder_with(&format!("(core module $many (elem funcref {elements})) {instances}")));
    assert!(
        error.contains(" functions, globals and other items in all its instances together, more"),
        "{error}"
    );
}

/// Returns a module's fields that weigh `n` items.
type Fields = fn(usize) -> String;

/// The kinds of items of core modules. Elements take the addresses of functions, so that the host keeps all of them.
const CORE_KINDS: [(&str, Fields); 4] = [
    ("globals", |n| "(global i32 i32.const 1)".repeat(n)),
    ("functions", |n| {
        let elements = (0..n / 2 - 1).fold(String::new(), |text, i| text + &format!(" {i}"));
        format!("{} (elem func {elements})", "(func)".repeat(n / 2 - 1))
    }),
    ("passive elements", |n| format!("(elem funcref {})", "(ref.null func) ".repeat(n - 1))),
    ("passive data", |n| "(data \"x\")".repeat(n)),
];

/// Instances of one core module that together weigh almost as much as is accepted.
fn many_core(fields: Fields) -> String {
    const INSTANCES: usize = 100;
    let n = (INSTANCE_ITEMS_MAX as usize - 4_000) / INSTANCES - 16;
    let instances = "(core instance (instantiate $many))".repeat(INSTANCES);
    format!("(core module $many {}) {instances}", fields(n))
}

/// The same for imports.
fn many_imports() -> String {
    const INSTANCES: usize = 100;
    let n = ((INSTANCE_ITEMS_MAX as usize - 8_000) / INSTANCES - 17) / 3;
    let mut module = String::new();
    for i in 0..n {
        write!(module, "(import \"of\" \"f{i}\" (func $f{i}))").unwrap();
    }
    let elements = (0..n).fold(String::new(), |text, i| text + &format!(" $f{i}"));
    let exports = (0..n).fold(String::new(), |text, i| text + &format!("(export \"f{i}\" (func $f))"));
    let instances = "(core instance (instantiate $many (with \"of\" (instance $of))))".repeat(INSTANCES);
    format!(
        "(core module $Of (func $f) {exports}) (core instance $of (instantiate $Of)) \
         (core module $many {module} (elem func {elements})) {instances}"
    )
}

/// Functions of one component that another one calls, each through an adapter between two memories.
fn many_adapters() -> String {
    // Each is lifted, lowered, and imported by a module.
    let n_functions = (INSTANCE_ITEMS_MAX as usize - 4_000) / (16 + 16 + 2);
    let lifted = (0..n_functions).fold(String::new(), |text, i| {
        text + &format!(
            "(func $l{i} (param \"s\" string) (result string) (canon lift (core func $i \"f\") (memory $m) \
             (realloc (core func $i \"realloc\")))) (export \"f{i}\" (func $l{i}))"
        )
    });
    let lowered = (0..n_functions).fold(String::new(), |text, i| {
        text + &format!(
            "(alias export $from \"f{i}\" (func $a{i})) \
             (core func $c{i} (canon lower (func $a{i}) (memory $m) (realloc $realloc)))"
        )
    });
    let used =
        (0..n_functions).fold(String::new(), |text, i| text + &format!("(export \"f{i}\" (func $c{i}))"));
    let wanted = (0..n_functions).fold(String::new(), |text, i| {
        text + &format!("(import \"of\" \"f{i}\" (func (param i32 i32 i32)))")
    });
    let types = (0..n_functions).fold(String::new(), |text, i| {
        text + &format!("(export \"f{i}\" (func (param \"s\" string) (result string)))")
    });
    let core = "(core module $M (memory (export \"m\") 0) \
                (func (export \"f\") (param i32 i32) (result i32) unreachable) \
                (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) unreachable))";
    format!(
        "(component $From {core} (core instance $i (instantiate $M)) (alias core export $i \"m\" (core memory $m)) {lifted}) \
         (component $To (import \"from\" (instance $from {types})) {core} (core instance $i (instantiate $M)) \
              (alias core export $i \"m\" (core memory $m)) (alias core export $i \"realloc\" (core func $realloc)) {lowered} \
              (core module $User {wanted}) (core instance (instantiate $User (with \"of\" (instance {used}))))) \
         (instance $from (instantiate $From)) \
         (instance (instantiate $To (with \"from\" (instance $from))))"
    )
}

/// Resource types, each with a host function that makes one.
fn many_resources() -> String {
    const EACH: usize = 400;
    let resource = |i| format!("(type $r{i} (resource (rep i32))) (core func (canon resource.new $r{i}))");
    let resources = (0..EACH).fold(String::new(), |text, i| text + &resource(i));
    let n = (INSTANCE_ITEMS_MAX as usize - 8_000) / (EACH * 18 + 8);
    format!("(component $many {resources}) {}", "(instance (instantiate $many))".repeat(n))
}

/// As many component instances as are accepted.
fn many_components() -> String {
    // Itself and the class.
    let n = COMPONENT_INSTANCES_MAX as usize - 2;
    format!("(component $many) {}", "(instance (instantiate $many))".repeat(n))
}

const LANES: &str = "KVTIER_TEST_LANES";
const COMPONENT: &str = "KVTIER_TEST_COMPONENT";
const CHILD: &str = "load_memory::with_so_many_lanes_this_process_takes_so_much_memory";

/// The test below starts this in a separate process: it builds an engine with one backend and prints the memory used.
#[test]
fn with_so_many_lanes_this_process_takes_so_much_memory() {
    let (Ok(lanes), Ok(path)) = (std::env::var(LANES), std::env::var(COMPONENT)) else { return };
    let mut backend = BackendConfig::new("store", path, "HoarderBackend");
    backend.lanes = lanes.parse().unwrap();
    backend.limits.open_timeout = crate::lanes::FOR_EVER;
    let engine = support::engine(support::config(vec![backend]));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    println!("RESIDENT {}", resident.trim().trim_end_matches(" kB"));
    drop(engine);
}

/// Returns the resident memory of a process with this many lanes of a component, in bytes.
fn resident_bytes(component: &Path, lanes: usize) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--nocapture"])
        .env(LANES, lanes.to_string())
        .env(COMPONENT, component)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let kib = text
        .lines()
        .find_map(|line| line.split("RESIDENT ").nth(1))
        .unwrap_or_else(|| panic!("{text}{errors}"));
    kib.trim().parse::<u64>().unwrap() << 10
}

/// The memory of a lane beside its items: its store, its stack, and the touched part of its memories.
const LANE_BYTES: u64 = 2 << 20;

#[test]
fn loading_costs_no_more_memory_for_each_lane_than_the_items_that_are_accepted() {
    let mut kinds: Vec<(&str, String)> =
        CORE_KINDS.iter().map(|(kind, fields)| (*kind, many_core(*fields))).collect();
    kinds.push(("nothing", String::new()));
    kinds.push(("imports", many_imports()));
    kinds.push(("resources", many_resources()));
    kinds.push(("adapters", many_adapters()));
    kinds.push(("component instances", many_components()));
    let folder = TempDir::new().unwrap();
    let compilation = Compilation::new(&Config { ..support::config(Vec::new()) });
    for (kind, more) in kinds {
        let path = folder.path().join(format!("{}.wasm", kind.replace(' ', "-")));
        fs::write(&path, hoarder_with(&more)).unwrap();
        compile_into_cache(&compilation, &path, COMPONENT_BYTES_MAX, None).unwrap();
        let (one, three) = (resident_bytes(&path, 1), resident_bytes(&path, 3));
        let each = three.saturating_sub(one) / 2;
        println!("{kind}: {} KiB for each lane", each >> 10);
        assert!(
            each <= INSTANCE_ITEMS_MAX * INSTANCE_ITEM_BYTES + LANE_BYTES,
            "{kind}: {each} bytes for each lane"
        );
    }
}
