//! `kvtier compile`: components into the cache of compiled code.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use kvtier::Config;
use kvtier::config::{BackendConfig, CompileCache, Compiler, Sha256Digest};
use kvtier::limits::COMPONENT_BYTES_MAX;
use kvtier::wasm::{self, CodeOrigin, Compilation};

use crate::args::{CompileArgs, CompileOneArgs};
use crate::format::{bytes, duration_ns};
use crate::table::table;

/// Takes this program as the compiler, unless the configuration names one.
pub(crate) fn choose_compiler(config: &mut Config, program: Option<&Path>) {
    if let (Compiler::OnPath, Some(program)) = (&config.compiler, program) {
        config.compiler = Compiler::Program(program.into());
    }
}

/// Compiles the components that the arguments and the configuration name, and writes a table of them to `out`.
///
/// # Errors
/// A configuration that cannot be used; components that could not be compiled or kept, each with its cause, after
/// the others were.
pub fn compile(args: &CompileArgs, program: Option<&Path>, out: &mut impl Write) -> Result<()> {
    let mut config = match &args.config {
        Some(path) => Config::from_file(path)?.config,
        None => Config::default(),
    };
    choose_compiler(&mut config, program);
    if let Some(directory) = &args.cache_dir {
        config.compile_cache = CompileCache::Directory(directory.clone());
    }
    let compilation = Compilation::new(&config);
    let of_backend = |backend: &BackendConfig| {
        (backend.module_path.clone(), backend.limits.component_bytes, backend.digest)
    };
    let mut components: Vec<(PathBuf, u64, Option<Sha256Digest>)> =
        config.backends.iter().map(of_backend).collect();
    components.extend(args.components.iter().map(|path| (path.clone(), COMPONENT_BYTES_MAX, None)));

    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for (path, max_bytes, pinned) in &components {
        let start = Instant::now();
        match wasm::compile_into_cache(&compilation, path, *max_bytes, pinned.as_ref()) {
            Ok(compiled) => {
                let state = match &compiled.origin {
                    CodeOrigin::Cache => "cached already".to_owned(),
                    origin => origin.to_string(),
                };
                rows.push([
                    path.display().to_string(),
                    state,
                    compiled.digest.to_string(),
                    bytes(compiled.component_bytes),
                    bytes(compiled.code_bytes),
                    duration_ns(start.elapsed().as_nanos() as f64),
                ]);
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.len() < components.len() {
        let text = table(&["file", "code", "digest", "size", "code size", "time"], 3, rows);
        out.write_all(text.as_bytes()).context("cannot write to the standard output")?;
    }
    if !failures.is_empty() {
        bail!("{} of {} components failed\n  {}", failures.len(), components.len(), failures.join("\n  "));
    }
    Ok(())
}

/// Serves as the compiler of one component; the host that started this process reads the outcome.
///
/// # Errors
/// When there is no code, which the host knows already.
pub(crate) fn compile_one(args: &CompileOneArgs) -> Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let has_code =
        wasm::compile_one(&args.words, &mut input, &mut output).context("cannot write the code")?;
    ensure!(has_code, "there is no code; the standard output says why");
    Ok(())
}
