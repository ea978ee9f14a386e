//! The state of a backend, and loading it until that succeeds.

use std::io::PipeWriter;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::loading::OutcomeSender;
use crate::backoff::Backoff;
use crate::limits::{RESTART_PAUSE_MAX, RESTART_PAUSE_MIN};
use crate::sync::lock;
use crate::tier::{Liveness, TierHealth, TierNote};
use crate::wasm::cpu_time::{CpuTime, pause_after};
use crate::wasm::lane::{self, Availability, Lane, NoAnswer};
use crate::wasm::load::{LoadError, LoadRequest};
use crate::wasm::policy::external::ExternalInputs;
use crate::wasm::threads::LaneThreads;

/// The state of a backend: loaded, or why it is not.
pub(super) enum TierState {
    /// Being loaded, or waiting for the next attempt, with the cause of the last failure.
    Down(String),
    /// Its component is being compiled, until this is dropped.
    Compiling(CompileGuard),
    Lanes(Arc<Lanes>),
    Closed,
}

/// Ends the compiler, or the wait for one, when it is dropped.
pub(super) struct CompileGuard {
    pipe: Option<PipeWriter>,
    threads: LaneThreads,
}

impl Drop for CompileGuard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        self.threads.loader().wake();
    }
}

pub(super) struct Lanes {
    pub(super) all: Vec<Lane>,
    pub(super) external: Arc<ExternalInputs>,
    pub(super) notes: Vec<TierNote>,
}

impl Lanes {
    /// Adds what the lanes report. The backend is down if all of them are.
    pub(super) fn add_to(&self, health: &mut TierHealth) {
        let mut n_down = 0;
        for lane in &self.all {
            let lane = lane.health();
            if lane.down.is_some() {
                n_down += 1;
                health.down = lane.down;
            }
            health.lane_restarts += lane.restarts;
            health.last_restart = lane.last_restart.or(health.last_restart.take());
            health.abandoned_calls += lane.abandoned;
            health.guest_memory_bytes += lane.guest_memory_bytes;
        }
        if n_down < self.all.len() {
            health.down = None;
        }
        health.notes.clone_from(&self.notes);
    }
}

/// Loads a backend, and tries again until that succeeds. The supervisors of its lanes retry a class that did not start.
pub(super) async fn load_until_it_works(
    request: LoadRequest,
    tier: Weak<Mutex<TierState>>,
    mut sender: OutcomeSender,
) {
    let mut backoff = Backoff::new(RESTART_PAUSE_MIN, RESTART_PAUSE_MAX);
    loop {
        let Some(state) = tier.upgrade() else { return };
        if matches!(*lock(&state), TierState::Closed) {
            return;
        }
        let cpu_time = Arc::default();
        let outcome = load(&request, &state, &sender, &cpu_time).await;
        if matches!(*lock(&state), TierState::Closed) {
            return;
        }
        let pause = match &outcome {
            Ok(()) | Err(LoadError::NotStarted { .. }) => None,
            Err(error) => {
                let pause = backoff.pause().max(pause_after(cpu_time.total(), 1));
                let cause = error.to_string();
                set_down(&state, cause, &*request.liveness, pause);
                Some(pause)
            }
        };
        sender.outcome(outcome);
        drop(state);
        match pause {
            None => return,
            Some(pause) => tokio::time::sleep(pause).await,
        }
    }
}

/// Loads the component and starts the lanes.
async fn load(
    request: &LoadRequest,
    state: &Arc<Mutex<TierState>>,
    sender: &OutcomeSender,
    cpu_time: &Arc<CpuTime>,
) -> Result<(), LoadError> {
    let compiling = {
        let (state, notice, threads) = (Arc::clone(state), sender.notice(), request.threads.clone());
        move || {
            // Without the pipe the compiler still has its limits.
            let (reader, pipe) =
                std::io::pipe().map_or((None, None), |(one, other)| (Some(one), Some(other)));
            let mut compiling = TierState::Compiling(CompileGuard { pipe, threads: threads.clone() });
            {
                let mut state = lock(&state);
                if !matches!(*state, TierState::Closed) {
                    std::mem::swap(&mut *state, &mut compiling);
                }
            }
            drop(compiling);
            notice.notify_one();
            reader
        }
    };
    let (prepared, notes) = request.prepare(compiling, cpu_time).await?;
    let prepared = Arc::new(prepared);
    let config = &request.config;
    let unknown = |no_answer| match no_answer {
        NoAnswer::Ended => LoadError::Ended,
        NoAnswer::Failed(cause) => LoadError::LanesUnknown { class: config.class_name.clone(), cause },
    };
    if config.lanes > 1
        && let Some(stated) = lane::lanes_max(&prepared, cpu_time).await.map_err(unknown)?
        && config.lanes > stated as usize
    {
        let (class, configured) = (config.class_name.clone(), config.lanes);
        return Err(LoadError::TooManyLanes { class, configured, stated });
    }
    let availability = Availability::new(config.lanes, Arc::clone(&request.liveness));
    let start =
        |place| Lane::start(Arc::clone(&prepared), place, Arc::clone(&availability), &request.control);
    let all = (0..config.lanes).map(start).collect();
    let lanes = Arc::new(Lanes { all, external: Arc::clone(&prepared.external), notes });
    {
        let mut state = lock(state);
        if matches!(*state, TierState::Closed) {
            return Ok(());
        }
        *state = TierState::Lanes(Arc::clone(&lanes));
    }
    for lane in &lanes.all {
        let class = config.class_name.clone();
        lane.started().await.map_err(|cause| LoadError::NotStarted { class, cause })?;
    }
    Ok(())
}

fn set_down(state: &Mutex<TierState>, cause: String, liveness: &dyn Liveness, retry_in: Duration) {
    let mut state = lock(state);
    if !matches!(*state, TierState::Closed) {
        liveness.down(&cause, retry_in);
        *state = TierState::Down(cause);
    }
}
