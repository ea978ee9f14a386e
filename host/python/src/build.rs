//! Building chains from the arguments of Python.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;

use kvtier::{
    BuildError as HostBuildError, Compiler, Config, Dtype, EngineBuilder, EngineMetadata, KvShape,
    ReadConfig, StorageMetadata,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};

use crate::args::{explained, field};
use crate::errors::{BuildError, ClosedError, ConfigError};
use crate::run::{FirstStep, wait};
use crate::{gate, log, report};

/// Variables that override the configuration's keys.
type Environment = HashMap<String, String>;

/// Reads a file. Without `env`, the process environment overrides its keys.
pub(crate) fn config_from_file(path: &Bound<'_, PyAny>, env: Option<&Bound<'_, PyAny>>) -> PyResult<Config> {
    let path: PathBuf = path.extract()?;
    let read = match env {
        Some(env) => Config::from_file_with_env(path, environment(Some(env))?),
        None => Config::from_file(path),
    };
    finish(read)
}

/// Reads a text in YAML. Only `env` overrides its keys.
pub(crate) fn config_from_text(
    text: &str,
    base_dir: &Bound<'_, PyAny>,
    env: Option<&Bound<'_, PyAny>>,
) -> PyResult<Config> {
    finish(Config::from_yaml(text, absolute(base_dir)?, environment(env)?))
}

/// Reads a mapping of plain values. Only `env` overrides its keys.
pub(crate) fn config_from_dict(
    config: &Bound<'_, PyAny>,
    base_dir: &Bound<'_, PyAny>,
    env: Option<&Bound<'_, PyAny>>,
) -> PyResult<Config> {
    let py = config.py();
    let config =
        config.cast::<PyMapping>().map_err(|_| PyTypeError::new_err("the configuration is a mapping"))?;
    let plain = py.get_type::<PyDict>().call1((config,))?;
    let options = PyDict::new(py);
    options.set_item("allow_nan", false)?;
    let text = py.import("json")?.call_method("dumps", (plain,), Some(&options)).map_err(|error| {
        ConfigError::new_err(format!("the configuration is not made of plain values: {error}"))
    })?;
    finish(Config::from_json(&text.extract::<String>()?, absolute(base_dir)?, environment(env)?))
}

fn absolute(base_dir: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    Ok(std::path::absolute(base_dir.extract::<PathBuf>()?)?)
}

fn environment(env: Option<&Bound<'_, PyAny>>) -> PyResult<Environment> {
    let Some(env) = env else { return Ok(Environment::new()) };
    let variables = env.py().get_type::<PyDict>().call1((env,))?;
    explained(env.py(), variables.extract(), "env is a mapping of text to text")
}

fn finish(read: Result<ReadConfig, kvtier::ConfigError>) -> PyResult<Config> {
    read.map(ReadConfig::log).map_err(|error| ConfigError::new_err(error.to_string()))
}

/// Fits a configuration to Python: traps without signal handlers, since other code of the process installs its own
/// (`faulthandler`), and the compiler that this library contains.
pub(crate) fn adapt(config: &mut Config, compiler: Option<(PathBuf, Vec<String>)>) {
    config.signal_handlers = false;
    if let (Compiler::OnPath, Some((program, arguments))) = (&config.compiler, compiler) {
        config.compiler = Compiler::Command { program, arguments };
    }
}

/// Returns the command that runs the compiler in an interpreter of its own; `None` if this one has no program.
pub(crate) fn compiler(py: Python<'_>) -> PyResult<Option<(PathBuf, Vec<String>)>> {
    let command = py.import("kvtier._lifecycle")?.call_method0("compiler_command")?;
    command.extract()
}

/// Builds an engine on tokens.
pub(crate) fn engine(
    py: Python<'_>,
    mut config: Config,
    metadata: &Bound<'_, PyAny>,
) -> PyResult<kvtier::Engine> {
    let metadata = engine_metadata(metadata)?;
    start(py, &mut config)?;
    finish_build(py, EngineBuilder::new(config, metadata).build())
}

