//! The operations of `files` and `directory`, and of the same interfaces in blocking style.
//!
//! Paths are checked and the operation is counted as pending when a call is made, because the guest chooses how many
//! operations wait for a thread, and with which paths.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::component::Resource;
use wasmtime::{Result, format_err};
use wasmtime_wasi::OpenMode;
use wasmtime_wasi::filesystem::{Descriptor, File};

use super::io_workers::{all_off_thread, off_thread};
use super::paths::check_path;
use super::place::Place;
use super::{check_index, check_indices, refused, splice};
use crate::limits::SPLICES_MAX;
use crate::transfer::{Lease, Sealed, Sinks, Sources};
use crate::wasm::contract::types::{Caching, Error, FileToLoad, FileToStore};
use crate::wasm::state::StorageView;
use crate::wasm::state::file_work::Begun;
use crate::wasm::state::ownership::{Question, Tried};

pub(super) type Answer<T> = std::result::Result<T, Error>;

/// A splice that is about to run.
pub(super) struct Splice<M> {
    /// The backend's.
    slots: Arc<Semaphore>,
    memory: M,
    file: File,
    begun: Begun,
}

pub(super) async fn write(splice: Answer<Splice<Sealed>>, at: u64) -> Result<Answer<u64>> {
    match splice {
        Ok(Splice { slots, memory, file, begun }) => {
            let write = move || {
                let _begun = begun;
                splice::write(&memory, &file.file, at)
            };
            off_thread(slots, write).await
        }
        Err(error) => Ok(Err(error)),
    }
}

pub(super) async fn read(splice: Answer<Splice<Lease>>, at: u64) -> Result<Answer<u64>> {
    match splice {
        Ok(Splice { slots, mut memory, file, begun }) => {
            let read = move || {
                let _begun = begun;
                splice::read(&mut memory, &file.file, at)
            };
            off_thread(slots, read).await
        }
        Err(error) => Ok(Err(error)),
    }
}

/// Files by name that are about to be worked on, with an error for each that has an invalid name; or an error for all
/// of them, with their number.
pub(super) type FileBatch<M, F> = std::result::Result<Files<M, F>, (Error, usize)>;

pub(super) struct Files<M, F> {
    /// The backend's.
    slots: Arc<Semaphore>,
    memory: M,
    place: Place,
    entries: Vec<Answer<F>>,
    begun: Begun,
}

pub(super) async fn store_all(
    batch: FileBatch<Sources, FileToStore>,
    caching: Caching,
) -> Result<Vec<Answer<u64>>> {
    each_off_thread(batch, move |place, memory, file| place.get_or_make()?.store(memory, file, caching)).await
}

pub(super) async fn load_all(
    batch: FileBatch<Sinks, FileToLoad>,
    caching: Caching,
) -> Result<Vec<Answer<Option<u64>>>> {
    each_off_thread(batch, move |place, memory, file| match place.get()? {
        Some(directory) => directory.load(memory, file, caching),
        None => Ok(None),
    })
    .await
}

pub(super) async fn try_direct(batch: FileBatch<(), String>) -> Result<Answer<()>> {
    only(each_off_thread(batch, |place, (), temporary| place.get_or_make()?.try_direct(temporary)).await?)
}

pub(super) async fn ask_for_lock(batch: FileBatch<Question, String>) -> Result<Answer<Tried>> {
    only(each_off_thread(batch, |place, question, path| place.get_or_make()?.own(question, path)).await?)
}

/// The answer for the one file of a batch.
fn only<T>(answers: Vec<Answer<T>>) -> Result<Answer<T>> {
    answers.into_iter().next().ok_or_else(|| format_err!("no answer for a file"))
}

/// Runs `each` for every file, on as many threads as pay off.
async fn each_off_thread<M, F, T>(
    batch: FileBatch<M, F>,
    each: impl Fn(&Place, &M, &F) -> Answer<T> + Send + Sync + 'static,
) -> Result<Vec<Answer<T>>>
where
    M: Send + Sync + 'static,
    F: Send + Sync + 'static,
    T: Send + 'static,
{
    match batch {
        Ok(Files { slots, memory, place, entries, begun }) => {
            let n_files = entries.len();
            if entries.iter().all(std::result::Result::is_err) {
                let refusals = entries.into_iter().filter_map(std::result::Result::err);
                return Ok(refusals.map(Err).collect());
            }
            let work = move |n: usize| {
                // As long as a thread is at work.
                let _begun = &begun;
                entries[n].as_ref().map_err(Error::clone).and_then(|file| each(&place, &memory, file))
            };
            all_off_thread(slots, SPLICES_MAX, n_files, work).await
        }
        Err((error, n_files)) => Ok(std::iter::repeat_with(|| Err(error.clone())).take(n_files).collect()),
    }
}

