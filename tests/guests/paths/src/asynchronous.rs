//! The class with `async` methods.

use kvtier_guest::prelude::*;
use kvtier_guest::wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use kvtier_guest::{Caching, directory, files, join};

use crate::steps::{Step, content, listing, summary, tell};
use crate::{Root, is_chunk};

/// Keeps each chunk in a file below `config.root`.
pub struct PathsBackend {
    root: Root,
    steps: String,
}

async fn take(step: Step<'_>) -> Result<String, Error> {
    Ok(match step {
        Step::Read(path) => content(directory::read(path).await?),
        Step::Write(path, n) => directory::write(path, vec![7; n]).await.map(|()| "written".to_owned())?,
        Step::Remove(path) => directory::remove(path).await?.to_string(),
        Step::List(path, after) => listing(&directory::list(path, after).await?),
        Step::Pages(path) => {
            let (mut pages, mut all) = (directory::pages(path), Vec::new());
            while let Some(page) = pages.next().await? {
                all.push(page);
            }
            summary(&all)
        }
        Step::WriteAt(directory, name, at, n) => {
            let how = OpenFlags::CREATE;
            let file = open(directory, name, how, DescriptorFlags::WRITE).await?;
            files::write_at(&file, at, vec![7; n]).await.map(|()| "written".to_owned())?
        }
        Step::ReadAt(directory, name, at, n) => {
            let file = open(directory, name, OpenFlags::empty(), DescriptorFlags::READ).await?;
            // Two reads at once give the same.
            let (first, second) = join!(files::read_at(&file, at, n), files::read_at(&file, at, n));
            assert_eq!(first, second);
            content(Some(first?))
        }
        Step::Entries(path) => {
            let directory = files::open_directory(path).await?;
            let (mut entries, mut names) = (files::read_dir(&directory), Vec::new());
            while let Some(some) = entries.next().await? {
                names.extend(some.into_iter().map(|entry| entry.name));
            }
            names.sort_unstable();
            names.join(" ")
        }
    })
}

async fn open(
    directory: &str,
    name: &str,
    how: OpenFlags,
    flags: DescriptorFlags,
) -> Result<Descriptor, Error> {
    let directory = files::open_directory(directory).await?;
    directory.open_at(PathFlags::empty(), name.to_owned(), how, flags).await.map_err(Error::from)
}

impl StorageBackend for PathsBackend {
    fn new(init: Init) -> Result<Self, Error> {
        let steps = init.get("steps").unwrap_or_default().to_owned();
        Ok(Self { root: Root::new(&init)?, steps })
    }

    async fn open(&self) -> Result<(), Error> {
        for (line, step) in Step::all(&self.steps) {
            tell(line, take(step).await);
        }
        Ok(())
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        let mut n = 0;
        for key in keys {
            let file = self.root.file(*key);
            let (folder, _) = file.rsplit_once('/').unwrap_or_default();
            if !directory::list(folder, "").await?.iter().any(|entry| is_chunk(entry, *key)) {
                break;
            }
            n += 1;
        }
        Ok(n)
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let stored = data.store_all_in(&self.root.0, Root::to_store(keys), Caching::Cached).await;
        stored.into_iter().map(|stored| stored.map(drop)).collect()
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        into.load_all_in(&self.root.0, Root::to_load(keys), Caching::Cached).await
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n = 0;
        for key in keys {
            n += u32::from(directory::remove(&self.root.file(*key)).await?);
        }
        Ok(n)
    }
}
