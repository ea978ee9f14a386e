//! The stores of a backend that exist.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::limits::TRIM_PAUSE;
use crate::memory::trim;
use crate::runtime::Control;

/// The stores of a backend that exist.
pub(in crate::wasm) struct Stores {
    n: AtomicUsize,
    one_ended: Notify,
    control: Control,
    /// Whether a trim of the allocator is scheduled.
    will_trim: AtomicBool,
}

impl Stores {
    pub(in crate::wasm) fn new(control: &Control) -> Arc<Self> {
        let (n, one_ended, will_trim) = (AtomicUsize::new(0), Notify::new(), AtomicBool::new(false));
        Arc::new(Self { n, one_ended, control: control.clone(), will_trim })
    }

    /// Schedules a trim of the allocator: the memory of a store that is being dropped then goes back to the system.
    fn trim_soon(self: &Arc<Self>) {
        if self.will_trim.swap(true, Ordering::AcqRel) {
            return;
        }
        let stores = Arc::clone(self);
        self.control.handle().spawn(async move {
            tokio::time::sleep(TRIM_PAUSE).await;
            stores.will_trim.store(false, Ordering::Release);
            drop(stores.control.handle().spawn_blocking(trim));
        });
    }

    pub(in crate::wasm) fn count(&self) -> usize {
        self.n.load(Ordering::Acquire)
    }

    /// Waits until there are none.
    pub(in crate::wasm) async fn gone(&self) {
        loop {
            let mut one_ended = pin!(self.one_ended.notified());
            one_ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            one_ended.await;
        }
    }
}

/// Counts one store for as long as it exists.
pub(in crate::wasm) struct Alive(Arc<Stores>);

impl Alive {
    pub(in crate::wasm) fn new(stores: &Arc<Stores>) -> Self {
        stores.n.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(stores))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.n.fetch_sub(1, Ordering::AcqRel);
        self.0.one_ended.notify_waiters();
        self.0.trim_soon();
    }
}
