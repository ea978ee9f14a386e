//! `files` and `files-blocking`: splices between a call's memory and files.

use wasmtime::Result;
use wasmtime::component::{Accessor, Resource};
use wasmtime_wasi::filesystem::Descriptor;

use super::operations::{Answer, ask_for_lock, load_all, read, store_all, try_direct, write};
use crate::transfer::{Sinks, Sources};
use crate::wasm::contract::types::{Caching, FileToLoad, FileToStore, Ownership};
use crate::wasm::contract::{files, files_blocking};
use crate::wasm::state::{Storage, StorageView};

impl files::Host for StorageView<'_> {}

impl<T: Send + 'static> files::HostWithStore<T> for Storage {
    async fn store(
        accessor: &Accessor<T, Self>,
        chunks: Resource<Sources>,
        index: u32,
        file: Resource<Descriptor>,
        at: u64,
    ) -> Result<Answer<u64>> {
        let splice = accessor.with(|mut access| access.get().splice_out(&chunks, index, &file))?;
        write(splice, at).await
    }

    async fn load(
        accessor: &Accessor<T, Self>,
        buffers: Resource<Sinks>,
        index: u32,
        file: Resource<Descriptor>,
        at: u64,
    ) -> Result<Answer<u64>> {
        let splice = accessor.with(|mut access| access.get().splice_in(&buffers, index, &file))?;
        read(splice, at).await
    }

    async fn store_all(
        accessor: &Accessor<T, Self>,
        chunks: Resource<Sources>,
        directory: Resource<Descriptor>,
        files: Vec<FileToStore>,
        caching: Caching,
    ) -> Result<Vec<Answer<u64>>> {
        let batch = accessor.with(|mut access| {
            let view = access.get();
            view.batch_out(&chunks, view.open_place(&directory)?, files)
        })?;
        store_all(batch, caching).await
    }

    async fn load_all(
        accessor: &Accessor<T, Self>,
        buffers: Resource<Sinks>,
        directory: Resource<Descriptor>,
        files: Vec<FileToLoad>,
        caching: Caching,
    ) -> Result<Vec<Answer<Option<u64>>>> {
        let batch = accessor.with(|mut access| {
            let view = access.get();
            view.batch_in(&buffers, view.open_place(&directory)?, files)
        })?;
        load_all(batch, caching).await
    }

    async fn try_direct(
        accessor: &Accessor<T, Self>,
        directory: Resource<Descriptor>,
        temporary: String,
    ) -> Result<Answer<()>> {
        let batch = accessor.with(|mut access| -> Result<_> {
            let view = access.get();
            Ok(view.batch((), view.open_place(&directory)?, vec![temporary]))
        })?;
        try_direct(batch).await
    }

    async fn keep_capacity(
        accessor: &Accessor<T, Self>,
        directory: Resource<Descriptor>,
        path: String,
    ) -> Result<Answer<Ownership>> {
        let batch = accessor.with(|mut access| -> Result<_> {
            let view = access.get();
            Ok(view.batch(view.budgets.owned.question(), view.open_place(&directory)?, vec![path]))
        })?;
        let tried = ask_for_lock(batch).await?;
        Ok(accessor.with(|mut access| access.get().budgets.owned.note(tried)))
    }
}

impl files_blocking::Host for StorageView<'_> {
    async fn store(
        &mut self,
        chunks: Resource<Sources>,
        index: u32,
        file: Resource<Descriptor>,
        at: u64,
    ) -> Result<Answer<u64>> {
        write(self.splice_out(&chunks, index, &file)?, at).await
    }

    async fn load(
        &mut self,
        buffers: Resource<Sinks>,
        index: u32,
        file: Resource<Descriptor>,
        at: u64,
    ) -> Result<Answer<u64>> {
        read(self.splice_in(&buffers, index, &file)?, at).await
    }

    async fn store_all(
        &mut self,
        chunks: Resource<Sources>,
        directory: Resource<Descriptor>,
        files: Vec<FileToStore>,
        caching: Caching,
    ) -> Result<Vec<Answer<u64>>> {
        store_all(self.batch_out(&chunks, self.open_place(&directory)?, files)?, caching).await
    }

    async fn load_all(
        &mut self,
        buffers: Resource<Sinks>,
        directory: Resource<Descriptor>,
        files: Vec<FileToLoad>,
        caching: Caching,
    ) -> Result<Vec<Answer<Option<u64>>>> {
        load_all(self.batch_in(&buffers, self.open_place(&directory)?, files)?, caching).await
    }

    async fn try_direct(&mut self, directory: Resource<Descriptor>, temporary: String) -> Result<Answer<()>> {
        try_direct(self.batch((), self.open_place(&directory)?, vec![temporary])).await
    }

    async fn keep_capacity(
        &mut self,
        directory: Resource<Descriptor>,
        path: String,
    ) -> Result<Answer<Ownership>> {
        let batch = self.batch(self.budgets.owned.question(), self.open_place(&directory)?, vec![path]);
        let tried = ask_for_lock(batch).await?;
        Ok(self.budgets.owned.note(tried))
    }
}
