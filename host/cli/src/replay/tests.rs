//! A replay over a chain of two maps: an LRU of few chunks, and an unbounded one behind it.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use kvtier::ChunkKey;

use super::*;
use crate::content::Mismatch;

pub(crate) type Damage = fn(&mut Vec<u8>);

pub(crate) struct Maps {
    /// Least recently used first.
    small: Vec<(ChunkKey, Vec<u8>)>,
    capacity: usize,
    large: HashMap<ChunkKey, Vec<u8>>,
    window: usize,
    pinned: bool,
    log: Vec<String>,
    /// The key whose payload comes back damaged.
    damage: Option<(ChunkKey, Damage)>,
    /// Applied to every payload that comes back.
    pub(crate) damage_all: Option<Damage>,
    /// Set when the chain is closed.
    pub(crate) closed: Rc<Cell<bool>>,
    /// The key that is found, but does not arrive.
    loses: Option<ChunkKey>,
}

impl Maps {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            small: Vec::new(),
            capacity,
            large: HashMap::new(),
            window: 2,
            pinned: false,
            log: Vec::new(),
            damage: None,
            damage_all: None,
            closed: Rc::default(),
            loses: None,
        }
    }
}

fn key(id: u64) -> ChunkKey {
    ChunkKey { hi: 1, lo: id }
}

impl Chain for Maps {
    type Chunk = Vec<u8>;

    fn tier_names(&self) -> Vec<String> {
        vec!["small".into(), "large".into()]
    }

    fn window(&self) -> usize {
        self.window
    }

    fn keys(&self, block_ids: &[u64]) -> Vec<ChunkKey> {
        block_ids.iter().map(|id| key(*id)).collect()
    }

    fn lookup(&mut self, keys: &[ChunkKey]) -> Result<usize> {
        assert!(!self.pinned, "a lookup before the last one was released");
        self.pinned = true;
        Ok(keys.iter().take_while(|key| self.large.contains_key(key)).count())
    }

    fn retrieve(&mut self, chunks: &[ChunkSpec]) -> Result<Vec<Retrieved<Vec<u8>>>> {
        assert!(self.pinned && chunks.len() <= self.window);
        self.log.push(format!("retrieve {}", chunks.len()));
        let there = chunks.iter().take_while(|chunk| self.loses != Some(chunk.key));
        let answers = there.map(|chunk| {
            let tier = usize::from(!self.small.iter().any(|(key, _)| *key == chunk.key));
            let mut payload = self.large[&chunk.key].clone();
            if let Some((_, damage)) = self.damage.filter(|(key, _)| *key == chunk.key) {
                damage(&mut payload);
            }
            if let Some(damage) = self.damage_all {
                damage(&mut payload);
            }
            Retrieved { tier, chunk: payload }
        });
        Ok(answers.collect())
    }

    fn release(&mut self) -> Result<()> {
        self.pinned = false;
        Ok(())
    }

    fn store(&mut self, chunk: ChunkSpec, fill: &mut dyn FnMut(&mut [u8])) -> Result<Stored> {
        assert!(!self.pinned, "stores come after the release");
        self.log.push(format!("store {}", chunk.key.lo));
        if let Some(at) = self.small.iter().position(|(key, _)| *key == chunk.key) {
            let touched = self.small.remove(at);
            self.small.push(touched);
            return Ok(Stored::Present);
        }
        if self.capacity == 0 {
            return Ok(Stored::Refused);
        }
        let mut payload = vec![0; chunk.size_bytes];
        fill(&mut payload);
        if self.small.len() == self.capacity {
            self.small.remove(0);
        }
        self.large.insert(chunk.key, payload.clone());
        self.small.push((chunk.key, payload));
        Ok(Stored::New)
    }

    fn flush(&mut self) -> Result<()> {
        self.log.push("flush".into());
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.closed.set(true);
        Ok(())
    }

    fn counters(&self) -> Result<Vec<TierCounters>> {
        assert_eq!(self.log.last().map(String::as_str), Some("flush"), "counters are read after the flush");
        Ok(vec![TierCounters { evictions: 3, ..TierCounters::default() }, TierCounters::default()])
    }
}

