//! `kvtier compile`: components into the cache of compiled code.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvtier::__internal::limits::COMPONENT_BYTES_MAX;
use kvtier::__internal::wasm;
use kvtier::__internal::wasm::{CodeOrigin, Compilation, Compiled};
use kvtier::{BackendConfig, CompileCache, Config, Sha256Digest};
use serde_json::{Value, json};

use super::{print, print_json};
use crate::Adapt;
use crate::args::{CompileArgs, CompileOneArgs};
use crate::format::{bytes, duration_ns};
use crate::table::table;

/// A component in the cache.
struct Row {
    file: PathBuf,
    compiled: Compiled,
    time: Duration,
}

/// Compiles the components that the arguments and the configuration name, and writes the outcome of each to `out`.
///
/// # Errors
/// If the configuration is invalid, and if components could not be compiled or kept, with the cause of each. The other
/// components are compiled nevertheless.
pub fn compile(args: &CompileArgs, adapt: Adapt<'_>, out: &mut impl Write) -> Result<()> {
    let mut config = match &args.config {
        Some(path) => Config::from_file(path)?.config,
        None => Config::default(),
    };
    adapt(&mut config);
    if let Some(directory) = &args.cache_dir {
        config.compile_cache = CompileCache::Directory(directory.clone());
    }
    let compilation = Compilation::new(&config);
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    let components = components(&config, args);
    let n_components = components.len();
    for (file, max_bytes, pinned) in components {
        let start = Instant::now();
        match wasm::compile_into_cache(&compilation, &file, max_bytes, pinned.as_ref()) {
            Ok(compiled) => rows.push(Row { file, compiled, time: start.elapsed() }),
            Err(error) => failures.push(error.to_string()),
        }
    }
    if args.json {
        print_json(out, &json(&rows, &failures))?;
    } else if !rows.is_empty() {
        print(out, &text(&rows))?;
    }
    ensure!(
        failures.is_empty(),
        "{} of {n_components} components failed\n  {}",
        failures.len(),
        failures.join("\n  ")
    );
    Ok(())
}

/// Returns the components with their largest size and their pinned digest.
fn components(config: &Config, args: &CompileArgs) -> Vec<(PathBuf, u64, Option<Sha256Digest>)> {
    let of_backend = |backend: &BackendConfig| {
        (backend.module_path.clone(), backend.limits.component_bytes, backend.digest)
    };
    let of_argument = |path: &PathBuf| (path.clone(), COMPONENT_BYTES_MAX, None);
    config.backends.iter().map(of_backend).chain(args.components.iter().map(of_argument)).collect()
}

fn text(rows: &[Row]) -> String {
    let cells = rows.iter().map(|Row { file, compiled, time }| {
        let state = match &compiled.origin {
            CodeOrigin::Cache => "cached already".to_owned(),
            origin => origin.to_string(),
        };
        [
            file.display().to_string(),
            state,
            compiled.digest.to_string(),
            bytes(compiled.component_bytes),
            bytes(compiled.code_bytes),
            duration_ns(time.as_nanos() as f64),
        ]
    });
    table(&["file", "code", "digest", "size", "code size", "time"], 3, cells)
}

fn json(rows: &[Row], failures: &[String]) -> Value {
    let components = rows.iter().map(|Row { file, compiled, time }| {
        json!({
            "file": file.display().to_string(),
            "cached": matches!(compiled.origin, CodeOrigin::Cache),
            "digest": compiled.digest.to_string(),
            "component_bytes": compiled.component_bytes,
            "code_bytes": compiled.code_bytes,
            "seconds": time.as_secs_f64(),
        })
    });
    json!({ "components": components.collect::<Vec<_>>(), "failures": failures })
}

/// Compiles one component for the host that started this process and reads the outcome.
///
/// # Errors
/// If there is no code. The host knows this already.
pub(crate) fn compile_one(args: &CompileOneArgs) -> Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let has_code =
        wasm::compile_one(&args.words, &mut input, &mut output).context("cannot write the code")?;
    ensure!(has_code, "there is no code; the cause is on the standard output");
    Ok(())
}