/// Builds a chain on keys.
pub(crate) fn storage(
    py: Python<'_>,
    mut config: Config,
    metadata: &Bound<'_, PyAny>,
    has_cpu_tier: bool,
) -> PyResult<kvtier::StorageManager> {
    let metadata = storage_metadata(metadata)?;
    start(py, &mut config)?;
    let mut builder = EngineBuilder::on_keys(config, metadata);
    if !has_cpu_tier {
        builder = builder.without_cpu_tier();
    }
    finish_build(py, builder.build())
}

fn finish_build<T: Send>(
    py: Python<'_>,
    build: impl Future<Output = Result<T, HostBuildError>> + Send,
) -> PyResult<T> {
    let Some(outcome) = wait(py, build, FirstStep::WithoutGil, None)? else {
        unreachable!("it has no limit")
    };
    outcome.map_err(|error| build_error(&error))
}

fn start(py: Python<'_>, config: &mut Config) -> PyResult<()> {
    if gate::is_exiting() {
        return Err(ClosedError::new_err("the interpreter is exiting; nothing is opened any more"));
    }
    log::start();
    // Also if its thread runs: it looks at the level of `logging`.
    py.import("kvtier._lifecycle")?.call_method0("start")?;
    adapt(config, compiler(py)?);
    Ok(())
}

fn build_error(error: &HostBuildError) -> PyErr {
    match error {
        HostBuildError::Control(_)
        | HostBuildError::Pool(_)
        | HostBuildError::Threads(_)
        | HostBuildError::Load { .. } => BuildError::new_err(error.to_string()),
        _ => ConfigError::new_err(error.to_string()),
    }
}

const COUNT: &str = "an integer from 0 to 4294967295";

fn engine_metadata(metadata: &Bound<'_, PyAny>) -> PyResult<EngineMetadata> {
    const SHAPE: &str = "(layers, 2, chunk_size, kv_heads, head_size), with 1 instead of 2 for MLA";
    expect_class(metadata, "EngineMetadata")?;
    let dtype: String = field(metadata, "kv_dtype", "the name of an element type")?;
    let extents: Vec<u32> = field(metadata, "kv_shape", SHAPE)?;
    let extents: [u32; 5] = extents.try_into().map_err(|extents: Vec<u32>| {
        PyValueError::new_err(format!(
            "EngineMetadata.kv_shape is {SHAPE}; this has {} numbers",
            extents.len()
        ))
    })?;
    Ok(EngineMetadata {
        model_name: field(metadata, "model_name", "text")?,
        world_size: field(metadata, "world_size", COUNT)?,
        worker_id: field(metadata, "worker_id", COUNT)?,
        kv_dtype: dtype.parse::<Dtype>().map_err(|error| PyValueError::new_err(error.to_string()))?,
        kv_shape: KvShape::new(extents).map_err(|error| PyValueError::new_err(error.to_string()))?,
    })
}

fn storage_metadata(metadata: &Bound<'_, PyAny>) -> PyResult<StorageMetadata> {
    expect_class(metadata, "StorageMetadata")?;
    Ok(StorageMetadata {
        model_name: field(metadata, "model_name", "text")?,
        world_size: field(metadata, "world_size", COUNT)?,
        worker_id: field(metadata, "worker_id", COUNT)?,
        layout: field(metadata, "layout", "text")?,
        chunk_bytes_max: field(metadata, "chunk_bytes_max", "a size in bytes, at least 1")?,
    })
}

fn expect_class(metadata: &Bound<'_, PyAny>, name: &str) -> PyResult<()> {
    let py = metadata.py();
    if metadata.is_instance(report::class(py, name)?.as_any())? {
        return Ok(());
    }
    Err(PyTypeError::new_err(format!("metadata is a kvtier.{name}, not a {}", metadata.get_type().name()?)))
}
