//! Results of operations.

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::chunk::Chunk;

/// The reason why a chunk was not delivered.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Miss {
    /// A word, as in the metrics: ``not_found``, ``timeout``, ``trap``, ``check_failed`` …
    #[pyo3(get)]
    reason: String,
    /// A sentence.
    #[pyo3(get)]
    message: String,
}

impl Miss {
    pub(crate) fn new(miss: &kvtier::Miss) -> Self {
        Self { reason: miss.reason().to_owned(), message: miss.to_string() }
    }
}

#[pymethods]
impl Miss {
    fn __repr__(&self) -> String {
        format!("Miss(reason={:?}, message={:?})", self.reason, self.message)
    }
}

/// The stored part of a prompt.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Prefix(pub(crate) kvtier::Prefix);

#[pymethods]
impl Prefix {
    /// Number of tokens, from the first one on, that are stored without a gap.
    #[getter]
    fn n_tokens(&self) -> usize {
        self.0.n_tokens
    }

    /// Number of chunks of the prefix.
    #[getter]
    fn n_chunks(&self) -> usize {
        self.0.lookup.n_chunks
    }

    /// The tier that serves each run of chunks: ``(tier, first, end)``. Tier 0 is the CPU tier, and backends follow in
    /// the order of the configuration.
    #[getter]
    fn served(&self) -> Vec<(usize, usize, usize)> {
        self.0.lookup.served.iter().map(|run| (run.tier.0, run.range.start, run.range.end)).collect()
    }

    fn __repr__(&self) -> String {
        format!("Prefix(n_tokens={}, n_chunks={})", self.0.n_tokens, self.0.lookup.n_chunks)
    }
}

/// The chunks of a prompt's prefix.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Retrieved {
    /// Number of tokens that the chunks cover.
    #[pyo3(get)]
    n_tokens: usize,
    /// The chunks, in order, from the first one on.
    #[pyo3(get)]
    chunks: Py<PyList>,
    misses: Vec<kvtier::MissedChunk>,
}

impl Retrieved {
    pub(crate) fn new(py: Python<'_>, found: kvtier::RetrievedPrefix) -> PyResult<Self> {
        let chunks = chunk_list(py, found.retrieved.chunks)?.unbind();
        Ok(Self { n_tokens: found.n_tokens, misses: found.retrieved.misses, chunks })
    }
}

#[pymethods]
impl Retrieved {
    /// Chunks that a tier was asked for and did not deliver: ``(position, tier, miss)``. Another tier may have
    /// delivered them.
    #[getter]
    fn misses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let misses = self
            .misses
            .iter()
            .map(|missed| Ok((missed.position, missed.tier.0, Py::new(py, Miss::new(&missed.miss))?)));
        PyList::new(py, misses.collect::<PyResult<Vec<_>>>()?)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("Retrieved(n_tokens={}, {} chunks)", self.n_tokens, self.chunks.bind(py).len())
    }
}

/// Makes a list of chunks.
pub(crate) fn chunk_list(py: Python<'_>, chunks: Vec<kvtier::Chunk>) -> PyResult<Bound<'_, PyList>> {
    let chunks = chunks.into_iter().map(|chunk| Py::new(py, Chunk(chunk)));
    PyList::new(py, chunks.collect::<PyResult<Vec<_>>>()?)
}

/// What a store did.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Stored {
    /// Chunks that are new in the CPU tier.
    #[pyo3(get)]
    n_new: usize,
    /// What was offered to each chosen backend, in the chain's order.
    #[pyo3(get)]
    backends: Py<PyList>,
}

/// What a store offered to a backend.
#[pyclass(frozen, get_all, module = "kvtier")]
pub(crate) struct Offer {
    /// The backend's name.
    backend: String,
    /// Chunks that were queued for the backend.
    n_queued: usize,
    /// Chunks that the backend is known to have.
    n_present: usize,
    /// Chunks that were dropped, because the queue was full or the backend is being skipped.
    n_dropped: usize,
}

impl Stored {
    pub(crate) fn new(py: Python<'_>, stored: &kvtier::Stored) -> PyResult<Self> {
        let offers = stored.backends.iter().map(|offer| {
            let (n_queued, n_present, n_dropped) = (offer.n_queued, offer.n_present, offer.n_dropped);
            Py::new(py, Offer { backend: offer.backend.clone(), n_queued, n_present, n_dropped })
        });
        let backends = PyList::new(py, offers.collect::<PyResult<Vec<_>>>()?)?.unbind();
        Ok(Self { n_new: stored.n_new, backends })
    }
}

#[pymethods]
impl Stored {
    fn __repr__(&self, py: Python<'_>) -> String {
        format!("Stored(n_new={}, backends={})", self.n_new, self.backends.bind(py))
    }
}

#[pymethods]
impl Offer {
    fn __repr__(&self) -> String {
        let Self { backend, n_queued, n_present, n_dropped } = self;
        format!("Offer({backend:?}, n_queued={n_queued}, n_present={n_present}, n_dropped={n_dropped})")
    }
}
