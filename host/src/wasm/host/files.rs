//! `files` and `files-blocking`: splices between a call's memory and files.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::component::{Accessor, Resource};
use wasmtime::{Result, format_err};
use wasmtime_wasi::OpenMode;
use wasmtime_wasi::filesystem::{Descriptor, File};

use super::crew::{all_off_thread, off_thread};
use super::paths::Directory;
use super::{check_index, refused, splice};
use crate::limits::SPLICES_MAX;
use crate::transfer::{Lease, Sealed, Sinks, Sources};
use crate::wasm::contract::types::{Caching, Error, FileToLoad, FileToStore};
use crate::wasm::contract::{files, files_blocking};
use crate::wasm::sandbox::{Host, State};

type Answer<T> = std::result::Result<T, Error>;

impl files::Host for &mut State {}

impl<T: Send + 'static> files::HostWithStore<T> for Host {
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
        let indices = files.iter().map(|file| file.index);
        let batch = accessor.with(|mut access| access.get().batch_out(&chunks, &directory, indices))?;
        store_all(batch, files, caching).await
    }

    async fn load_all(
        accessor: &Accessor<T, Self>,
        buffers: Resource<Sinks>,
        directory: Resource<Descriptor>,
        files: Vec<FileToLoad>,
        caching: Caching,
    ) -> Result<Vec<Answer<Option<u64>>>> {
        let indices = files.iter().map(|file| file.index);
        let batch = accessor.with(|mut access| access.get().batch_in(&buffers, &directory, indices))?;
        load_all(batch, files, caching).await
    }

    async fn try_direct(
        accessor: &Accessor<T, Self>,
        directory: Resource<Descriptor>,
        temporary: String,
    ) -> Result<Answer<()>> {
        let batch = accessor.with(|mut access| access.get().batch((), &directory))?;
        try_direct(batch, temporary).await
    }
}

impl files_blocking::Host for &mut State {
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
        let indices = files.iter().map(|file| file.index);
        store_all(self.batch_out(&chunks, &directory, indices)?, files, caching).await
    }

    async fn load_all(
        &mut self,
        buffers: Resource<Sinks>,
        directory: Resource<Descriptor>,
        files: Vec<FileToLoad>,
        caching: Caching,
    ) -> Result<Vec<Answer<Option<u64>>>> {
        let indices = files.iter().map(|file| file.index);
        load_all(self.batch_in(&buffers, &directory, indices)?, files, caching).await
    }

    async fn try_direct(&mut self, directory: Resource<Descriptor>, temporary: String) -> Result<Answer<()>> {
        try_direct(self.batch((), &directory)?, temporary).await
    }
}

/// What a splice needs: the backend's slots, the memory, the file.
type Splice<T> = Answer<(Arc<Semaphore>, T, File)>;

async fn write(splice: Splice<Sealed>, at: u64) -> Result<Answer<u64>> {
    match splice {
        Ok((slots, chunk, file)) => off_thread(slots, move || splice::write(&chunk, &file.file, at)).await,
        Err(error) => Ok(Err(error)),
    }
}

async fn read(splice: Splice<Lease>, at: u64) -> Result<Answer<u64>> {
    match splice {
        Ok((slots, mut sink, file)) => {
            off_thread(slots, move || splice::read(&mut sink, &file.file, at)).await
        }
        Err(error) => Ok(Err(error)),
    }
}

/// What files by name need: the backend's slots, the memory, the directory.
type Batch<T> = Answer<(Arc<Semaphore>, T, Directory)>;

async fn store_all(
    batch: Batch<Sources>,
    files: Vec<FileToStore>,
    caching: Caching,
) -> Result<Vec<Answer<u64>>> {
    match batch {
        Ok((slots, memory, directory)) => {
            let n_files = files.len();
            let store = move |file: usize| directory.store(&memory, &files[file], caching);
            all_off_thread(slots, SPLICES_MAX, n_files, store).await
        }
        Err(error) => Ok(files.iter().map(|_| Err(error.clone())).collect()),
    }
}

