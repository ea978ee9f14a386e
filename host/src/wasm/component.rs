//! Component files: reading, recognising, compiling, and the cache of compiled code on disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::CONTRACT_VERSION;
use crate::config::Sha256Digest;

/// A compiled component, and where its code came from.
pub(super) struct Loaded {
    pub(super) component: Component,
    pub(super) digest: Sha256Digest,
    pub(super) from_cache: bool,
}

/// Why a component cannot be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComponentError {
    /// There is no such file.
    #[error("component `{}` does not exist; give module_path relative to the configuration file", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The path is a directory.
    #[error("component `{}` is a directory; give the path of a .wasm file", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The path is a device, a pipe or a socket.
    #[error("component `{}` is not a regular file; give the path of a .wasm file", path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("component `{}` cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file is larger than any component that is accepted.
    #[error("component `{}` has {size_bytes} bytes, more than the {max_bytes} of limits.component_bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The file is no WebAssembly.
    #[error("`{}` is not WebAssembly; build the backend with `cargo build --target wasm32-wasip2`", path.display())]
    NotWasm {
        /// The file.
        path: PathBuf,
    },
    /// The file is a core module.
    #[error("`{}` is a core WebAssembly module, not a component; build it for wasm32-wasip2, not for wasm32-wasip1 or wasm32-unknown-unknown", path.display())]
    CoreModule {
        /// The file.
        path: PathBuf,
    },
    /// The file's digest is not the pinned one.
    #[error("component `{}` has digest {found}, but the configuration pins {pinned}; the file was replaced, or the pin is out of date", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest in the configuration.
        pinned: Sha256Digest,
        /// The file's digest.
        found: Sha256Digest,
    },
    /// The bytes do not compile.
    #[error("component `{}` does not compile: {cause}; the file is damaged or uses what this host does not run, so build it again for wasm32-wasip2", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The compiler's words.
        cause: String,
    },
    /// The component was built against another version of the contract.
    #[error("component `{}` was built against kvtier:storage@{found}; this host serves {CONTRACT_VERSION}; rebuild it with a matching SDK", path.display())]
    OtherContract {
        /// The file.
        path: PathBuf,
        /// The version that the component imports.
        found: String,
    },
    /// The component imports something that the host does not offer.
    #[error("component `{}` cannot be linked: {cause}; this host offers WASI 0.2 and 0.3 and kvtier:storage@{CONTRACT_VERSION}", path.display())]
    Unlinkable {
        /// The file.
        path: PathBuf,
        /// The linker's words.
        cause: String,
    },
}

/// Loads a component: reads, checks the pin, and compiles it or takes compiled code from the cache.
///
/// # Errors
/// [`ComponentError`]. A cache that cannot be used is no error; the component is compiled.
pub(super) fn load(
    engine: &Engine,
    path: &Path,
    max_bytes: u64,
    pinned: Option<&Sha256Digest>,
    cache: Option<&Path>,
) -> Result<Loaded, ComponentError> {
    let bytes = read(path, max_bytes)?;
    let digest = Sha256Digest(Sha256::digest(&bytes).into());
    if let Some(pinned) = pinned.filter(|pinned| **pinned != digest) {
        return Err(ComponentError::Digest { path: path.into(), pinned: *pinned, found: digest });
    }
    recognise(path, &bytes)?;
    let cache = cache.and_then(|directory| Cache::open(directory, engine, &digest));
    if let Some(component) = cache.as_ref().and_then(|cache| cache.load(engine)) {
        check_contract(engine, &component, path)?;
        return Ok(Loaded { component, digest, from_cache: true });
    }
    let invalid =
        |error: wasmtime::Error| ComponentError::Invalid { path: path.into(), cause: format!("{error:#}") };
    let component = Component::from_binary(engine, &bytes).map_err(invalid)?;
    check_contract(engine, &component, path)?;
    if let Some(cache) = cache {
        cache.store(&component);
    }
    Ok(Loaded { component, digest, from_cache: false })
}

/// Reads a component's file, if it has no more than `max_bytes`.
pub(super) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, ComponentError> {
    let unreadable = |source| ComponentError::Unreadable { path: path.into(), source };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ComponentError::Missing { path: path.into() });
        }
        Err(error) => return Err(unreadable(error)),
    };
    if metadata.is_dir() {
        return Err(ComponentError::Directory { path: path.into() });
    }
    if !metadata.is_file() {
        return Err(ComponentError::NotAFile { path: path.into() });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max_bytes {
        return Err(ComponentError::TooLarge { path: path.into(), size_bytes: metadata.len(), max_bytes });
    }
    Ok(bytes)
}

