//! The engine's operations for callers without an executor. [`block_on`] does the same for any other future.

use super::{Engine, Prefix, Request, RequestError, RetrievedPrefix};
use crate::manager::{Allocation, CloseError, Stored, Tiers};
use crate::runtime::block_on;

/// The engine's operations as blocking calls.
#[derive(Clone, Copy, Debug)]
pub struct Blocking<'a>(pub(super) &'a Engine);

impl Blocking<'_> {
    /// See [`Engine::lookup`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn lookup<'r>(&self, request: impl Into<Request<'r>>) -> Result<Prefix, RequestError> {
        block_on(self.0.lookup(request))
    }

    /// See [`Engine::lookup_pinned`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn lookup_pinned<'r>(
        &self,
        request: impl Into<Request<'r>>,
        lookup_id: &str,
    ) -> Result<Prefix, RequestError> {
        block_on(self.0.lookup_pinned(request, lookup_id))
    }

    /// See [`Engine::retrieve`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn retrieve<'r>(
        &self,
        request: impl Into<Request<'r>>,
        plan: Option<&Prefix>,
    ) -> Result<RetrievedPrefix, RequestError> {
        block_on(self.0.retrieve(request, plan))
    }

    /// See [`Engine::allocate`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn allocate<'r>(&self, request: impl Into<Request<'r>>) -> Result<Allocation, RequestError> {
        block_on(self.0.allocate(request))
    }

    /// See [`Engine::store`].
    pub fn store(&self, allocation: Allocation, tiers: &Tiers) -> Stored {
        block_on(self.0.store(allocation, tiers))
    }

    /// See [`Engine::unpin`].
    pub fn unpin(&self, lookup_id: &str) {
        block_on(self.0.unpin(lookup_id));
    }

    /// See [`Engine::remove`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn remove<'r>(&self, request: impl Into<Request<'r>>) -> Result<usize, RequestError> {
        block_on(self.0.remove(request))
    }

    /// See [`Engine::close`].
    ///
    /// # Errors
    /// [`CloseError`]
    pub fn close(&self) -> Result<(), CloseError> {
        block_on(self.0.close())
    }
}
