//! The engine: tokens in, chunks out. A thin layer over the [`StorageManager`], which works on keys.
//!
//! Operations of the chain that do not involve tokens are only on the manager ([`Engine::storage`]).

#[cfg(feature = "wasm")]
mod backends;
#[cfg(not(feature = "wasm"))]
#[path = "no_backends.rs"]
mod backends;
mod blocking;
mod build;
mod chain;
mod error;
mod on_keys;
mod request;
#[cfg(feature = "wasm")]
mod single;

use std::sync::Arc;

pub use blocking::Blocking;
pub use build::EngineBuilder;
pub use error::BuildError;
use request::KeyRun;
pub use request::{Prefix, PromptChunk, Request, RequestError, RetrievedPrefix};
#[cfg(feature = "wasm")]
pub use single::start_backend;

use crate::chunk::Chunk;
use crate::key::{Namespace, Prompt, Salt};
use crate::layout::EngineMetadata;
use crate::manager::{Allocation, CloseError, StorageManager, Stored, Tiers};
use crate::memory::Pool;

/// Stores and finds the KV cache of prompts. Cloning shares it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    manager: StorageManager,
    metadata: EngineMetadata,
    namespace: Namespace,
    chunk_size: usize,
    save_unfull_chunk: bool,
    /// `None` if the embedding runtime provides the memory.
    pool: Option<Arc<Pool>>,
}

impl Engine {
    /// Returns the storage manager: the same operations on keys, and everything about tiers and backends, such as their
    /// status, metrics, `flush`, `bypass` and `recreate`.
    pub fn storage(&self) -> &StorageManager {
        &self.0.manager
    }

    /// Returns the metadata that the engine was built with.
    pub fn metadata(&self) -> &EngineMetadata {
        &self.0.metadata
    }

    /// Returns the namespace of requests without tags.
    pub fn namespace(&self) -> Namespace {
        self.0.namespace
    }

