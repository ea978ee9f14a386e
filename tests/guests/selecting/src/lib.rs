//! A store in two halves, each of which gets its part of a call by `select`. With `config.does` it does something else
//! with selections, and logs what became of it.
#![expect(clippy::unwrap_used, reason = "what a test does not expect ends the instance")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use kvtier_guest::prelude::*;
use kvtier_guest::{Part, info};

/// Keeps chunks in two maps, by the last bit of their keys.
pub struct SelectingBackend {
    does: String,
    halves: [RefCell<HashMap<ChunkKey, Vec<u8>>>; 2],
    kept: RefCell<Vec<Sources>>,
}

fn tell<T>(what: &str, outcome: Result<T, Error>) {
    match outcome {
        Ok(_) => info!("{what}: done"),
        Err(error) => info!("{what}: {error:?}"),
    }
}

impl SelectingBackend {
    fn half(&self, number: u64) -> &RefCell<HashMap<ChunkKey, Vec<u8>>> {
        &self.halves[(number & 1) as usize]
    }

    /// Does in a put what the test asks for.
    fn try_sources(&self, data: &Sources) {
        let n = data.count();
        match self.does.as_str() {
            "source-beyond" => drop(data.select(&[n])),
            "source-more" => drop(data.select(&vec![0; n as usize + 1])),
            "source-repeated" => {
                let twice = data.select(&vec![n - 1; n as usize]).unwrap();
                let bytes = |data: &Sources, index| data.read(index, 0, data.len(index)).unwrap();
                assert!((0..n).all(|index| bytes(&twice, index) == bytes(data, n - 1)));
                let nested = data.select(&[1, 2]).unwrap().select(&[1]).unwrap();
                assert_eq!((nested.count(), bytes(&nested, 0)), (1, bytes(data, 2)));
                info!("repeated and nested: right");
            }
            "source-nested-beyond" => drop(data.select(&[0, 1]).unwrap().select(&[2])),
            "source-kept" => {
                let mut all = self.kept.borrow_mut();
                if let Some(kept) = all.pop() {
                    assert!(kept.count() == 1 && kept.len(0) > 64);
                    tell("read", kept.read(0, 0, 1));
                    tell("select", kept.select(&[0]));
                }
                all.push(data.select(&[0]).unwrap());
            }
            // Of as many chunks as the call has.
            "source-many" => {
                let all: Vec<u32> = (0..n).collect();
                let mut kept = Vec::new();
                let error = loop {
                    match data.select(&all) {
                        Ok(some) => kept.push(some),
                        Err(error) => break error,
                    }
                };
                info!("refused after {} chunks: {error:?}", kept.len() as u32 * n);
                drop(kept);
                tell("then", data.select(&all));
            }
            "source-handles" => loop {
                self.kept.borrow_mut().push(data.select(&[0]).unwrap());
            },
            _ => {}
        }
    }

    /// Does in a get what the test asks for.
    fn try_sinks(&self, into: &Sinks) {
        match self.does.as_str() {
            "sink-beyond" => drop(into.select(&[into.count()])),
            "sink-more" => drop(into.select(&vec![0; into.count() as usize + 1])),
            "sink-repeated" => tell("select", into.select(&[0, 1, 0])),
            "sink-writers" => {
                let (first, second) = (into.select(&[1]).unwrap(), into.select(&[0, 1]).unwrap());
                let (writer, bytes) = kvtier_guest::wasip3::wit_stream::new::<u8>();
                let mut streaming = pin!(first.write_stream(0, 0, bytes));
                let started = streaming.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(matches!(started, Poll::Pending));
                tell("beside a stream", second.write(1, 0, b"x"));
                tell("elsewhere", second.write(0, 0, b"x"));
                drop(writer);
            }
            _ => {}
        }
    }
}

impl StorageBackend for SelectingBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&["does"])?;
        let does = init.get("does").unwrap_or_default().to_owned();
        Ok(Self { does, halves: Default::default(), kept: RefCell::default() })
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        let present = |key: &&ChunkKey| self.half(key.lo).borrow().contains_key(key);
        Ok(keys.iter().take_while(present).count() as u32)
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        self.try_sources(data);
        let mut results = vec![Err(Error::other("in no half")); keys.len()];
        for number in 0..2 {
            let part = Part::of(keys, |_, key| key.lo & 1 == number);
            let Ok(some) = part.sources(data) else { continue };
            let stored = some.chunks(part.keys()).map(|chunk| {
                let bytes = chunk.read()?;
                self.half(number).borrow_mut().entry(chunk.key()).or_insert(bytes);
                Ok(())
            });
            part.put_back(&mut results, stored);
        }
        results
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        self.try_sinks(into);
        let mut results = vec![Err(Error::other("in no half")); keys.len()];
        for number in 0..2 {
            let part = Part::of(keys, |_, key| key.lo & 1 == number);
            let Ok(some) = part.sinks(into) else { continue };
            let found = some.chunks(part.keys()).map(|sink| {
                let chunks = self.half(number).borrow();
                chunks.get(&sink.key()).map_or(Ok(None), |bytes| sink.write(bytes))
            });
            part.put_back(&mut results, found);
        }
        results
    }
}

kvtier_guest::export!(SelectingBackend);
