//! Grants that would let a guest write what the host runs as native code: compiled code and the compiler.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::{BackendConfig, FsAccess, Grants};

/// A grant through which a guest could leave its sandbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "allow.fs grants `{}` for writing, and the {what} `{}` is {}: what a backend writes there, this host would run \
     outside of any sandbox; grant another directory, or set {key} to a place that no backend may write to",
    granted.display(), place.display(), if place.starts_with(granted) { "in it" } else { "above it" }
)]
#[non_exhaustive]
pub struct OverlapError {
    /// The granted directory, with links resolved.
    pub granted: PathBuf,
    /// The kind of code that the host runs.
    pub what: &'static str,
    /// The path of that code, with links resolved.
    pub place: PathBuf,
    /// The configuration key for that path.
    pub key: &'static str,
}

/// Refuses grants for writing that contain the compile cache or the compiler, or lie in the cache.
///
/// # Errors
/// [`OverlapError`]
pub(in crate::wasm) fn check(
    allow: &Grants,
    cache: Option<PathBuf>,
    compiler: Option<PathBuf>,
) -> Result<(), OverlapError> {
    let cache = cache.map(|path| ("compile cache", path, "kvtier.compile_cache"));
    let compiler = compiler.map(|path| ("compiler", path, "kvtier.compiler"));
    for (what, place, key) in cache.into_iter().chain(compiler) {
        let place = resolved(&place);
        for granted in writable(allow) {
            if place.starts_with(&granted) || granted.starts_with(&place) {
                return Err(OverlapError { granted, what, place, key });
            }
        }
    }
    Ok(())
}

/// Warns about a component that its own backend could replace: the next start would run the new file, because the
/// configuration pins no digest.
pub(in crate::wasm) fn warn_of_unpinned(config: &BackendConfig) {
    let component = resolved(&config.module_path);
    if let Some(granted) = writable(&config.allow).find(|granted| component.starts_with(granted))
        && config.digest.is_none()
    {
        tracing::warn!(
            backend = config.name,
            "allow.fs grants `{}` for writing, in which the backend's own component is; add its digest",
            granted.display()
        );
    }
}

fn writable(allow: &Grants) -> impl Iterator<Item = PathBuf> {
    let writable = allow.fs.iter().filter(|grant| grant.access == FsAccess::ReadWrite);
    writable.map(|grant| resolved(&grant.host_dir))
}

/// Resolves the links of a path as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    for existing in absolute.ancestors() {
        match existing.canonicalize() {
            Ok(mut real) => {
                real.extend(absolute.strip_prefix(existing).unwrap_or(Path::new("")));
                return real;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => break,
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::FsGrant;

    #[test]
    fn a_grant_for_writing_overlaps_neither_cache_nor_compiler() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(at("home/cache/kv")).unwrap();
        fs::create_dir_all(at("home/data")).unwrap();
        fs::create_dir_all(at("bin")).unwrap();
        symlink(at("home"), at("link")).unwrap();
        let overlap = |cache: &str, granted: &str, access: FsAccess| {
            let grant = FsGrant { host_dir: at(granted), guest_path: "/data".into(), access };
            let allow = Grants { fs: vec![grant], ..Grants::default() };
            check(&allow, Some(at(cache)), Some(at("bin/kvtier")))
                .err()
                .map(|error| (error.what, error.place))
        };
        let cache = |place: &str| Some(("compile cache", at(place)));
        for (place, granted) in [
            ("home/cache/kv", "home"),
            ("home/cache/kv", "home/cache/kv"),
            ("home/cache/kv", "link/cache"),
            ("home/cache", "home/cache/kv"),
            ("home/cache", "home/cache/later"),
            ("home/cache", "home/data/../cache"),
        ] {
            assert_eq!(overlap(place, granted, FsAccess::ReadWrite), cache(place), "{granted}");
            assert_eq!(overlap(place, granted, FsAccess::ReadOnly), None, "{granted}");
        }
        assert_eq!(
            overlap("link/later/kv", "home", FsAccess::ReadWrite),
            cache("home/later/kv"),
            "not made yet"
        );
        assert_eq!(overlap("home/cache", "home/data", FsAccess::ReadWrite), None);
        assert_eq!(overlap("home/cache", "home/cache-not", FsAccess::ReadWrite), None);
        assert_eq!(overlap("home/cache", "bin", FsAccess::ReadWrite), Some(("compiler", at("bin/kvtier"))));
    }
}
