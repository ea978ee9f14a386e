//! Writes a project. A folder that exists is left alone, so no file is overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::File;

/// Writes files into a new folder.
///
/// # Errors
/// If `folder` exists, which is left alone, or if a file cannot be written; the new folder is removed then.
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
    let written = files.iter().try_for_each(|File { path, bytes }| {
        let path = folder.join(path);
        write_one(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    });
    written.map_err(|error| match fs::remove_dir_all(folder) {
        Ok(()) => error,
        Err(kept) => error.context(format!("a part of the project stays in {}: {kept}", folder.display())),
    })
}

fn write_one(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn a_project_that_cannot_be_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("project");
        let file = |path: &str| File { path: path.into(), bytes: Cow::Borrowed(b"x") };
        // The second file needs a folder of the first one's name.
        let error = write(&project, &[file("a"), file("a/b")]).unwrap_err();
        assert!(error.to_string().contains("cannot write "), "{error:#}");
        assert!(!project.exists());
        write(&project, &[file("a")]).unwrap();
        assert!(write(&project, &[file("a")]).is_err() && project.join("a").exists());
    }
}
