//! Component bytes: recognised, compiled, inspected, and loaded if a class fulfils the contract.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use kvtier::{
    BackendConfig, CompileCache, Compiler, Config, Dtype, EngineBuilder, EngineMetadata, KvShape, OnLoadError,
};
use kvtier_cli::commands::inspect;

/// The most that `inspect` may print about a component of this many bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Any bytes as a component's file.
pub(super) fn bytes(bytes: &[u8]) {
    let path = file();
    std::fs::write(path, bytes).expect("our own file is writable");
    look(path);
}

/// Inspects a component, and loads the classes that fulfil the contract.
pub(super) fn look(path: &Path) {
    let inspection = match inspect::look(path) {
        Ok(inspection) => inspection,
        Err(error) => {
            let text = format!("{error:#}");
            assert!(!text.is_empty() && text.len() <= TEXT_BYTES_MAX, "{} bytes of error", text.len());
            return;
        }
    };
    let text = inspect::render(&inspection);
    let n_methods: usize = inspection.classes.iter().map(|class| class.methods.len()).sum();
    let n_bytes_max = TEXT_BYTES_MAX + n_methods * (8 << 10);
    assert!(text.len() <= n_bytes_max, "{} bytes of text for {n_methods} methods", text.len());
    for class in inspection.classes.iter().filter(|class| class.fulfils()).take(2) {
        load(path, &class.name);
    }
}

/// Loads a class: links, instantiates, constructs and opens it. This may fail with a message.
fn load(path: &Path, class_name: &str) {
    let mut backend = BackendConfig::new("fuzzed", path, class_name);
    backend.limits.open_timeout = Duration::from_millis(100);
    backend.limits.call_timeout = Duration::from_millis(100);
    backend.limits.close_timeout = Duration::from_millis(100);
    let config = Config {
        chunk_size: 16,
        pool_size_bytes: 16 * 4096,
        on_load_error: OnLoadError::Fail,
        compile_cache: CompileCache::Off,
        compiler: Compiler::Off,
        lane_threads: 1,
        close_timeout: Duration::from_millis(200),
        backends: vec![backend],
        ..Config::default()
    };
    let metadata = EngineMetadata {
        model_name: "fuzz".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::UInt8,
        kv_shape: KvShape::new([1, 2, 16, 1, 1]).expect("a shape"),
    };
    match EngineBuilder::new(config, metadata).build_blocking() {
        // A guest may fail to close in time.
        Ok(engine) => drop(engine.blocking().close()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The file that inputs are written to, of this process.
pub(super) fn file() -> &'static Path {
    static FILE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("component.wasm");
        (folder, path)
    });
    path
}
