//! The chain of tiers on keys.

use std::sync::Arc;
use std::time::Instant;

use kvtier::memory::ChunkWriter;
use kvtier::{Chunk, Config, StorageManager};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::allocation::Allocation;
use crate::args::{Name, keys_arg, limit_arg, packed, specs_arg, tiers_arg};
use crate::errors::{CloseError, FlushError, RecreateError, RemoveError, RequestError, UnknownBackendError};
use crate::events;
use crate::live::{Chain, Live};
use crate::memory::lend;
use crate::receipt::Receipt;
use crate::results::{Miss, Stored, chunk_list};
use crate::run::{self, FirstStep, run, run_from};
use crate::{build, gate, report};

/// The chain of tiers on keys, for engines that name their chunks themselves.
///
/// A key is 16 bytes, and a list of keys is one ``bytes`` object, key after key; ``keys`` derives them from the
/// engine's own names. Make one with ``from_file``, ``from_text`` or ``from_dict``, or get that of an ``Engine``.
/// Threads may share it. Operations wait without the GIL, each at most until the configuration's deadline, and look for
/// signals every 50 ms. ``storage.futures`` has the same operations as ``concurrent.futures.Future``, and
/// ``storage.aio`` as coroutines. A failing backend causes misses, never exceptions. Close it, or use it in a ``with``
/// block: a storage that is only dropped gives up its queued puts.
#[pyclass(frozen, weakref, module = "kvtier")]
pub(crate) struct Storage {
    live: Arc<Live>,
}

impl Storage {
    /// Makes the storage of a chain, which is closed when the interpreter exits.
    pub(crate) fn register(py: Python<'_>, live: &Arc<Live>) -> PyResult<Py<Self>> {
        let this = Py::new(py, Self { live: Arc::clone(live) })?;
        py.import("kvtier._lifecycle")?.call_method1("register", (&this,))?;
        Ok(this)
    }

    fn new(
        py: Python<'_>,
        config: Config,
        metadata: &Bound<'_, PyAny>,
        has_cpu_tier: bool,
    ) -> PyResult<Py<Self>> {
        let manager = build::storage(py, config, metadata, has_cpu_tier)?;
        Self::register(py, &Arc::new(Live::new(Chain::Storage(manager))))
    }

    fn manager(&self) -> PyResult<StorageManager> {
        self.live.manager()
    }
}

fn number(py: Python<'_>, n: usize) -> PyResult<Py<PyAny>> {
    Ok(n.into_pyobject(py)?.into_any().unbind())
}

#[pymethods]
impl Storage {
    /// Builds the chain from a configuration file.
    ///
    /// :param metadata: a ``StorageMetadata``
    /// :param cpu_tier: whether there is a CPU tier with a pool of its own; without one, chunks are moved between
    ///     the caller's memory and the backends
    /// :param env: variables ``LMCACHE_*`` that override the file's keys; by default those of the process
    /// :raises ConfigError: if the configuration is wrong; the message names the file and the key
    /// :raises BuildError: if the pool cannot be reserved, or a backend cannot be loaded and
    ///     ``kvtier.on_load_error`` is ``fail``
    #[staticmethod]
    #[pyo3(signature = (path, metadata, *, cpu_tier=true, env=None))]
    fn from_file(
        py: Python<'_>,
        path: &Bound<'_, PyAny>,
        metadata: &Bound<'_, PyAny>,
        cpu_tier: bool,
        env: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Self>> {
        let _inside = gate::enter(py);
        let config = build::config_from_file(path, env)?;
        Self::new(py, config, metadata, cpu_tier)
    }

    /// Builds the chain from a text in YAML. Relative paths in it are relative to ``base_dir``.
    #[staticmethod]
    #[pyo3(signature = (text, metadata, *, cpu_tier=true, base_dir=None, env=None))]
    fn from_text(
        py: Python<'_>,
        text: &str,
        metadata: &Bound<'_, PyAny>,
        cpu_tier: bool,
        base_dir: Option<&Bound<'_, PyAny>>,
        env: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Self>> {
        let _inside = gate::enter(py);
        let config = build::config_from_text(text, base_dir.unwrap_or(&PyString::new(py, ".")), env)?;
        Self::new(py, config, metadata, cpu_tier)
    }

    /// Builds the chain from a mapping with the keys of a configuration file.
    #[staticmethod]
    #[pyo3(signature = (config, metadata, *, cpu_tier=true, base_dir=None, env=None))]
    fn from_dict(
        py: Python<'_>,
        config: &Bound<'_, PyAny>,
        metadata: &Bound<'_, PyAny>,
        cpu_tier: bool,
        base_dir: Option<&Bound<'_, PyAny>>,
        env: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Self>> {
        let _inside = gate::enter(py);
        let config = build::config_from_dict(config, base_dir.unwrap_or(&PyString::new(py, ".")), env)?;
        Self::new(py, config, metadata, cpu_tier)
    }

    /// The namespace that the keys of other names are derived in: 16 bytes.
    #[getter]
    fn namespace<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.manager()?.namespace().to_bytes()))
    }

