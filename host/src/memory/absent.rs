//! The memory of an engine without a CPU tier: none.
#![expect(unsafe_code, reason = "implements the trait of memory providers")]

use super::{AllocateError, MemoryBlock, Provider, ReleaseSignal};

/// A provider that has no memory.
#[derive(Debug)]
pub(crate) struct Absent(ReleaseSignal);

impl Absent {
    pub(crate) fn new() -> Self {
        Self(ReleaseSignal::new())
    }
}

// SAFETY: hands nothing out.
unsafe impl Provider for Absent {
    fn capacity_bytes(&self) -> usize {
        0
    }

    fn allocated_bytes(&self) -> usize {
        0
    }

    fn footprint_bytes(&self, size_bytes: usize) -> usize {
        size_bytes
    }

    fn allocate(&self, size_bytes: usize) -> Result<Option<MemoryBlock>, AllocateError> {
        Err(AllocateError::WithoutCpuTier { size_bytes })
    }

    fn allocate_batch(&self, sizes_bytes: &[usize], _: &mut Vec<MemoryBlock>) -> Result<bool, AllocateError> {
        Err(AllocateError::WithoutCpuTier { size_bytes: sizes_bytes.iter().sum() })
    }

    unsafe fn release(&self, _: MemoryBlock) {}

    fn released(&self) -> &ReleaseSignal {
        &self.0
    }
}
