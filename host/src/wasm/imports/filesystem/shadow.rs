//! Macros for what WASI 0.2 and 0.3 have alike.
//!
//! The two versions have types of their own, which are spelled alike. `types` in these macros is the version's module
//! of the file that uses the macro.

/// Converts between a version's types and those of this folder. The versions differ in the code for too many pending
/// operations and in the type of an entry that the file system does not know.
macro_rules! convert_types {
    (Pending($text:pat) => $would_block:expr, Unknown => $unknown_type:expr) => {
        impl From<$crate::wasm::imports::filesystem::Failure> for types::ErrorCode {
            fn from(failure: $crate::wasm::imports::filesystem::Failure) -> Self {
                use $crate::wasm::imports::filesystem::Failure;
                match failure {
                    Failure::PathTooLong => Self::NameTooLong,
                    Failure::OpenFiles => Self::InsufficientMemory,
                    Failure::Pending($text) => $would_block,
                    Failure::NotPermitted => Self::NotPermitted,
                    Failure::NotDirectory => Self::NotDirectory,
                    Failure::Invalid => Self::Invalid,
                    Failure::Unsupported => Self::Unsupported,
                    Failure::NotText => Self::IllegalByteSequence,
                    Failure::System(error) => Self::from(error),
                }
            }
        }

        impl $crate::wasm::imports::filesystem::Code for types::ErrorCode {
            fn denied_by(&self) -> Option<$crate::wasm::imports::filesystem::DeniedBy> {
                use $crate::wasm::imports::filesystem::DeniedBy;
                match self {
                    Self::NotPermitted => Some(DeniedBy::NotPermitted),
                    Self::Access => Some(DeniedBy::Access),
                    _ => None,
                }
            }
        }

        impl From<$crate::wasm::imports::filesystem::listing::Entry> for types::DirectoryEntry {
            fn from(entry: $crate::wasm::imports::filesystem::listing::Entry) -> Self {
                use ::rustix::fs::FileType;
                use types::DescriptorType;
                let type_ = match entry.file_type {
                    FileType::RegularFile => DescriptorType::RegularFile,
                    FileType::Directory => DescriptorType::Directory,
                    FileType::Symlink => DescriptorType::SymbolicLink,
                    FileType::Fifo => DescriptorType::Fifo,
                    FileType::Socket => DescriptorType::Socket,
                    FileType::CharacterDevice => DescriptorType::CharacterDevice,
                    FileType::BlockDevice => DescriptorType::BlockDevice,
                    FileType::Unknown => $unknown_type,
                };
                Self { type_, name: entry.name }
            }
        }

        impl From<(types::PathFlags, types::OpenFlags, types::DescriptorFlags)>
            for $crate::wasm::imports::filesystem::open::How
        {
            fn from(
                (follow, open, flags): (types::PathFlags, types::OpenFlags, types::DescriptorFlags),
            ) -> Self {
                Self {
                    follows: follow.contains(types::PathFlags::SYMLINK_FOLLOW),
                    creates: open.contains(types::OpenFlags::CREATE),
                    is_new: open.contains(types::OpenFlags::EXCLUSIVE),
                    truncates: open.contains(types::OpenFlags::TRUNCATE),
                    is_directory: open.contains(types::OpenFlags::DIRECTORY),
                    reads: flags.contains(types::DescriptorFlags::READ),
                    writes: flags.contains(types::DescriptorFlags::WRITE),
                    syncs: flags.intersects(
                        types::DescriptorFlags::FILE_INTEGRITY_SYNC
                            | types::DescriptorFlags::DATA_INTEGRITY_SYNC
                            | types::DescriptorFlags::REQUESTED_WRITE_SYNC,
                    ),
                }
            }
        }
    };
}

