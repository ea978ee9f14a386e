//! Directories and paths.
//!
//! Every operation counts as pending until it has ended (see [`FileWork`](crate::wasm::state::file_work::FileWork)),
//! and paths are measured when a call is made. Files are opened here and not by WASI's own function: that one would
//! wait for the other end of a pipe.

mod listing;
mod open;
pub(super) mod p2;
pub(super) mod p3;
mod pieces;

use std::io;

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;

use crate::limits::PATH_BYTES_MAX;
use crate::wasm::policy::{Denial, DenialLog};
use crate::wasm::state::GuestState;
use crate::wasm::state::file_work::{Begun, Watched};

/// What a function on files was asked for, kept for the case that it is refused.
struct Attempt<const N: usize> {
    /// The descriptors from which the paths start, by their places in the table.
    from: [u32; N],
    path: String,
    /// Whether it would have changed anything.
    changes: bool,
    work: Watched,
}

/// Why a function is not even tried.
enum Beyond {
    PathBytes,
    /// `limits.open_files_max`.
    OpenFiles,
    /// `limits.file_operations_max` or `limits.file_names_bytes`, in words.
    Pending(String),
}

/// Counts an operation as pending, if its paths are not too long and there may be one more. Any number of these may
/// wait for a thread, so nothing is copied before.
fn begin(state: &GuestState, paths: &[&str]) -> Result<Begun, Beyond> {
    if paths.iter().any(|path| path.len() > PATH_BYTES_MAX) {
        return Err(Beyond::PathBytes);
    }
    begin_with(state, paths.iter().map(|path| path.len()).sum())
}

/// Counts an operation that holds `n_bytes` as pending.
fn begin_with(state: &GuestState, n_bytes: usize) -> Result<Begun, Beyond> {
    state.budgets.file_work.begin(n_bytes).ok_or_else(|| Beyond::Pending(state.budgets.file_work.refusal()))
}

/// The refusals among WASI's error codes.
#[derive(Clone, Copy)]
enum DeniedBy {
    /// By the sandbox, or, rarely, by the operating system.
    NotPermitted,
    /// By the operating system.
    Access,
}

impl<const N: usize> Attempt<N> {
    fn begin<const PATHS: usize>(
        state: &GuestState,
        from: [u32; N],
        paths: [&str; PATHS],
        changes: bool,
    ) -> Result<Self, Beyond> {
        let work = Watched::new(begin(state, &paths)?, &state.threads.backend);
        Ok(Self { from, path: paths.join(" -> "), changes, work })
    }

    fn ended(self, state: &GuestState, refusal: Option<DeniedBy>) {
        self.work.ended();
        if let Some(refusal) = refusal {
            let read_only = self.from.iter().any(|&place| is_read_only(state, place));
            record(&state.policy.denial_log, &self.path, refusal, self.changes && read_only);
        }
    }
}

fn record(denial_log: &DenialLog, path: &str, refusal: DeniedBy, changes_read_only: bool) {
    let asked = denial_log.guest_text(path);
    denial_log.record(match refusal {
        DeniedBy::Access => Denial::System(asked),
        DeniedBy::NotPermitted if changes_read_only => Denial::ReadOnly(asked),
        DeniedBy::NotPermitted => Denial::Outside(asked),
    });
}

/// Records the refusal of a path that was not tried through WASI, if the error is one.
pub(in crate::wasm) fn note_refused_path(
    denial_log: &DenialLog,
    path: &str,
    changes_read_only: bool,
    error: &io::Error,
) {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let by_system = error.raw_os_error() == Some(rustix::io::Errno::ACCESS.raw_os_error());
        let refusal = if by_system { DeniedBy::Access } else { DeniedBy::NotPermitted };
        record(denial_log, path, refusal, changes_read_only);
    }
}

fn is_read_only(state: &GuestState, place: u32) -> bool {
    match state.table.get(&Resource::<Descriptor>::new_borrow(place)) {
        Ok(Descriptor::File(file)) => file.perms.write_not_permitted(),
        Ok(Descriptor::Dir(dir)) => dir.perms.write_not_permitted(),
        Err(_) => false,
    }
}

// The two versions of WASI have types of their own that are spelt alike; what follows is written in the words of the
// version that uses it.

/// Finds a refusal among the error codes.
macro_rules! refusal_in {
    ($code:expr) => {
        match $code {
            types::ErrorCode::NotPermitted => Some($crate::wasm::imports::filesystem::DeniedBy::NotPermitted),
            types::ErrorCode::Access => Some($crate::wasm::imports::filesystem::DeniedBy::Access),
            _ => None,
        }
    };
}

/// Returns why a function is not even tried.
macro_rules! code_of {
    ($beyond:expr) => {
        match $beyond {
            $crate::wasm::imports::filesystem::Beyond::PathBytes => types::ErrorCode::NameTooLong,
            $crate::wasm::imports::filesystem::Beyond::OpenFiles => types::ErrorCode::InsufficientMemory,
            // The two versions have different words for it.
            $crate::wasm::imports::filesystem::Beyond::Pending(words) => would_block(words),
        }
    };
}

