//! One measurement of a client: all operations of one kind on all chunks of a load.

use std::future::Future;
use std::time::Instant;

use anyhow::Result;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::sample::Samples;

/// How many chunks of which size, and how many operations in flight.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) size_bytes: usize,
    pub(super) at_once: usize,
    pub(super) n_chunks: usize,
}

impl Load {
    pub(super) fn n_bytes(self) -> u64 {
        (self.size_bytes * self.n_chunks) as u64
    }

    /// Returns how often the chunks are put and got: less often the more bytes they have.
    pub(super) fn n_rounds(self) -> usize {
        match self.n_bytes() >> 20 {
            0..=32 => 7,
            33..=256 => 4,
            _ => 1,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Stores each chunk.
    Put,
    /// Asks for each chunk.
    Contains,
    /// Asks for 64 chunks at a time.
    ContainsMany,
    /// Gets each chunk.
    Get,
}

impl Operation {
    pub(super) const ALL: [Self; 4] = [Self::Put, Self::Contains, Self::ContainsMany, Self::Get];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Contains => "contains",
            Self::ContainsMany => "contains, 64 keys a call,",
            Self::Get => "get",
        }
    }

    pub(super) fn moves_bytes(self) -> bool {
        matches!(self, Self::Put | Self::Get)
    }
}

/// Keys of a call of [`Operation::ContainsMany`].
pub(super) const MANY: usize = 64;

/// kvtier, or a native client of the server.
pub(super) trait Client {
    /// Works on all chunks of a load. They are absent before a put, and present otherwise.
    fn run(&self, operation: Operation, load: Load) -> Result<Round>;

    /// Removes all chunks of a load.
    fn remove(&self, load: Load) -> Result<()>;
}

/// The times of one round, in seconds: of each operation, and of all together.
pub(super) struct Round {
    operations: Vec<f64>,
    all: f64,
}

impl Round {
    /// A round in which one operation took all of the time.
    pub(super) fn whole(seconds: f64) -> Self {
        Self { operations: vec![seconds], all: seconds }
    }

    /// A round in which the operations came one after the other.
    pub(super) fn each(operations: Vec<f64>) -> Self {
        Self { all: operations.iter().sum(), operations }
    }

    /// Runs `n` operations, `at_once` in flight.
    pub(super) async fn of<F: Future<Output = Result<()>>>(
        n: usize,
        at_once: usize,
        operation: impl Fn(usize) -> F,
    ) -> Result<Self> {
        let start = Instant::now();
        let timed = |index: usize| {
            let run = operation(index);
            async move {
                let start = Instant::now();
                run.await?;
                anyhow::Ok(start.elapsed().as_secs_f64())
            }
        };
        let operations = stream::iter(0..n).map(timed).buffer_unordered(at_once).try_collect().await?;
        Ok(Self { operations, all: start.elapsed().as_secs_f64() })
    }
}

/// The times of all rounds.
#[derive(Default)]
pub(super) struct Times {
    operations: Vec<f64>,
    rounds: Vec<f64>,
}

impl Times {
    pub(super) fn add(&mut self, round: Round) {
        self.operations.extend(round.operations);
        self.rounds.push(round.all);
    }

    pub(super) fn operations(&self) -> Samples {
        Samples::new(self.operations.clone())
    }

    pub(super) fn rounds(&self) -> Samples {
        Samples::new(self.rounds.clone())
    }

    pub(super) fn quantile(&self, share: f64) -> f64 {
        self.operations().at(share)
    }
}
