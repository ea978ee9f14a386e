//! Generates traces of multi-turn chats with shared system prompts.
//!
//! A fixed number of chats is open at any time. A chat starts with one of a few system prompts. Each turn sends the
//! whole history and a new message, and the answer joins the history. So the prompts of a chat share a growing prefix,
//! and chats share their system prompt: the two kinds of reuse that a KV cache exploits. Each 512-token block, together
//! with its prefix, has a distinct id. Ids rise as prompts grow.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};

use crate::random::Random;
use crate::trace::Request;

/// Tokens of one block of the trace, as in Mooncake's traces.
pub const BLOCK_TOKENS: u64 = 512;

/// The longest prompt, in tokens. A chat that would exceed it ends, and a new one replaces it.
pub const PROMPT_TOKENS_MAX: u64 = 128 * 1024;

/// The typical time between an answer and the next message, in milliseconds.
const THINK_MS: u64 = 20_000;

/// The typical time to write one token of an answer, in milliseconds.
const TOKEN_MS: u64 = 20;

/// What to generate. Lengths are typical values: each draw is between half and twice of them.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Seed for all random choices.
    pub seed: u64,
    /// Chats that are open at the same time, at least 1.
    pub sessions: u64,
    /// Distinct system prompts, at least 1.
    pub system_prompts: u64,
    /// Typical tokens of a system prompt.
    pub system_tokens: u64,
    /// Typical tokens of a user's message.
    pub message_tokens: u64,
    /// Typical tokens of an answer.
    pub answer_tokens: u64,
    /// Typical turns of a chat.
    pub turns: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            seed: 0,
            sessions: 64,
            system_prompts: 8,
            system_tokens: 2_048,
            message_tokens: 1_024,
            answer_tokens: 384,
            turns: 8,
        }
    }
}

/// The beginning of a prompt: its length and the ids of its full blocks.
#[derive(Debug, Clone, Default)]
struct Prefix {
    tokens: u64,
    full_blocks: Vec<u64>,
}

struct Session {
    history: Prefix,
    turns_left: u64,
}

/// An endless sequence of requests, in the order of their timestamps.
pub struct Generator {
    workload: Workload,
    random: Random,
    next_id: u64,
    system_prompts: Vec<Prefix>,
    sessions: Vec<Session>,
    /// The time of each session's next message; ties go to the lower index.
    due: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Generator {
    /// Prepares the generator. Equal workloads give equal sequences.
    ///
    /// # Panics
    /// If `workload` has no sessions or no system prompts.
    pub fn new(workload: Workload) -> Self {
        assert!(
            workload.sessions > 0 && workload.system_prompts > 0,
            "a workload needs sessions and system prompts"
        );
        let mut generator = Self {
            random: Random::new(workload.seed),
            next_id: 0,
            system_prompts: Vec::new(),
            sessions: Vec::new(),
            due: BinaryHeap::new(),
            workload,
        };
        for _ in 0..generator.workload.system_prompts {
            let mut prompt = Prefix::default();
            let tokens = generator.random.around(generator.workload.system_tokens).min(PROMPT_TOKENS_MAX / 2);
            generator.extend(&mut prompt, tokens);
            generator.system_prompts.push(prompt);
        }
        for index in 0..generator.workload.sessions as usize {
            let session = generator.open_session();
            generator.sessions.push(session);
            let start = generator.random.below(2 * THINK_MS);
            generator.due.push(Reverse((start, index)));
        }
        generator
    }

    fn open_session(&mut self) -> Session {
        // The lower of two draws: a few system prompts serve most chats.
        let count = self.workload.system_prompts;
        let prompt = self.random.below(count).min(self.random.below(count)) as usize;
        Session {
            history: self.system_prompts[prompt].clone(),
            turns_left: self.random.around(self.workload.turns),
        }
    }

    /// Appends `tokens` tokens that no other prefix has, with a fresh id for each block that becomes full.
    fn extend(&mut self, prefix: &mut Prefix, tokens: u64) {
        prefix.tokens += tokens;
        while (prefix.full_blocks.len() as u64) < prefix.tokens / BLOCK_TOKENS {
            prefix.full_blocks.push(self.fresh_id());
        }
    }

    fn fresh_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn request(&mut self) -> Request {
        let Some(Reverse((timestamp_ms, index))) = self.due.pop() else {
            unreachable!("every session always has a next message")
        };
        let message_tokens = self.random.around(self.workload.message_tokens).min(PROMPT_TOKENS_MAX / 4);
        let answer_tokens = self.random.around(self.workload.answer_tokens).min(PROMPT_TOKENS_MAX / 4);
        let session = &self.sessions[index];
        if session.turns_left == 0 || session.history.tokens + message_tokens > PROMPT_TOKENS_MAX {
            self.sessions[index] = self.open_session();
        }

        let mut prompt = self.sessions[index].history.clone();
        self.extend(&mut prompt, message_tokens);
        let mut block_ids = prompt.full_blocks.clone();
        if !prompt.tokens.is_multiple_of(BLOCK_TOKENS) {
            // The answer follows inside this block, so no later prompt shares it.
            block_ids.push(self.fresh_id());
        }
        let request =
            Request { timestamp_ms, input_length: prompt.tokens, output_length: answer_tokens, block_ids };

        self.extend(&mut prompt, answer_tokens);
        let session = &mut self.sessions[index];
        session.history = prompt;
        session.turns_left -= 1;
        let pause_ms = answer_tokens * TOKEN_MS + self.random.around(THINK_MS);
        self.due.push(Reverse((timestamp_ms + pause_ms, index)));
        request
    }
}

impl Iterator for Generator {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        Some(self.request())
    }
}

