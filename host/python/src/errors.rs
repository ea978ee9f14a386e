//! kvtier's exceptions. The classes are Python's own, in `kvtier/_errors.py`.

use pyo3::import_exception;
use pyo3::prelude::*;

import_exception!(kvtier._errors, KvtierError);
import_exception!(kvtier._errors, BuildError);
import_exception!(kvtier._errors, ClosedError);
import_exception!(kvtier._errors, CloseError);
import_exception!(kvtier._errors, ConfigError);
import_exception!(kvtier._errors, FlushError);
import_exception!(kvtier._errors, RecreateError);
import_exception!(kvtier._errors, RemoveError);
import_exception!(kvtier._errors, RequestError);
import_exception!(kvtier._errors, UnknownBackendError);

/// Imports the classes. Later, when the interpreter exits, they could not be imported.
pub(crate) fn import(py: Python<'_>) {
    py.get_type::<KvtierError>();
    py.get_type::<BuildError>();
    py.get_type::<ClosedError>();
    py.get_type::<CloseError>();
    py.get_type::<ConfigError>();
    py.get_type::<FlushError>();
    py.get_type::<RecreateError>();
    py.get_type::<RemoveError>();
    py.get_type::<RequestError>();
    py.get_type::<UnknownBackendError>();
}
