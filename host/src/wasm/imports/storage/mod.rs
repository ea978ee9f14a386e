//! The interfaces of the contract that move chunks: buffers, streams, files and directories.

mod buffers;
mod direct;
mod directory;
mod entries;
mod files;
mod io_workers;
mod operations;
mod paths;
mod place;
mod small_files;
mod splice;
mod streams;

use tokio::runtime::Handle;
use wasmtime::component::Linker;
use wasmtime::{Result, format_err};

use crate::limits::LANE_BYTES_MAX;
use crate::transfer::TransferError;
use crate::wasm::contract::types::Error;
use crate::wasm::contract::{
    directory as contract_directory, directory_blocking, files as contract_files, files_blocking,
    streams as contract_streams, types,
};
use crate::wasm::state::{GuestState, Storage, StorageView};

/// Adds the contract's interfaces to a linker that has WASI.
pub(in crate::wasm) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    types::add_to_linker::<_, Storage>(linker, GuestState::storage)?;
    buffers::add_to_linker(linker)?;
    contract_streams::add_to_linker::<_, Storage>(linker, GuestState::storage)?;
    contract_files::add_to_linker::<_, Storage>(linker, GuestState::storage)?;
    files_blocking::add_to_linker::<_, Storage>(linker, GuestState::storage)?;
    contract_directory::add_to_linker::<_, Storage>(linker, GuestState::storage)?;
    directory_blocking::add_to_linker::<_, Storage>(linker, GuestState::storage)?;
    Ok(())
}

impl types::Host for StorageView<'_> {}

/// Runs host work over `n_bytes` without holding up other guests: in place if it is short; otherwise another thread
/// takes over the tasks of this one.
fn run_off_lane<T>(lanes: &Handle, n_bytes: usize, work: impl FnOnce() -> T) -> T {
    if n_bytes <= LANE_BYTES_MAX {
        return work();
    }
    // The thread that takes over must be one of the lanes', not of the backend's runtime that is entered here.
    let _lanes = lanes.enter();
    tokio::task::block_in_place(work)
}

fn check_index(index: u32, count: usize) -> Result<()> {
    if (index as usize) < count {
        Ok(())
    } else {
        Err(format_err!("index {index} is out of range: the call has {count} chunks"))
    }
}

/// Checks indices in the chunks of a call, of which each can be named once.
fn check_indices(mut indices: impl ExactSizeIterator<Item = u32>, count: usize, named: &str) -> Result<()> {
    if indices.len() > count {
        return Err(format_err!("{} {named} for a call of {count} chunks", indices.len()));
    }
    indices.try_for_each(|index| check_index(index, count))
}

fn range(offset: u64, len: u64) -> std::result::Result<std::ops::Range<usize>, TransferError> {
    let end = offset.checked_add(len).ok_or(TransferError::OutOfRange)?;
    Ok(offset as usize..end as usize)
}

fn refused(error: TransferError) -> Error {
    Error::InvalidArgument(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::wasm::threads::backend::within;

    fn runtime() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    #[test]
    fn others_run_on_while_long_work_holds_the_only_thread() {
        let (lanes, own) = (runtime(), runtime());
        let barrier = Arc::new(Barrier::new(2));
        let long = {
            let (lanes, barrier) = (lanes.handle().clone(), Arc::clone(&barrier));
            async move {
                // Short work stays on its thread.
                let here = std::thread::current().id();
                assert_eq!(run_off_lane(&lanes, LANE_BYTES_MAX, || std::thread::current().id()), here);
                run_off_lane(&lanes, LANE_BYTES_MAX + 1, || barrier.wait().is_leader())
            }
        };
        let long = lanes.spawn(within(own.handle().clone(), long));
        let other = lanes.spawn(async move { barrier.wait().is_leader() });
        let both = lanes.block_on(async { (long.await.unwrap(), other.await.unwrap()) });
        assert!(both.0 != both.1);
    }
}
