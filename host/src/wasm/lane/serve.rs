//! One generation of a lane: the task that owns the store.

use std::pin::pin;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use wasmtime::component::{Accessor, ResourceAny};

use super::abort::AbortOnDrop;
use super::generation::{CallSlot, Generation, Ticket};
use super::{Answer, Call, Job, LaneShared, Prepared};
use crate::tier::TierError;
use crate::wasm::contract::{self, Bound};
use crate::wasm::policy::{DenialLog, Directories, Mark};
use crate::wasm::state::{GuestState, remedy};

/// How the task ended on its own.
pub(super) enum TaskEnd {
    /// `close` was called, or the lane's owner is gone.
    Closed,
    /// The class could not be constructed or opened.
    NotStarted(String),
    /// The guest trapped, or an answer could not be read.
    Trapped(String),
}

/// One generation, on a thread that runs guests: instantiates, constructs, opens, then serves calls.
pub(super) async fn run(
    prepared: Arc<Prepared>,
    jobs: async_channel::Receiver<Job>,
    shared: Arc<LaneShared>,
    generation: Arc<Generation>,
    ready: oneshot::Sender<()>,
) -> TaskEnd {
    // On a thread where it does not block other guests: a granted directory may hang when it is opened.
    let making = {
        let (prepared, memory_bytes) = (Arc::clone(&prepared), Arc::clone(&generation.guest_memory_bytes));
        prepared.own.clone().spawn_blocking(move || prepared.new_store(memory_bytes))
    };
    // A task that has not begun does not begin once nobody waits for it.
    let _abort = AbortOnDrop(making.abort_handle());
    let mut store = match making.await {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => return TaskEnd::NotStarted(error.to_string()),
        Err(error) => return TaskEnd::NotStarted(format!("its store cannot be created: {error}")),
    };
    // A computing guest lets others run after each tick.
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    let denial_log = store.data().policy.denial_log.clone();
    let instance = match prepared.pre.instantiate_async(&mut store).await {
        Ok(instance) => instance,
        Err(error) => return TaskEnd::NotStarted(store.data().describe(&error)),
    };
    let bound = match Bound::new(&prepared.class, &mut store, &instance) {
        Ok(bound) => bound,
        Err(error) => return TaskEnd::NotStarted(format!("{error:#}")),
    };
    let mut opened = false;
    let served = store
        .run_concurrent(async |accessor| -> wasmtime::Result<TaskEnd> {
            let object = match start(accessor, &bound, &prepared).await? {
                Ok(object) => object,
                Err(error) => return Ok(TaskEnd::NotStarted(denial_log.explain_start(error).to_string())),
            };
            opened = true;
            generation.open();
            let _unheard = ready.send(()).is_err();
            serve(accessor, &bound, object, &jobs, &shared, &generation).await
        })
        .await;
    match served.and_then(|end| end) {
        Ok(end) => end,
        Err(error) => {
            let cause = store.data().describe(&error);
            let directories = if remedy::is_traceback_without_files(&cause) {
                Directories::AskedInVain
            } else {
                Directories::Missed
            };
            let message = denial_log.explain_end(cause, directories);
            if opened {
                TaskEnd::Trapped(message)
            } else {
                TaskEnd::NotStarted(format!("trapped: {message}"))
            }
        }
    }
}

async fn start(
    accessor: &Accessor<GuestState>,
    bound: &Bound,
    prepared: &Prepared,
) -> wasmtime::Result<Result<ResourceAny, TierError>> {
    let (constructed,) = bound.constructor.call_concurrent(accessor, (prepared.init(),)).await?;
    let object = match constructed {
        Ok(object) => object,
        Err(error) => return Ok(Err(error.into())),
    };
    let (opened,) = bound.open.call_concurrent(accessor, (object,)).await?;
    Ok(opened.map(|()| object).map_err(TierError::from))
}

async fn serve(
    accessor: &Accessor<GuestState>,
    bound: &Bound,
    object: ResourceAny,
    jobs: &async_channel::Receiver<Job>,
    shared: &LaneShared,
    generation: &Arc<Generation>,
) -> wasmtime::Result<TaskEnd> {
    let n_calls_max = shared.calls_in_flight_max();
    let denial_log = accessor.with(|mut access| access.get().policy.denial_log.clone());
    let mut calls = FuturesUnordered::new();
    // Both keep waiting from one turn to the next, rather than being queued again.
    let mut jobs = pin!(jobs.clone());
    let mut pinged = pin!(generation.ping.notified());
    loop {
        if calls.is_empty() {
            denial_log.idle();
        }
        tokio::select! {
            biased;
            Some(finished) = calls.next(), if !calls.is_empty() => {
                let closed: bool = finished?;
                if closed {
                    return Ok(TaskEnd::Closed);
                }
            }
            job = jobs.next(), if calls.len() < n_calls_max => {
                let Some(Job { call, reply, ticket }) = job else { return Ok(TaskEnd::Closed) };
                if let Some(entry) = generation.enter(&ticket, reply, call.method()) {
                    shared.busy.notify_one();
                    calls.push(serve_one(accessor, bound, object, call, ticket, entry, generation));
                }
            }
            () = &mut pinged => pinged.set(generation.ping.notified()),
        }
        generation.advance();
    }
}

/// Serves one call. Reports whether it was the last.
async fn serve_one(
    accessor: &Accessor<GuestState>,
    bound: &Bound,
    object: ResourceAny,
    call: Call,
    ticket: Arc<Ticket>,
    entry: CallSlot,
    generation: &Generation,
) -> wasmtime::Result<bool> {
    let last = matches!(call, Call::Close);
    let denial_log = accessor.with(|mut access| access.get().policy.denial_log.clone());
    let mark = denial_log.mark();
    let answer = perform(accessor, bound, object, call).await?;
    let answer = explain(answer, &denial_log, mark);
    generation.leave(&ticket, &entry, answer);
    Ok(last)
}

