//! The engine: tokens in, chunks out.

use std::sync::Arc;

use kvtier::{Config, Request};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::allocation::Allocation;
use crate::args::tiers_arg;
use crate::errors::{RemoveError, RequestError};
use crate::live::{Chain, Live};
use crate::prompt::{Prompt, prompt_arg};
use crate::results::{Prefix, Retrieved};
use crate::run::run;
use crate::storage::Storage;
use crate::{build, gate, report};

/// Stores and finds the KV cache of prompts.
///
/// Make one with ``from_file``, ``from_text`` or ``from_dict``. Threads may share it. Operations wait without the GIL,
/// each at most until the configuration's deadline, and look for signals every 50 ms. ``engine.futures`` has the same
/// operations as ``concurrent.futures.Future``, and ``engine.aio`` as coroutines. A failing backend causes misses,
/// never exceptions. Close it, or use it in a ``with`` block: an engine that is only dropped gives up its queued puts.
#[pyclass(frozen, weakref, module = "kvtier")]
pub(crate) struct Engine {
    live: Arc<Live>,
    storage: Py<Storage>,
}

impl Engine {
    fn new(py: Python<'_>, config: Config, metadata: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        let engine = build::engine(py, config, metadata)?;
        let live = Arc::new(Live::new(Chain::Engine(engine)));
        // The storage is closed when the interpreter exits, also if it is all that is left of the engine.
        let storage = Storage::register(py, &live)?;
        Py::new(py, Self { live, storage })
    }

    fn engine(&self) -> PyResult<kvtier::Engine> {
        match self.live.chain()? {
            Chain::Engine(engine) => Ok(engine),
            Chain::Storage(_) => unreachable!("an engine is made with its tokens"),
        }
    }
}

fn request_error(error: &kvtier::RequestError) -> PyErr {
    match error {
        kvtier::RequestError::Remove(error) => RemoveError::new_err(error.to_string()),
        error => RequestError::new_err(error.to_string()),
    }
}

fn object<T: pyo3::PyClass + Into<PyClassInitializer<T>>>(py: Python<'_>, value: T) -> PyResult<Py<PyAny>> {
    Ok(Py::new(py, value)?.into_any())
}

