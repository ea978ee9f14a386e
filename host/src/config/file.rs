//! Opening files that the operator names.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Opens a regular file for reading. It immediately refuses a pipe, a device or a socket, instead of waiting for its
/// other end.
///
/// # Errors
/// Those of the system, and one of the kind `InvalidInput` if the path is not a regular file.
pub fn open_file(path: &Path) -> io::Result<File> {
    // Without `NONBLOCK`, opening a pipe waits for its other end, and reading some system files waits for new data.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let kind = file.metadata()?.file_type();
    let found = match kind {
        kind if kind.is_file() => return Ok(file),
        kind if kind.is_dir() => return Err(rustix::io::Errno::ISDIR.into()),
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "neither a file nor a directory",
    };
    let message = format!("it is {found}; give a regular file, since kvtier may read it again");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_regular_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = open_file(&pipe).unwrap_err();
        assert!(error.to_string().starts_with("it is a pipe; give a regular file"), "{error}");
        let error = open_file(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().starts_with("it is a device; "), "{error}");
        assert_eq!(open_file(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let file = dir.path().join("file");
        std::fs::write(&file, "text").unwrap();
        assert_eq!(io::read_to_string(open_file(&file).unwrap()).unwrap(), "text");
    }
}
