//! Classes in blocking style: one tries what a sandbox may refuse, one sleeps inside a call, one splices between chunks
//! and files.

use std::env;
use std::fmt::Debug;
use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use kvtier_guest::prelude::*;
use kvtier_guest::wasip2::filesystem::preopens;
use kvtier_guest::wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use kvtier_guest::{Caching, FileToLoad, FileToStore, info};

/// Logs, when it is opened, what it can see and what became of what it tried: the environment, the arguments,
/// `config.read` and `config.write` (files), `config.connect` (an address). Stores nothing.
pub struct ProbeBackend {
    init: Init,
}

fn told<T, E: Debug>(outcome: Result<T, E>) -> String {
    match outcome {
        Ok(_) => "granted".to_owned(),
        Err(error) => format!("refused: {error:?}"),
    }
}

impl BlockingBackend for ProbeBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&["read", "write", "connect", "limit", "password"])?;
        Ok(Self { init })
    }

    fn open(&self) -> Result<(), Error> {
        for (name, value) in env::vars() {
            info!("variable {name}={value}");
        }
        info!("arguments: {}", env::args().count());
        for (key, value) in &self.init.config {
            let outcome = match key.as_str() {
                "read" => told(fs::read(value)),
                "write" => told(fs::write(value, "probe")),
                "limit" => format!("{value} is {:?}", self.init.limit(value)),
                "connect" => told(TcpStream::connect(value.as_str())),
                _ => format!("{} bytes", value.len()),
            };
            info!("{key}: {outcome}");
        }
        // Streams of the host's are not inherited; this must not show anywhere.
        println!("written to standard output");
        Ok(())
    }

    fn contains(&self, _keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        Ok(0)
    }

    fn put(&self, keys: &[ChunkKey], _data: &Sources) -> Vec<Result<(), Error>> {
        keys.iter().map(|_| Err(Error::NoSpace)).collect()
    }

    fn get(&self, keys: &[ChunkKey], _into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        keys.iter().map(|_| Ok(None)).collect()
    }
}

/// Contains everything, and sleeps for an hour in `get`.
pub struct SleeperBackend;

impl BlockingBackend for SleeperBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&[])?;
        Ok(Self)
    }

    fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        Ok(keys.len() as u32)
    }

    fn put(&self, keys: &[ChunkKey], _data: &Sources) -> Vec<Result<(), Error>> {
        keys.iter().map(|_| Ok(())).collect()
    }

    fn get(&self, keys: &[ChunkKey], _into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        std::thread::sleep(Duration::from_hours(1));
        keys.iter().map(|_| Ok(None)).collect()
    }
}

/// Keeps each chunk in a file of the granted directory, by splices that block; all files of a call at once if
/// `config.by_name` is set.
pub struct SpliceBackend {
    root: Descriptor,
    by_name: bool,
}

impl SpliceBackend {
    fn open_file(
        &self,
        key: &ChunkKey,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> Result<Descriptor, ErrorCode> {
        self.root.open_at(PathFlags::empty(), &key.to_hex(), open, flags)
    }

    fn put_one(&self, key: &ChunkKey, data: &Sources, index: u32) -> Result<(), Error> {
        let file = self.open_file(key, OpenFlags::CREATE, DescriptorFlags::WRITE);
        let file = file.map_err(|code| Error::other(format!("{code:?}")))?;
        data.store_to_blocking(index, &file, 0).map(drop)
    }

    fn get_one(&self, key: &ChunkKey, into: &Sinks, index: u32) -> Result<Option<u64>, Error> {
        match self.open_file(key, OpenFlags::empty(), DescriptorFlags::READ) {
            Ok(file) => into.load_from_blocking(index, &file, 0).map(Some),
            Err(ErrorCode::NoEntry) => Ok(None),
            Err(code) => Err(Error::other(format!("{code:?}"))),
        }
    }
}

impl BlockingBackend for SpliceBackend {
    fn new(init: Init) -> Result<Self, Error> {
        let granted = preopens::get_directories().into_iter().next();
        let (root, _) = granted.ok_or_else(|| Error::other("no directory is granted"))?;
        Ok(Self { root, by_name: init.get("by_name").is_some() })
    }

    fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        let present = |key: &&ChunkKey| self.root.stat_at(PathFlags::empty(), &key.to_hex()).is_ok();
        Ok(keys.iter().take_while(present).count() as u32)
    }

    fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        if self.by_name {
            let file = |(key, index): (&ChunkKey, u32)| FileToStore {
                index,
                temporary: format!("{key}.tmp"),
                name: key.to_hex(),
            };
            let files: Vec<_> = keys.iter().zip(0..).map(file).collect();
            let stored = data.store_all_blocking(&self.root, &files, Caching::Cached);
            return stored.into_iter().map(|stored| stored.map(drop)).collect();
        }
        keys.iter().zip(0..).map(|(key, index)| self.put_one(key, data, index)).collect()
    }

    fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        if self.by_name {
            let file = |(key, index): (&ChunkKey, u32)| FileToLoad { index, name: key.to_hex() };
            let files: Vec<_> = keys.iter().zip(0..).map(file).collect();
            return into.load_all_blocking(&self.root, &files, Caching::Cached);
        }
        keys.iter().zip(0..).map(|(key, index)| self.get_one(key, into, index)).collect()
    }
}

kvtier_guest::export!(blocking ProbeBackend, blocking SleeperBackend, blocking SpliceBackend);
