//! WASI 0.3.

use std::sync::Arc;

use tokio::sync::oneshot;
use wasmtime::component::{Accessor, FutureReader, Linker, Resource, StreamReader};
use wasmtime::format_err;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p3::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p3::bindings::filesystem::types::{self, HostDescriptorWithStore as _};

use super::super::P3;
use super::listing::{Listing, Outcome};
use super::shadow::{convert_types, shadow, shadow_directories};
use super::{Failure, pieces};
use crate::wasm::state::GuestState;
use crate::wasm::state::file_work::Watched;

type Fd = Resource<Descriptor>;

// WASI 0.3 has no code for an operation that would block.
convert_types!(Pending(text) => Self::Other(Some(text)), Unknown => DescriptorType::Other(None));

pub(in super::super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    shadow_directories!(linker, P3);
    let mut instance = linker.instance(&format!("wasi:filesystem/types@{P3}"))?;
    shadow! {
        instance.func_wrap_concurrent, Box::pin,
        accessor: &Accessor<GuestState> =>
            WasiFilesystem(&accessor.with_getter::<WasiFilesystem>(GuestState::filesystem))
    }
    // This function cannot return an error.
    instance.func_wrap_concurrent(
        "[method]descriptor.is-same-object",
        |accessor: &Accessor<GuestState>, (fd, other): (Fd, Fd)| {
            Box::pin(async move {
                let work = accessor.with(|mut access| -> wasmtime::Result<_> {
                    let files = access.get().files();
                    let begun =
                        files.file_work.begin(0).ok_or_else(|| format_err!(files.file_work.refusal()))?;
                    Ok(Watched::new(begun, files.threads))
                })?;
                let files = accessor.with_getter::<WasiFilesystem>(GuestState::filesystem);
                let is_same = WasiFilesystem::is_same_object(&files, fd, other).await?;
                work.ended();
                Ok((is_same,))
            })
        },
    )?;
    pieces::add_to_linker(&mut instance)?;
    instance.func_wrap("[method]descriptor.read-directory", |mut store, (fd,): (Fd,)| {
        let (sender, outcome) = oneshot::channel::<Outcome>();
        let files = store.data_mut().files();
        let directory = match files.table.get(&fd)? {
            Descriptor::Dir(directory) => Ok(Arc::clone(&directory.dir)),
            Descriptor::File(_) => Err(Failure::NotDirectory),
        };
        let listing = directory.and_then(|directory| {
            Ok((directory, files.open_files.reserve(files.table).ok_or(Failure::OpenFiles)?))
        });
        let work = Arc::clone(files.file_work);
        let entries = match listing {
            Ok((directory, slot)) => {
                StreamReader::new(&mut store, Listing::new(directory, sender, slot, work))?
            }
            Err(failure) => {
                let _received = sender.send(Err(failure.into()));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok(((entries, FutureReader::new(&mut store, outcome)?),))
    })?;
    Ok(())
}
