//! Ending a task together with the future that waits for it.

use tokio::task::AbortHandle;

/// Aborts a task when it is dropped. It takes effect when the task next yields, which a guest that computes does at the
/// next epoch.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
