//! A prompt with its keys, which grows with the turns of a conversation.

use std::fmt;

use super::digest::Digesting;
use super::{ChunkKey, KeyChain, Namespace};

/// A prompt of an engine with the keys of its chunks, which are derived once for all requests.
///
/// Made by [`Engine::prompt`](crate::Engine::prompt). It keeps keys and no tokens, so an appended turn costs only its
/// own tokens. Memory: 16 bytes per chunk, and 2 KiB.
#[derive(Clone)]
pub struct Prompt {
    /// The namespace of the engine's requests without tags, which identifies the engine.
    engine: Namespace,
    chunk_size: usize,
    /// The keys of the full chunks.
    keys: Vec<ChunkKey>,
    /// The chain after the last full chunk.
    chain: KeyChain,
    /// The tokens after the last full chunk.
    unfull: Digesting,
    n_unfull: usize,
}

impl Prompt {
    pub(crate) fn new(engine: Namespace, namespace: Namespace, chunk_size: usize) -> Self {
        let (chain, unfull) = (KeyChain::new(namespace), Digesting::new());
        Self { engine, chunk_size, keys: Vec::new(), chain, unfull, n_unfull: 0 }
    }

    /// Appends tokens, for instance an answer and the next question. Cost: one pass over them.
    pub fn append(&mut self, mut tokens: &[u32]) {
        if self.n_unfull > 0 {
            let n_lacking = self.chunk_size - self.n_unfull;
            let (next, rest) = tokens.split_at(n_lacking.min(tokens.len()));
            self.unfull.update(next);
            self.n_unfull += next.len();
            if self.n_unfull < self.chunk_size {
                return;
            }
            self.keys.push(self.chain.push_digest(&self.unfull.digest()));
            self.unfull = Digesting::new();
            tokens = rest;
        }
        let rest = self.chain.extend(tokens, self.chunk_size, &mut self.keys);
        self.unfull.update(rest);
        self.n_unfull = rest.len();
    }

    /// Returns the number of tokens so far.
    pub fn n_tokens(&self) -> usize {
        self.keys.len() * self.chunk_size + self.n_unfull
    }

    /// Returns the keys of the full chunks.
    pub fn keys(&self) -> &[ChunkKey] {
        &self.keys
    }

    /// Returns the key of the partial chunk after the full ones, `None` if there is none. Cost: one compression for the
    /// key, and for the digest of its tokens one more, plus one for each level of BLAKE3's tree above 1 KiB of tokens.
    pub fn unfull_key(&self) -> Option<ChunkKey> {
        (self.n_unfull > 0).then(|| self.chain.clone().push_digest(&self.unfull.digest()))
    }

    pub(crate) fn is_of(&self, engine: Namespace) -> bool {
        self.engine == engine
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt")
            .field("n_tokens", &self.n_tokens())
            .field("n_keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::digest::N_TOKENS_HASHED;
    use super::super::testing::{metadata, tokens};
    use super::*;
    use crate::cpu::testing::Random;

    fn empty(chunk_size: usize) -> Prompt {
        let namespace = Namespace::new(&metadata());
        Prompt::new(namespace, namespace, chunk_size)
    }

    /// Derives the keys of the full chunks and of the partial one, from scratch, one by one.
    fn expected(tokens: &[u32], chunk_size: usize) -> (Vec<ChunkKey>, Option<ChunkKey>) {
        let mut chain = KeyChain::new(Namespace::new(&metadata()));
        let chunks = tokens.chunks_exact(chunk_size);
        let rest = chunks.remainder();
        let keys = chunks.map(|chunk| chain.push(chunk)).collect();
        (keys, (!rest.is_empty()).then(|| chain.push(rest)))
    }

    #[test]
    fn a_prompt_that_grew_by_any_turns_has_the_keys_of_one_derived_at_once() {
        let tokens = tokens(6_000);
        let mut random = Random::new(1);
        for chunk_size in [1, 3, 16, 64, 100, 256, 512, 700, 1024, 2048] {
            for _ in 0..8 {
                let mut prompt = empty(chunk_size);
                let longest = [2, chunk_size, 3 * chunk_size, 6_000][random.below(4)];
                while prompt.n_tokens() < 5_000 {
                    let n_before = prompt.n_tokens();
                    let n = n_before + random.below(longest + 1).min(6_000 - n_before);
                    prompt.append(&tokens[n_before..n]);
                    assert_eq!(prompt.n_tokens(), n);
                    // Comparing after each of thousands of short turns would take long.
                    if random.below(50) == 0 || n >= 5_000 {
                        let (full, unfull) = expected(&tokens[..n], chunk_size);
                        assert_eq!(prompt.keys(), full, "{n} tokens in chunks of {chunk_size}");
                        assert_eq!(prompt.unfull_key(), unfull, "{n} tokens in chunks of {chunk_size}");
                    }
                }
            }
        }
    }

    #[test]
    fn each_token_is_hashed_once_however_often_turns_and_keys_are_asked_for() {
        let tokens = tokens(128 * 1024);
        let mut prompt = empty(256);
        let hashed_by = |work: &mut dyn FnMut()| {
            let n_before = N_TOKENS_HASHED.get();
            work();
            N_TOKENS_HASHED.get() - n_before
        };
        assert_eq!(hashed_by(&mut || prompt.append(&tokens[..100_001])), 100_001);
        let mut n = 100_001;
        for n_turn in [1, 255, 1_000, 0, 700, 9_999] {
            let turn = &tokens[n..n + n_turn];
            let n_hashed = hashed_by(&mut || {
                prompt.append(turn);
                assert!(!prompt.keys().is_empty());
                prompt.unfull_key();
            });
            assert_eq!(n_hashed, n_turn);
            n += n_turn;
        }
        // The counter's value if the history were hashed again.
        assert_eq!(hashed_by(&mut || empty(256).append(&tokens[..n])), n);
    }

    #[test]
    fn a_copy_of_a_prompt_goes_its_own_way() {
        let tokens = tokens(1_000);
        let mut prompt = empty(256);
        prompt.append(&tokens[..300]);
        let mut other = prompt.clone();
        other.append(&[7; 300]);
        prompt.append(&tokens[300..]);
        assert_eq!((prompt.keys().to_vec(), prompt.unfull_key()), expected(&tokens, 256));
        assert_eq!(other.keys()[0], prompt.keys()[0]);
        assert_ne!(other.keys()[1], prompt.keys()[1]);
    }
}
