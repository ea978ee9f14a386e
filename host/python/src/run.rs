//! Running operations: waiting for them, or starting them for a future.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use kvtier::{StorageManager, block_on_for};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors::ClosedError;
use crate::events::{self, Event};
use crate::gate;

/// How long a wait goes on before it looks for signals.
const SLICE: Duration = Duration::from_millis(50);

/// Whether the first step of an operation keeps the GIL.
#[derive(Clone, Copy)]
pub(crate) enum FirstStep {
    /// It takes microseconds: the CPU tier may answer at once.
    WithGil,
    /// It may copy or hash much.
    WithoutGil,
}

/// Waits for `operation` and converts its output. The caller has entered the gate. With `future`, a
/// `concurrent.futures.Future`, starts it on kvtier's threads instead and returns `None`; the future gets the converted
/// output on the thread of events.
pub(crate) fn run<T: Send + 'static>(
    py: Python<'_>,
    manager: &StorageManager,
    future: Option<Py<PyAny>>,
    operation: impl Future<Output = T> + Send + 'static,
    convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Py<PyAny>> {
    run_from(py, manager, FirstStep::WithGil, future, operation, convert)
}

/// As [`run`], with a choice for the first step.
pub(crate) fn run_from<T: Send + 'static>(
    py: Python<'_>,
    manager: &StorageManager,
    first: FirstStep,
    future: Option<Py<PyAny>>,
    operation: impl Future<Output = T> + Send + 'static,
    convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Py<PyAny>> {
    let Some(future) = future else {
        let Some(output) = wait(py, operation, first, None)? else { unreachable!("it has no limit") };
        return convert(py, output);
    };
    let mut completion = Completion(Some(future));
    manager.spawn(async move {
        let output = operation.await;
        completion.complete(move |py| convert(py, output));
    });
    Ok(py.None())
}

/// Completes a future of Python's at once, with `None`.
pub(crate) fn completed(py: Python<'_>, future: Py<PyAny>) -> PyResult<Py<PyAny>> {
    py.import("kvtier._lifecycle")?.call_method1("complete", (future, py.None(), py.None()))?;
    Ok(py.None())
}

/// Waits for `future` without the GIL, at most for `limit`, and looks for signals every 50 ms. Returns `None` if the
/// limit has passed.
///
/// # Errors
/// What a signal handler raises, such as `KeyboardInterrupt`. The operation is cancelled then.
pub(crate) fn wait<F: Future<Output: Send> + Send>(
    py: Python<'_>,
    future: F,
    first: FirstStep,
    limit: Option<Duration>,
) -> PyResult<Option<F::Output>> {
    let mut future = pin!(future);
    if let FirstStep::WithGil = first
        && let Some(output) = block_on_for(future.as_mut(), Duration::ZERO)
    {
        return Ok(Some(output));
    }
    let started = Instant::now();
    loop {
        let left = limit.map_or(SLICE, |limit| limit.saturating_sub(started.elapsed()).min(SLICE));
        let output = py.detach(|| {
            let output = block_on_for(future.as_mut(), left);
            gate::park_if_exiting();
            output
        });
        if output.is_some() || left.is_zero() {
            return Ok(output);
        }
        py.check_signals()?;
    }
}

/// Completes a Python future exactly once: with an error, if its operation ends without an output.
struct Completion(Option<Py<PyAny>>);

impl Completion {
    fn complete(&mut self, output: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static) {
        let Some(future) = self.0.take() else { return };
        events::push(Event::Call(Box::new(move |py| {
            let (value, error) = match output(py) {
                Ok(value) => (value, py.None()),
                Err(error) => (py.None(), error.into_value(py).into_any()),
            };
            let complete = py.import("kvtier._lifecycle")?.getattr("complete")?;
            PyTuple::new(py, [complete.unbind(), future, value, error])
        })));
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.complete(|_| Err(ClosedError::new_err("the storage was closed before the operation ended")));
    }
}
