//! Counts host memory that is held for a backend outside of its linear memory, and finds what a table still holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::component::{Resource, ResourceTable};

/// One part of that memory. It counts until it is dropped, with the store that it is held for.
pub(in crate::wasm) struct Charge {
    total: Arc<AtomicU64>,
    bytes: u64,
}

impl Charge {
    /// Makes an empty part of `total`.
    pub(in crate::wasm) fn new(total: &Arc<AtomicU64>) -> Self {
        Self { total: Arc::clone(total), bytes: 0 }
    }

    /// Sets the present size.
    pub(in crate::wasm) fn set(&mut self, bytes: u64) {
        // A decrease is added as a number that makes the sum wrap.
        self.total.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Reports whether a resource of type `T` is at a place of the table.
pub(in crate::wasm) fn is_there<T: 'static>(table: &ResourceTable, place: u32) -> bool {
    table.get(&Resource::<T>::new_borrow(place)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_summed_and_given_back() {
        let total = Arc::default();
        let (mut first, mut second) = (Charge::new(&total), Charge::new(&total));
        first.set(10);
        second.set(5);
        first.set(3);
        assert_eq!(total.load(Ordering::Relaxed), 8);
        drop(first);
        assert_eq!(total.load(Ordering::Relaxed), 5);
        drop(second);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }
}