/// Tells a component from a core module and from other files by the first eight bytes.
pub(super) fn recognise(path: &Path, bytes: &[u8]) -> Result<(), ComponentError> {
    match bytes {
        [b'\0', b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(ComponentError::CoreModule { path: path.into() }),
        _ => Err(ComponentError::NotWasm { path: path.into() }),
    }
}

/// Refuses components that import another version of the contract.
fn check_contract(engine: &Engine, component: &Component, path: &Path) -> Result<(), ComponentError> {
    for (name, _) in component.component_type().imports(engine) {
        if let Some((_, version)) =
            name.strip_prefix("kvtier:storage/").and_then(|interface| interface.split_once('@'))
            && version != CONTRACT_VERSION
        {
            return Err(ComponentError::OtherContract { path: path.into(), found: version.into() });
        }
    }
    Ok(())
}

/// One component's place in the cache: a file named after the component's digest and the engine's settings.
///
/// Compiled code is run as it stands, so the cache is as trustworthy as the host's own program: its
/// directory must belong to this user and be closed to others, and each file carries a hash of its content
/// against damage.
struct Cache {
    file: PathBuf,
}

const CACHE_MAGIC: &[u8; 8] = b"kvtierC1";

impl Cache {
    /// Opens the cache, making its directory if there is none; logs and answers `None` if it cannot be used.
    fn open(directory: &Path, engine: &Engine, digest: &Sha256Digest) -> Option<Self> {
        let unusable = |reason: String| {
            tracing::warn!(directory = %directory.display(), reason, "compile cache is not used");
            None
        };
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(directory) {
            return unusable(error.to_string());
        }
        match fs::metadata(directory) {
            Err(error) => return unusable(error.to_string()),
            Ok(metadata) if metadata.mode() & 0o022 != 0 => {
                return unusable("others can write to it; run chmod 700 on it".into());
            }
            Ok(metadata) if metadata.uid() != rustix::process::geteuid().as_raw() => {
                return unusable("it belongs to another user".into());
            }
            Ok(_) => {}
        }
        let mut settings = Fingerprint(blake3::Hasher::new());
        std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut settings);
        let settings = settings.0.finalize().to_hex();
        let digest = digest.to_string().replace(':', "-");
        Some(Self { file: directory.join(format!("{digest}-{}.cwasm", &settings[..16])) })
    }

    /// Loads compiled code; `None` if there is none or it is damaged.
    #[expect(unsafe_code, reason = "deserialising compiled code runs it later")]
    fn load(&self, engine: &Engine) -> Option<Component> {
        let stored = fs::read(&self.file).ok()?;
        let (head, code) = stored.split_at_checked(CACHE_MAGIC.len() + 32)?;
        if head[..8] != CACHE_MAGIC[..] || head[8..] != blake3::hash(code).as_bytes()[..] {
            tracing::warn!(file = %self.file.display(), "cached code is damaged; compiling again");
            return None;
        }
        // SAFETY: the file lies in a directory that only this user can write to, was written by `store`,
        // and its content is what was written.
        match unsafe { Component::deserialize(engine, code) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "cached code does not fit; compiling again");
                None
            }
        }
    }

    /// Stores compiled code under its final name at once, or logs why not.
    fn store(&self, component: &Component) {
        let stored = component.serialize().map_err(|error| error.to_string()).and_then(|code| {
            // Engines of this process, and of others with the same number, may be storing the same file.
            let unique = RandomState::new().build_hasher().finish();
            let temporary = self.file.with_extension(format!("{unique:016x}.tmp"));
            let write = || -> io::Result<()> {
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
                file.write_all(CACHE_MAGIC)?;
                file.write_all(blake3::hash(&code).as_bytes())?;
                file.write_all(&code)?;
                fs::rename(&temporary, &self.file)
            };
            write().map_err(|error| {
                // What was written of it; there may be nothing.
                drop(fs::remove_file(&temporary));
                error.to_string()
            })
        });
        if let Err(error) = stored {
            tracing::warn!(file = %self.file.display(), error, "compiled code could not be cached");
        }
    }
}

/// Turns a `Hash` value into a digest that stays the same from process to process.
struct Fingerprint(blake3::Hasher);

impl std::hash::Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes()[..8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// Returns the directory for compiled code of this user, if the environment names a home.
pub fn default_cache_directory() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("kvtier"))
}
