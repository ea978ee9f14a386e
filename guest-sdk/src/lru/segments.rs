//! A vector in segments of one size: it grows without moving what it holds, and never asks for a table of twice its
//! size.

use std::collections::TryReserveError;
use std::ops::{Index, IndexMut};

/// `N` values a segment; a power of two.
pub(super) struct Segments<T, const N: usize> {
    segments: Vec<Vec<T>>,
    len: usize,
}

impl<T, const N: usize> Segments<T, N> {
    pub(super) const fn new() -> Self {
        Self { segments: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns how many values there is memory for.
    pub(super) fn room(&self) -> usize {
        self.segments.len() * N
    }

    /// Takes memory for one more segment.
    pub(super) fn grow(&mut self) -> Result<(), TryReserveError> {
        let mut segment = Vec::new();
        segment.try_reserve_exact(N)?;
        self.segments.try_reserve(1)?;
        self.segments.push(segment);
        Ok(())
    }

    /// Adds a value, for which there must be room.
    pub(super) fn push(&mut self, value: T) {
        self.segments[self.len / N].push(value);
        self.len += 1;
    }

    /// Takes a value out, and puts the last one into its place.
    pub(super) fn swap_remove(&mut self, at: u32) -> T {
        let last = self.segments[(self.len - 1) / N].pop();
        self.len -= 1;
        match last {
            Some(last) if at as usize == self.len => last,
            Some(last) => std::mem::replace(&mut self[at], last),
            None => unreachable!("segments are full up to the last"),
        }
    }

    /// Gives back memory that `n` values do not need, but for one segment.
    pub(super) fn trim(&mut self, n: usize) {
        if self.segments.len() > n.max(self.len) / N + 2 {
            self.segments.pop();
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.segments.iter_mut().flatten()
    }
}

impl<T, const N: usize> Index<u32> for Segments<T, N> {
    type Output = T;

    #[inline]
    fn index(&self, at: u32) -> &T {
        &self.segments[at as usize / N][at as usize % N]
    }
}

impl<T, const N: usize> IndexMut<u32> for Segments<T, N> {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.segments[at as usize / N][at as usize % N]
    }
}

#[cfg(test)]
mod tests {
    use super::Segments;

    #[test]
    fn memory_comes_a_segment_at_a_time_and_goes_back() {
        let mut numbers: Segments<u32, 4> = Segments::new();
        for n in 0..10 {
            if numbers.len() == numbers.room() {
                numbers.grow().expect("memory");
            }
            numbers.push(n);
        }
        assert_eq!((numbers.len(), numbers.room()), (10, 12));
        assert_eq!(numbers.swap_remove(2), 2);
        assert_eq!((numbers[2], numbers[8]), (9, 8));
        assert_eq!(numbers.swap_remove(8), 8);
        for left in (0..8).rev() {
            numbers.swap_remove(0);
            numbers.trim(left);
            assert_eq!(numbers.len(), left);
            assert!(numbers.room() <= left + 8, "{} for {left}", numbers.room());
        }
        numbers.trim(100);
        assert_eq!(numbers.room(), 8, "what is to come needs it");
    }
}
