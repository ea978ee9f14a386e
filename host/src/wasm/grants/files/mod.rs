//! Directories and paths.

mod listing;
pub(super) mod p2;
pub(super) mod p3;

use std::any::Any;
use std::io;

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;

use super::denial::{Denial, Witness};
use super::open_files::Place;
use crate::limits::PATH_BYTES_MAX;
use crate::wasm::sandbox::State;

/// What a function that takes paths was asked for, kept for the case that it is refused.
struct Attempt<const N: usize> {
    /// The descriptors from which the paths start, by their places in the table.
    from: [u32; N],
    path: String,
    /// Whether it would have changed anything.
    changes: bool,
    /// Held for the descriptor that it opens.
    place: Option<Place>,
}

/// Why a function is not even tried.
enum Beyond {
    PathBytes,
    /// `limits.open_files_max`.
    OpenFiles,
}

/// The refusals among WASI's error codes.
#[derive(Clone, Copy)]
enum Refusal {
    /// By the sandbox, or, rarely, by the operating system.
    NotPermitted,
    /// By the operating system.
    Access,
}

impl<const N: usize> Attempt<N> {
    /// Copies nothing, and nothing is begun, if the paths are too long: any number of these may wait for a thread.
    fn begin<const PATHS: usize>(
        state: &mut State,
        name: &str,
        from: [u32; N],
        paths: [&str; PATHS],
        changes: bool,
    ) -> Result<Self, Beyond> {
        if paths.iter().any(|path| path.len() > PATH_BYTES_MAX) {
            return Err(Beyond::PathBytes);
        }
        let place = match name {
            "open-at" => Some(state.open_files.reserve(&state.table).ok_or(Beyond::OpenFiles)?),
            _ => None,
        };
        Ok(Self { from, path: paths.join(" -> "), changes, place })
    }

    fn succeeded(self, state: &mut State, answer: &dyn Any) {
        if let (Some(place), Some(opened)) = (self.place, answer.downcast_ref()) {
            state.open_files.opened(&state.table, opened, place);
        }
    }

    fn refused(self, state: &State, refusal: Refusal) {
        let read_only = self.from.iter().any(|&place| is_read_only(state, place));
        record(&state.witness, &self.path, refusal, self.changes && read_only);
    }
}

fn record(witness: &Witness, path: &str, refusal: Refusal, changes_read_only: bool) {
    let asked = witness.asked(path);
    witness.record(match refusal {
        Refusal::Access => Denial::System(asked),
        Refusal::NotPermitted if changes_read_only => Denial::ReadOnly(asked),
        Refusal::NotPermitted => Denial::Outside(asked),
    });
}

/// Records the refusal of a path that was not tried through WASI, if the error is one.
pub(in crate::wasm) fn note_refused_path(
    witness: &Witness,
    path: &str,
    changes_read_only: bool,
    error: &io::Error,
) {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let by_system = error.raw_os_error() == Some(rustix::io::Errno::ACCESS.raw_os_error());
        let refusal = if by_system { Refusal::Access } else { Refusal::NotPermitted };
        record(witness, path, refusal, changes_read_only);
    }
}

fn is_read_only(state: &State, place: u32) -> bool {
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
            types::ErrorCode::NotPermitted => Some($crate::wasm::grants::files::Refusal::NotPermitted),
            types::ErrorCode::Access => Some($crate::wasm::grants::files::Refusal::Access),
            _ => None,
        }
    };
}

/// Says why a function is not even tried.
macro_rules! code_of {
    ($beyond:expr) => {
        match $beyond {
            $crate::wasm::grants::files::Beyond::PathBytes => types::ErrorCode::NameTooLong,
            $crate::wasm::grants::files::Beyond::OpenFiles => types::ErrorCode::InsufficientMemory,
        }
    };
}

/// Shadows the question for the granted directories.
macro_rules! shadow_directories {
    ($linker:ident, $version:expr) => {
        let mut instance = $linker.instance(&format!("wasi:filesystem/preopens@{}", $version))?;
        instance.func_wrap("get-directories", |mut store, (): ()| {
            let state: &mut State = store.data_mut();
            let directories = state.filesystem().get_directories()?;
            if directories.is_empty() {
                state.witness.record($crate::wasm::grants::denial::Denial::NoDirectory);
            }
            Ok((directories,))
        })?;
    };
}

/// Lists the functions that take paths, and two that change an open file, alike in both versions of WASI: name,
/// method, descriptors, paths, arguments, and whether it changes anything.
macro_rules! path_functions {
    ($shadow:ident, $instance:ident) => {
        $shadow!($instance, "open-at", open_at, [fd], [&path],
            (fd: Fd, follow: types::PathFlags, path: String, open: types::OpenFlags, flags: types::DescriptorFlags),
            open.intersects(types::OpenFlags::CREATE | types::OpenFlags::TRUNCATE)
                || flags.contains(types::DescriptorFlags::WRITE));
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
    };
}
use {code_of, path_functions, refusal_in, shadow_directories};
