//! Requests to an engine, and their results.

use std::ops::Range;

use crate::key::{ChunkKey, ChunkSpec, Prompt};
use crate::layout::EngineMetadata;
use crate::manager::{Lookup, RemoveError, Retrieved, Tiers};
use crate::memory::AllocateError;

/// A request: the chunks of a prompt, and those to leave out.
///
/// Operations also take a [`Prompt`] by reference, for all of its chunks in all tiers.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub(super) prompt: &'a Prompt,
    pub(super) tiers: Tiers,
    pub(super) skip_tokens: usize,
}

impl<'a> From<&'a Prompt> for Request<'a> {
    fn from(prompt: &'a Prompt) -> Self {
        Self::of(prompt)
    }
}

impl<'a> From<&Request<'a>> for Request<'a> {
    fn from(request: &Request<'a>) -> Self {
        request.clone()
    }
}

impl<'a> Request<'a> {
    /// Makes a request for all chunks of a prompt in all tiers.
    pub fn of(prompt: &'a Prompt) -> Self {
        Self { prompt, tiers: Tiers::All, skip_tokens: 0 }
    }

    /// Restricts the request to some tiers.
    #[must_use]
    pub fn tiers(mut self, tiers: Tiers) -> Self {
        self.tiers = tiers;
        self
    }

    /// Leaves out the first `n_tokens`, which the serving engine already has; a multiple of the chunk size. The keys of
    /// the other chunks still depend on them.
    #[must_use]
    pub fn skip(mut self, n_tokens: usize) -> Self {
        self.skip_tokens = n_tokens;
        self
    }
}

/// The chunks of a request.
pub(super) struct KeyRun {
    pub(super) keys: Vec<ChunkKey>,
    /// Their tokens, as positions in the prompt.
    pub(super) tokens: Range<usize>,
    pub(super) chunk_size: usize,
}

impl KeyRun {
    /// Returns the number of tokens of the first `n_chunks`.
    pub(super) fn n_tokens(&self, n_chunks: usize) -> usize {
        self.tokens.len().min(n_chunks * self.chunk_size)
    }

    pub(super) fn chunks(&self, metadata: &EngineMetadata) -> impl Iterator<Item = PromptChunk> {
        let starts = self.tokens.clone().step_by(self.chunk_size);
        self.keys.iter().zip(starts).map(|(&key, start)| {
            let tokens = start..self.tokens.end.min(start + self.chunk_size);
            PromptChunk { spec: ChunkSpec { key, size_bytes: metadata.chunk_bytes(tokens.len()) }, tokens }
        })
    }

    pub(super) fn specs(&self, metadata: &EngineMetadata) -> Vec<ChunkSpec> {
        self.chunks(metadata).map(|chunk| chunk.spec).collect()
    }
}

/// A chunk of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PromptChunk {
    /// Its key and size.
    pub spec: ChunkSpec,
    /// Its tokens, as positions in the prompt.
    pub tokens: Range<usize>,
}

/// The stored part of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prefix {
    /// The number of tokens, from the first requested one on, that are present without a gap.
    pub n_tokens: usize,
    /// The tier that serves each chunk.
    pub lookup: Lookup,
}

/// The chunks of a prompt's prefix.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RetrievedPrefix {
    /// The number of tokens that the chunks cover, from the first requested one on.
    pub n_tokens: usize,
    /// The chunks in order, and the tiers that served them.
    pub retrieved: Retrieved,
}

/// A request that was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The tokens to skip do not end at a chunk boundary.
    #[error("{skip_tokens} tokens to skip are not a multiple of chunk_size {chunk_size}")]
    SkipNotAligned {
        /// Tokens to skip.
        skip_tokens: usize,
        /// Tokens of a chunk.
        chunk_size: usize,
    },
    /// More tokens are to be skipped than the prompt has.
    #[error("{skip_tokens} tokens to skip are more than the prompt's {n_tokens}")]
    SkipTooLong {
        /// Tokens to skip.
        skip_tokens: usize,
        /// Tokens of the prompt.
        n_tokens: usize,
    },
    /// The prompt belongs to another model, shard or layout.
    #[error("the prompt was made by an engine with other metadata; make it with Engine::prompt of this one")]
    PromptOfOtherEngine,
    /// A chunk can never be allocated.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// A tier failed to remove chunks.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}