    /// Returns the buffer pool, whose base address and length can be registered with a device; `None` if the embedding
    /// runtime provides the memory.
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        self.0.pool.as_ref()
    }

    /// Derives the keys of a prompt. Keys are never shared across different salts. Cost: one pass over the tokens; a
    /// turn that is appended later costs a pass over its own tokens only.
    pub fn prompt(&self, tokens: &[u32], salt: &Salt) -> Prompt {
        let namespace = match salt {
            salt if *salt == Salt::none() => self.0.namespace,
            salt => Namespace::salted(&self.0.metadata, salt),
        };
        let mut prompt = Prompt::new(self.0.namespace, namespace, self.0.chunk_size);
        prompt.append(tokens);
        prompt
    }

    /// Returns the chunks of a request: full ones, and a trailing partial one if `save_unfull_chunk` is set.
    ///
    /// # Errors
    /// [`RequestError`] if the tokens to skip do not fit, or the prompt belongs to another engine.
    pub fn chunks<'r>(&self, request: impl Into<Request<'r>>) -> Result<Vec<PromptChunk>, RequestError> {
        Ok(self.run(&request.into())?.chunks(&self.0.metadata).collect())
    }

    fn run(&self, request: &Request<'_>) -> Result<KeyRun, RequestError> {
        let prompt = request.prompt;
        if !prompt.is_of(self.0.namespace) {
            return Err(RequestError::PromptOfOtherEngine);
        }
        let chunk_size = self.0.chunk_size;
        let (skip_tokens, n_tokens) = (request.skip_tokens, prompt.n_tokens());
        if !skip_tokens.is_multiple_of(chunk_size) {
            return Err(RequestError::SkipNotAligned { skip_tokens, chunk_size });
        }
        if skip_tokens > n_tokens {
            return Err(RequestError::SkipTooLong { skip_tokens, n_tokens });
        }
        let unfull = if self.0.save_unfull_chunk { prompt.unfull_key() } else { None };
        let end = if unfull.is_some() { n_tokens } else { prompt.keys().len() * chunk_size };
        let full = prompt.keys()[skip_tokens / chunk_size..].iter().copied();
        Ok(KeyRun { keys: full.chain(unfull).collect(), tokens: skip_tokens..end, chunk_size })
    }

    /// Returns how much of a prompt is stored, and in which tiers.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn lookup(&self, request: impl Into<Request<'_>>) -> Result<Prefix, RequestError> {
        let request = request.into();
        let run = self.run(&request)?;
        let lookup = self.0.manager.contains(&run.keys, &request.tiers).await;
        Ok(Prefix { n_tokens: run.n_tokens(lookup.n_chunks), lookup })
    }

    /// As [`Engine::lookup`], and pins the chunks that it counts for `lookup_id`, until [`Engine::unpin`] or until the
    /// pins expire.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn lookup_pinned(
        &self,
        request: impl Into<Request<'_>>,
        lookup_id: &str,
    ) -> Result<Prefix, RequestError> {
        let request = request.into();
        let run = self.run(&request)?;
        let lookup = self.0.manager.contains_pinned(&run.keys, &request.tiers, lookup_id).await;
        Ok(Prefix { n_tokens: run.n_tokens(lookup.n_chunks), lookup })
    }

    /// Retrieves the stored prefix of a prompt; see [`StorageManager::get`]. `plan` is the result of a lookup of the
    /// same request.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn retrieve(
        &self,
        request: impl Into<Request<'_>>,
        plan: Option<&Prefix>,
    ) -> Result<RetrievedPrefix, RequestError> {
        let request = request.into();
        let run = self.run(&request)?;
        let plan = plan.map(|prefix| &prefix.lookup);
        let retrieved = self.0.manager.get(&run.specs(&self.0.metadata), &request.tiers, plan).await;
        Ok(RetrievedPrefix { n_tokens: run.n_tokens(retrieved.chunks.len()), retrieved })
    }

    /// Reserves buffers for the chunks of a prompt that the CPU tier does not have; see [`StorageManager::allocate`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn allocate(&self, request: impl Into<Request<'_>>) -> Result<Allocation, RequestError> {
        let request = request.into();
        let run = self.run(&request)?;
        Ok(self.0.manager.allocate(&run.specs(&self.0.metadata)).await?)
    }

    /// Stores filled chunks; see [`StorageManager::put`].
    pub async fn store(&self, allocation: Allocation, tiers: &Tiers) -> Stored {
        self.0.manager.put(allocation, tiers).await
    }

    /// Releases the pins of `lookup_id`. A second call does nothing.
    pub async fn unpin(&self, lookup_id: &str) {
        self.0.manager.unpin(lookup_id).await;
    }

    /// Removes the chunks of a prompt from the request's tiers and returns how many were present; see
    /// [`StorageManager::remove`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn remove(&self, request: impl Into<Request<'_>>) -> Result<usize, RequestError> {
        let request = request.into();
        let run = self.run(&request)?;
        Ok(self.0.manager.remove(&run.keys, &request.tiers).await?)
    }

    /// Stores the queued chunks and closes all tiers; see [`StorageManager::close`].
    ///
    /// # Errors
    /// [`CloseError`]
    pub async fn close(&self) -> Result<(), CloseError> {
        self.0.manager.close().await
    }

    /// Gives up the engine in a child process after a `fork`. It takes no lock, joins no thread, and closes nothing
    /// that the parent uses. The child's copy of the memory stays mapped until the child ends. In the process that
    /// built the engine this is the same as dropping it. See `docs/fork.md`.
    pub fn abandon(self) {
        if self.0.manager.is_forked_child() {
            std::mem::forget(self);
        }
    }

    /// Returns the same operations for callers without an executor. They block the calling thread, each at most until
    /// its deadline.
    pub fn blocking(&self) -> Blocking<'_> {
        Blocking(self)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("storage", &self.0.manager).finish_non_exhaustive()
    }
}

/// Chunk handles go to other threads and outlive the engine.
const _: () = {
    const fn owned<T: Send + Sync + 'static>() {}
    owned::<Chunk>();
    owned::<Engine>();
    owned::<Prompt>();
};
