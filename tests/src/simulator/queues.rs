//! SIEVE (NSDI 2024, algorithm 1) and S3-FIFO (SOSP 2023, algorithm 1), as published, on plain vectors.

use std::collections::{HashMap, VecDeque};

use super::Cache;

/// The chunks, the oldest first, each with its bit.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    queue: Vec<u64>,
    touched: HashMap<u64, bool>,
    /// Where the hand points.
    hand: usize,
}

impl Cache for Sieve {
    fn has(&self, chunk: u64) -> bool {
        self.touched.contains_key(&chunk)
    }

    fn touch(&mut self, chunk: u64) {
        self.touched.insert(chunk, true);
    }

    fn evict(&mut self) {
        loop {
            let chunk = self.queue[self.hand];
            let spared = self.touched.insert(chunk, false) == Some(true);
            if spared {
                self.hand += 1;
            } else {
                self.touched.remove(&chunk);
                self.queue.remove(self.hand);
            }
            // After the newest comes the oldest.
            if self.hand == self.queue.len() {
                self.hand = 0;
            }
            if !spared {
                return;
            }
        }
    }

    fn insert(&mut self, chunk: u64) {
        self.touched.insert(chunk, false);
        self.queue.push(chunk);
    }
}

/// The oldest first.
#[derive(Debug, Default)]
pub(super) struct S3Fifo {
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    /// Touches since a chunk entered its queue, at most 3.
    touches: HashMap<u64, u8>,
    /// Names of chunks that the small queue evicted; at most as many as the main queue has chunks.
    ghosts: VecDeque<u64>,
}

impl Cache for S3Fifo {
    fn has(&self, chunk: u64) -> bool {
        self.touches.contains_key(&chunk)
    }

    fn touch(&mut self, chunk: u64) {
        self.touches.entry(chunk).and_modify(|n| *n = 3.min(*n + 1));
    }

    fn evict(&mut self) {
        let share = (self.small.len() + self.main.len()) / 10;
        loop {
            let from_small = self.main.is_empty() || (!self.small.is_empty() && self.small.len() >= share);
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let Some(chunk) = queue.pop_front() else { return };
            match (from_small, self.touches[&chunk]) {
                (true, 2..) => {
                    self.touches.insert(chunk, 0);
                    self.main.push_back(chunk);
                }
                (false, n @ 1..) => {
                    self.touches.insert(chunk, n - 1);
                    self.main.push_back(chunk);
                }
                _ => {
                    self.touches.remove(&chunk);
                    if from_small {
                        self.ghosts.push_back(chunk);
                        let surplus = self.ghosts.len().saturating_sub(self.main.len());
                        self.ghosts.drain(..surplus);
                    }
                    return;
                }
            }
        }
    }

    fn insert(&mut self, chunk: u64) {
        self.touches.insert(chunk, 0);
        let n_ghosts = self.ghosts.len();
        self.ghosts.retain(|ghost| *ghost != chunk);
        let queue = if self.ghosts.len() < n_ghosts { &mut self.main } else { &mut self.small };
        queue.push_back(chunk);
    }
}
