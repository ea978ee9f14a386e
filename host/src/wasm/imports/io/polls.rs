//! WASI 0.2's polls, limited to as many entries as an instance may have handles.

use wasmtime::component::{Linker, Resource, WasmList};
use wasmtime::{StoreContextMut, format_err};
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::io::poll::Host as _;

use super::super::P2;
use crate::wasm::state::GuestState;

pub(in crate::wasm) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&format!("wasi:io/poll@{P2}"))?;
    instance.func_wrap_async("poll", |store, (list,): (WasmList<Resource<DynPollable>>,)| {
        Box::new(async move { Ok((poll(store, list).await?,)) })
    })?;
    Ok(())
}

/// Waits for one entry of a list. A list may have the same entry many times, and the host works on each, so its length
/// is checked before its elements are read.
async fn poll(
    mut store: StoreContextMut<'_, GuestState>,
    list: WasmList<Resource<DynPollable>>,
) -> wasmtime::Result<Vec<u32>> {
    let n_max = store.data().budgets.handles_max;
    if list.len() > n_max {
        return Err(format_err!(
            "a poll of {} entries has more than an instance may have handles; limits.handles_max is reached",
            list.len()
        ));
    }
    let pollables = list.iter(&mut store)?.collect::<wasmtime::Result<Vec<_>>>()?;
    store.data_mut().table.poll(pollables).await
}