/// Shadows the functions that are alike in both versions of WASI: those that take paths or wait for an open file. The
/// list has each function's name, its method in WASI with the arguments, the descriptors that it is called for, its
/// subject, and whether it changes anything.
///
/// A version gives the linker's method, the box of a call, the type of the store, and how WASI's methods are called.
macro_rules! shadow {
    ($instance:ident.$link:ident, $boxed:path, $store:ident: $Store:ty => $Host:ident($host:expr)) => {
        shadow! { $instance.$link, $boxed, $store, $Store, $Host, $host;
            "create-directory-at": create_directory_at(fd: Fd, path: String),
                [fd], Subject::Paths(&[&path]), true;
            "link-at": link_at(fd: Fd, follow: types::PathFlags, old: String, to: Fd, new: String),
                [fd, to], Subject::Paths(&[&old, &new]), true;
            "readlink-at": readlink_at(fd: Fd, path: String),
                [fd], Subject::Paths(&[&path]), false;
            "remove-directory-at": remove_directory_at(fd: Fd, path: String),
                [fd], Subject::Paths(&[&path]), true;
            "rename-at": rename_at(fd: Fd, old: String, to: Fd, new: String),
                [fd, to], Subject::Paths(&[&old, &new]), true;
            "set-times-at": set_times_at(fd: Fd, follow: types::PathFlags, path: String,
                read: types::NewTimestamp, written: types::NewTimestamp), [fd], Subject::Paths(&[&path]), true;
            "stat-at": stat_at(fd: Fd, follow: types::PathFlags, path: String),
                [fd], Subject::Paths(&[&path]), false;
            "symlink-at": symlink_at(fd: Fd, old: String, new: String),
                [fd], Subject::Paths(&[&old, &new]), true;
            "unlink-file-at": unlink_file_at(fd: Fd, path: String),
                [fd], Subject::Paths(&[&path]), true;
            "metadata-hash-at": metadata_hash_at(fd: Fd, follow: types::PathFlags, path: String),
                [fd], Subject::Paths(&[&path]), false;
            "set-size": set_size(fd: Fd, size: types::Filesize), [fd], Subject::OpenFile, true;
            "set-times": set_times(fd: Fd, read: types::NewTimestamp, written: types::NewTimestamp),
                [fd], Subject::OpenFile, true;
            "advise": advise(fd: Fd, from: types::Filesize, length: types::Filesize, advice: types::Advice),
                [fd], Subject::OpenFile, false;
            "sync-data": sync_data(fd: Fd), [fd], Subject::OpenFile, true;
            "sync": sync(fd: Fd), [fd], Subject::OpenFile, true;
            "get-flags": get_flags(fd: Fd), [fd], Subject::OpenFile, false;
            "get-type": get_type(fd: Fd), [fd], Subject::OpenFile, false;
            "stat": stat(fd: Fd), [fd], Subject::OpenFile, false;
            "metadata-hash": metadata_hash(fd: Fd), [fd], Subject::OpenFile, false;
        }
        $instance.$link(
            "[method]descriptor.open-at",
            |$store: $Store,
             (fd, follow, path, open, flags): (
                Fd,
                types::PathFlags,
                String,
                types::OpenFlags,
                types::DescriptorFlags,
            )| {
                let how = (follow, open, flags).into();
                let opening = $crate::wasm::imports::filesystem::open::open_at($store, fd, path, how);
                $boxed(async move { Ok((opening.await?.map_err(types::ErrorCode::from),)) })
            },
        )?;
    };
    ($instance:ident.$link:ident, $boxed:path, $store:ident, $Store:ty, $Host:ident, $host:expr;
        $($name:literal: $method:ident($($argument:ident: $type:ty),*),
            [$($from:ident),*], $subject:expr, $changes:literal;)*
    ) => {$(
        $instance.$link(
            concat!("[method]descriptor.", $name),
            |$store: $Store, ($($argument,)*): ($($type,)*)| {
                $boxed(async move {
                    use $crate::wasm::imports::filesystem::{Attempt, StoreAccess as _, Subject};
                    let mut $store = $store;
                    let attempt = $store.state(|state| {
                        Attempt::begin(&state.files(), [$($from.rep()),*], $subject, $changes)
                    });
                    let attempt = match attempt {
                        Ok(attempt) => attempt,
                        Err(failure) => return Ok((Err(types::ErrorCode::from(failure)),)),
                    };
                    let answer = $Host::$method($host, $($argument),*).await;
                    Ok(($store.state(|state| attempt.end(&state.files(), answer))?,))
                })
            },
        )?;
    )*};
}

/// Shadows the question for the granted directories.
macro_rules! shadow_directories {
    ($linker:ident, $version:expr) => {
        let mut instance = $linker.instance(&format!("wasi:filesystem/preopens@{}", $version))?;
        instance.func_wrap("get-directories", |mut store, (): ()| {
            let state: &mut GuestState = store.data_mut();
            let directories = state.filesystem().get_directories()?;
            if directories.is_empty() {
                state.files().denial_log.record($crate::wasm::policy::denial::Denial::NoDirectory);
            }
            Ok((directories,))
        })?;
    };
}
pub(super) use {convert_types, shadow, shadow_directories};
