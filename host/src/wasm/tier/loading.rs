//! A backend that is being loaded: the code that started it gets the outcome, or stops waiting when the component has
//! to be compiled.

use std::sync::Arc;

use futures::future::{Either, select};
use tokio::sync::{Notify, oneshot};

use crate::config::BackendConfig;
use crate::wasm::load::LoadError;

/// The outcome of loading a backend.
pub struct Loading {
    outcome: oneshot::Receiver<Result<(), LoadError>>,
    compiling: Arc<Notify>,
    mark_compiling: Box<dyn FnOnce() + Send>,
}

/// The sending end of [`Loading`].
pub(super) struct OutcomeSender {
    backend: String,
    class: String,
    /// `None` once the first outcome is sent.
    outcome: Option<oneshot::Sender<Result<(), LoadError>>>,
    compiling: Arc<Notify>,
}

/// Makes both ends. `mark_compiling` is called when the receiver stops waiting because the component is being compiled.
pub(super) fn pair(
    config: &BackendConfig,
    mark_compiling: impl FnOnce() + Send + 'static,
) -> (OutcomeSender, Loading) {
    let (sender, receiver) = oneshot::channel();
    let compiling = Arc::new(Notify::new());
    let sender = OutcomeSender {
        backend: config.name.clone(),
        class: config.class_name.clone(),
        outcome: Some(sender),
        compiling: Arc::clone(&compiling),
    };
    (sender, Loading { outcome: receiver, compiling, mark_compiling: Box::new(mark_compiling) })
}

impl Loading {
    /// Waits until the first instance is open or has failed.
    ///
    /// # Errors
    /// [`LoadError`]
    pub async fn outcome(self) -> Result<(), LoadError> {
        self.outcome.await.unwrap_or(Err(LoadError::Ended))
    }

    /// As [`Loading::outcome`], but returns `None` once the component has to be compiled; the outcome is then logged.
    pub async fn outcome_unless_compiled(self) -> Option<Result<(), LoadError>> {
        let Self { outcome, compiling, mark_compiling } = self;
        match select(outcome, std::pin::pin!(compiling.notified())).await {
            Either::Left((outcome, _)) => Some(outcome.unwrap_or(Err(LoadError::Ended))),
            Either::Right(_) => {
                mark_compiling();
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

impl OutcomeSender {
    /// Returns the event that the component has to be compiled.
    pub(super) fn notice(&self) -> Arc<Notify> {
        Arc::clone(&self.compiling)
    }

    /// Sends the outcome of the first attempt, or logs it if the receiver no longer waits. Later attempts show in the
    /// backend's status.
    pub(super) fn outcome(&mut self, outcome: Result<(), LoadError>) {
        let Some(sender) = self.outcome.take() else { return };
        let Err(unreceived) = sender.send(outcome) else { return };
        let (backend, class) = (&self.backend, &self.class);
        match unreceived {
            Ok(()) => tracing::info!(%backend, %class, "backend ready"),
            Err(error) => {
                tracing::error!(%backend, %error, "backend not loaded; trying again in the background");
            }
        }
    }
}
