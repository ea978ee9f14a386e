//! A set of small numbers that is searched in constant time.

/// A set of small numbers that finds the smallest member at or above a given number in constant time: level 0 has one
/// bit per number, and each further level one bit per non-zero word of the level below.
pub(super) struct BitTree {
    levels: Vec<Vec<u64>>,
}

impl BitTree {
    pub(super) fn new(n_numbers: usize) -> Self {
        let mut levels = Vec::new();
        let mut n_bits = n_numbers;
        loop {
            let n_words = n_bits.div_ceil(64);
            levels.push(vec![0; n_words]);
            if n_words <= 1 {
                return Self { levels };
            }
            n_bits = n_words;
        }
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        self.levels[0][number / 64] & (1 << (number % 64)) != 0
    }

    pub(super) fn insert(&mut self, number: usize) {
        let mut bit = number;
        for level in &mut self.levels {
            let word = &mut level[bit / 64];
            let was_empty = *word == 0;
            *word |= 1 << (bit % 64);
            if !was_empty {
                return;
            }
            bit /= 64;
        }
    }

    pub(super) fn remove(&mut self, number: usize) {
        let mut bit = number;
        for level in &mut self.levels {
            let word = &mut level[bit / 64];
            *word &= !(1 << (bit % 64));
            if *word != 0 {
                return;
            }
            bit /= 64;
        }
    }

    pub(super) fn first_at_least(&self, number: usize) -> Option<usize> {
        let mut bit = number;
        for (height, level) in self.levels.iter().enumerate() {
            let word = level.get(bit / 64)? & (u64::MAX << (bit % 64));
            if word != 0 {
                let mut found = bit / 64 * 64 + word.trailing_zeros() as usize;
                for level in self.levels[..height].iter().rev() {
                    found = found * 64 + level[found].trailing_zeros() as usize;
                }
                return Some(found);
            }
            bit = bit / 64 + 1;
        }
        None
    }
}
