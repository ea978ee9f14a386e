//! Returns memory that the allocator keeps to the system.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "the allocator of the C library has no other entrance")
)]

/// Makes the C library's allocator return its free memory to the system. Otherwise it keeps it: of the 50 MiB that a
/// backend's objects took, 49 MiB stayed after all were dropped. Does nothing with other libraries.
///
/// It visits all free memory, so it must run on a thread that may block.
pub(crate) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: it takes the allocator's own locks and frees nothing that is in use. If the program has another
        // allocator, it finds nothing to do.
        let _has_trimmed = unsafe { malloc_trim(0) };
    }
}
