//! A file that a command writes at its end, whole or not at all.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::{Builder, NamedTempFile};

/// What the process's mask leaves of these is set.
const MODE: u32 = 0o666;

/// A file that will be written.
pub(super) struct OutputFile {
    /// The file itself, also if a link was named.
    path: PathBuf,
    what: &'static str,
    /// The file under its temporary name; `None` for a device or a pipe, which cannot be replaced.
    part: Option<NamedTempFile>,
}

impl OutputFile {
    /// Prepares a file before the work whose result it is to have. `what` names it in errors.
    ///
    /// # Errors
    /// If it would replace one of `inputs`, or cannot be made.
    pub(super) fn begin(path: &Path, what: &'static str, inputs: &[&PathBuf]) -> Result<Self> {
        let shown = path.display();
        let found = path.canonicalize().ok();
        for input in inputs {
            let is_same = found.is_some() && input.canonicalize().ok() == found;
            ensure!(!is_same, "{} would be replaced; name another file for the {what}", input.display());
        }
        let target = found.unwrap_or_else(|| path.to_owned());
        let metadata = fs::metadata(&target).ok();
        ensure!(
            !metadata.as_ref().is_some_and(fs::Metadata::is_dir),
            "{shown} is a folder; name a file in it"
        );
        let part = if metadata.is_some_and(|metadata| !metadata.is_file()) {
            None
        } else {
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
            let part = Builder::new()
                .permissions(Permissions::from_mode(MODE))
                .tempfile_in(folder.unwrap_or_else(|| Path::new(".")));
            Some(part.with_context(|| format!("cannot create the {what} {shown}"))?)
        };
        Ok(Self { path: target, what, part })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written; an earlier file of its name stays.
    pub(super) fn finish(self, bytes: &[u8]) -> Result<()> {
        let Self { path, what, part } = self;
        let written = match part {
            Some(mut part) => part.write_all(bytes).and_then(|()| Ok(part.persist(&path).map(drop)?)),
            None => OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(bytes)),
        };
        written.with_context(|| format!("cannot write the {what} {}", path.display()))
    }
}
