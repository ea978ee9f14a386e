//! Lines in the host's log.

use std::cell::Cell;
use std::fmt;

use crate::Level;

/// Writes `message` to the host's log, under the backend's name. The macros [`trace!`](crate::trace),
/// [`debug!`](crate::debug), [`info!`](crate::info), [`warn!`](crate::warn) and [`error!`](crate::error) are shorter.
///
/// Outside a component, that is in a backend's native unit tests, it goes to standard error.
pub fn log(level: Level, message: fmt::Arguments<'_>) {
    // Most messages are literals and need no allocation.
    match message.as_str() {
        Some(text) => write(level, text),
        None => write(level, &message.to_string()),
    }
}

#[cfg(target_arch = "wasm32")]
fn write(level: Level, text: &str) {
    crate::bindings::kvtier::storage::logging::log(level, text);
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, text: &str) {
    eprintln!("{level:?}: {text}");
}

/// A message that may come again and again, such as one for each chunk of a disk that fails: it is logged the first
/// time, and then the 10th, the 100th and so on, with the count.
#[derive(Debug, Default)]
pub struct Repeated(Cell<u64>);

impl Repeated {
    /// Counts the message, and logs it if it is its turn.
    pub fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        match self.count() {
            Some(1) => log(level, message),
            Some(n) => log(level, format_args!("{message} ({n} times so far)")),
            None => {}
        }
    }

    /// Counts one more, and returns the count if it is to be logged.
    fn count(&self) -> Option<u64> {
        let n = self.0.get() + 1;
        self.0.set(n);
        (10_u64.pow(n.ilog10()) == n).then_some(n)
    }
}

/// Logs every step, in the manner of `println!`.
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::log($crate::Level::Trace, ::core::format_args!($($message)+)) };
}

/// Logs what is of use while developing the backend, in the manner of `println!`.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log($crate::Level::Debug, ::core::format_args!($($message)+)) };
}

/// Logs what is of use to the operator, in the manner of `println!`.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log($crate::Level::Info, ::core::format_args!($($message)+)) };
}

/// Logs that something is wrong and was dealt with, in the manner of `println!`.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log($crate::Level::Warn, ::core::format_args!($($message)+)) };
}

/// Logs that something is wrong and a call failed because of it, in the manner of `println!`.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log($crate::Level::Error, ::core::format_args!($($message)+)) };
}

#[cfg(test)]
mod tests {
    use super::Repeated;

    #[test]
    fn a_message_that_comes_again_and_again_is_told_ever_more_rarely() {
        let repeated = Repeated::default();
        let told: Vec<u64> = (0..12_345).filter_map(|_| repeated.count()).collect();
        assert_eq!(told, [1, 10, 100, 1000, 10_000]);
    }
}
