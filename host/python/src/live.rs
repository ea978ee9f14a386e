//! The chain behind the objects of Python, until it is closed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kvtier::{CPU_TIER, Engine, StorageManager};
use pyo3::prelude::*;

use crate::errors::ClosedError;
use crate::gate;

/// A chain that may have been closed. An `Engine` and its `Storage` share it.
pub(crate) struct Live {
    state: Mutex<State>,
    /// The names of the tiers.
    tiers: Vec<String>,
}

enum State {
    Open(Chain),
    Closed,
    /// Given up in a forked child.
    Abandoned,
}

/// A chain, on keys or also on tokens.
#[derive(Clone)]
pub(crate) enum Chain {
    Engine(Engine),
    Storage(StorageManager),
}

impl Chain {
    pub(crate) fn manager(&self) -> &StorageManager {
        match self {
            Self::Engine(engine) => engine.storage(),
            Self::Storage(manager) => manager,
        }
    }
}

impl Live {
    pub(crate) fn new(chain: Chain) -> Self {
        let status = chain.manager().status();
        let backends = status.backends.into_iter().map(|backend| backend.name);
        let tiers = std::iter::once(CPU_TIER.to_owned()).chain(backends).collect();
        Self { state: Mutex::new(State::Open(chain)), tiers }
    }

    /// Returns the chain.
    ///
    /// # Errors
    /// `ClosedError`
    pub(crate) fn chain(&self) -> PyResult<Chain> {
        match &*self.lock() {
            State::Open(chain) => Ok(chain.clone()),
            State::Closed => Err(ClosedError::new_err("it is closed; make another one")),
            State::Abandoned => Err(ClosedError::new_err(
                "this process was forked from the one that opened it; open another one here",
            )),
        }
    }

    pub(crate) fn manager(&self) -> PyResult<StorageManager> {
        Ok(self.chain()?.manager().clone())
    }

    /// Returns the names of the tiers, the CPU tier first.
    pub(crate) fn tiers(&self) -> &[String] {
        &self.tiers
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_closed(&self) -> bool {
        !matches!(&*self.lock(), State::Open(_))
    }

    /// Lets go of the chain, which is closed.
    pub(crate) fn forget(&self, py: Python<'_>) {
        let state = std::mem::replace(&mut *self.lock(), State::Closed);
        // Unmapping a large pool takes a while.
        py.detach(|| {
            drop(state);
            gate::park_if_exiting();
        });
    }

    /// Gives the chain up in a forked child.
    pub(crate) fn abandon(&self) {
        let state = std::mem::replace(&mut *self.lock(), State::Abandoned);
        match state {
            State::Open(Chain::Engine(engine)) => engine.abandon(),
            State::Open(Chain::Storage(manager)) => manager.abandon(),
            State::Closed | State::Abandoned => {}
        }
    }
}
