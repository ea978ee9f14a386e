//! The denials of one backend, for its log and status.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Denial;
use crate::clock::Clock;
use crate::config::Grants;
use crate::limits::DENIALS_LOGGED_MAX;
use crate::log_throttle::LogThrottle;
use crate::sync::lock;

/// The denials of one backend, in all its lanes since it was configured.
#[derive(Debug)]
pub(in crate::wasm) struct Denials {
    backend: String,
    pub(super) allow: Grants,
    count: AtomicU64,
    logged: Mutex<Logged>,
    /// The different denials beyond those that are logged.
    further: LogThrottle,
}

#[derive(Debug, Default)]
struct Logged {
    logged: HashSet<Denial>,
    last: Option<Denial>,
}

impl Denials {
    pub(in crate::wasm) fn new(backend: &str, allow: &Grants) -> Arc<Self> {
        Arc::new(Self {
            backend: backend.to_owned(),
            allow: allow.clone(),
            count: AtomicU64::new(0),
            logged: Mutex::default(),
            further: LogThrottle::new(Clock::system()),
        })
    }

    pub(in crate::wasm) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the last denial and its remedy.
    pub(in crate::wasm) fn last(&self) -> Option<String> {
        let last = lock(&self.logged).last.clone();
        last.map(|denial| format!("{denial}; {}", self.remedy_in_file(&denial)))
    }

    fn remedy_in_file(&self, denial: &Denial) -> String {
        denial.remedy(&self.allow, &format!("external_backend.{}.", self.backend))
    }

    /// Counts a denial, and logs it if it is new. A guest that invents denials fills neither memory nor log.
    pub(super) fn record(&self, denial: &Denial) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut known = lock(&self.logged);
        if known.last.as_ref() != Some(denial) {
            known.last = Some(denial.clone());
        }
        if known.logged.contains(denial) {
            return;
        }
        // Each kind is counted on its own: a disk that refuses every chunk must not hide a refused connection.
        let kind = std::mem::discriminant(denial);
        let n_logged = known.logged.iter().filter(|logged| std::mem::discriminant(*logged) == kind).count();
        let n_more = if n_logged < DENIALS_LOGGED_MAX {
            known.logged.insert(denial.clone());
            0
        } else {
            let Some(n_more) = self.further.due() else { return };
            n_more
        };
        drop(known);
        let backend = self.backend.as_str();
        if *denial == Denial::NoDirectory {
            // Not a warning, because libraries try it without need, such as the C library's resolver.
            tracing::info!(backend, "denied: {denial}; {}", self.remedy_in_file(denial));
        } else if n_more > 0 {
            tracing::warn!(backend, n_more, "denied: {denial}; {}", self.remedy_in_file(denial));
        } else {
            tracing::warn!(backend, "denied: {denial}; {}", self.remedy_in_file(denial));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_logged_up_to_a_limit_and_hides_no_other_kind() {
        let denials = Denials::new("b", &Grants::default());
        for number in 0..10_000 {
            denials.record(&Denial::Connect(([10, 0, 0, 1], number).into()));
        }
        assert_eq!(denials.count(), 10_000);
        assert_eq!(lock(&denials.logged).logged.len(), DENIALS_LOGGED_MAX);
        denials.record(&Denial::Udp);
        assert!(lock(&denials.logged).logged.contains(&Denial::Udp), "another kind is told all the same");
    }
}