/// Makes the errors of an answer harmless, the call's own and those of single chunks. Adds the denials from the time
/// that the call was inside to the first error that has a text; they may take several thousand bytes.
fn explain(
    answer: Result<Answer, TierError>,
    denial_log: &DenialLog,
    mark: Mark,
) -> Result<Answer, TierError> {
    let mut is_explained = false;
    let mut each = |mut error: TierError| {
        if is_explained {
            return denial_log.sanitize(error);
        }
        is_explained = error.text_mut().is_some();
        denial_log.explain(mark, error)
    };
    let answer = answer.map_err(&mut each)?;
    Ok(match answer {
        Answer::Put(chunks) => Answer::Put(chunks.into_iter().map(|one| one.map_err(&mut each)).collect()),
        Answer::Get(chunks) => Answer::Get(chunks.into_iter().map(|one| one.map_err(&mut each)).collect()),
        answer @ (Answer::Done | Answer::Count(_) | Answer::Present(_)) => answer,
    })
}

/// Reads a list of results, one for each key. The guest chooses its length, so it is checked before any element is
/// read.
fn per_chunk<T>(
    method: &str,
    results: Vec<Result<T, contract::types::Error>>,
    n_keys: usize,
) -> Result<Vec<Result<T, TierError>>, TierError> {
    if results.len() != n_keys {
        return Err(TierError::wrong_number_of_results(method, results.len(), n_keys));
    }
    Ok(results.into_iter().map(|one| one.map_err(TierError::from)).collect())
}

async fn perform(
    accessor: &Accessor<GuestState>,
    bound: &Bound,
    object: ResourceAny,
    call: Call,
) -> wasmtime::Result<Result<Answer, TierError>> {
    let count =
        |answer: (Result<u32, contract::types::Error>,)| answer.0.map(Answer::Count).map_err(TierError::from);
    let method = call.method();
    Ok(match call {
        Call::Contains(keys, pinning) => {
            let keys = contract::keys(&keys);
            count(bound.contains.call_concurrent(accessor, (object, keys, pinning.into())).await?)
        }
        Call::Present(keys) => {
            let Some(present) = &bound.present else { return Ok(Err(TierError::Unsupported)) };
            let lowered = contract::keys(&keys);
            let (answer,) = present.call_concurrent(accessor, (object, lowered)).await?;
            match answer {
                Ok(present) if present.len() == keys.len() => Ok(Answer::Present(present)),
                Ok(present) => Err(TierError::wrong_number_of_results(method, present.len(), keys.len())),
                Err(error) => Err(error.into()),
            }
        }
        Call::Put(keys, sources) => {
            let lent = accessor.with(|mut access| access.get().lend(sources.clone()))?;
            let lowered = contract::keys(&keys);
            let (results,) = bound.put.call_concurrent(accessor, (object, lowered, lent)).await?;
            sources.revoke();
            per_chunk(method, results, keys.len()).map(Answer::Put)
        }
        Call::Get(keys, sinks) => {
            let lent = accessor.with(|mut access| access.get().lend(sinks))?;
            let lowered = contract::keys(&keys);
            let (results,) = bound.get.call_concurrent(accessor, (object, lowered, lent)).await?;
            per_chunk(method, results, keys.len()).map(Answer::Get)
        }
        Call::Pin(keys) => count(bound.pin.call_concurrent(accessor, (object, contract::keys(&keys))).await?),
        Call::Unpin(keys) => {
            count(bound.unpin.call_concurrent(accessor, (object, contract::keys(&keys))).await?)
        }
        Call::Remove(keys) => {
            count(bound.remove.call_concurrent(accessor, (object, contract::keys(&keys))).await?)
        }
        Call::Close => {
            let (answer,) = bound.close.call_concurrent(accessor, (object,)).await?;
            answer.map(|()| Answer::Done).map_err(TierError::from)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Grants;
    use crate::wasm::policy::{Denial, Denials, Secrets};

    #[test]
    fn only_the_first_error_with_a_text_has_the_denials() {
        let denial_log = DenialLog::new(&Denials::new("b", &Grants::default()), &Secrets::default());
        let mark = denial_log.mark();
        denial_log.record(Denial::Udp);
        let failed = || Err::<Option<u64>, _>(TierError::Other("a\nb".into()));
        let answer = Answer::Get(vec![Ok(None), Err(TierError::NoSpace), failed(), failed()]);
        let Ok(Answer::Get(chunks)) = explain(Ok(answer), &denial_log, mark) else {
            panic!("a get's answer")
        };
        let texts: Vec<String> = chunks
            .into_iter()
            .map(|one| one.map_or_else(|error| error.to_string(), |_| "none".into()))
            .collect();
        let first = "a\\nb; denied: a UDP socket; no grant allows UDP";
        assert_eq!(texts, ["none", "no space left in the store", first, "a\\nb"]);
        let failed: Result<Answer, _> = failed().map(|_| Answer::Done);
        let call = explain(failed, &denial_log, mark).unwrap_err().to_string();
        assert_eq!(call, texts[2]);
    }

    #[test]
    fn a_list_of_another_length_than_the_keys_is_refused_by_its_length() {
        let results = |n: usize| vec![Ok(Some(1_u64)); n];
        assert_eq!(per_chunk("put", results(3), 3).unwrap().len(), 3);
        for n in [0, 2, 4] {
            let text =
                format!("`put` returned {n} results for 3 keys; return one for each key, in their order");
            assert_eq!(per_chunk("put", results(n), 3), Err(TierError::BadAnswer(text)));
        }
    }
}
