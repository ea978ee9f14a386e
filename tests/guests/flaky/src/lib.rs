//! A backend that fails some of its calls. Chunks and the number of calls are in the granted directory, so that they
//! outlive an instance.

use std::path::PathBuf;
use std::{fs, io};

use kvtier_guest::prelude::*;

const ROOT: &str = "/data";

/// Fails the first `fails` calls of the method `in` with an error, and traps in every `every`-th.
pub struct FlakyBackend {
    wrong_in: String,
    n_fails: u64,
    every: u64,
}

fn path(key: &ChunkKey) -> PathBuf {
    PathBuf::from(ROOT).join(key.to_hex())
}

/// Counts a call, over all instances.
fn count() -> io::Result<u64> {
    let path = PathBuf::from(ROOT).join("calls");
    let before = fs::read_to_string(&path).unwrap_or_default().parse().unwrap_or(0_u64);
    fs::write(&path, (before + 1).to_string())?;
    Ok(before + 1)
}

impl FlakyBackend {
    /// Runs first in every method.
    fn first(&self, method: &str) -> Result<(), Error> {
        if method != self.wrong_in {
            return Ok(());
        }
        let n = count().map_err(Error::other)?;
        if self.every > 0 && n % self.every == 0 {
            std::process::abort();
        }
        if n <= self.n_fails {
            return Err(Error::unavailable(format!("failed on purpose, call {n}")));
        }
        Ok(())
    }

    fn put_one(key: &ChunkKey, data: &Sources, index: u32) -> Result<(), Error> {
        fs::write(path(key), data.read_all(index)?).map_err(Error::other)
    }

    fn get_one(key: &ChunkKey, into: &Sinks, index: u32) -> Result<Option<u64>, Error> {
        match fs::read(path(key)) {
            Ok(bytes) => into.write(index, 0, &bytes).map(|()| Some(bytes.len() as u64)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::other(error)),
        }
    }
}

impl BlockingBackend for FlakyBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&["in", "fails", "every"])?;
        let backend = Self {
            wrong_in: init.get("in").unwrap_or("get").to_owned(),
            n_fails: init.parse("fails")?.unwrap_or(0),
            every: init.parse("every")?.unwrap_or(0),
        };
        backend.first("constructor")?;
        Ok(backend)
    }

    fn open(&self) -> Result<(), Error> {
        self.first("open")
    }

    fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        self.first("contains")?;
        Ok(keys.iter().take_while(|key| path(key).exists()).count() as u32)
    }

    fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        match self.first("put") {
            Ok(()) => keys.iter().zip(0..).map(|(key, index)| Self::put_one(key, data, index)).collect(),
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        match self.first("get") {
            Ok(()) => keys.iter().zip(0..).map(|(key, index)| Self::get_one(key, into, index)).collect(),
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.first("remove")?;
        Ok(keys.iter().filter(|key| fs::remove_file(path(key)).is_ok()).count() as u32)
    }
}

kvtier_guest::export!(blocking FlakyBackend);
