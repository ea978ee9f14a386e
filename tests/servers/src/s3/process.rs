//! A process of the server, for tests.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::refusing;
use crate::tls::Certificates;

/// The key that servers know unless told otherwise.
pub const ACCESS_KEY: &str = "AKIDKVTIERTESTS";

/// Its secret.
pub const SECRET_KEY: &str = "hush/hush+never+shown";

/// Options of a server.
#[derive(Debug)]
pub struct S3Options<'a> {
    /// Its buckets.
    pub buckets: &'a [&'a str],
    /// The key that it knows.
    pub access_key: &'a str,
    /// The key's secret.
    pub secret_key: &'a str,
    /// Its certificates, if it uses TLS.
    pub tls: Option<&'a Certificates>,
}

impl Default for S3Options<'_> {
    fn default() -> Self {
        Self { buckets: &["kv-cache"], access_key: ACCESS_KEY, secret_key: SECRET_KEY, tls: None }
    }
}

/// A server with a separate folder. It ends when dropped, and when the process of the tests ends.
#[derive(Debug)]
pub struct S3Server {
    root: TempDir,
    command: Vec<String>,
    is_tls: bool,
    address: SocketAddr,
    child: Child,
}

impl S3Server {
    /// Starts `kvtier-s3-server`, which is at `program`, and waits until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(program: &Path, options: &S3Options) -> anyhow::Result<Self> {
        Self::start_as(program, &[], options)
    }

    /// Like [`start`](Self::start), with a program that acts as the server if its first arguments are these.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_as(program: &Path, first: &[&str], options: &S3Options) -> anyhow::Result<Self> {
        let root = TempDir::new()?;
        let path = |path: PathBuf| path.display().to_string();
        let mut command = vec![path(program.to_owned())];
        command.extend(first.iter().map(|word| (*word).to_owned()));
        command.push("--until-stdin-closes".to_owned());
        let mut add = |name: &str, value: String| command.extend([name.to_owned(), value]);
        add("--root", path(root.path().to_owned()));
        add("--access-key", options.access_key.to_owned());
        add("--secret-key", options.secret_key.to_owned());
        options.buckets.iter().for_each(|bucket| add("--bucket", (*bucket).to_owned()));
        if let Some(tls) = options.tls {
            add("--tls-cert", path(tls.certificate()));
            add("--tls-key", path(tls.key()));
        }
        let (child, address) = start(&command, "127.0.0.1:0")?;
        Ok(Self { root, command, is_tls: options.tls.is_some(), address, child })
    }

    /// Changes the secret of its key, from the next start on.
    pub fn set_secret_key(&mut self, secret_key: &str) {
        if let Some(flag) = self.command.iter().position(|word| word == "--secret-key") {
            secret_key.clone_into(&mut self.command[flag + 1]);
        }
    }

    /// Returns the address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns its URL.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.address)
    }

    /// Returns the folder of its buckets.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Returns the files of all objects below a folder of the root, by name.
    ///
    /// # Errors
    /// When the folders cannot be read.
    pub fn objects(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut objects = Vec::new();
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(self.root())? {
            let entry = entry?;
            // Files outside buckets belong to the server.
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let list = if entry.file_type()?.is_dir() { &mut folders } else { &mut objects };
                list.push(entry.path());
            }
        }
        objects.sort();
        Ok(objects)
    }

    /// Returns the names of the files that the server keeps for unfinished uploads.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn unfinished_uploads(&self) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.root())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(".upload") {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Makes it refuse exactly these operations from now on, each with a status and an S3 error code.
    ///
    /// # Errors
    /// When the root cannot be written to.
    pub fn refuse(&self, operations: &[(&str, u16, &str)]) -> anyhow::Result<()> {
        let line = |(operation, status, code): &(&str, u16, &str)| format!("{operation} {status} {code}\n");
        let file = refusing::file(self.root());
        // Replaced in one step, because the server may read it at any moment.
        let new = file.with_extension("new");
        std::fs::write(&new, operations.iter().map(line).collect::<String>())?;
        Ok(std::fs::rename(new, file)?)
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again after [`kill`](Self::kill), at the same address, with its objects.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let (child, address) = start(&self.command, &self.address.to_string())?;
        ensure!(address == self.address, "another address: {address}");
        self.child = child;
        Ok(())
    }

    /// Pauses it: it keeps its connections, and does not answer.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Resumes it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("cannot send a signal to the server")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.kill());
    }
}

fn start(command: &[String], listen: &str) -> anyhow::Result<(Child, SocketAddr)> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .args(["--listen", listen])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| command[0].clone())?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("standard output is piped")?;
    BufReader::new(stdout).read_line(&mut line)?;
    match line.trim().parse() {
        Ok(address) => Ok((child, address)),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error).with_context(|| format!("{} printed `{}`", command[0], line.trim()))
        }
    }
}