fn replay(chain: &mut Maps, requests: &[&[u64]]) -> Result<Outcome> {
    let requests = requests.iter().map(|block_ids| {
        Ok(Request { timestamp_ms: 0, input_length: 0, output_length: 0, block_ids: block_ids.to_vec() })
    });
    run(chain, requests, 100, &Progress::hidden())
}

#[test]
fn hits_are_counted_by_the_tier_that_served_them() {
    let mut chain = Maps::new(3);
    let outcome = replay(&mut chain, &[&[1, 2, 3, 4], &[1, 2, 3, 4, 5], &[2]]).unwrap();
    assert_eq!((outcome.requests, outcome.chunks), (3, 10));
    // The first request leaves 1, 2 and 3 in the small tier: stored last to first, 4 was the oldest.
    assert_eq!(outcome.hits, [4, 1]);
    assert!((outcome.hit_ratio() - 0.5).abs() < 1e-12);
    // 5, 4 and 3 evict 3, 2 and 1 before their turn, so they are stored again; only the last request's 2 stays.
    assert_eq!(outcome.stored, StoredCounts { new: 9, present: 1, refused: 0 });
    assert_eq!((outcome.lost, outcome.evictions(), outcome.bytes_verified()), (0, 3, 500));
    assert_eq!(
        outcome.series.points().iter().map(|point| point.hits.clone()).collect::<Vec<_>>(),
        [vec![0, 0], vec![3, 1], vec![1, 0]]
    );
    assert_eq!(outcome.calls.by_name().map(|(_, calls)| calls.count()), [3, 3, 10]);
}

#[test]
fn retrieval_goes_in_windows_and_stores_go_from_last_to_first() {
    let mut chain = Maps::new(8);
    replay(&mut chain, &[&[1, 2, 3], &[1, 2, 3, 4]]).unwrap();
    let expected =
        "store 3, store 2, store 1, retrieve 2, retrieve 1, store 4, store 3, store 2, store 1, flush";
    assert_eq!(chain.log.join(", "), expected);
}

#[test]
fn a_found_chunk_that_does_not_arrive_is_lost_with_all_behind_it() {
    let mut chain = Maps::new(8);
    chain.loses = Some(key(3));
    let outcome = replay(&mut chain, &[&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]]).unwrap();
    assert_eq!((outcome.hits_total(), outcome.lost), (2, 3));
    assert_eq!(
        chain.log.iter().filter(|line| line.starts_with("retrieve")).count(),
        2,
        "no window after the gap"
    );
}

#[test]
fn one_wrong_byte_ends_the_replay_and_is_named() {
    let mut chain = Maps::new(8);
    chain.damage = Some((key(3), |payload| payload[70] ^= 1));
    let error = replay(&mut chain, &[&[1, 2, 3], &[1, 2, 3]]).expect_err("wrong bytes");
    let wrong = error.downcast_ref::<WrongBytes>().expect("the cause is typed");
    assert_eq!((wrong.tier.as_str(), wrong.key, wrong.request, wrong.chunk_index), ("small", key(3), 2, 2));
    assert!(matches!(wrong.fault, Fault::Content(Mismatch { offset: 70, .. })), "{wrong}");
    assert!(!chain.pinned, "the lookup's hold ends with the error too");
}

#[test]
fn a_payload_of_another_length_is_wrong() {
    let mut chain = Maps::new(8);
    chain.damage = Some((key(1), Vec::clear));
    let error = replay(&mut chain, &[&[1], &[1]]).expect_err("wrong length");
    assert!(format!("{error:#}").ends_with("(request 2, chunk 0): 0 bytes instead of 100"), "{error:#}");
}

#[test]
fn refused_chunks_are_counted() {
    let outcome = replay(&mut Maps::new(0), &[&[1, 2]]).unwrap();
    assert_eq!(outcome.stored, StoredCounts { refused: 2, ..StoredCounts::default() });
}

#[test]
fn a_broken_line_ends_the_replay() {
    let requests = std::iter::once(Err(anyhow::anyhow!("trace x, line 1: broken")));
    let error = run(&mut Maps::new(1), requests, 1, &Progress::hidden()).expect_err("broken");
    assert_eq!(error.to_string(), "trace x, line 1: broken");
}
