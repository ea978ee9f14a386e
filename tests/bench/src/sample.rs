//! Takes samples of several candidates in turns, so that a disturbance affects all of them.

use std::time::{Duration, Instant};

/// How long a measurement may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// The fewest turns.
    pub(crate) turns_min: usize,
    /// The most turns.
    pub(crate) turns_max: usize,
    /// Time after which no further turn begins.
    pub(crate) time: Duration,
}

impl Effort {
    /// For samples of about a millisecond.
    pub(crate) const SHORT: Self = Self { turns_min: 9, turns_max: 201, time: Duration::from_millis(700) };
    /// For samples that move hundreds of megabytes.
    pub(crate) const LONG: Self = Self { turns_min: 5, turns_max: 21, time: Duration::from_secs(6) };
    /// For a run that only shows that everything works.
    pub(crate) const QUICK: Self = Self { turns_min: 1, turns_max: 2, time: Duration::ZERO };
}

/// The samples of one candidate, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn new(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    /// Returns the sample in the middle.
    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// Returns the distance between the quartiles as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.at(0.75) - self.at(0.25)) / self.median().max(f64::MIN_POSITIVE)
    }

    /// Returns the number of samples.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the sample at this quantile.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let place = (self.0.len() as f64 * share) as usize;
        self.0.get(place.min(self.0.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

/// Takes one sample: `K` figures, in seconds.
pub(crate) type Take<'a, const K: usize> = Box<dyn FnMut() -> [f64; K] + 'a>;

/// Lets the candidates take samples in turns and returns the samples of each candidate and figure. The first turn, in
/// which memory is touched and caches are filled, does not count.
pub(crate) fn in_turns<const K: usize>(effort: Effort, candidates: &mut [Take<'_, K>]) -> Vec<[Samples; K]> {
    let mut taken: Vec<[Vec<f64>; K]> =
        candidates.iter().map(|_| std::array::from_fn(|_| Vec::new())).collect();
    for take in candidates.iter_mut() {
        let _warm = take();
    }
    let start = Instant::now();
    for turn in 0..effort.turns_max {
        if turn >= effort.turns_min && start.elapsed() >= effort.time {
            break;
        }
        for (take, taken) in candidates.iter_mut().zip(&mut taken) {
            for (figure, taken) in take().into_iter().zip(taken) {
                taken.push(figure);
            }
        }
    }
    taken.into_iter().map(|figures| figures.map(Samples::new)).collect()
}

/// Calls `work` with 0, 1, … and returns the seconds of one call.
pub(crate) fn each(n_calls: usize, mut work: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    for index in 0..n_calls {
        work(index);
    }
    start.elapsed().as_secs_f64() / n_calls as f64
}

/// Returns the seconds of `work`.
pub(crate) fn once(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn candidates_take_turns_and_the_first_turn_does_not_count() {
        let order = RefCell::new(Vec::new());
        let take = |name: u32| -> Take<'_, 1> {
            let order = &order;
            Box::new(move || {
                order.borrow_mut().push(name);
                [f64::from(name) * order.borrow().len() as f64]
            })
        };
        let effort = Effort { turns_min: 2, turns_max: 9, time: Duration::ZERO };
        let samples = in_turns(effort, &mut [take(1), take(2)]);
        assert_eq!(*order.borrow(), [1, 2, 1, 2, 1, 2]);
        assert_eq!(samples[0][0].0, [3.0, 5.0]);
        assert_eq!(samples[1][0].0, [8.0, 12.0]);
    }

    #[test]
    fn the_median_is_in_the_middle_and_the_spread_between_the_quartiles() {
        let samples = Samples::new(vec![5.0, 1.0, 4.0, 2.0, 100.0]);
        assert!((samples.median() - 4.0).abs() < 1e-9);
        assert!((samples.spread() - 0.75).abs() < 1e-9);
        assert!(Samples::new(vec![]).median().is_nan());
    }
}
