//! The engine's operations for callers without an executor.

use super::{Engine, Prefix, Request, RequestError, RetrievedPrefix};
use crate::manager::{Allocation, ClearReport, CloseError, FlushError, RecreateError, Stored, Tiers};
use crate::runtime::block_on;

/// The engine's operations as blocking calls.
#[derive(Clone, Copy, Debug)]
pub struct Blocking<'a>(pub(super) &'a Engine);

impl Blocking<'_> {
    /// See [`Engine::lookup`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn lookup(&self, request: &Request<'_>) -> Result<Prefix, RequestError> {
        block_on(self.0.lookup(request))
    }

    /// See [`Engine::lookup_pinned`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn lookup_pinned(&self, request: &Request<'_>, lookup_id: &str) -> Result<Prefix, RequestError> {
        block_on(self.0.lookup_pinned(request, lookup_id))
    }

    /// See [`Engine::retrieve`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn retrieve(
        &self,
        request: &Request<'_>,
        plan: Option<&Prefix>,
    ) -> Result<RetrievedPrefix, RequestError> {
        block_on(self.0.retrieve(request, plan))
    }

    /// See [`Engine::allocate`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn allocate(&self, request: &Request<'_>) -> Result<Allocation, RequestError> {
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
    pub fn remove(&self, request: &Request<'_>) -> Result<usize, RequestError> {
        block_on(self.0.remove(request))
    }

    /// See [`Engine::clear`].
    pub fn clear(&self, tiers: &Tiers) -> ClearReport {
        block_on(self.0.clear(tiers))
    }

    /// See [`Engine::flush`].
    ///
    /// # Errors
    /// [`FlushError`]
    pub fn flush(&self) -> Result<(), FlushError> {
        block_on(self.0.flush())
    }

    /// See [`Engine::recreate`].
    ///
    /// # Errors
    /// [`RecreateError`]
    pub fn recreate(&self, backend: &str) -> Result<(), RecreateError> {
        block_on(self.0.recreate(backend))
    }

    /// See [`Engine::close`].
    ///
    /// # Errors
    /// [`CloseError`]
    pub fn close(&self) -> Result<(), CloseError> {
        block_on(self.0.close())
    }
}
