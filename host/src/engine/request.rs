//! What is asked of an engine, and what it answers.

use std::ops::Range;

use crate::key::{ChunkSpec, Salt};
use crate::manager::{Lookup, RemoveError, Retrieved, Tiers};
use crate::memory::AllocateError;

/// A prompt, and how to treat it.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub(super) tokens: &'a [u32],
    pub(super) salt: Salt,
    pub(super) tiers: Tiers,
    pub(super) skip_tokens: usize,
}

impl<'a> Request<'a> {
    /// Makes a request for all chunks of a prompt in all tiers.
    pub fn new(tokens: &'a [u32]) -> Self {
        Self { tokens, salt: Salt::none(), tiers: Tiers::All, skip_tokens: 0 }
    }

    /// Sets tags or a tenant, which nothing is shared across.
    #[must_use]
    pub fn salt(mut self, salt: Salt) -> Self {
        self.salt = salt;
        self
    }

    /// Restricts the request to some tiers.
    #[must_use]
    pub fn tiers(mut self, tiers: Tiers) -> Self {
        self.tiers = tiers;
        self
    }

    /// Leaves out the first `n_tokens`, which the engine has already; a multiple of the chunk size. They
    /// still count in the keys of the chunks behind them.
    #[must_use]
    pub fn skip(mut self, n_tokens: usize) -> Self {
        self.skip_tokens = n_tokens;
        self
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

/// How much of a prompt is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prefix {
    /// Tokens from the first requested one on that are present without a gap.
    pub n_tokens: usize,
    /// Which tier serves which chunk.
    pub lookup: Lookup,
}

/// Chunks of a prompt's prefix.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RetrievedPrefix {
    /// Tokens that the chunks cover, from the first requested one on.
    pub n_tokens: usize,
    /// The chunks, in order, and where they came from.
    pub retrieved: Retrieved,
}

/// Why a request was refused or failed.
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
    /// A chunk can never be allocated.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// A tier could not say what it removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}
