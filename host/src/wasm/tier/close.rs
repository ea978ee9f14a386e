//! Closing: the instances, then the lanes, then the backend's own threads.

use std::time::Instant;

use super::WasmTier;
use super::state::Lanes;
use crate::limits::THREADS_END_MAX;
use crate::tier::TierError;
use crate::wasm::lane::{Call, Lane};

/// Calls `close` of every instance and ends the lanes.
pub(super) async fn close_lanes(lanes: &Lanes, deadline: Instant) -> Result<(), TierError> {
    lanes.all.iter().for_each(Lane::close_after_this);
    let closing = lanes.all.iter().map(|lane| lane.call(Call::Close, deadline));
    let closed = futures::future::join_all(closing).await;
    for lane in &lanes.all {
        lane.end();
    }
    closed.into_iter().try_for_each(|answer| match answer {
        // Without an instance there is nothing to close.
        Ok(_) | Err(TierError::Down(_)) => Ok(()),
        Err(error) => Err(error),
    })
}

impl WasmTier {
    /// Stops the backend's own threads when its stores are gone, and adds to the outcome of closing how many stay.
    pub(super) async fn stop_threads(
        &self,
        deadline: Instant,
        closed: Result<(), TierError>,
    ) -> Result<(), TierError> {
        // Idle threads end immediately, so they get time even if closing has taken all of its own.
        let deadline = deadline.max(Instant::now() + THREADS_END_MAX);
        let _still_there = self.control.until(deadline, self.shared.stores.gone()).await.is_err();
        let n_left = self.shared.backend_threads.stop(&self.control, deadline).await;
        if n_left == 0 {
            return closed;
        }
        let left = format!(
            "{n_left} of its threads still wait for a file system that does not respond, and stay; see what allow.fs grants"
        );
        tracing::warn!(backend = %self.config.name, n_left, "backend threads are still running: a file system does not respond");
        Err(match closed {
            Ok(()) => TierError::Other(left),
            Err(mut error) => match error.text_mut() {
                Some(text) => {
                    text.push_str("; ");
                    text.push_str(&left);
                    error
                }
                None => TierError::Other(format!("{error}; {left}")),
            },
        })
    }
}
