//! Results of functions, and the text of the last failure.
#![expect(unsafe_code, reason = "exports functions to C")]

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The result of a function. kvtier_error() has the text of any but KVTIER_STATUS_OK.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The function succeeded.
    Ok = 0,
    /// An argument is wrong; nothing was done.
    InvalidArgument = 1,
    /// The operation failed.
    Failed = 2,
    /// The limit of a wait has passed. The operation goes on.
    TimedOut = 3,
    /// A defect of kvtier; please report it.
    Panicked = 4,
}

/// Why a function did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    Invalid(String),
    Failed(String),
    TimedOut(String),
}

impl Failure {
    /// Makes a failure of the operation.
    pub(crate) fn of(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs the body of a function. A panic is caught, and becomes a status too.
pub(crate) fn guarded(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    // What a panic leaves behind is the library's, which has no state that a panic breaks.
    let (status, text) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(Failure::Invalid(text))) => (Status::InvalidArgument, text),
        Ok(Err(Failure::Failed(text))) => (Status::Failed, text),
        Ok(Err(Failure::TimedOut(text))) => (Status::TimedOut, text),
        Err(panic) => (Status::Panicked, format!("kvtier panicked: {}", message(&*panic))),
    };
    // A thread that is ending has no text any more.
    LAST.try_with(|last| *last.borrow_mut() = c_string(&text)).ok();
    status
}

/// Runs the body of a function that has nothing to report, such as a release.
pub(crate) fn guarded_release(body: impl FnOnce()) {
    guarded(|| {
        body();
        Ok(())
    });
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Makes a text for C, without any zero bytes.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

/// Writes a text into a field of fixed size, cut if it does not fit, and ended by zeros.
pub(crate) fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (place, byte) in field.iter_mut().zip(text[..end].bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    field
}

/// Returns the text of the last failure of a function in the calling thread, or an empty text. The text belongs to
/// kvtier, and stays until the next failure in the same thread or the end of the thread.
#[unsafe(no_mangle)]
pub extern "C" fn kvtier_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Returns the version of kvtier, such as "0.1.0": a text that is never released.
#[unsafe(no_mangle)]
pub extern "C" fn kvtier_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no zero bytes"),
        };
    VERSION.as_ptr()
}

/// Releases a text that a function returned. NULL is ignored. Any thread may call it, once for each text.
///
/// # Safety
/// `text` is NULL, or comes from a function whose comment names this one, and was not released yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: made by `CString::into_raw`, as the caller vouches.
        guarded_release(|| drop(unsafe { CString::from_raw(text) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: the pointer is that of this thread's text.
        unsafe { CStr::from_ptr(kvtier_error()) }.to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn each_failure_has_its_status_and_text_and_a_panic_goes_no_further() {
        assert_eq!(last(), "");
        assert_eq!(guarded(|| Err(Failure::Invalid("a\0b".into()))), Status::InvalidArgument);
        assert_eq!(last(), "a b");
        assert_eq!(guarded(|| Ok(())), Status::Ok);
        assert_eq!(last(), "a b", "a success leaves the text");
        assert_eq!(guarded(|| Err(Failure::of("no space"))), Status::Failed);
        assert_eq!(guarded(|| panic!("of {}", "a test")), Status::Panicked);
        assert_eq!(last(), "kvtier panicked: of a test");
        std::thread::spawn(|| assert_eq!(last(), "", "each thread has its own")).join().expect("no panic");
    }

    #[test]
    fn a_text_of_fixed_size_is_cut_between_characters_and_ends_with_a_zero() {
        let bytes = |field: &[c_char]| field.iter().map(|byte| byte.to_ne_bytes()[0]).collect::<Vec<_>>();
        assert_eq!(bytes(&fixed::<6>("abc")), b"abc\0\0\0");
        assert_eq!(bytes(&fixed::<4>("aäö")), [b'a', 0xc3, 0xa4, 0]);
        assert_eq!(bytes(&fixed::<3>("aäö")), [b'a', 0, 0]);
    }
}
