//! The cache of compiled code: a directory with one file for each component and engine.
//!
//! Compiled code runs as native code, so the cache must be as trustworthy as the host's own program: directory and
//! files must belong to this user, and nobody else may write to them. All access goes through one opened directory, so
//! that the directory that is used is the one that was checked.

use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::code::{CachedCode, Identity};
use crate::limits::{CACHE_TEMPORARY_AGE_MAX, CODE_BYTES_MAX};

const TEMPORARY: &str = ".tmp";

/// An opened cache.
pub(super) struct Cache {
    directory: OwnedFd,
    path: PathBuf,
}

/// Why the cache does not return an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CacheMiss {
    /// There is no entry.
    Absent,
    /// There is an entry that must not be used, for this reason.
    Refused(String),
}

impl Cache {
    /// Opens a cache. Creates its directory if there is none.
    ///
    /// # Errors
    /// Why the directory cannot be used, with its path.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let unusable = |reason: &str| format!("the compile cache `{}` {reason}", path.display());
        let system = |error: io::Error| unusable(&format!("cannot be opened: {error}"));
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(system)?;
        // Only the last part of the path is checked: anyone who can replace a link above it can replace this one too.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => File::from(directory),
            // To the system, a link that is not followed is not a directory.
            Err(_) if path.is_symlink() => {
                return Err(unusable("is a symbolic link; name the directory itself"));
            }
            Err(error) => return Err(system(error.into())),
        };
        let metadata = directory.metadata().map_err(system)?;
        match trouble_with(&metadata) {
            Some(Trouble::Writable) => Err(unusable("can be written to by others; run chmod 700 on it")),
            Some(Trouble::OtherOwner) => Err(unusable("belongs to another user")),
            None => Ok(Self { directory: directory.into(), path: path.into() }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads an entry.
    pub(super) fn read(&self, identity: &Identity) -> Result<CachedCode, CacheMiss> {
        let name = file_name(identity);
        let refuse = |reason: String| {
            CacheMiss::Refused(format!("the cached code `{}` {reason}", self.path.join(&name).display()))
        };
        // Without NONBLOCK, a named pipe in the file's place would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.directory, name.as_str(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Err(CacheMiss::Absent),
            Err(Errno::LOOP) => return Err(refuse("is a symbolic link".into())),
            Err(error) => return Err(refuse(format!("cannot be opened: {error}"))),
        };
        let metadata = file.metadata().map_err(|error| refuse(error.to_string()))?;
        if !metadata.is_file() {
            return Err(refuse("is not a regular file".into()));
        }
        match trouble_with(&metadata) {
            Some(Trouble::Writable) => return Err(refuse("can be written to by others".into())),
            Some(Trouble::OtherOwner) => return Err(refuse("belongs to another user".into())),
            None => {}
        }
        if metadata.len() > CODE_BYTES_MAX as u64 {
            return Err(refuse(format!(
                "has {} bytes, more than the {CODE_BYTES_MAX} that are accepted",
                metadata.len()
            )));
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        let limit = CODE_BYTES_MAX as u64;
        file.take(limit).read_to_end(&mut bytes).map_err(|error| refuse(error.to_string()))?;
        CachedCode::check(identity, bytes).map_err(|error| refuse(error.to_string()))
    }

    /// Stores an entry under its final name in one step, replacing any other, and removes the files that killed writers
    /// have left.
    ///
    /// # Errors
    /// Why it could not be stored, with the cache's path.
    pub(super) fn write(&self, identity: &Identity, entry: &CachedCode) -> Result<(), String> {
        self.sweep(SystemTime::now());
        let name = file_name(identity);
        // Other engines of this process, and processes with the same number, may be storing the same entry.
        let unique = RandomState::new().build_hasher().finish();
        let temporary = format!("{name}.{unique:016x}{TEMPORARY}");
        let write = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = rustix::fs::openat(&self.directory, temporary.as_str(), flags, mode)?;
            File::from(file).write_all(entry.bytes())?;
            Ok(rustix::fs::renameat(&self.directory, temporary.as_str(), &self.directory, name.as_str())?)
        };
        write().map_err(|error| {
            self.remove(&temporary);
            format!("the compile cache `{}` takes no code: {error}", self.path.display())
        })
    }

    /// Removes old temporary files. Those that cannot be removed do no harm.
    fn sweep(&self, now: SystemTime) {
        let Ok(entries) = Dir::read_from(&self.directory) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !name.ends_with(TEMPORARY) {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let changed =
                SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            if now.duration_since(changed).is_ok_and(|age| age > CACHE_TEMPORARY_AGE_MAX) {
                self.remove(name);
            }
        }
    }

    fn remove(&self, name: &str) {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            // The file may be missing: another engine was faster, or it was never made.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                tracing::debug!(directory = %self.path.display(), name, %error, "temporary file stays");
            }
        }
    }
}

fn file_name(identity: &Identity) -> String {
    let digest = identity.component.to_string().replace(':', "-");
    format!("{digest}-{}.cwasm", &identity.engine.hex()[..16])
}

enum Trouble {
    Writable,
    OtherOwner,
}

fn trouble_with(metadata: &fs::Metadata) -> Option<Trouble> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Some(Trouble::OtherOwner);
    }
    (metadata.mode() & 0o022 != 0).then_some(Trouble::Writable)
}

/// Returns the directory for compiled code of this user, if the environment names a home.
pub fn default_cache_directory() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("kvtier"))
}
