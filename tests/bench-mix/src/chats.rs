//! Prompts of chats that share their beginnings, drawn from a seed.
//!
//! A prompt has four parts of eight chunks: a system prompt, a document, the history of a chat, its newest turn. Each
//! part is drawn from a few candidates that depend on the part before it, the first ones more often; the newest turn is
//! rarely a repetition.

use crate::course::REQUEST_CHUNKS;

/// Parts of a prompt, and how many candidates each has after the part before it.
const PARTS: [u64; 3] = [16, 64, 8];

/// One turn in this many is repeated word for word, as by a client that lost its answer.
const REPEATED_TURNS: u64 = 4;

/// One chunk of a prompt. Equal ids mean equal prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The chunk's name: 64 uniform bits.
    pub id: u64,
    /// The name of the chunk before it; 0 for the first one.
    pub parent: u64,
    /// The chunk's position in the prompt, from 0.
    pub position: u64,
}

/// An endless sequence of prompts that depends only on the seed.
pub struct Chats {
    state: u64,
    n_turns: u64,
}

impl Chats {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed), n_turns: 0 }
    }

    /// Draws the next prompt, of [`REQUEST_CHUNKS`] chunks.
    pub fn prompt(&mut self) -> Vec<Block> {
        let mut parts: Vec<u64> = Vec::with_capacity(PARTS.len() + 1);
        let mut part = 1;
        for n_candidates in PARTS {
            // The lower of two draws: a few candidates serve most prompts.
            let drawn = self.below(n_candidates).min(self.below(n_candidates));
            part = mix(part ^ (drawn + 1));
            parts.push(part);
        }
        let is_new = self.below(REPEATED_TURNS) != 0;
        self.n_turns += u64::from(is_new);
        parts.push(mix(part ^ mix(self.n_turns)));
        chain(&parts)
    }

    /// Draws a prompt none of whose chunks was drawn before.
    pub fn fresh(&mut self) -> Vec<Block> {
        let parts: Vec<u64> = (0..=PARTS.len()).map(|_| self.next()).collect();
        chain(&parts)
    }

    /// Draws from `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }
}

/// Returns the chunks of a prompt with these parts.
fn chain(parts: &[u64]) -> Vec<Block> {
    let mut parent = 0;
    let place = |position: usize| {
        let part = parts[position * parts.len() / REQUEST_CHUNKS];
        let id = mix(parent ^ mix(part.wrapping_add(position as u64)));
        let block = Block { id, parent, position: position as u64 };
        parent = id;
        block
    };
    (0..REQUEST_CHUNKS).map(place).collect()
}

/// SplitMix64's finisher: neighbouring inputs give unrelated outputs.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn a_seed_decides_the_prompts() {
        let prompts = |seed| {
            let mut chats = Chats::new(seed);
            (0..100).map(|_| chats.prompt()).collect::<Vec<_>>()
        };
        assert_eq!(prompts(1), prompts(1));
        assert_ne!(prompts(1), prompts(2));
    }

    #[test]
    fn equal_ids_mean_equal_prefixes_and_most_chunks_come_again() {
        let mut prefixes: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut chats = Chats::new(3);
        let (mut n_known, mut n_all) = (0, 0);
        for _ in 0..5_000 {
            let prompt = chats.prompt();
            assert_eq!(prompt.len(), REQUEST_CHUNKS);
            for block in prompt {
                n_all += 1;
                let here = (block.parent, block.position);
                let before = prefixes.insert(block.id, here);
                assert!(before.is_none_or(|before| before == here));
                n_known += usize::from(before.is_some());
            }
        }
        let share = n_known * 100 / n_all;
        assert!((50..90).contains(&share), "{share} %");
    }

    #[test]
    fn fresh_prompts_share_nothing() {
        let mut chats = Chats::new(4);
        let ids: Vec<u64> = (0..100).flat_map(|_| chats.fresh()).map(|block| block.id).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }
}
