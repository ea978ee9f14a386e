//! A backend that is being loaded: whoever started it hears the outcome, or stops waiting when it has to be compiled.

use std::sync::Arc;

use futures::future::{Either, select};
use tokio::sync::{Notify, oneshot};

use crate::config::BackendConfig;
use crate::wasm::load::LoadError;

/// The outcome of loading a backend, to be waited for or not.
pub struct Loading {
    outcome: oneshot::Receiver<Result<(), LoadError>>,
    compiling: Arc<Notify>,
    pass_over: Box<dyn FnOnce() + Send>,
}

/// The other end.
pub(super) struct Tell {
    backend: String,
    class: String,
    /// `None` once the first outcome is told.
    outcome: Option<oneshot::Sender<Result<(), LoadError>>>,
    compiling: Arc<Notify>,
}

/// `pass_over` is called when nobody waits any more because the component is being compiled.
pub(super) fn pair(config: &BackendConfig, pass_over: impl FnOnce() + Send + 'static) -> (Tell, Loading) {
    let (sender, receiver) = oneshot::channel();
    let compiling = Arc::new(Notify::new());
    let tell = Tell {
        backend: config.name.clone(),
        class: config.class_name.clone(),
        outcome: Some(sender),
        compiling: Arc::clone(&compiling),
    };
    (tell, Loading { outcome: receiver, compiling, pass_over: Box::new(pass_over) })
}

impl Loading {
    /// Waits until the first instance is open or has failed.
    ///
    /// # Errors
    /// [`LoadError`]
    pub async fn outcome(self) -> Result<(), LoadError> {
        self.outcome.await.unwrap_or(Err(LoadError::Ended))
    }

    /// As [`Loading::outcome`], but only until it turns out that the component has to be compiled: then `None`, and
    /// the outcome is logged when it is there.
    pub async fn outcome_unless_compiled(self) -> Option<Result<(), LoadError>> {
        let Self { outcome, compiling, pass_over } = self;
        match select(outcome, std::pin::pin!(compiling.notified())).await {
            Either::Left((outcome, _)) => Some(outcome.unwrap_or(Err(LoadError::Ended))),
            Either::Right(_) => {
                pass_over();
                None
            }
        }
    }
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loading").finish_non_exhaustive()
    }
}

impl Tell {
    /// Returns what to notify when the component has to be compiled.
    pub(super) fn notice(&self) -> Arc<Notify> {
        Arc::clone(&self.compiling)
    }

    /// Reports the outcome of the first try, or logs it if nobody waits any more. Those of later tries show in the
    /// backend's status.
    pub(super) fn outcome(&mut self, outcome: Result<(), LoadError>) {
        let Some(told) = self.outcome.take() else { return };
        let Err(unheard) = told.send(outcome) else { return };
        let (backend, class) = (&self.backend, &self.class);
        match unheard {
            Ok(()) => tracing::info!(%backend, %class, "backend ready"),
            Err(error) => {
                tracing::error!(%backend, %error, "backend not loaded; trying again in the background");
            }
        }
    }
}
