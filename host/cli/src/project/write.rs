//! Writes a project. A folder that exists is left alone, so no file is overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::File;

/// Writes files into a new folder.
///
/// # Errors
/// If `folder` exists, or if a file cannot be written. What was written before stays.
pub fn write(folder: &Path, files: &[File]) -> Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
            "`{}` exists, and `kvtier new` overwrites nothing; choose another name, or remove it",
            folder.display()
        ),
        Err(error) => {
            return Err(error).with_context(|| {
                format!("cannot make the folder `{}`; the folder above it must exist", folder.display())
            });
        }
    }
    for File { path, bytes } in files {
        let path = folder.join(path);
        write_one(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn write_one(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(bytes)
}
