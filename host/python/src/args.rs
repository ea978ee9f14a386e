//! Arguments of Python: keys, sizes, tiers, tokens.

use kvtier::{ChunkKey, ChunkSpec, Salt, Tiers};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PyString, PyTuple};

use crate::errors::UnknownBackendError;
use crate::live::Live;
use crate::memory::View;

const KEY_BYTES: usize = 16;

/// Takes keys that lie one after the other in bytes.
pub(crate) fn keys_arg(packed: &[u8]) -> PyResult<Vec<ChunkKey>> {
    let (keys, rest) = packed.as_chunks::<KEY_BYTES>();
    if !rest.is_empty() {
        return Err(PyValueError::new_err(format!(
            "{} bytes are not a list of keys; give 16 bytes for each, as Storage.keys returns them",
            packed.len()
        )));
    }
    Ok(keys.iter().copied().map(ChunkKey::from_bytes).collect())
}

/// Packs keys one after the other.
pub(crate) fn packed<'py>(py: Python<'py>, keys: &[ChunkKey]) -> Bound<'py, PyBytes> {
    let bytes: Vec<u8> = keys.iter().flat_map(|key| key.to_bytes()).collect();
    PyBytes::new(py, &bytes)
}

/// Replaces Python's message for a wrong type or range. Other errors are those of the caller's own objects.
pub(crate) fn explained<T>(py: Python<'_>, value: PyResult<T>, message: &str) -> PyResult<T> {
    value.map_err(|error| {
        let explained = if error.is_instance_of::<PyTypeError>(py) {
            PyTypeError::new_err(message.to_owned())
        } else if error.is_instance_of::<PyOverflowError>(py) {
            PyValueError::new_err(message.to_owned())
        } else {
            return error;
        };
        explained.set_cause(py, Some(error));
        explained
    })
}

/// Takes one size for each of `n_items`, or one for all.
pub(crate) fn sizes_arg(sizes: &Bound<'_, PyAny>, n_items: usize) -> PyResult<Vec<usize>> {
    const SIZES: &str = "n_bytes is a size in bytes, or a sequence of sizes, one for each chunk";
    let py = sizes.py();
    if sizes.is_instance_of::<PyInt>() {
        return Ok(vec![explained(py, sizes.extract(), SIZES)?; n_items]);
    }
    let sizes: Vec<usize> = explained(py, sizes.extract(), SIZES)?;
    if sizes.len() != n_items {
        return Err(PyValueError::new_err(format!(
            "{n_items} chunks, but {} sizes; give one for each",
            sizes.len()
        )));
    }
    Ok(sizes)
}

/// Takes the keys and sizes of chunks.
pub(crate) fn specs_arg(packed: &[u8], sizes: &Bound<'_, PyAny>) -> PyResult<Vec<ChunkSpec>> {
    let keys = keys_arg(packed)?;
    let sizes = sizes_arg(sizes, keys.len())?;
    if sizes.contains(&0) {
        return Err(PyValueError::new_err("a chunk has at least 1 byte; n_bytes is 0"));
    }
    Ok(keys.into_iter().zip(sizes).map(|(key, size_bytes)| ChunkSpec { key, size_bytes }).collect())
}

/// Takes addresses: integers, or a buffer of 64-bit integers.
pub(crate) fn addresses_arg(addresses: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    const ADDRESSES: &str = "addresses are integers from 0 on, or one dimension of 64-bit integers";
    if let Some(words) = integers(addresses, ADDRESSES)? {
        let address = |word| usize::try_from(word).map_err(|_| PyValueError::new_err(ADDRESSES));
        return words.into_iter().map(address).collect();
    }
    explained(addresses.py(), addresses.extract(), ADDRESSES)
}

/// Takes tokens: integers, or a buffer of integers of 4 or 8 bytes.
pub(crate) fn tokens_arg(tokens: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    const TOKENS: &str = "tokens are integers from 0 to 4294967295: a sequence, or an array with one dimension of 32-bit or 64-bit integers (of a torch tensor: tensor.numpy())";
    if let Some(words) = integers(tokens, TOKENS)? {
        let token = |word| u32::try_from(word).map_err(|_| PyValueError::new_err(TOKENS));
        return words.into_iter().map(token).collect();
    }
    explained(tokens.py(), tokens.extract(), TOKENS)
}