    /// The waiting operations as ``concurrent.futures.Future``.
    #[getter]
    fn futures<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let _inside = gate::enter(slf.py());
        report::view(slf.as_any(), "Futures")
    }

    /// The waiting operations as coroutines.
    #[getter]
    fn aio<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let _inside = gate::enter(slf.py());
        report::view(slf.as_any(), "Coroutines")
    }

    /// Whether it is closed.
    #[getter]
    fn is_closed(&self) -> bool {
        self.live.is_closed()
    }

    /// Derives the keys of names that another system gives its chunks: text, or bytes of any length. Returns 16 bytes
    /// for each.
    fn keys<'py>(&self, py: Python<'py>, names: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let _inside = gate::enter(py);
        if names.is_instance_of::<PyString>() || names.is_instance_of::<PyBytes>() {
            return Err(PyTypeError::new_err("names is a sequence of names, not one name"));
        }
        let namespace = self.manager()?.namespace();
        let names: Vec<Bound<'py, PyAny>> = names.try_iter()?.collect::<PyResult<_>>()?;
        let names: Vec<Name<'_, 'py>> = names.iter().map(Name::of).collect::<PyResult<_>>()?;
        let names: Vec<&[u8]> = names.iter().map(Name::bytes).collect();
        let keys = py.detach(|| {
            let keys = namespace.foreign_keys(names);
            gate::park_if_exiting();
            keys
        });
        Ok(packed(py, &keys))
    }

    /// Returns how many of the keys are present, counted from the first one to the first gap.
    ///
    /// :param tiers: a tier's name or several; all by default
    /// :param pin: an id: the chunks are protected from eviction until ``unpin(id)``, or until the pins expire
    #[pyo3(signature = (keys, *, tiers=None, pin=None, _future=None))]
    fn contains(
        &self,
        py: Python<'_>,
        keys: &[u8],
        tiers: Option<&Bound<'_, PyAny>>,
        pin: Option<String>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let (manager, keys, tiers) = (self.manager()?, keys_arg(keys)?, tiers_arg(tiers, &self.live)?);
        let chain = manager.clone();
        let operation = async move {
            match pin {
                None => chain.contains(&keys, &tiers).await.n_chunks,
                Some(id) => chain.contains_pinned(&keys, &tiers, &id).await.n_chunks,
            }
        };
        run(py, &manager, _future, operation, number)
    }

    /// Returns for each key whether a tier has it. It does not stop at a gap, and pins nothing.
    #[pyo3(signature = (keys, *, tiers=None, _future=None))]
    fn contains_each(
        &self,
        py: Python<'_>,
        keys: &[u8],
        tiers: Option<&Bound<'_, PyAny>>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let (manager, keys, tiers) = (self.manager()?, keys_arg(keys)?, tiers_arg(tiers, &self.live)?);
        let chain = manager.clone();
        let operation = async move { chain.contains_each(&keys, &tiers).await };
        run(py, &manager, _future, operation, |py, present| Ok(PyList::new(py, present)?.into_any().unbind()))
    }

    /// Releases the pins of a lookup. Does nothing if it has none.
    #[pyo3(signature = (lookup_id, *, _future=None))]
    fn unpin(&self, py: Python<'_>, lookup_id: String, _future: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let manager = self.manager()?;
        let chain = manager.clone();
        run(py, &manager, _future, async move { chain.unpin(&lookup_id).await }, |py, ()| Ok(py.None()))
    }

    /// Retrieves chunks up to the first gap, as shared read-only bytes. Needs the memory of a CPU tier.
    ///
    /// :param n_bytes: size of each chunk in bytes, or one size for all; an upper bound is enough
    #[pyo3(signature = (keys, n_bytes, *, tiers=None, _future=None))]
    fn get(
        &self,
        py: Python<'_>,
        keys: &[u8],
        n_bytes: &Bound<'_, PyAny>,
        tiers: Option<&Bound<'_, PyAny>>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let (manager, specs, tiers) =
            (self.manager()?, specs_arg(keys, n_bytes)?, tiers_arg(tiers, &self.live)?);
        let chain = manager.clone();
        let operation = async move { chain.get(&specs, &tiers, None).await.chunks };
        run(py, &manager, _future, operation, |py, chunks| Ok(chunk_list(py, chunks)?.into_any().unbind()))
    }

    /// Reserves buffers for the chunks that the CPU tier does not have.
    ///
    /// :param n_bytes: size of each chunk in bytes, or one size for all
    /// :raises RequestError: if a chunk can never be allocated
    #[pyo3(signature = (keys, n_bytes, *, _future=None))]
    fn allocate(
        &self,
        py: Python<'_>,
        keys: &[u8],
        n_bytes: &Bound<'_, PyAny>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let (manager, specs) = (self.manager()?, specs_arg(keys, n_bytes)?);
        let chain = manager.clone();
        let operation = async move { chain.allocate(&specs).await };
        run(py, &manager, _future, operation, |py, allocation| {
            let allocation = allocation.map_err(|error| RequestError::new_err(error.to_string()))?;
            Ok(Py::new(py, Allocation::new(allocation))?.into_any())
        })
    }

    /// Stores filled chunks: in the CPU tier at once, in the backends in the background.
    ///
    /// :raises BufferError: if a view of the allocation is alive
    #[pyo3(signature = (allocation, *, tiers=None, _future=None))]
    pub(crate) fn store(
        &self,
        py: Python<'_>,
        allocation: &Bound<'_, Allocation>,
        tiers: Option<&Bound<'_, PyAny>>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let (manager, tiers) = (self.manager()?, tiers_arg(tiers, &self.live)?);
        let (chain, allocation) = (manager.clone(), allocation.get().take()?);
        let operation = async move { chain.put(allocation, &tiers).await };
        run(py, &manager, _future, operation, |py, stored| {
            Ok(Py::new(py, Stored::new(py, &stored)?)?.into_any())
        })
    }

    /// Queues chunks in the caller's memory for the backends, without a copy, and returns a ``Receipt``. The CPU tier
    /// does not keep them.
    ///
    /// :param memory: for each key a ``Memory``, or an object with a contiguous buffer, which is held until the
    ///     transfer has ended. Nobody may write it before.
    /// :raises ValueError: if the numbers of keys and memory differ, or a ``Memory`` was lent before
    #[pyo3(signature = (keys, memory, *, tiers=None, _future=None))]
    fn put_lent(
        &self,
        py: Python<'_>,
        keys: &[u8],
        memory: &Bound<'_, PyAny>,
        tiers: Option<&Bound<'_, PyAny>>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let (manager, keys, tiers) = (self.manager()?, keys_arg(keys)?, tiers_arg(tiers, &self.live)?);
        let lent = lend(memory, keys.len(), false)?;
        let chunks: Vec<Chunk> = keys
            .into_iter()
            .zip(lent)
            .map(|(key, lent)| ChunkWriter::new(key, lent.into_buffer()).freeze())
            .collect();
        let (chain, n_chunks) = (manager.clone(), chunks.len());
        let of_receipt = manager.clone();
        let operation = async move { chain.put_chunks_with_receipt(&chunks, &tiers).await.1 };
        run(py, &manager, _future, operation, move |py, receipt| {
            Ok(Py::new(py, Receipt::new(receipt, of_receipt, n_chunks))?.into_any())
        })
    }

    /// Fetches chunks into the caller's memory, without a copy, verified while they move. Returns for each key the
    /// chunk's size in bytes, or a ``Miss``. It does not stop at a gap.
    ///
    /// Memory whose transfer has ended is released before this returns. **Memory of a miss may still be written by a
    /// transfer that is late**: it is free when ``on_release`` was called, and not before.
    ///
    /// :param memory: for each key a ``Memory``, or an object with a contiguous writable buffer, of the chunk's size
    ///     or more. Bytes behind a shorter chunk are arbitrary afterwards.
    #[pyo3(signature = (keys, memory, *, tiers=None, _future=None))]
    fn fetch_into(
        &self,
        py: Python<'_>,
        keys: &[u8],
        memory: &Bound<'_, PyAny>,
        tiers: Option<&Bound<'_, PyAny>>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let (manager, keys, tiers) = (self.manager()?, keys_arg(keys)?, tiers_arg(tiers, &self.live)?);
        let lent = lend(memory, keys.len(), true)?;
        let writers: Vec<ChunkWriter> =
            keys.into_iter().zip(lent).map(|(key, lent)| ChunkWriter::new(key, lent.into_buffer())).collect();
        let chain = manager.clone();
        let operation = async move { chain.fetch_into(writers, &tiers).await };
        // What the CPU tier has is copied at once.
        run_from(py, &manager, FirstStep::WithoutGil, _future, operation, |py, fetched| {
            let results: Vec<Result<usize, Miss>> = events::release_here(py, || {
                fetched
                    .into_iter()
                    .map(|result| result.map(|chunk| chunk.len()).map_err(|missed| Miss::new(&missed.miss)))
                    .collect()
            });
            let results = results.into_iter().map(|result| match result {
                Ok(n_bytes) => number(py, n_bytes),
                Err(miss) => Ok(Py::new(py, miss)?.into_any()),
            });
            Ok(PyList::new(py, results.collect::<PyResult<Vec<_>>>()?)?.into_any().unbind())
        })
    }

    /// Removes chunks, and returns how many were present, summed over the tiers.
    ///
    /// :raises RemoveError: if a backend could not be asked; even so, it no longer serves the chunks
    #[pyo3(signature = (keys, *, tiers=None, _future=None))]
    fn remove(
        &self,
        py: Python<'_>,
        keys: &[u8],
        tiers: Option<&Bound<'_, PyAny>>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let (manager, keys, tiers) = (self.manager()?, keys_arg(keys)?, tiers_arg(tiers, &self.live)?);
        let chain = manager.clone();
        let operation = async move { chain.remove(&keys, &tiers).await };
        run(py, &manager, _future, operation, |py, n| {
            number(py, n.map_err(|error| RemoveError::new_err(error.to_string()))?)
        })
    }

    /// Takes a backend out of the chain until ``restore``.
    ///
    /// :raises UnknownBackendError: if no backend has the name
    fn bypass(&self, backend: &str) -> PyResult<()> {
        self.manager()?.bypass(backend).map_err(|error| UnknownBackendError::new_err(error.to_string()))
    }

    /// Puts a bypassed backend back into the chain.
    ///
    /// :raises UnknownBackendError: if no backend has the name
    fn restore(&self, backend: &str) -> PyResult<()> {
        self.manager()?.restore(backend).map_err(|error| UnknownBackendError::new_err(error.to_string()))
    }

    /// Closes a backend and creates it again from its configuration.
    ///
    /// :raises RecreateError: if it could not be loaded
    #[pyo3(signature = (backend, *, _future=None))]
    fn recreate(&self, py: Python<'_>, backend: String, _future: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let manager = self.manager()?;
        let chain = manager.clone();
        let operation = async move { chain.recreate(&backend).await };
        run(py, &manager, _future, operation, |py, recreated| {
            recreated.map(|()| py.None()).map_err(|error| RecreateError::new_err(error.to_string()))
        })
    }

    /// Waits until every queued put has been stored or has failed.
    ///
    /// :param timeout: seconds; by default the configuration's deadline
    /// :raises FlushError: if the limit passes first
    #[pyo3(signature = (timeout=None, *, _future=None))]
    pub(crate) fn flush(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let (manager, limit) = (self.manager()?, limit_arg(timeout)?);
        let chain = manager.clone();
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let operation = async move {
            match deadline {
                None => chain.flush().await,
                Some(deadline) => chain.flush_until(deadline).await,
            }
        };
        run(py, &manager, _future, operation, |py, flushed| {
            flushed.map(|()| py.None()).map_err(|error| FlushError::new_err(error.to_string()))
        })
    }

    /// Stores the queued chunks and closes all tiers. Does nothing if it is closed.
    ///
    /// :raises CloseError: names the backends that did not close cleanly; it is closed nevertheless
    #[pyo3(signature = (*, _future=None))]
    pub(crate) fn close(&self, py: Python<'_>, _future: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let closed = |closed: Result<(), kvtier::CloseError>| {
            closed.map_err(|error| CloseError::new_err(error.to_string()))
        };
        let Ok(manager) = self.manager() else {
            // Closed before; a future completes like that of any other operation.
            return match _future {
                None => Ok(py.None()),
                Some(future) => run::completed(py, future),
            };
        };
        let (chain, live) = (manager.clone(), Arc::clone(&self.live));
        let operation = async move { chain.close().await };
        run(py, &manager, _future, operation, move |py, outcome| {
            live.forget(py);
            closed(outcome).map(|()| py.None())
        })
    }

    /// Returns the state of every tier.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let _inside = gate::enter(py);
        report::status(py, &self.manager()?.status())
    }

    /// Returns the counts of every tier, in the chain's order.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let _inside = gate::enter(py);
        report::counts(py, &self.manager()?.counts())
    }

    /// Returns all counters and latencies as Prometheus text.
    fn metrics(&self) -> PyResult<String> {
        Ok(self.manager()?.metrics())
    }

    /// Gives the chain up in a forked child.
    fn _abandon(&self) {
        self.live.abandon();
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        let _inside = gate::enter(py);
        self.close(py, None).map(drop)
    }

    #[new]
    fn refuse() -> PyResult<Self> {
        Err(PyTypeError::new_err(
            "make a storage with Storage.from_file, Storage.from_text or Storage.from_dict",
        ))
    }
}
