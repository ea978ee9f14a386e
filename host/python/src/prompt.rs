//! The keys of a prompt.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::args::{packed, salt_arg, tokens_arg};
use crate::gate;

/// So many tokens are hashed in some 30 µs; more are hashed without the GIL.
const HASHED_WITH_GIL_MAX: usize = 4096;

/// The keys of a prompt, derived once. Pass it where an operation takes tokens.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Prompt {
    keys: Mutex<Arc<kvtier::Prompt>>,
    /// One at a time.
    appending: Mutex<()>,
}

impl Prompt {
    /// Derives the keys of a prompt with these tags.
    pub(crate) fn new(
        engine: &kvtier::Engine,
        tokens: &Bound<'_, PyAny>,
        tags: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let (py, tokens, salt) = (tokens.py(), tokens_arg(tokens)?, salt_arg(tags)?);
        let prompt = hashing(py, tokens.len(), || engine.prompt(&tokens, &salt));
        Ok(Self { keys: Mutex::new(Arc::new(prompt)), appending: Mutex::default() })
    }

    fn get(&self) -> Arc<kvtier::Prompt> {
        Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl Prompt {
    /// The keys of the full chunks: 16 bytes each, one after the other.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let _inside = gate::enter(py);
        packed(py, self.get().keys())
    }

    /// Number of tokens.
    #[getter]
    fn n_tokens(&self) -> usize {
        self.get().n_tokens()
    }

    /// Appends the tokens of another turn. Costs one pass over these tokens, and a copy of the keys.
    fn append(&self, py: Python<'_>, tokens: &Bound<'_, PyAny>) -> PyResult<()> {
        let _inside = gate::enter(py);
        let tokens = tokens_arg(tokens)?;
        hashing(py, tokens.len(), || {
            let _turn = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
            // Not under the lock of the keys, which readers take with the GIL held.
            let mut prompt = kvtier::Prompt::clone(&self.get());
            prompt.append(&tokens);
            *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(prompt);
        });
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("Prompt(n_tokens={})", self.get().n_tokens())
    }
}

/// Takes a prompt, or tokens of one.
pub(crate) fn prompt_arg(
    engine: &kvtier::Engine,
    prompt: &Bound<'_, PyAny>,
) -> PyResult<Arc<kvtier::Prompt>> {
    if let Ok(prompt) = prompt.cast::<Prompt>() {
        return Ok(prompt.get().get());
    }
    let tokens = tokens_arg(prompt)?;
    let hash = || engine.prompt(&tokens, &kvtier::Salt::none());
    Ok(Arc::new(hashing(prompt.py(), tokens.len(), hash)))
}

/// Runs `hash`, which hashes tokens, without the GIL if they are many.
fn hashing<T: Send>(py: Python<'_>, n_tokens: usize, hash: impl FnOnce() -> T + Send) -> T {
    if n_tokens <= HASHED_WITH_GIL_MAX {
        return hash();
    }
    py.detach(|| {
        let hashed = hash();
        gate::park_if_exiting();
        hashed
    })
}