/// Returns the integers of an object with one dimension of them; `None` for objects without a buffer.
fn integers(object: &Bound<'_, PyAny>, expected: &str) -> PyResult<Option<Vec<i64>>> {
    if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        return Ok(None);
    }
    let py = object.py();
    let Ok(view) = py.import("builtins")?.getattr("memoryview")?.call1((object,)) else {
        return Ok(None);
    };
    let format: String = view.getattr("format")?.extract()?;
    let (n_dims, n_bytes): (usize, usize) =
        (view.getattr("ndim")?.extract()?, view.getattr("itemsize")?.extract()?);
    let kind = format.trim_start_matches(['@', '=', '<']);
    let is_signed = matches!(kind, "i" | "l" | "q");
    if n_dims != 1 || !(is_signed || matches!(kind, "I" | "L" | "Q")) {
        return Err(PyTypeError::new_err(format!(
            "{expected}; this has {n_dims} dimensions of format `{format}`"
        )));
    }
    let bytes = View::of(object, false)?;
    let copy = bytes.to_vec();
    bytes.release(py);
    let words = match (n_bytes, is_signed) {
        (4, true) => {
            copy.as_chunks::<4>().0.iter().map(|word| i64::from(i32::from_ne_bytes(*word))).collect()
        }
        (4, false) => {
            copy.as_chunks::<4>().0.iter().map(|word| i64::from(u32::from_ne_bytes(*word))).collect()
        }
        // An unsigned word beyond `i64` becomes negative, which no caller accepts.
        _ => copy.as_chunks::<8>().0.iter().map(|word| i64::from_ne_bytes(*word)).collect(),
    };
    Ok(Some(words))
}

/// Takes tiers: none for all, a name, or names.
pub(crate) fn tiers_arg(tiers: Option<&Bound<'_, PyAny>>, live: &Live) -> PyResult<Tiers> {
    let Some(tiers) = tiers else { return Ok(Tiers::All) };
    let names: Vec<String> = if tiers.is_instance_of::<PyString>() {
        vec![tiers.extract()?]
    } else {
        explained(
            tiers.py(),
            tiers.extract(),
            "tiers is None for all, a tier's name, or a sequence of names",
        )?
    };
    match names.iter().find(|name| !live.tiers().contains(name)) {
        None => Ok(Tiers::Only(names)),
        Some(name) => Err(UnknownBackendError::new_err(format!(
            "there is no tier `{name}`; the tiers are {}",
            live.tiers().join(", ")
        ))),
    }
}

/// Takes the tags of a request.
pub(crate) fn salt_arg(tags: Option<&Bound<'_, PyDict>>) -> PyResult<Salt> {
    const TAGS: &str = "tags are a mapping of text to text";
    let mut salt = Salt::none();
    for (name, value) in tags.into_iter().flatten() {
        let py = name.py();
        salt = salt.tag(
            explained::<String>(py, name.extract(), TAGS)?,
            explained::<String>(py, value.extract(), TAGS)?,
        );
    }
    Ok(salt)
}

/// Takes a field of a metadata object.
pub(crate) fn field<'py, T>(object: &Bound<'py, PyAny>, name: &str, expected: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let message = format!("{}.{name} is {expected}", object.get_type().name()?);
    explained(object.py(), object.getattr(name)?.extract(), &message)
}

/// Takes a limit in seconds.
pub(crate) fn limit_arg(timeout: Option<f64>) -> PyResult<Option<std::time::Duration>> {
    timeout
        .map(|seconds| {
            std::time::Duration::try_from_secs_f64(seconds).map_err(|_| {
                PyValueError::new_err(format!("timeout is {seconds:e}; give seconds, from 0 to 1e19"))
            })
        })
        .transpose()
}

/// A name that another system gives a chunk.
pub(crate) enum Name<'a, 'py> {
    Bytes(&'a Bound<'py, PyBytes>),
    Text(String),
}

impl<'a, 'py> Name<'a, 'py> {
    pub(crate) fn of(name: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = name.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes));
        }
        if !name.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("a name is text or bytes"));
        }
        name.extract().map(Self::Text)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Text(text) => text.as_bytes(),
        }
    }
}
