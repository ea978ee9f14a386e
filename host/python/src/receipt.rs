//! Receipts of puts.

use kvtier::{BackendReceipt, PutOutcome, StorageManager};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::args::limit_arg;
use crate::events::{self, Event};
use crate::gate;
use crate::report;
use crate::run::{FirstStep, wait};

/// What became of each chunk of a put in each backend.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Receipt {
    inner: kvtier::Receipt,
    manager: StorageManager,
    n_chunks: usize,
}

impl Receipt {
    pub(crate) fn new(receipt: kvtier::Receipt, manager: StorageManager, n_chunks: usize) -> Self {
        Self { inner: receipt, manager, n_chunks }
    }

    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<BackendReceipt>> {
        let limit = limit_arg(timeout)?;
        let receipt = self.inner.clone();
        let outcomes = wait(py, async move { receipt.outcomes().await }, FirstStep::WithGil, limit)?;
        outcomes.ok_or_else(|| {
            pyo3::exceptions::PyTimeoutError::new_err("the put has not ended yet; ask again, or wait longer")
        })
    }
}

#[pymethods]
impl Receipt {
    /// Whether every outcome is known.
    #[getter]
    fn is_complete(&self) -> bool {
        self.inner.is_complete()
    }

    /// Waits until every outcome is known, and returns one entry for each backend, in the chain's order.
    ///
    /// :param timeout: seconds; ``None`` waits until the backends' calls have ended, which is bounded by their limits
    /// :raises TimeoutError: if ``timeout`` passes first
    #[pyo3(signature = (timeout=None))]
    fn outcomes<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyList>> {
        let _inside = gate::enter(py);
        let receipts = self.wait(py, timeout)?;
        let class = report::class(py, "BackendReceipt")?;
        let entries = receipts.iter().map(|receipt| {
            let outcomes: Vec<String> = receipt.outcomes.iter().map(describe).collect();
            let fields = PyDict::new(py);
            fields.set_item("backend", &receipt.backend)?;
            fields.set_item("stored", receipt.outcomes.iter().map(is_stored).collect::<Vec<_>>())?;
            fields.set_item("outcomes", outcomes)?;
            class.call((), Some(&fields))
        });
        PyList::new(py, entries.collect::<PyResult<Vec<_>>>()?)
    }

    /// Waits until every outcome is known, and returns for each chunk whether at least one backend has it.
    ///
    /// :param timeout: as in ``outcomes``
    /// :raises TimeoutError: if ``timeout`` passes first
    #[pyo3(signature = (timeout=None))]
    fn stored(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<bool>> {
        let _inside = gate::enter(py);
        let receipts = self.wait(py, timeout)?;
        let has =
            |index: usize| receipts.iter().any(|receipt| receipt.outcomes.get(index).is_some_and(is_stored));
        Ok((0..self.n_chunks).map(has).collect())
    }

    /// Calls ``callback(receipt)`` on the thread ``kvtier-events`` when every outcome is known.
    fn add_done_callback(slf: Py<Self>, callback: Py<PyAny>) {
        let (receipt, manager) = (slf.get().inner.clone(), slf.get().manager.clone());
        manager.spawn(async move {
            receipt.outcomes().await;
            events::push(Event::Call(Box::new(move |py| (callback, slf).into_pyobject(py))));
        });
    }
}

fn is_stored(outcome: &PutOutcome) -> bool {
    matches!(outcome, PutOutcome::Stored)
}

fn describe(outcome: &PutOutcome) -> String {
    match outcome {
        PutOutcome::Stored => "stored".to_owned(),
        PutOutcome::Failed(error) => format!("failed: {error}"),
        PutOutcome::Dropped(reason) => format!("dropped: {}", reason.name()),
        _ => "unknown".to_owned(),
    }
}
