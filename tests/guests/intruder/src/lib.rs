//! Backends that try what may not be granted, step by step, as listed in `config.try`: words separated by blanks, steps
//! by `;`, for instance `symlink ../beside link; open link`.
//!
//! The steps are taken in `get`, or in the method `config.in`. A step that is refused is the call's error, and no
//! further one is taken; what a step saw goes to the log. `with_std` uses Rust's standard library, `preview2` and
//! `preview3` call the two versions of WASI directly, in the first directory that is granted.

mod http;
mod preview2;
mod preview3;
mod with_std;

use std::future::Future;

use kvtier_guest::prelude::*;
use kvtier_guest::{error, info};

/// What became of a step: what was seen, or WASI's error code.
pub(crate) type Outcome = Result<String, String>;

/// Shows an outcome that has nothing to show but that it succeeded.
pub(crate) fn done<T, E: std::fmt::Debug>(outcome: Result<T, E>) -> Outcome {
    outcome.map(|_| "done".to_owned()).map_err(|error| format!("{error:?}"))
}

struct Plan {
    steps: Vec<String>,
    method: String,
    key: String,
}

impl Plan {
    fn new(init: &Init) -> Result<Self, Error> {
        init.only(&["try", "in", "key"])?;
        let setting = |name: &str| {
            let found = init.config.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let steps = setting("try").split(';').map(|step| step.trim().to_owned()).collect();
        let method = setting("in");
        let method = if method.is_empty() { "get".to_owned() } else { method };
        Ok(Self { steps, method, key: setting("key") })
    }

    async fn follow<F: Future<Output = Outcome>>(
        &self,
        method: &str,
        take: impl Fn(Vec<String>) -> F,
    ) -> Result<(), Error> {
        if self.method != method {
            return Ok(());
        }
        for step in &self.steps {
            // As code does that shows its configuration.
            let key = &self.key;
            match step.as_str() {
                "say error" => return Err(Error::other(format!("the key is {key}, or {key:?}"))),
                "say log" => {
                    error!("the key is {key}, or {key:?}");
                    continue;
                }
                "say panic" => panic!("the key is {key}, or {key:?}"),
                _ => {}
            }
            let words = step.split_whitespace().map(str::to_owned).collect();
            match take(words).await {
                Ok(seen) => info!("{step}: {seen}"),
                Err(code) => return Err(Error::other(format!("{step}: {code}"))),
            }
        }
        Ok(())
    }
}

/// In blocking style: takes steps with the standard library, or with WASI 0.2 if a word precedes them.
pub struct IntruderBackend(Plan);

impl IntruderBackend {
    fn follow(&self, method: &str) -> Result<(), Error> {
        let followed = self.0.follow(method, |words| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            std::future::ready(match words.as_slice() {
                ["std", words @ ..] => with_std::take(words),
                words => preview2::take(words),
            })
        });
        let mut followed = std::pin::pin!(followed);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match followed.as_mut().poll(&mut context) {
            std::task::Poll::Ready(outcome) => outcome,
            std::task::Poll::Pending => Err(Error::other("a step that blocks was pending")),
        }
    }
}

impl BlockingBackend for IntruderBackend {
    fn new(init: Init) -> Result<Self, Error> {
        let intruder = Self(Plan::new(&init)?);
        intruder.follow("constructor")?;
        Ok(intruder)
    }

    fn open(&self) -> Result<(), Error> {
        self.follow("open")
    }

    // Claims everything, so that the host asks for it.
    fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        self.follow("contains").map(|()| keys.len() as u32)
    }

    fn put(&self, keys: &[ChunkKey], _data: &Sources) -> Vec<Result<(), Error>> {
        keys.iter().map(|_| self.follow("put")).collect()
    }

    fn get(&self, keys: &[ChunkKey], _into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        keys.iter().map(|_| self.follow("get").map(|()| None)).collect()
    }
}

/// In async style: takes steps with WASI 0.3.
pub struct AsyncIntruderBackend(Plan);

impl AsyncIntruderBackend {
    async fn follow(&self, method: &str) -> Result<(), Error> {
        self.0.follow(method, preview3::take).await
    }
}

impl StorageBackend for AsyncIntruderBackend {
    fn new(init: Init) -> Result<Self, Error> {
        Ok(Self(Plan::new(&init)?))
    }

    async fn open(&self) -> Result<(), Error> {
        self.follow("open").await
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        self.follow("contains").await.map(|()| keys.len() as u32)
    }

    async fn put(&self, keys: &[ChunkKey], _data: &Sources) -> Vec<Result<(), Error>> {
        each(keys, |_, _| self.follow("put")).await
    }

    async fn get(&self, keys: &[ChunkKey], _into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let got = each(keys, |_, _| self.follow("get")).await;
        got.into_iter().map(|one| one.map(|()| None)).collect()
    }
}

kvtier_guest::export!(blocking IntruderBackend, AsyncIntruderBackend);
