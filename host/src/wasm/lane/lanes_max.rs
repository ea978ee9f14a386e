//! Calls a class's `lanes-max` in an instance that is made for this call.

use std::sync::Arc;

use wasmtime::component::ComponentExportIndex;

use super::Prepared;
use super::abort::AbortOnDrop;
use crate::wasm::cpu_time::CpuTime;
use crate::wasm::threads::backend::within;

/// Why a class does not state how many lanes it may have.
pub(in crate::wasm) enum NoAnswer {
    /// The lanes' threads are gone.
    Ended,
    /// The cause.
    Failed(String),
}

/// Returns how many lanes the class states that it may have; `None` if it states nothing.
///
/// # Errors
/// [`NoAnswer`], also if the class does not answer within `limits.open_timeout_ms`.
pub(in crate::wasm) async fn lanes_max(
    prepared: &Arc<Prepared>,
    cpu_time: &Arc<CpuTime>,
) -> Result<Option<u32>, NoAnswer> {
    let Some(question) = prepared.class.lanes_max else { return Ok(None) };
    let asking = {
        let (prepared, cpu_time) = (Arc::clone(prepared), Arc::clone(cpu_time));
        async move { cpu_time.while_running(|| true, ask(&prepared, &question)).await }
    };
    let asking = prepared.lanes.spawn(within(prepared.own.clone(), asking));
    let _abort = AbortOnDrop(asking.abort_handle());
    let limit = prepared.limits.open_timeout;
    match tokio::time::timeout(limit, asking).await {
        Ok(Ok(Ok(stated))) => Ok(Some(stated)),
        Ok(Ok(Err(cause))) => Err(NoAnswer::Failed(cause)),
        Ok(Err(_)) => Err(NoAnswer::Ended),
        Err(_) => Err(NoAnswer::Failed(format!("no answer within {limit:?}"))),
    }
}

async fn ask(prepared: &Arc<Prepared>, question: &ComponentExportIndex) -> Result<u32, String> {
    let making = {
        let prepared = Arc::clone(prepared);
        prepared.own.clone().spawn_blocking(move || prepared.new_store(Arc::default()))
    };
    let mut store = match making.await {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(error) => return Err(format!("its store cannot be created: {error}")),
    };
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    let answer = async {
        let instance = prepared.pre.instantiate_async(&mut store).await?;
        let function = instance.get_typed_func::<(), (u32,)>(&mut store, question)?;
        store.run_concurrent(async |accessor| function.call_concurrent(accessor, ()).await).await?
    };
    match answer.await {
        Ok((stated,)) => Ok(stated),
        Err(error) => Err(store.data().describe(&error)),
    }
}
