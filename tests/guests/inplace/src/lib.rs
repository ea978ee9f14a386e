//! A fault for the crash harness to find: a store of files, laid out as that of `fs`, which writes each chunk to its
//! own name at once. A process that ends in between leaves a torn file.

use kvtier_guest::each;
use kvtier_guest::prelude::*;
use kvtier_guest::wasip3::filesystem::preopens;
use kvtier_guest::wasip3::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};

/// Files of the first granted directory, without a temporary name and without a capacity.
pub struct InPlaceBackend {
    granted: Descriptor,
}

impl InPlaceBackend {
    fn path(key: ChunkKey) -> String {
        format!("{:02x}/{key}.kv", key.hi >> 56)
    }

    async fn file(
        &self,
        key: ChunkKey,
        how: OpenFlags,
        flags: DescriptorFlags,
    ) -> Result<Descriptor, ErrorCode> {
        self.granted.open_at(PathFlags::empty(), Self::path(key), how, flags).await
    }

    async fn write(&self, key: ChunkKey, data: &Sources, index: u32) -> Result<(), Error> {
        let directory = format!("{:02x}", key.hi >> 56);
        match self.granted.create_directory_at(directory).await {
            Ok(()) | Err(ErrorCode::Exist) => {}
            Err(code) => return Err(code.into()),
        }
        match self.file(key, OpenFlags::CREATE | OpenFlags::EXCLUSIVE, DescriptorFlags::WRITE).await {
            Ok(file) => data.store_to(index, &file, 0).await.map(|_| ()),
            Err(ErrorCode::Exist) => Ok(()),
            Err(code) => Err(code.into()),
        }
    }

    async fn read(&self, key: ChunkKey, into: &Sinks, index: u32) -> Result<Option<u64>, Error> {
        match self.file(key, OpenFlags::empty(), DescriptorFlags::READ).await {
            Ok(file) => into.load_from(index, &file, 0).await.map(Some),
            Err(ErrorCode::NoEntry) => Ok(None),
            Err(code) => Err(code.into()),
        }
    }
}

impl StorageBackend for InPlaceBackend {
    fn new(_init: Init) -> Result<Self, Error> {
        let granted = preopens::get_directories().into_iter().next();
        let (granted, _) = granted.ok_or_else(|| Error::invalid_config("root", "no directory is granted"))?;
        Ok(Self { granted })
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        let mut n = 0;
        for key in keys {
            if self.granted.stat_at(PathFlags::empty(), Self::path(*key)).await.is_err() {
                break;
            }
            n += 1;
        }
        Ok(n)
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        each(keys, async |index, key| self.write(key, data, index).await).await
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        each(keys, async |index, key| self.read(key, into, index).await).await
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n = 0;
        for key in keys {
            n += u32::from(self.granted.unlink_file_at(Self::path(*key)).await.is_ok());
        }
        Ok(n)
    }
}

kvtier_guest::export!(InPlaceBackend);
