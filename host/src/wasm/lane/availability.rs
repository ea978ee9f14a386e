//! Which of a backend's lanes can serve.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sync::lock;
use crate::tier::Liveness;

/// Which of a backend's lanes can serve. Notifies the chain when none can, and when one can again.
pub(in crate::wasm) struct Availability {
    liveness: Arc<dyn Liveness>,
    /// One entry per lane. A lane that is replaced after it has served can serve: its calls wait. A lane that has never
    /// been open cannot.
    can_serve: Mutex<Vec<bool>>,
}

impl Availability {
    pub(in crate::wasm) fn new(n_lanes: usize, liveness: Arc<dyn Liveness>) -> Arc<Self> {
        Arc::new(Self { liveness, can_serve: Mutex::new(vec![false; n_lanes]) })
    }

    pub(super) fn ready(&self, place: usize) {
        let mut can_serve = lock(&self.can_serve);
        can_serve[place] = true;
        // Under the lock, so that notifications keep their order.
        self.liveness.up();
    }

    pub(super) fn can_serve(&self, place: usize) -> bool {
        lock(&self.can_serve)[place]
    }

    pub(super) fn down(&self, place: usize, cause: &str, retry_in: Duration) {
        let mut can_serve = lock(&self.can_serve);
        can_serve[place] = false;
        if !can_serve.contains(&true) {
            self.liveness.down(cause, retry_in);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Option<String>>>);

    impl Liveness for Heard {
        fn down(&self, cause: &str, _retry_in: Duration) {
            lock(&self.0).push(Some(cause.to_owned()));
        }

        fn up(&self) {
            lock(&self.0).push(None);
        }
    }

    #[test]
    fn a_backend_is_down_only_while_no_lane_can_serve() {
        let heard = Arc::new(Heard::default());
        let availability = Availability::new(3, Arc::clone(&heard) as Arc<dyn Liveness>);
        let down = |place, cause| availability.down(place, cause, Duration::ZERO);
        let last = || lock(&heard.0).last().cloned().flatten();
        down(0, "first");
        assert_eq!(last().as_deref(), Some("first"), "nothing serves yet");
        availability.ready(2);
        assert_eq!(last(), None);
        availability.ready(1);
        down(2, "second");
        down(0, "first again");
        assert_eq!(last(), None, "one is left");
        down(1, "third");
        assert_eq!(last().as_deref(), Some("third"));
        availability.ready(0);
        assert_eq!(last(), None);
    }
}
