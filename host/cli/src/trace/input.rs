//! Opens a trace, which may be a pipe that another program writes to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};

/// Opens a file or a pipe for reading. If nothing writes to the pipe yet, calls `waiting` and waits. A plain `open`
/// would wait without a message.
///
/// # Errors
/// Those of the system, and one of the kind `InvalidInput` for sockets and for devices other than terminals.
pub(crate) fn open(path: &Path, waiting: impl FnOnce(&Path)) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let kind = file.metadata()?.file_type();
    let is_terminal = kind.is_char_device() && rustix::termios::isatty(&file);
    if kind.is_file() || kind.is_dir() {
        return Ok(file);
    }
    if !kind.is_fifo() && !is_terminal {
        let message = "it is a device or a socket; give a file, or a pipe";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let is_ready = |timeout: Option<&_>| -> io::Result<bool> {
        Ok(poll(&mut [PollFd::new(&file, PollFlags::IN)], timeout)? > 0)
    };
    if !is_ready(Some(&rustix::event::Timespec::default()))? {
        waiting(path);
        while !is_ready(None)? {}
    }
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn waiting_for_a_pipe_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        let (said, heard) = mpsc::channel();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut file = open(&path, |_| said.send(()).unwrap()).unwrap();
                let mut text = String::new();
                file.read_to_string(&mut text).map(|_| text)
            }
        });
        heard.recv().unwrap();
        let mut writer = File::options().write(true).open(&path).unwrap();
        writer.write_all(b"first ").unwrap();
        writer.write_all(b"second").unwrap();
        drop(writer);
        assert_eq!(reader.join().unwrap().unwrap(), "first second");
    }

    #[test]
    fn files_are_opened_and_devices_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let file = open(&path, |_| panic!("no pipe")).unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "text");
        let error = open(Path::new("/dev/zero"), |_| panic!("no pipe")).unwrap_err();
        assert!(error.to_string().contains("a device or a socket"), "{error}");
    }
}
