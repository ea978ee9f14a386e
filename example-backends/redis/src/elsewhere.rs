//! Servers that refuse in favour of another: replicas, which refuse writes, and servers that are not ready.
//!
//! They are skipped until every server has been tried. Then the first that can be reached is used again, since it may
//! serve what it has, and it is tried again after a pause.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use kvtier_guest::{Error, info, warn};

use crate::pause::Pause;

/// Addresses that are remembered: a name may have many.
const PEERS_MAX: usize = 64;

/// The servers of one round of trying, and when the next begins.
#[derive(Default)]
pub(crate) struct Elsewhere {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Those that have refused in this round.
    peers: Vec<SocketAddr>,
    cause: Option<Error>,
    /// The pause after the last round, and whether it is under way: there was no other server.
    pause: Option<Pause>,
    is_over: bool,
}

impl Elsewhere {
    /// Notes that a server refused.
    pub(crate) fn note(&self, peer: SocketAddr, cause: &Error) {
        let mut state = self.state.borrow_mut();
        if state.cause.is_none() {
            warn!("looking for another server: {cause:?}");
        }
        state.cause = Some(cause.clone());
        if !state.peers.contains(&peer) && state.peers.len() < PEERS_MAX {
            state.peers.push(peer);
        }
    }

    /// Returns the servers to skip.
    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.state.borrow().peers.clone()
    }

    /// Ends the round: no other server could be reached.
    pub(crate) fn give_up(&self, now: u64, pause_max: Duration) {
        let mut state = self.state.borrow_mut();
        if !state.is_over {
            state.is_over = true;
            state.pause = Some(Pause::after(state.pause, now, pause_max));
        }
    }

    /// Returns the servers' refusal while it is too early to try them again.
    pub(crate) fn given_up(&self, now: u64) -> Option<Error> {
        let mut state = self.state.borrow_mut();
        if !state.is_over {
            return None;
        }
        if state.pause.is_some_and(|pause| pause.lasts(now)) {
            return state.cause.clone();
        }
        state.is_over = false;
        state.peers.clear();
        None
    }

    /// Notes that a server accepts what others refused.
    pub(crate) fn found(&self, peer: SocketAddr) {
        let state = self.state.take();
        if let Some(cause) = state.cause {
            info!("{peer} accepts what another refused: {cause:?}");
        }
    }
}
