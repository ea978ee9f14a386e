//! The class in blocking style.

use kvtier_guest::prelude::*;
use kvtier_guest::{Caching, directory};

use crate::steps::{Step, content, listing, summary, tell};
use crate::{Root, is_chunk};

/// Keeps each chunk in a file below `config.root`.
pub struct BlockingPathsBackend {
    root: Root,
    steps: String,
}

fn take(step: Step<'_>) -> Result<String, Error> {
    Ok(match step {
        Step::Read(path) => content(directory::read_blocking(path)?),
        Step::Write(path, n) => {
            directory::write_blocking(path, &vec![7; n]).map(|()| "written".to_owned())?
        }
        Step::Remove(path) => directory::remove_blocking(path)?.to_string(),
        Step::List(path, after) => listing(&directory::list_blocking(path, after)?),
        Step::Pages(path) => {
            let (mut pages, mut all) = (directory::pages(path), Vec::new());
            while let Some(page) = pages.next_blocking()? {
                all.push(page);
            }
            summary(&all)
        }
        Step::WriteAt(..) | Step::ReadAt(..) | Step::Entries(_) => return Err(Error::Unsupported),
    })
}

impl BlockingBackend for BlockingPathsBackend {
    fn new(init: Init) -> Result<Self, Error> {
        let steps = init.get("steps").unwrap_or_default().to_owned();
        Ok(Self { root: Root::new(&init)?, steps })
    }

    fn open(&self) -> Result<(), Error> {
        for (line, step) in Step::all(&self.steps) {
            tell(line, take(step));
        }
        Ok(())
    }

    fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        let mut n = 0;
        for key in keys {
            let file = self.root.file(*key);
            let (folder, _) = file.rsplit_once('/').unwrap_or_default();
            if !directory::list_blocking(folder, "")?.iter().any(|entry| is_chunk(entry, *key)) {
                break;
            }
            n += 1;
        }
        Ok(n)
    }

    fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let stored = data.store_all_in_blocking(&self.root.0, &Root::to_store(keys), Caching::Cached);
        stored.into_iter().map(|stored| stored.map(drop)).collect()
    }

    fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        into.load_all_in_blocking(&self.root.0, &Root::to_load(keys), Caching::Cached)
    }

    fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n = 0;
        for key in keys {
            n += u32::from(directory::remove_blocking(&self.root.file(*key))?);
        }
        Ok(n)
    }
}