/// A file by name, as a guest asks for it.
pub(super) trait Named {
    /// Returns its paths.
    fn paths(&self) -> impl Iterator<Item = &str>;
}

impl Named for FileToStore {
    fn paths(&self) -> impl Iterator<Item = &str> {
        [self.temporary.as_str(), self.name.as_str()].into_iter()
    }
}

impl Named for FileToLoad {
    fn paths(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str())
    }
}

impl Named for String {
    fn paths(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.as_str())
    }
}

impl StorageView<'_> {
    pub(super) fn splice_out(
        &self,
        chunks: &Resource<Sources>,
        index: u32,
        file: &Resource<Descriptor>,
    ) -> Result<Answer<Splice<Sealed>>> {
        let sources = self.table.get(chunks)?;
        check_index(index, sources.count())?;
        let chunk = sources.chunk(index as usize).map_err(refused);
        let file = self.open_file(file, OpenMode::WRITE)?;
        Ok(chunk.and_then(|chunk| self.splice(chunk, file?)))
    }

    pub(super) fn splice_in(
        &self,
        buffers: &Resource<Sinks>,
        index: u32,
        file: &Resource<Descriptor>,
    ) -> Result<Answer<Splice<Lease>>> {
        let sinks = self.table.get(buffers)?;
        check_index(index, sinks.count())?;
        let file = match self.open_file(file, OpenMode::READ)? {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let lease = sinks.lease(index as usize);
        Ok(lease.map_err(refused).and_then(|sink| self.splice(sink, file)))
    }

    fn splice<M>(&self, memory: M, file: File) -> Answer<Splice<M>> {
        let begun = self.begin(0)?;
        Ok(Splice { slots: Arc::clone(&self.budgets.splices), memory, file, begun })
    }

    pub(super) fn batch_out(
        &self,
        chunks: &Resource<Sources>,
        place: Answer<Place>,
        files: Vec<FileToStore>,
    ) -> Result<FileBatch<Sources, FileToStore>> {
        let sources = self.table.get(chunks)?.clone();
        check_indices(files.iter().map(|file| file.index), sources.count(), "files")?;
        Ok(self.batch(sources, place, files))
    }

    pub(super) fn batch_in(
        &self,
        buffers: &Resource<Sinks>,
        place: Answer<Place>,
        files: Vec<FileToLoad>,
    ) -> Result<FileBatch<Sinks, FileToLoad>> {
        let sinks = self.table.get(buffers)?.clone();
        check_indices(files.iter().map(|file| file.index), sinks.count(), "files")?;
        Ok(self.batch(sinks, place, files))
    }

    pub(super) fn batch<M, F: Named>(
        &self,
        memory: M,
        place: Answer<Place>,
        files: Vec<F>,
    ) -> FileBatch<M, F> {
        let n_files = files.len();
        let place = place.map_err(|error| (error, n_files))?;
        // A file with an invalid path does not wait with the others.
        let check = |file: F| {
            let checked = file.paths().try_for_each(check_path);
            checked.map(|()| file)
        };
        let entries: Vec<Answer<F>> = files.into_iter().map(check).collect();
        let n_bytes: usize = entries.iter().flatten().flat_map(F::paths).map(str::len).sum();
        let begun = self.begin(place.n_bytes() + n_bytes).map_err(|error| (error, n_files))?;
        Ok(Files { slots: Arc::clone(&self.budgets.splices), memory, place, entries, begun })
    }

    /// Counts an operation that holds `n_bytes` as pending.
    pub(super) fn begin(&self, n_bytes: usize) -> Answer<Begun> {
        let work = &self.budgets.file_work;
        match work.too_large(n_bytes) {
            Some(refusal) => Err(Error::InvalidArgument(refusal)),
            None => work.begin(n_bytes).ok_or_else(|| Error::Unavailable(work.refusal())),
        }
    }

    /// Looks a file up and checks the descriptor's rights, which nothing else enforces here.
    fn open_file(&self, file: &Resource<Descriptor>, mode: OpenMode) -> Result<Answer<File>> {
        let writes = mode.contains(OpenMode::WRITE);
        Ok(match self.table.get(file)? {
            Descriptor::File(file)
                if file.open_mode.contains(mode) && !(writes && file.perms.write_not_permitted()) =>
            {
                Ok(file.clone())
            }
            Descriptor::File(_) => {
                let access = if writes { "writing" } else { "reading" };
                Err(Error::InvalidArgument(format!("the file is not open for {access}")))
            }
            Descriptor::Dir(_) => Err(Error::InvalidArgument("expected a file, got a directory".into())),
        })
    }
}