async fn load_all(
    batch: Batch<Sinks>,
    files: Vec<FileToLoad>,
    caching: Caching,
) -> Result<Vec<Answer<Option<u64>>>> {
    match batch {
        Ok((slots, memory, directory)) => {
            let n_files = files.len();
            let load = move |file: usize| directory.load(&memory, &files[file], caching);
            all_off_thread(slots, SPLICES_MAX, n_files, load).await
        }
        Err(error) => Ok(files.iter().map(|_| Err(error.clone())).collect()),
    }
}

async fn try_direct(batch: Batch<()>, temporary: String) -> Result<Answer<()>> {
    match batch {
        Ok((slots, (), directory)) => off_thread(slots, move || directory.try_direct(&temporary)).await,
        Err(error) => Ok(Err(error)),
    }
}

impl State {
    fn splice_out(
        &self,
        chunks: &Resource<Sources>,
        index: u32,
        file: &Resource<Descriptor>,
    ) -> Result<Splice<Sealed>> {
        let sources = self.table.get(chunks)?;
        check_index(index, sources.count())?;
        let chunk = sources.chunk(index as usize).map_err(refused);
        let file = self.open_file(file, OpenMode::WRITE)?;
        Ok(chunk.and_then(|chunk| Ok((Arc::clone(&self.splices), chunk, file?))))
    }

    fn splice_in(
        &self,
        buffers: &Resource<Sinks>,
        index: u32,
        file: &Resource<Descriptor>,
    ) -> Result<Splice<Lease>> {
        let sinks = self.table.get(buffers)?;
        check_index(index, sinks.count())?;
        let file = match self.open_file(file, OpenMode::READ)? {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let lease = sinks.lease(index as usize);
        Ok(lease.map(|sink| (Arc::clone(&self.splices), sink, file)).map_err(refused))
    }

    fn batch_out(
        &self,
        chunks: &Resource<Sources>,
        directory: &Resource<Descriptor>,
        indices: impl ExactSizeIterator<Item = u32>,
    ) -> Result<Batch<Sources>> {
        let sources = self.table.get(chunks)?.clone();
        check_indices(indices, sources.count())?;
        self.batch(sources, directory)
    }

    fn batch_in(
        &self,
        buffers: &Resource<Sinks>,
        directory: &Resource<Descriptor>,
        indices: impl ExactSizeIterator<Item = u32>,
    ) -> Result<Batch<Sinks>> {
        let sinks = self.table.get(buffers)?.clone();
        check_indices(indices, sinks.count())?;
        self.batch(sinks, directory)
    }

    fn batch<M>(&self, memory: M, directory: &Resource<Descriptor>) -> Result<Batch<M>> {
        let Descriptor::Dir(opened) = self.table.get(directory)? else {
            return Ok(Err(Error::InvalidArgument("a file is no directory".into())));
        };
        let directory = Directory {
            file: Arc::clone(&opened.dir),
            is_read_only: opened.perms.write_not_permitted(),
            witness: self.witness.clone(),
        };
        Ok(Ok((Arc::clone(&self.splices), memory, directory)))
    }

    /// Looks a file up and checks that it may be used so: the descriptor's rights are not enforced for us.
    fn open_file(&self, file: &Resource<Descriptor>, mode: OpenMode) -> Result<Answer<File>> {
        let writes = mode.contains(OpenMode::WRITE);
        Ok(match self.table.get(file)? {
            Descriptor::File(file)
                if file.open_mode.contains(mode) && !(writes && file.perms.write_not_permitted()) =>
            {
                Ok(file.clone())
            }
            Descriptor::File(_) => {
                let wanted = if writes { "writing" } else { "reading" };
                Err(Error::InvalidArgument(format!("the file is not open for {wanted}")))
            }
            Descriptor::Dir(_) => Err(Error::InvalidArgument("a directory is no file".into())),
        })
    }
}

/// Checks the places that files have among the chunks of a call.
fn check_indices(mut indices: impl ExactSizeIterator<Item = u32>, count: usize) -> Result<()> {
    if indices.len() > count {
        return Err(format_err!("{} files for a call of {count} chunks", indices.len()));
    }
    indices.try_for_each(|index| check_index(index, count))
}
