//! Two classes against the plain contract, without the SDK: `AlphaBackend` refuses nothing and keeps everything,
//! `BetaStore2` stores the bytes in pieces.

use std::cell::RefCell;
use std::collections::HashMap;

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        path: ["../../../wit", "wit"],
        world: "kvtier-test:plain/component",
        additional_derives: [PartialEq, Eq, Hash],
        additional_derives_ignore: ["sources", "sinks"],
        generate_all,
    });
}

use bindings::exports::kvtier_test::plain::{alpha, second};
use bindings::kvtier::storage::buffers::{Sinks, Sources};
use bindings::kvtier::storage::types::{ChunkKey, Error, Init, Pinning};

/// Large enough for few calls, and not a divisor of the usual chunk sizes.
const PIECE_BYTES: u64 = 1_000_000;

struct Component;

#[allow(unsafe_code, reason = "generated")]
const _: () = {
    bindings::export!(Component with_types_in bindings);
};

impl alpha::Guest for Component {
    type AlphaBackend = AlphaBackend;
}

impl second::Guest for Component {
    type BetaStore2 = BetaStore2;
}

/// The simplest store: a map.
struct AlphaBackend {
    chunks: RefCell<HashMap<ChunkKey, Vec<u8>>>,
}

/// The same in pieces.
struct BetaStore2 {
    chunks: RefCell<HashMap<ChunkKey, Vec<Vec<u8>>>>,
}

fn run<V>(chunks: &HashMap<ChunkKey, V>, keys: &[ChunkKey]) -> u32 {
    keys.iter().take_while(|key| chunks.contains_key(key)).count() as u32
}

fn remove<V>(chunks: &mut HashMap<ChunkKey, V>, keys: &[ChunkKey]) -> u32 {
    keys.iter().filter(|key| chunks.remove(key).is_some()).count() as u32
}

fn read_pieces(data: &Sources, index: u32) -> Result<Vec<Vec<u8>>, Error> {
    let size = data.len(index);
    let mut pieces = Vec::new();
    let mut offset = 0;
    while offset < size {
        let n = (size - offset).min(PIECE_BYTES);
        pieces.push(data.read(index, offset, n)?);
        offset += n;
    }
    Ok(pieces)
}

fn write_pieces<'a>(into: &Sinks, index: u32, pieces: impl Iterator<Item = &'a [u8]>) -> Result<u64, Error> {
    let mut offset = 0;
    for piece in pieces {
        into.write(index, offset, piece)?;
        offset += piece.len() as u64;
    }
    Ok(offset)
}

impl alpha::GuestAlphaBackend for AlphaBackend {
    fn new(_init: Init) -> Result<Self, Error> {
        Ok(Self { chunks: RefCell::default() })
    }

    async fn open(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn contains(&self, keys: Vec<ChunkKey>, pinning: Pinning) -> Result<u32, Error> {
        match pinning {
            Pinning::None => Ok(run(&self.chunks.borrow(), &keys)),
            Pinning::Pin => Err(Error::Unsupported),
        }
    }

    async fn put(&self, keys: Vec<ChunkKey>, data: Sources) -> Vec<Result<(), Error>> {
        let put = |(key, index)| {
            let bytes = read_pieces(&data, index)?.concat();
            self.chunks.borrow_mut().entry(key).or_insert(bytes);
            Ok(())
        };
        keys.into_iter().zip(0..).map(put).collect()
    }

    async fn get(&self, keys: Vec<ChunkKey>, into: Sinks) -> Vec<Result<Option<u64>, Error>> {
        let chunks = self.chunks.borrow();
        let get = |(key, index)| {
            let Some(bytes) = chunks.get(&key) else {
                return Ok(None);
            };
            let size_bytes = bytes.len() as u64;
            if size_bytes > into.capacity(index) {
                return Ok(Some(size_bytes));
            }
            write_pieces(&into, index, bytes.chunks(PIECE_BYTES as usize)).map(Some)
        };
        keys.into_iter().zip(0..).map(get).collect()
    }

    async fn pin(&self, _keys: Vec<ChunkKey>) -> Result<u32, Error> {
        Err(Error::Unsupported)
    }

    async fn unpin(&self, _keys: Vec<ChunkKey>) -> Result<u32, Error> {
        Err(Error::Unsupported)
    }

    async fn remove(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        Ok(remove(&mut self.chunks.borrow_mut(), &keys))
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl second::GuestBetaStore2 for BetaStore2 {
    fn new(settings: Init) -> Result<Self, Error> {
        match settings.config.first() {
            None => Ok(Self { chunks: RefCell::default() }),
            Some((key, _)) => Err(Error::InvalidConfig(format!("config.{key}: unknown key"))),
        }
    }

    async fn open(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn contains(&self, keys: Vec<ChunkKey>, _pinning: Pinning) -> Result<u32, Error> {
        Ok(run(&self.chunks.borrow(), &keys))
    }

    async fn put(&self, keys: Vec<ChunkKey>, data: Sources) -> Vec<Result<(), Error>> {
        let put = |(key, index)| {
            let pieces = read_pieces(&data, index)?;
            self.chunks.borrow_mut().entry(key).or_insert(pieces);
            Ok(())
        };
        keys.into_iter().zip(0..).map(put).collect()
    }

    async fn get(&self, keys: Vec<ChunkKey>, into: Sinks) -> Vec<Result<Option<u64>, Error>> {
        let chunks = self.chunks.borrow();
        let get = |(key, index)| {
            let n_bytes = |pieces: &[Vec<u8>]| pieces.iter().map(Vec::len).sum::<usize>() as u64;
            let Some(pieces) = chunks.get(&key) else {
                return Ok(None);
            };
            let size_bytes = n_bytes(pieces);
            if size_bytes > into.capacity(index) {
                return Ok(Some(size_bytes));
            }
            write_pieces(&into, index, pieces.iter().map(Vec::as_slice)).map(Some)
        };
        keys.into_iter().zip(0..).map(get).collect()
    }

    async fn pin(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        // Never evicts, so that everything present is protected.
        Ok(run(&self.chunks.borrow(), &keys))
    }

    async fn unpin(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        Ok(keys.len() as u32)
    }

    async fn remove(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        Ok(remove(&mut self.chunks.borrow_mut(), &keys))
    }

    async fn close(&self) -> Result<(), Error> {
        self.chunks.borrow_mut().clear();
        Ok(())
    }
}
