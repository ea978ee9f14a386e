//! Two classes in blocking style that use the standard library: one tries what a sandbox may refuse, one
//! sleeps inside a call.

use std::env;
use std::fmt::Debug;
use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use kvtier_guest::info;
use kvtier_guest::prelude::*;

/// Logs, when it is opened, what it can see and what became of what it tried: the environment, the
/// arguments, `config.read` and `config.write` (files), `config.connect` (an address). Stores nothing.
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
        init.only(&["read", "write", "connect", "password"])?;
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
                "connect" => told(TcpStream::connect(value.as_str())),
                _ => format!("{} bytes", value.len()),
            };
            info!("{key}: {outcome}");
        }
        // Streams of the host's are not inherited; this must not show anywhere.
        println!("written to standard output");
        Ok(())
    }

    fn contains(&self, _keys: &[ChunkKey], _pin: bool) -> Result<u32, Error> {
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

    fn contains(&self, keys: &[ChunkKey], _pin: bool) -> Result<u32, Error> {
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

kvtier_guest::export!(blocking ProbeBackend, blocking SleeperBackend);
