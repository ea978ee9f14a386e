//! Trace lines, through the reader and a replay.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use kvtier::{ChunkKey, ChunkSpec};
use kvtier_cli::progress::Progress;
use kvtier_cli::replay::{self, Chain, Retrieved, Stored, TierCounters};
use kvtier_cli::trace::{Request, TraceReader};

/// Chunks of an input that are replayed; reading has no such limit.
const CHUNKS_MAX: usize = 4096;

const CHUNK_BYTES: usize = 64;

/// Every line is a request, or the reader reports where it is broken and ends. The requests can be replayed.
pub(super) fn lines(bytes: &[u8]) {
    let mut reader = TraceReader::new(bytes, Path::new("fuzz.jsonl"));
    let mut requests = Vec::new();
    let mut broken = false;
    for item in reader.by_ref() {
        assert!(!broken, "the reader continued after an error");
        match item {
            Ok(request) => requests.push(request),
            Err(error) => {
                broken = true;
                assert!(error.to_string().contains("fuzz.jsonl"), "{error}");
            }
        }
    }
    let n_lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    assert!(requests.len() + usize::from(broken && n_lines > 0) <= n_lines, "more requests than lines");
    assert!(broken || requests.len() == n_lines, "{} requests of {n_lines} lines", requests.len());
    requests.iter().for_each(round_trip);

    let mut n_chunks = 0;
    requests.retain(|request| {
        n_chunks += request.block_ids.len();
        n_chunks <= CHUNKS_MAX
    });
    let n_requests = requests.len() as u64;
    let n_chunks: usize = requests.iter().map(|request| request.block_ids.len()).sum();
    let mut chain = Map::default();
    let progress = Progress::hidden();
    let outcome = replay::run(&mut chain, requests.into_iter().map(Ok), CHUNK_BYTES, &progress);
    let outcome = outcome.expect("a chain that keeps everything");
    assert_eq!((outcome.requests, outcome.chunks), (n_requests, n_chunks as u64));
    assert_eq!(outcome.lost, 0);
    assert!(outcome.hit_ratio() <= 1.0);
}

/// Requests written as a trace read the same.
fn round_trip(request: &Request) {
    let Request { timestamp_ms, input_length, output_length, block_ids } = request;
    let line = format!(
        r#"{{"timestamp": {timestamp_ms}, "input_length": {input_length}, "output_length": {output_length}, "hash_ids": {block_ids:?}}}"#
    );
    let again = TraceReader::new(line.as_bytes(), Path::new("again")).next();
    assert!(again.is_some_and(|again| again.is_ok_and(|again| again == *request)), "{line}");
}

/// A chain that keeps everything.
#[derive(Default)]
struct Map(BTreeMap<ChunkKey, Vec<u8>>);

impl Chain for Map {
    type Chunk = Vec<u8>;

    fn tier_names(&self) -> Vec<String> {
        vec!["map".into()]
    }

    fn window(&self) -> usize {
        3
    }

    fn keys(&self, block_ids: &[u64]) -> Vec<ChunkKey> {
        block_ids.iter().map(|id| ChunkKey { hi: 0, lo: *id }).collect()
    }

    fn lookup(&mut self, keys: &[ChunkKey]) -> Result<usize> {
        Ok(keys.iter().take_while(|key| self.0.contains_key(key)).count())
    }

    fn retrieve(&mut self, chunks: &[ChunkSpec]) -> Result<Vec<Retrieved<Vec<u8>>>> {
        let found = chunks.iter().map_while(|chunk| self.0.get(&chunk.key));
        Ok(found.map(|chunk| Retrieved { tier: 0, chunk: chunk.clone() }).collect())
    }

    fn release(&mut self) -> Result<()> {
        Ok(())
    }

    fn store(&mut self, chunk: ChunkSpec, fill: &mut dyn FnMut(&mut [u8])) -> Result<Stored> {
        if self.0.contains_key(&chunk.key) {
            return Ok(Stored::Present);
        }
        let mut bytes = vec![0; chunk.size_bytes];
        fill(&mut bytes);
        self.0.insert(chunk.key, bytes);
        Ok(Stored::New)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn counters(&self) -> Result<Vec<TierCounters>> {
        Ok(vec![TierCounters::default()])
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