/// Shadows the question for the granted directories.
macro_rules! shadow_directories {
    ($linker:ident, $version:expr) => {
        let mut instance = $linker.instance(&format!("wasi:filesystem/preopens@{}", $version))?;
        instance.func_wrap("get-directories", |mut store, (): ()| {
            let state: &mut GuestState = store.data_mut();
            let directories = state.filesystem().get_directories()?;
            if directories.is_empty() {
                state.policy.denial_log.record($crate::wasm::policy::denial::Denial::NoDirectory);
            }
            Ok((directories,))
        })?;
    };
}

/// Lists the functions that take paths or wait for an open file, alike in both versions of WASI: name, method,
/// descriptors, paths, arguments, and whether it changes anything. Opening is apart, see [`open`].
macro_rules! file_functions {
    ($shadow:ident, $instance:ident) => {
        $shadow!($instance, "create-directory-at", create_directory_at, [fd], [&path],
            (fd: Fd, path: String), true);
        $shadow!($instance, "link-at", link_at, [fd, to], [&old, &new],
            (fd: Fd, follow: types::PathFlags, old: String, to: Fd, new: String), true);
        $shadow!($instance, "readlink-at", readlink_at, [fd], [&path], (fd: Fd, path: String), false);
        $shadow!($instance, "remove-directory-at", remove_directory_at, [fd], [&path],
            (fd: Fd, path: String), true);
        $shadow!($instance, "rename-at", rename_at, [fd, to], [&old, &new],
            (fd: Fd, old: String, to: Fd, new: String), true);
        $shadow!($instance, "set-times-at", set_times_at, [fd], [&path],
            (fd: Fd, follow: types::PathFlags, path: String, read: types::NewTimestamp,
                written: types::NewTimestamp), true);
        $shadow!($instance, "stat-at", stat_at, [fd], [&path],
            (fd: Fd, follow: types::PathFlags, path: String), false);
        $shadow!($instance, "symlink-at", symlink_at, [fd], [&old, &new],
            (fd: Fd, old: String, new: String), true);
        $shadow!($instance, "unlink-file-at", unlink_file_at, [fd], [&path], (fd: Fd, path: String), true);
        $shadow!($instance, "metadata-hash-at", metadata_hash_at, [fd], [&path],
            (fd: Fd, follow: types::PathFlags, path: String), false);
        $shadow!($instance, "set-size", set_size, [fd], ["an open file"], (fd: Fd, size: types::Filesize), true);
        $shadow!($instance, "set-times", set_times, [fd], ["an open file"],
            (fd: Fd, read: types::NewTimestamp, written: types::NewTimestamp), true);
        $shadow!($instance, "advise", advise, [fd], ["an open file"],
            (fd: Fd, from: types::Filesize, length: types::Filesize, advice: types::Advice), false);
        $shadow!($instance, "sync-data", sync_data, [fd], ["an open file"], (fd: Fd), true);
        $shadow!($instance, "sync", sync, [fd], ["an open file"], (fd: Fd), true);
        $shadow!($instance, "get-flags", get_flags, [fd], ["an open file"], (fd: Fd), false);
        $shadow!($instance, "get-type", get_type, [fd], ["an open file"], (fd: Fd), false);
        $shadow!($instance, "stat", stat, [fd], ["an open file"], (fd: Fd), false);
        $shadow!($instance, "metadata-hash", metadata_hash, [fd], ["an open file"], (fd: Fd), false);
    };
}

/// Says in one form how a file is to be opened.
macro_rules! how_to_open {
    ($follow:ident, $open:ident, $flags:ident) => {
        $crate::wasm::imports::filesystem::open::How {
            follows: $follow.contains(types::PathFlags::SYMLINK_FOLLOW),
            creates: $open.contains(types::OpenFlags::CREATE),
            is_new: $open.contains(types::OpenFlags::EXCLUSIVE),
            truncates: $open.contains(types::OpenFlags::TRUNCATE),
            is_directory: $open.contains(types::OpenFlags::DIRECTORY),
            reads: $flags.contains(types::DescriptorFlags::READ),
            writes: $flags.contains(types::DescriptorFlags::WRITE),
            syncs: $flags.intersects(
                types::DescriptorFlags::FILE_INTEGRITY_SYNC
                    | types::DescriptorFlags::DATA_INTEGRITY_SYNC
                    | types::DescriptorFlags::REQUESTED_WRITE_SYNC,
            ),
        }
    };
}

/// Returns why a file was not opened.
macro_rules! code_of_open {
    ($failure:expr) => {
        match $failure {
            $crate::wasm::imports::filesystem::open::Failure::NotPermitted => types::ErrorCode::NotPermitted,
            $crate::wasm::imports::filesystem::open::Failure::NotDirectory => types::ErrorCode::NotDirectory,
            $crate::wasm::imports::filesystem::open::Failure::Invalid => types::ErrorCode::Invalid,
            $crate::wasm::imports::filesystem::open::Failure::Unsupported => types::ErrorCode::Unsupported,
            $crate::wasm::imports::filesystem::open::Failure::System(error) => types::ErrorCode::from(error),
        }
    };
}
use {code_of, code_of_open, file_functions, how_to_open, refusal_in, shadow_directories};
