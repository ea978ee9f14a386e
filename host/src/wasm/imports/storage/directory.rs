//! `directory` and `directory-blocking`: files by their paths.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::Result;
use wasmtime::component::{Accessor, Resource};

use super::io_workers::off_thread_to_here;
use super::operations::{Answer, load_all, store_all};
use super::paths::{Directory, check_path, not_a_file};
use super::small_files::check_size;
use crate::transfer::{Sinks, Sources};
use crate::wasm::contract::types::{Caching, DirectoryEntry, FileToLoad, FileToStore};
use crate::wasm::contract::{directory, directory_blocking};
use crate::wasm::state::file_work::Begun;
use crate::wasm::state::{Storage, StorageView};

/// An operation on one path that is about to run.
struct Operation<A> {
    /// The backend's.
    slots: Arc<Semaphore>,
    root: Directory,
    /// Below `root`.
    path: String,
    /// What else the guest gave.
    argument: A,
    begun: Begun,
}

/// Runs an operation on a thread that may block. Its answer counts as a running operation until the guest gets it.
async fn run<A: Send + 'static, T: Send + 'static>(
    operation: Answer<Operation<A>>,
    work: impl FnOnce(&Directory, &str, &A) -> Answer<T> + Send + 'static,
) -> Result<Answer<T>> {
    match operation {
        Ok(Operation { slots, root, path, argument, begun }) => {
            let work = move || {
                let _begun = begun;
                work(&root, &path, &argument)
            };
            off_thread_to_here(slots, work).await
        }
        Err(error) => Ok(Err(error)),
    }
}

async fn list(operation: Answer<Operation<String>>) -> Result<Answer<Vec<DirectoryEntry>>> {
    run(operation, |root, path, after| root.list(path, after)).await
}

async fn remove(operation: Answer<Operation<()>>) -> Result<Answer<bool>> {
    run(operation, |root, path, ()| root.remove(path)).await
}

async fn read(operation: Answer<Operation<()>>) -> Result<Answer<Option<Vec<u8>>>> {
    run(operation, |root, path, ()| root.read(path)).await
}

async fn write(operation: Answer<Operation<Vec<u8>>>) -> Result<Answer<()>> {
    run(operation, |root, path, bytes| root.write(path, bytes)).await
}

impl StorageView<'_> {
    fn listing(&self, directory: &str, after: String) -> Answer<Operation<String>> {
        check_path(&after)?;
        let n_bytes = after.len();
        self.operation(directory, after, n_bytes)
    }

    fn on_file(&self, path: &str) -> Answer<Operation<()>> {
        self.operation_on_file(path, (), 0)
    }

    fn writing(&self, path: &str, bytes: Vec<u8>) -> Answer<Operation<Vec<u8>>> {
        let n_bytes = bytes.len();
        check_size(n_bytes as u64)?;
        self.operation_on_file(path, bytes, n_bytes)
    }

    fn operation_on_file<A>(&self, path: &str, argument: A, n_bytes: usize) -> Answer<Operation<A>> {
        let operation = self.operation(path, argument, n_bytes)?;
        // The path of the grant itself.
        if operation.path.is_empty() || path.ends_with('/') { Err(not_a_file(path)) } else { Ok(operation) }
    }

    /// Prepares an operation on a path, with an argument of `n_bytes`.
    fn operation<A>(&self, path: &str, argument: A, n_bytes: usize) -> Answer<Operation<A>> {
        let (root, below) = self.locate(path)?;
        let begun = self.begin(below.len() + n_bytes)?;
        let slots = Arc::clone(&self.budgets.splices);
        Ok(Operation { slots, root, path: below.to_owned(), argument, begun })
    }
}

impl directory::Host for StorageView<'_> {}

impl<T: Send + 'static> directory::HostWithStore<T> for Storage {
    async fn store_all(
        accessor: &Accessor<T, Self>,
        chunks: Resource<Sources>,
        directory: String,
        files: Vec<FileToStore>,
        caching: Caching,
    ) -> Result<Vec<Answer<u64>>> {
        let batch = accessor.with(|mut access| {
            let view = access.get();
            view.batch_out(&chunks, view.granted_place(&directory), files)
        })?;
        store_all(batch, caching).await
    }

    async fn load_all(
        accessor: &Accessor<T, Self>,
        buffers: Resource<Sinks>,
        directory: String,
        files: Vec<FileToLoad>,
        caching: Caching,
    ) -> Result<Vec<Answer<Option<u64>>>> {
        let batch = accessor.with(|mut access| {
            let view = access.get();
            view.batch_in(&buffers, view.granted_place(&directory), files)
        })?;
        load_all(batch, caching).await
    }

    async fn list(
        accessor: &Accessor<T, Self>,
        directory: String,
        after: String,
    ) -> Result<Answer<Vec<DirectoryEntry>>> {
        list(accessor.with(|mut access| access.get().listing(&directory, after))).await
    }

    async fn remove(accessor: &Accessor<T, Self>, path: String) -> Result<Answer<bool>> {
        remove(accessor.with(|mut access| access.get().on_file(&path))).await
    }

    async fn read(accessor: &Accessor<T, Self>, path: String) -> Result<Answer<Option<Vec<u8>>>> {
        read(accessor.with(|mut access| access.get().on_file(&path))).await
    }

    async fn write(accessor: &Accessor<T, Self>, path: String, bytes: Vec<u8>) -> Result<Answer<()>> {
        write(accessor.with(|mut access| access.get().writing(&path, bytes))).await
    }
}

impl directory_blocking::Host for StorageView<'_> {
    async fn store_all(
        &mut self,
        chunks: Resource<Sources>,
        directory: String,
        files: Vec<FileToStore>,
        caching: Caching,
    ) -> Result<Vec<Answer<u64>>> {
        store_all(self.batch_out(&chunks, self.granted_place(&directory), files)?, caching).await
    }

    async fn load_all(
        &mut self,
        buffers: Resource<Sinks>,
        directory: String,
        files: Vec<FileToLoad>,
        caching: Caching,
    ) -> Result<Vec<Answer<Option<u64>>>> {
        load_all(self.batch_in(&buffers, self.granted_place(&directory), files)?, caching).await
    }

    async fn list(&mut self, directory: String, after: String) -> Result<Answer<Vec<DirectoryEntry>>> {
        list(self.listing(&directory, after)).await
    }

    async fn remove(&mut self, path: String) -> Result<Answer<bool>> {
        remove(self.on_file(&path)).await
    }

    async fn read(&mut self, path: String) -> Result<Answer<Option<Vec<u8>>>> {
        read(self.on_file(&path)).await
    }

    async fn write(&mut self, path: String, bytes: Vec<u8>) -> Result<Answer<()>> {
        write(self.writing(&path, bytes)).await
    }
}
