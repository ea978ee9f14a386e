//! The policies without ranks, SIEVE and S3-FIFO, against the published algorithms on plain vectors, and the effect of
//! holding an entry.

use super::testing::{Bench, Random, key};
use super::{EvictionPolicy, Inserted};

const N_PAGES: usize = 40;

/// A cache of `N_PAGES` keys.
trait Textbook {
    /// Looks up a key and inserts it if it is absent. Returns true if it was present, and the key that was evicted for
    /// it.
    fn access(&mut self, n: u64) -> (bool, Option<u64>);
}

/// Newest first, each with its bit.
struct Sieve {
    queue: Vec<(u64, bool)>,
    /// The key at which the hand points.
    hand: Option<u64>,
}

impl Textbook for Sieve {
    fn access(&mut self, n: u64) -> (bool, Option<u64>) {
        if let Some(entry) = self.queue.iter_mut().find(|entry| entry.0 == n) {
            entry.1 = true;
            return (true, None);
        }
        let mut evicted = None;
        if self.queue.len() == N_PAGES {
            let tail = self.queue.len() - 1;
            let at_hand = |hand| self.queue.iter().position(|entry| entry.0 == hand);
            let mut at = self.hand.and_then(at_hand).unwrap_or(tail);
            while self.queue[at].1 {
                self.queue[at].1 = false;
                at = at.checked_sub(1).unwrap_or(tail);
            }
            self.hand = at.checked_sub(1).map(|newer| self.queue[newer].0);
            evicted = Some(self.queue.remove(at).0);
        }
        self.queue.insert(0, (n, false));
        (false, evicted)
    }
}

/// Newest last, with the uses; the remembered keys also newest last.
#[derive(Default)]
struct S3Fifo {
    small: Vec<(u64, u32)>,
    main: Vec<(u64, u32)>,
    ghosts: Vec<u64>,
}

impl S3Fifo {
    fn evict(&mut self) -> u64 {
        loop {
            if self.small.len() >= N_PAGES / 10 || self.main.is_empty() {
                let (n, n_uses) = self.small.remove(0);
                if n_uses <= 1 {
                    self.ghosts.push(n);
                    let surplus = self.ghosts.len().saturating_sub(self.main.len());
                    self.ghosts.drain(..surplus);
                    return n;
                }
                self.main.push((n, 0));
            } else {
                let (n, n_uses) = self.main.remove(0);
                if n_uses == 0 {
                    return n;
                }
                self.main.push((n, n_uses - 1));
            }
        }
    }
}

impl Textbook for S3Fifo {
    fn access(&mut self, n: u64) -> (bool, Option<u64>) {
        let mut entries = self.small.iter_mut().chain(&mut self.main);
        if let Some(entry) = entries.find(|entry| entry.0 == n) {
            entry.1 = (entry.1 + 1).min(3);
            return (true, None);
        }
        let is_full = self.small.len() + self.main.len() == N_PAGES;
        let evicted = is_full.then(|| self.evict());
        if self.ghosts.contains(&n) {
            self.ghosts.retain(|&ghost| ghost != n);
            self.main.push((n, 0));
        } else {
            self.small.push((n, 0));
        }
        (false, evicted)
    }
}

/// A key of a mix in which few keys come often and many once.
fn draw(random: &mut Random) -> u64 {
    let n_hot = [4, 20, 60][random.below(3)];
    if random.below(3) > 0 { random.below(n_hot) as u64 } else { 1000 + random.below(400) as u64 }
}

fn agrees(policy: EvictionPolicy, mut textbook: impl Textbook) {
    let n_steps = if cfg!(miri) { 400 } else { 60_000 };
    let bench = Bench::new(N_PAGES, policy);
    let mut random = Random::new(11);
    let (mut n_hits, mut n_evicted) = (0, 0);
    for step in 0..n_steps {
        let n = draw(&mut random);
        let (is_hit, evicted) = textbook.access(n);
        assert_eq!(bench.get(n).is_some(), is_hit, "step {step}, key {n}");
        n_hits += usize::from(is_hit);
        if is_hit {
            continue;
        }
        if let Some(evicted) = evicted {
            assert!(bench.has(evicted));
            n_evicted += 1;
        }
        bench.put(&[n]);
        assert!(evicted.is_none_or(|evicted| !bench.has(evicted)), "step {step}: {evicted:?} stayed");
        if step % 64 == 0 {
            bench.check();
        }
    }
    assert!(n_hits > n_steps / 10 && n_evicted > n_steps / 10, "the test lost its object");
}

#[test]
fn sieve_evicts_as_published() {
    agrees(EvictionPolicy::Sieve, Sieve { queue: Vec::new(), hand: None });
}

#[test]
fn s3_fifo_evicts_as_published() {
    agrees(EvictionPolicy::S3Fifo, S3Fifo::default());
}

#[test]
fn random_changes_keep_the_books_and_never_evict_what_is_held() {
    let n_steps = if cfg!(miri) { 300 } else { 8_000 };
    for policy in [EvictionPolicy::Sieve, EvictionPolicy::S3Fifo] {
        let bench = Bench::new(24, policy);
        let mut random = Random::new(3);
        let (mut readers, mut pinned) = (Vec::new(), Vec::new());
        let mut n_refused = 0;
        for _ in 0..n_steps {
            let n = random.below(48) as u64;
            match random.below(12) {
                0..5 if !bench.has(n) => match bench.allocate() {
                    Some(buffer) => {
                        let chunk = crate::chunk::ChunkWriter::new(key(n), buffer).freeze();
                        assert_eq!(bench.tier.insert(&chunk), Inserted::New);
                    }
                    None => n_refused += 1,
                },
                0..7 => readers.extend(bench.get(n)),
                7 if bench.tier.pin(&[key(n)]) == 1 => pinned.push(n),
                8 if !pinned.is_empty() => {
                    let n = pinned.swap_remove(random.below(pinned.len()));
                    bench.tier.unpin(&[key(n)]);
                }
                9 if !pinned.contains(&n) => _ = bench.tier.remove(&[key(n)]),
                _ if !readers.is_empty() => drop(readers.swap_remove(random.below(readers.len()))),
                _ => {}
            }
            assert!(pinned.iter().all(|&n| bench.has(n)), "{policy}: a pinned one is gone");
            bench.check();
        }
        assert!(n_refused > 0 || cfg!(miri), "everything was never held");
        drop(readers);
        for &n in &pinned {
            _ = bench.tier.unpin(&[key(n)]);
        }
        let evictable = bench.tier.stats().entries;
        assert_eq!(bench.eviction_order().len(), evictable, "{policy}");
    }
}
