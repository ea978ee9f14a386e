//! The directory of a call: a descriptor that the guest has open, or a path below a granted directory.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;

use super::operations::Answer;
use super::paths::{Directory, check_path};
use crate::wasm::contract::types::Error;
use crate::wasm::policy::granted::locate;
use crate::wasm::state::StorageView;

/// The directory of a call. One that is named by its path is opened by the first thread that works in it.
pub(super) struct Place {
    root: Directory,
    /// The path below `root`; empty for `root` itself.
    below: String,
    opened: OnceLock<Answer<Option<Directory>>>,
}

impl Place {
    fn new(root: Directory, below: &str) -> Self {
        Self { root, below: below.to_owned(), opened: OnceLock::new() }
    }

    /// Returns the bytes of its path that the host holds.
    pub(super) fn n_bytes(&self) -> usize {
        self.below.len()
    }

    /// Returns the directory; `None` if it is missing. May block.
    pub(super) fn get(&self) -> Answer<Option<&Directory>> {
        self.open_with(|| self.root.open_below(&self.below))
    }

    /// Returns the directory, and makes it if it is missing. May block.
    pub(super) fn get_or_make(&self) -> Answer<&Directory> {
        let make = || match self.root.open_below(&self.below) {
            Ok(None) => {
                self.root.make_all(Path::new(&self.below), &self.below)?;
                self.root.open_below(&self.below)
            }
            opened => opened,
        };
        self.open_with(make)?.ok_or_else(|| Error::Other("the directory was removed".into()))
    }

    fn open_with(&self, open: impl FnOnce() -> Answer<Option<Directory>>) -> Answer<Option<&Directory>> {
        if self.below.is_empty() {
            return Ok(Some(&self.root));
        }
        self.opened.get_or_init(open).as_ref().map(Option::as_ref).map_err(Error::clone)
    }
}

impl StorageView<'_> {
    /// Looks up the directory of a descriptor.
    pub(super) fn open_place(&self, directory: &Resource<Descriptor>) -> Result<Answer<Place>> {
        let Descriptor::Dir(opened) = self.table.get(directory)? else {
            return Ok(Err(Error::InvalidArgument("expected a directory, got a file".into())));
        };
        let root = Directory {
            file: Arc::clone(&opened.dir),
            is_read_only: opened.perms.write_not_permitted(),
            denial_log: self.policy.denial_log.clone(),
        };
        Ok(Ok(Place::new(root, "")))
    }

    /// Finds the directory of a path among those granted.
    pub(super) fn granted_place(&self, path: &str) -> Answer<Place> {
        let (root, below) = self.locate(path)?;
        Ok(Place::new(root, below))
    }

    /// Returns the granted directory that a path is in, and the part of the path below it.
    pub(super) fn locate<'a>(&'a self, path: &'a str) -> Answer<(Directory, &'a str)> {
        check_path(path)?;
        let denial_log = &self.policy.denial_log;
        let (grant, below) = locate(&self.policy.granted, path, denial_log).map_err(Error::InvalidConfig)?;
        let root = Directory {
            file: Arc::clone(&grant.directory),
            is_read_only: grant.is_read_only,
            denial_log: denial_log.clone(),
        };
        Ok((root, below))
    }
}
