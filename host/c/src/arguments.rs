//! Checking of arguments: pointers, lengths and texts become references, or a failure that names the argument.
#![expect(unsafe_code, reason = "reads memory that C describes")]

use std::ffi::{CStr, c_char};
use std::path::Path;

use kvtier::{ChunkKey, ChunkSpec, StorageManager, Tiers as TierSelection};

use crate::error::Failure;

/// The name of a chunk, of 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The bytes, in the order of the key's hexadecimal form.
    pub bytes: [u8; 16],
}

/// Names of tiers: "cpu" or names of backends.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tiers {
    /// The names.
    pub names: *const *const c_char,
    /// The number of names. With 0, no tier is chosen.
    pub n_names: usize,
}

fn checked<T>(pointer: *const T, name: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::Invalid(format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::Invalid(format!("{name} is not aligned")));
    }
    Ok(())
}

/// Returns what a pointer points to.
///
/// # Safety
/// A pointer that is neither null nor unaligned points to a valid value, which nobody changes during `'a`.
pub(crate) unsafe fn reference<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Failure> {
    checked(pointer, name)?;
    // SAFETY: as above.
    Ok(unsafe { &*pointer })
}

/// Returns the elements of an array. An empty one may be null.
///
/// # Safety
/// As [`reference`], for each of the elements.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, n: usize, name: &str) -> Result<&'a [T], Failure> {
    if n == 0 {
        return Ok(&[]);
    }
    checked(pointer, name)?;
    bounded::<T>(n, name)?;
    // SAFETY: as above, and the size does not overflow.
    Ok(unsafe { std::slice::from_raw_parts(pointer, n) })
}

fn bounded<T>(n: usize, name: &str) -> Result<(), Failure> {
    match n.checked_mul(size_of::<T>()) {
        Some(n_bytes) if isize::try_from(n_bytes).is_ok() => Ok(()),
        _ => Err(Failure::Invalid(format!("{name}: {n} elements are more than memory can have"))),
    }
}

/// Returns a text.
///
/// # Safety
/// A pointer that is not null points to bytes that end with a zero, and that nobody changes during `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str, Failure> {
    checked(pointer, name)?;
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::Invalid(format!("{name} is not UTF-8")))
}

/// Returns a path, whose bytes are those of the system.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn path<'a>(pointer: *const c_char, name: &str) -> Result<&'a Path, Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    checked(pointer, name)?;
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(pointer) };
    Ok(Path::new(std::ffi::OsStr::from_bytes(text.to_bytes())))
}

/// A place for results that C provides. Nothing is read from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out<T> {
    pointer: *mut T,
    n: usize,
}

impl<T> Out<T> {
    /// Checks a place for one result.
    ///
    /// # Safety
    /// A pointer that is neither null nor unaligned points to memory for the result, which only the caller of this uses
    /// as long as the place is there.
    pub(crate) unsafe fn new(pointer: *mut T, name: &str) -> Result<Self, Failure> {
        checked(pointer, name)?;
        Ok(Self { pointer, n: 1 })
    }

    /// Checks an array of places. An empty one may be null.
    ///
    /// # Safety
    /// As [`Out::new`], for each of the elements.
    pub(crate) unsafe fn array(pointer: *mut T, n: usize, name: &str) -> Result<Self, Failure> {
        if n > 0 {
            checked(pointer, name)?;
            bounded::<T>(n, name)?;
        }
        Ok(Self { pointer, n })
    }

    /// Checks a place for one result that the caller may not want.
    ///
    /// # Safety
    /// As [`Out::new`].
    pub(crate) unsafe fn optional(pointer: *mut T, name: &str) -> Result<Self, Failure> {
        // SAFETY: as above.
        unsafe { Self::array(pointer, usize::from(!pointer.is_null()), name) }
    }

    /// Returns the number of places.
    pub(crate) const fn len(&self) -> usize {
        self.n
    }

    /// Writes a result. A place that does not exist is left out.
    pub(crate) fn set(&self, index: usize, value: T) {
        if index < self.n {
            // SAFETY: the place exists, and is aligned.
            unsafe { self.pointer.add(index).write(value) };
        }
    }
}

impl From<Key> for ChunkKey {
    fn from(key: Key) -> Self {
        Self::from_bytes(key.bytes)
    }
}

impl From<ChunkKey> for Key {
    fn from(key: ChunkKey) -> Self {
        Self { bytes: key.to_bytes() }
    }
}

/// Returns keys of an array.
///
/// # Safety
/// As [`slice`].
pub(crate) unsafe fn keys(pointer: *const Key, n: usize) -> Result<Vec<ChunkKey>, Failure> {
    // SAFETY: as above.
    let keys = unsafe { slice(pointer, n, "keys") }?;
    Ok(keys.iter().map(|key| ChunkKey::from(*key)).collect())
}

/// Returns keys and sizes of two arrays.
///
/// # Safety
/// As [`slice`].
pub(crate) unsafe fn specs(
    keys: *const Key,
    sizes: *const usize,
    n: usize,
) -> Result<Vec<ChunkSpec>, Failure> {
    // SAFETY: as above.
    let (keys, sizes) = unsafe { (slice(keys, n, "keys")?, slice(sizes, n, "sizes_bytes")?) };
    if let Some(index) = sizes.iter().position(|&size| size == 0 || isize::try_from(size).is_err()) {
        return Err(Failure::Invalid(format!("sizes_bytes[{index}] is {}, not a size", sizes[index])));
    }
    let specs = keys.iter().zip(sizes);
    Ok(specs.map(|(key, &size_bytes)| ChunkSpec { key: ChunkKey::from(*key), size_bytes }).collect())
}

/// Returns the chosen tiers. Null chooses all.
///
/// # Safety
/// As [`reference`] and [`text`], for each name.
pub(crate) unsafe fn tiers(
    pointer: *const Tiers,
    storage: &StorageManager,
) -> Result<TierSelection, Failure> {
    if pointer.is_null() {
        return Ok(TierSelection::All);
    }
    // SAFETY: as above.
    let tiers = unsafe { reference(pointer, "tiers") }?;
    // SAFETY: as above.
    let pointers = unsafe { slice(tiers.names, tiers.n_names, "tiers.names") }?;
    let known = storage.tier_names();
    let mut names = Vec::with_capacity(pointers.len());
    for (index, &pointer) in pointers.iter().enumerate() {
        // SAFETY: as above.
        let name = unsafe { text(pointer, &format!("tiers.names[{index}]")) }?;
        if !known.contains(&name) {
            let known = known.join(", ");
            return Err(Failure::Invalid(format!("there is no tier `{name}`; there are {known}")));
        }
        names.push(name);
    }
    Ok(TierSelection::only(names))
}
