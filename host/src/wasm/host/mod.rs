//! The host functions that a guest may import: buffers, files, the log.

mod buffers;
mod crew;
mod direct;
mod files;
mod logging;
mod paths;
mod splice;
mod streams;

use wasmtime::component::Linker;
use wasmtime::{Result, format_err};

use super::contract::types::Error;
use super::contract::{files as contract_files, files_blocking, logging as contract_logging, types};
use super::sandbox::{Host, State};
use crate::transfer::TransferError;

/// Adds the contract's interfaces to a linker that has WASI.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    types::add_to_linker::<_, Host>(linker, |state| state)?;
    buffers::add_to_linker(linker)?;
    contract_files::add_to_linker::<_, Host>(linker, |state| state)?;
    files_blocking::add_to_linker::<_, Host>(linker, |state| state)?;
    contract_logging::add_to_linker::<_, Host>(linker, |state| state)?;
    Ok(())
}

impl types::Host for &mut State {}

fn check_index(index: u32, count: usize) -> Result<()> {
    if (index as usize) < count {
        Ok(())
    } else {
        Err(format_err!("index {index} is out of range: the call has {count} chunks"))
    }
}

fn range(offset: u64, len: u64) -> std::result::Result<std::ops::Range<usize>, TransferError> {
    let end = offset.checked_add(len).ok_or(TransferError::OutOfRange)?;
    Ok(offset as usize..end as usize)
}

fn refused(error: TransferError) -> Error {
    Error::InvalidArgument(error.to_string())
}
