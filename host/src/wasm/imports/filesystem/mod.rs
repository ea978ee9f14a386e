//! Directories and paths.
//!
//! Every operation counts as pending until it ends (see [`FileWork`](crate::wasm::state::file_work::FileWork)), and
//! the length of its paths is checked when the call is made. Files are opened here and not by WASI's own function,
//! which would wait for the other end of a pipe.

mod listing;
mod open;
pub(super) mod p2;
pub(super) mod p3;
mod pieces;
mod shadow;

use std::error::Error;
use std::io;

use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Resource, ResourceTable};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi::filesystem::Descriptor;

use super::without_trap;
use crate::limits::PATH_BYTES_MAX;
use crate::wasm::policy::{Denial, DenialLog};
use crate::wasm::state::file_work::{Begun, Watched};
use crate::wasm::state::{FilesView, GuestState};

/// Why an operation was not tried, or failed.
enum Failure {
    PathTooLong,
    /// `limits.open_files_max` is reached.
    OpenFiles,
    /// `limits.file_operations_max` or `limits.file_names_bytes` is reached; the text names them.
    Pending(String),
    NotPermitted,
    NotDirectory,
    Invalid,
    Unsupported,
    /// A name is not UTF-8.
    NotText,
    System(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

/// Who refused an operation.
#[derive(Clone, Copy)]
enum DeniedBy {
    /// The sandbox or, rarely, the operating system.
    NotPermitted,
    /// The operating system.
    Access,
}

impl DeniedBy {
    /// Returns who refused an operation that failed with `error`; `None` if it was not refused.
    fn of(error: &io::Error) -> Option<Self> {
        (error.kind() == io::ErrorKind::PermissionDenied).then(|| {
            let by_system = error.raw_os_error() == Some(rustix::io::Errno::ACCESS.raw_os_error());
            if by_system { Self::Access } else { Self::NotPermitted }
        })
    }
}

/// Counts an operation as pending, unless a path is too long or too many are pending. Any number of operations may wait
/// for a thread, so nothing is copied before.
fn begin(files: &FilesView<'_>, paths: &[&str]) -> Result<Begun, Failure> {
    if paths.iter().any(|path| path.len() > PATH_BYTES_MAX) {
        return Err(Failure::PathTooLong);
    }
    begin_with(files, paths.iter().map(|path| path.len()).sum())
}

/// Counts an operation that holds `n_bytes` as pending.
fn begin_with(files: &FilesView<'_>, n_bytes: usize) -> Result<Begun, Failure> {
    files.file_work.begin(n_bytes).ok_or_else(|| Failure::Pending(files.file_work.refusal()))
}

/// The same for an operation of WASI's own.
fn watch(files: &FilesView<'_>, n_bytes: usize) -> Result<Watched, Failure> {
    Ok(Watched::new(begin_with(files, n_bytes)?, files.threads))
}

/// What a function works on.
#[derive(Clone, Copy)]
enum Subject<'a> {
    /// Paths, from the function's descriptors.
    Paths(&'a [&'a str]),
    /// The open file that the descriptor is.
    OpenFile,
}

/// A call of one of WASI's functions, with what is recorded if it is refused.
struct Attempt<const N: usize> {
    /// The descriptors that it is called for, by their places in the table.
    from: [u32; N],
    /// The subject's name in records.
    subject: String,
    /// Whether the function changes anything.
    changes: bool,
    work: Watched,
}

impl<const N: usize> Attempt<N> {
    fn begin(
        files: &FilesView<'_>,
        from: [u32; N],
        subject: Subject<'_>,
        changes: bool,
    ) -> Result<Self, Failure> {
        let (begun, subject) = match subject {
            Subject::Paths(paths) => (begin(files, paths)?, paths.join(" -> ")),
            Subject::OpenFile => (begin(files, &[])?, "an open file".to_owned()),
        };
        Ok(Self { from, subject, changes, work: Watched::new(begun, files.threads) })
    }

    /// Returns the function's answer; an error of it that is not a trap as such.
    fn end<T, C: Code>(
        self,
        files: &FilesView<'_>,
        answer: Result<T, TrappableError<C>>,
    ) -> wasmtime::Result<Result<T, C>> {
        let answer = without_trap(answer)?;
        self.work.ended();
        if let Some(denied_by) = answer.as_ref().err().and_then(C::denied_by) {
            let read_only = self.from.iter().any(|&place| is_read_only(files.table, place));
            record(files.denial_log, &self.subject, denied_by, self.changes && read_only);
        }
        Ok(answer)
    }
}

fn record(denial_log: &DenialLog, path: &str, denied_by: DeniedBy, changes_read_only: bool) {
    let path = denial_log.guest_text(path);
    denial_log.record(match denied_by {
        DeniedBy::Access => Denial::System(path),
        DeniedBy::NotPermitted if changes_read_only => Denial::ReadOnly(path),
        DeniedBy::NotPermitted => Denial::Outside(path),
    });
}

/// Records that a path was refused to one of kvtier's own functions, if that is what the error means.
pub(in crate::wasm) fn note_refused_path(
    denial_log: &DenialLog,
    path: &str,
    changes_read_only: bool,
    error: &io::Error,
) {
    if let Some(denied_by) = DeniedBy::of(error) {
        record(denial_log, path, denied_by, changes_read_only);
    }
}

fn is_read_only(table: &ResourceTable, place: u32) -> bool {
    match table.get(&Resource::<Descriptor>::new_borrow(place)) {
        Ok(Descriptor::File(file)) => file.perms.write_not_permitted(),
        Ok(Descriptor::Dir(dir)) => dir.perms.write_not_permitted(),
        Err(_) => false,
    }
}

/// The store of a guest, as a host function gets it: for the whole call in WASI 0.2, for moments in WASI 0.3.
trait StoreAccess: Send {
    fn state<R>(&mut self, work: impl FnOnce(&mut GuestState) -> R) -> R;
}

impl StoreAccess for StoreContextMut<'_, GuestState> {
    fn state<R>(&mut self, work: impl FnOnce(&mut GuestState) -> R) -> R {
        work(self.data_mut())
    }
}

impl StoreAccess for &Accessor<GuestState> {
    fn state<R>(&mut self, work: impl FnOnce(&mut GuestState) -> R) -> R {
        Accessor::with(self, |mut access| work(access.get()))
    }
}

/// The error codes of one version of WASI.
trait Code: From<Failure> + Error + Send + Sync + 'static {
    /// Returns who refused the operation; `None` if it was not refused.
    fn denied_by(&self) -> Option<DeniedBy>;
}