#[pymethods]
impl Engine {
    /// Builds an engine from a configuration file.
    ///
    /// :param metadata: an ``EngineMetadata``
    /// :param env: variables ``LMCACHE_*`` that override the file's keys; by default those of the process
    /// :raises ConfigError: if the configuration is wrong; the message names the file and the key
    /// :raises BuildError: if the pool cannot be reserved, or a backend cannot be loaded and
    ///     ``kvtier.on_load_error`` is ``fail``
    #[staticmethod]
    #[pyo3(signature = (path, metadata, *, env=None))]
    fn from_file(
        py: Python<'_>,
        path: &Bound<'_, PyAny>,
        metadata: &Bound<'_, PyAny>,
        env: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Self>> {
        let _inside = gate::enter(py);
        Self::new(py, build::config_from_file(path, env)?, metadata)
    }

    /// Builds an engine from a text in YAML. Relative paths in it are relative to ``base_dir``.
    #[staticmethod]
    #[pyo3(signature = (text, metadata, *, base_dir=None, env=None))]
    fn from_text(
        py: Python<'_>,
        text: &str,
        metadata: &Bound<'_, PyAny>,
        base_dir: Option<&Bound<'_, PyAny>>,
        env: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Self>> {
        let _inside = gate::enter(py);
        Self::new(
            py,
            build::config_from_text(text, base_dir.unwrap_or(&PyString::new(py, ".")), env)?,
            metadata,
        )
    }

    /// Builds an engine from a mapping with the keys of a configuration file.
    #[staticmethod]
    #[pyo3(signature = (config, metadata, *, base_dir=None, env=None))]
    fn from_dict(
        py: Python<'_>,
        config: &Bound<'_, PyAny>,
        metadata: &Bound<'_, PyAny>,
        base_dir: Option<&Bound<'_, PyAny>>,
        env: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Self>> {
        let _inside = gate::enter(py);
        Self::new(
            py,
            build::config_from_dict(config, base_dir.unwrap_or(&PyString::new(py, ".")), env)?,
            metadata,
        )
    }

    /// The same chain on keys.
    #[getter]
    fn storage(&self, py: Python<'_>) -> Py<Storage> {
        let _inside = gate::enter(py);
        self.storage.clone_ref(py)
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

    /// Tokens of a chunk.
    #[getter]
    fn chunk_size(&self) -> PyResult<usize> {
        Ok(self.engine()?.metadata().kv_shape.chunk_size())
    }

    /// Bytes of a full chunk.
    #[getter]
    fn chunk_bytes(&self) -> PyResult<usize> {
        let engine = self.engine()?;
        Ok(engine.metadata().chunk_bytes(engine.metadata().kv_shape.chunk_size()))
    }

    /// Address and size in bytes of the buffer pool, to be registered with a device.
    #[getter]
    fn pool(&self) -> PyResult<Option<(usize, usize)>> {
        Ok(self.engine()?.pool().map(|pool| (pool.base_ptr().as_ptr() as usize, pool.region_bytes())))
    }

    /// Derives the keys of a prompt.
    ///
    /// :param tokens: a sequence of integers, or a buffer of 32-bit or 64-bit integers
    /// :param tags: tags of the request; prompts with different tags share nothing
    #[pyo3(signature = (tokens, tags=None))]
    fn prompt(
        &self,
        py: Python<'_>,
        tokens: &Bound<'_, PyAny>,
        tags: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Prompt> {
        let _inside = gate::enter(py);
        Prompt::new(&self.engine()?, tokens, tags)
    }

    /// Returns how much of a prompt is stored, and in which tiers.
    ///
    /// :param tiers: a tier's name or several; all by default
    /// :param pin: an id: the chunks are protected from eviction until ``unpin(id)``, or until the pins expire
    #[pyo3(signature = (prompt, *, tiers=None, pin=None, _future=None))]
    fn lookup(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        tiers: Option<&Bound<'_, PyAny>>,
        pin: Option<String>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let engine = self.engine()?;
        let (prompt, tiers) = (prompt_arg(&engine, prompt)?, tiers_arg(tiers, &self.live)?);
        let manager = engine.storage().clone();
        let operation = async move {
            let request = Request::of(&prompt).tiers(tiers);
            match pin {
                None => engine.lookup(&request).await,
                Some(id) => engine.lookup_pinned(&request, &id).await,
            }
        };
        run(py, &manager, _future, operation, |py, prefix| {
            object(py, Prefix(prefix.map_err(|error| request_error(&error))?))
        })
    }

    /// Releases the pins of a lookup. Does nothing if it has none.
    #[pyo3(signature = (lookup_id, *, _future=None))]
    fn unpin(&self, py: Python<'_>, lookup_id: String, _future: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let manager = self.live.manager()?;
        let unpinning = manager.clone();
        run(py, &manager, _future, async move { unpinning.unpin(&lookup_id).await }, |py, ()| Ok(py.None()))
    }

    /// Retrieves the stored prefix of a prompt. Chunks of the CPU tier are shared; those of a backend are verified
    /// first.
    ///
    /// :param plan: the result of a lookup of the same prompt and tiers
    #[pyo3(signature = (prompt, *, plan=None, tiers=None, _future=None))]
    fn retrieve(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        plan: Option<&Bound<'_, Prefix>>,
        tiers: Option<&Bound<'_, PyAny>>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let engine = self.engine()?;
        let (prompt, tiers) = (prompt_arg(&engine, prompt)?, tiers_arg(tiers, &self.live)?);
        let plan = plan.map(|plan| plan.get().0.clone());
        let manager = engine.storage().clone();
        let operation =
            async move { engine.retrieve(&Request::of(&prompt).tiers(tiers), plan.as_ref()).await };
        run(py, &manager, _future, operation, |py, found| {
            object(py, Retrieved::new(py, found.map_err(|error| request_error(&error))?)?)
        })
    }

    /// Reserves buffers for the chunks of a prompt that the CPU tier does not have.
    ///
    /// :raises RequestError: if a chunk can never be allocated
    #[pyo3(signature = (prompt, *, _future=None))]
    fn allocate(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let engine = self.engine()?;
        let prompt = prompt_arg(&engine, prompt)?;
        let manager = engine.storage().clone();
        let operation = async move { engine.allocate(&*prompt).await };
        run(py, &manager, _future, operation, |py, allocation| {
            object(py, Allocation::new(allocation.map_err(|error| request_error(&error))?))
        })
    }

    /// Stores filled chunks: in the CPU tier at once, in the backends in the background.
    ///
    /// :raises BufferError: if a view of the allocation is alive
    #[pyo3(signature = (allocation, *, tiers=None, _future=None))]
    fn store(
        &self,
        py: Python<'_>,
        allocation: &Bound<'_, Allocation>,
        tiers: Option<&Bound<'_, PyAny>>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        self.storage.get().store(py, allocation, tiers, _future)
    }

    /// Removes the chunks of a prompt, and returns how many were present, summed over the tiers.
    ///
    /// :raises RemoveError: if a backend could not be asked
    #[pyo3(signature = (prompt, *, tiers=None, _future=None))]
    fn remove(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        tiers: Option<&Bound<'_, PyAny>>,
        _future: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        let engine = self.engine()?;
        let (prompt, tiers) = (prompt_arg(&engine, prompt)?, tiers_arg(tiers, &self.live)?);
        let manager = engine.storage().clone();
        let operation = async move { engine.remove(&Request::of(&prompt).tiers(tiers)).await };
        run(py, &manager, _future, operation, |py, n| {
            let n = n.map_err(|error| request_error(&error))?;
            Ok(n.into_pyobject(py)?.into_any().unbind())
        })
    }

    /// Waits until every queued put has been stored or has failed.
    ///
    /// :param timeout: seconds; by default the configuration's deadline
    /// :raises FlushError: if the limit passes first
    #[pyo3(signature = (timeout=None, *, _future=None))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>, _future: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        self.storage.get().flush(py, timeout, _future)
    }

    /// Stores the queued chunks and closes all tiers. Does nothing if it is closed.
    ///
    /// :raises CloseError: names the backends that did not close cleanly; it is closed nevertheless
    #[pyo3(signature = (*, _future=None))]
    fn close(&self, py: Python<'_>, _future: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let _inside = gate::enter(py);
        self.storage.get().close(py, _future)
    }

    /// Returns the state of every tier.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let _inside = gate::enter(py);
        report::status(py, &self.live.manager()?.status())
    }

    /// Returns the counts of every tier, in the chain's order.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let _inside = gate::enter(py);
        report::counts(py, &self.live.manager()?.counts())
    }

    /// Returns all counters and latencies as Prometheus text.
    fn metrics(&self) -> PyResult<String> {
        Ok(self.live.manager()?.metrics())
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
            "make an engine with Engine.from_file, Engine.from_text or Engine.from_dict",
        ))
    }
}
