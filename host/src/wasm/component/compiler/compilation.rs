//! The configuration of compiling: the cache, the compiler, and its limits.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::cache::{Cache, default_cache_directory};
use crate::config::{CompileCache, CompileLimits, CompilePolicy, Compiler, Config};
use crate::wasm::engine::Traps;

/// How components become code, and where the code is kept.
#[derive(Clone, Debug)]
pub struct Compilation {
    pub(in super::super) cache: CompileCache,
    pub(in super::super) policy: CompilePolicy,
    pub(in super::super) compiler: Compiler,
    pub(in super::super) limits: CompileLimits,
    /// Code that notices traps in one way cannot run in an engine that does it in the other.
    pub(in crate::wasm) traps: Traps,
}

impl Compilation {
    /// Reads the settings of a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            cache: config.compile_cache.clone(),
            policy: config.compile,
            compiler: config.compiler.clone(),
            limits: config.compile_limits,
            traps: if config.signal_handlers { Traps::Signals } else { Traps::Checks },
        }
    }

    pub(in super::super) fn open_cache(&self) -> Result<Cache, String> {
        match (self.cache_directory(), &self.cache) {
            (Some(directory), _) => Cache::open(&directory),
            (None, CompileCache::Off) => Err("kvtier.compile_cache is off".into()),
            (None, _) => Err("no variable names a home for it; set kvtier.compile_cache".into()),
        }
    }

    /// Returns the directory of the cache; `None` if there is no cache.
    pub(in crate::wasm) fn cache_directory(&self) -> Option<PathBuf> {
        match &self.cache {
            CompileCache::Off => None,
            CompileCache::Directory(directory) => Some(directory.clone()),
            CompileCache::User => default_cache_directory(),
        }
    }

    /// Returns the compiler's program; `None` if this process compiles.
    pub(in crate::wasm) fn compiler_program(&self) -> Option<PathBuf> {
        self.find_compiler(std::env::var_os("PATH").as_deref()).ok().map(|(program, _)| program)
    }

    /// Finds the compiler and the arguments that precede those of kvtier. `search_path` is the value of `PATH`.
    pub(in super::super) fn find_compiler(
        &self,
        search_path: Option<&OsStr>,
    ) -> Result<(PathBuf, &[String]), &'static str> {
        // It is started in another directory, so its path must be absolute.
        let absolute = |program: &PathBuf| std::path::absolute(program).unwrap_or_else(|_| program.clone());
        match &self.compiler {
            Compiler::Off => Err("kvtier.compiler is off"),
            Compiler::Program(program) => Ok((absolute(program), &[])),
            Compiler::Command { program, arguments } => Ok((absolute(program), arguments)),
            Compiler::OnPath => search_path
                .into_iter()
                .flat_map(std::env::split_paths)
                .filter(|directory| directory.is_absolute())
                .map(|directory| directory.join("kvtier"))
                .find(|program| is_executable(program))
                .map(|program| (program, &[][..]))
                .ok_or("no compiler found; put kvtier on PATH or name it as kvtier.compiler"),
        }
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Where a component's code came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodeOrigin {
    /// The cache.
    Cache,
    /// A compiler in a separate process.
    Compiler,
    /// This process, for this reason.
    ThisProcess(&'static str),
}

impl fmt::Display for CodeOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cache => f.write_str("cached"),
            Self::Compiler => f.write_str("compiled"),
            Self::ThisProcess(reason) => write!(f, "compiled in this process: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(search_path: &str) -> Result<PathBuf, &'static str> {
        let compilation = Compilation::new(&Config::default());
        compilation.find_compiler(Some(OsStr::new(search_path))).map(|(program, _)| program)
    }

    #[test]
    fn the_compiler_is_the_first_program_of_that_name_in_an_absolute_directory() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, mode) in [("plain", 0o644), ("first", 0o755), ("second", 0o755)] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("kvtier"), "").unwrap();
            fs::set_permissions(at(name).join("kvtier"), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(at("directory").join("kvtier")).unwrap();
        let places =
            ["absent", "directory", "plain", "first", "second"].map(|name| at(name).display().to_string());
        assert_eq!(found(&places.join(":")), Ok(at("first").join("kvtier")));
        assert!(found(&places[..3].join(":")).is_err());
        // A relative directory would depend on the working directory.
        let up: String = std::env::current_dir().unwrap().components().skip(1).map(|_| "../").collect();
        let relative = format!("{up}{}", at("first").display().to_string().trim_start_matches('/'));
        assert!(Path::new(&relative).join("kvtier").exists(), "{relative}");
        assert!(found(&format!(".::{relative}")).is_err());
    }

    #[test]
    fn without_a_compiler_this_process_compiles_and_reports_why() {
        let reason = found("").unwrap_err();
        let note = CodeOrigin::ThisProcess(reason).to_string();
        assert_eq!(
            note,
            "compiled in this process: no compiler found; put kvtier on PATH or name it as kvtier.compiler"
        );
        assert!(Compilation::new(&Config::default()).find_compiler(None).is_err());
    }
}