/// Writes one request as a line of a trace.
pub fn write_line(out: &mut impl Write, request: &Request) -> io::Result<()> {
    write!(
        out,
        r#"{{"timestamp": {}, "input_length": {}, "output_length": {}, "hash_ids": ["#,
        request.timestamp_ms, request.input_length, request.output_length
    )?;
    for (index, id) in request.block_ids.iter().enumerate() {
        write!(out, "{}{id}", if index == 0 { "" } else { ", " })?;
    }
    out.write_all(b"]}\n")
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::path::Path;

    use super::*;
    use crate::trace::TraceReader;

    fn requests(seed: u64, count: usize) -> Vec<Request> {
        Generator::new(Workload { seed, ..Workload::default() }).take(count).collect()
    }

    #[test]
    fn a_seed_decides_the_trace() {
        assert_eq!(requests(3, 500), requests(3, 500));
        assert_ne!(requests(3, 500), requests(4, 500));
    }

    #[test]
    fn equal_ids_mean_equal_prefixes() {
        let mut prefix_of: HashMap<u64, Vec<u64>> = HashMap::new();
        for request in requests(0, 2_000) {
            for (index, id) in request.block_ids.iter().enumerate() {
                let prefix = request.block_ids[..index].to_vec();
                assert_eq!(prefix_of.entry(*id).or_insert_with(|| prefix.clone()), &prefix, "block {id}");
            }
        }
    }

    #[test]
    fn lengths_blocks_and_timestamps_agree() {
        let requests = requests(1, 2_000);
        assert!(requests.is_sorted_by_key(|request| request.timestamp_ms));
        for request in &requests {
            assert_eq!(request.block_ids.len() as u64, request.input_length.div_ceil(BLOCK_TOKENS));
            assert!(request.input_length <= PROMPT_TOKENS_MAX && request.output_length > 0);
        }
        assert!(requests.iter().any(|request| !request.input_length.is_multiple_of(BLOCK_TOKENS)));
    }

    #[test]
    fn chats_reuse_their_history_and_share_system_prompts() {
        let mut seen = HashSet::new();
        let (mut reused, mut total) = (0, 0);
        for request in requests(2, 4_000) {
            total += request.block_ids.len();
            reused += request.block_ids.iter().filter(|id| !seen.insert(**id)).count();
        }
        let ratio = f64::from(u32::try_from(reused).unwrap()) / f64::from(u32::try_from(total).unwrap());
        assert!((0.5..0.9).contains(&ratio), "reuse {ratio}");

        // The first requests of sessions start with few distinct blocks: the system prompts'.
        let heads: HashSet<u64> = requests(2, 4_000).iter().map(|r| r.block_ids[0]).collect();
        assert_eq!(heads.len(), 8);
    }

    #[test]
    fn a_partial_last_block_never_comes_back() {
        let mut partial: HashSet<u64> = HashSet::new();
        for request in requests(5, 2_000) {
            assert!(request.block_ids.iter().all(|id| !partial.contains(id)));
            if !request.input_length.is_multiple_of(BLOCK_TOKENS) {
                partial.extend(request.block_ids.last());
            }
        }
        assert!(!partial.is_empty());
    }

    #[test]
    fn written_lines_read_back() {
        let requests = requests(6, 100);
        let mut text = Vec::new();
        for request in &requests {
            write_line(&mut text, request).unwrap();
        }
        let read: Vec<Request> =
            TraceReader::new(text.as_slice(), Path::new("x")).collect::<anyhow::Result<_>>().unwrap();
        assert_eq!(read, requests);
    }
}
