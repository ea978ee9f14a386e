use std::collections::BTreeSet;

use super::{BitTree, Pages, RunId};
use crate::cpu::testing::Random;

#[test]
fn random_allocations_and_frees_keep_the_books_and_are_best_fit() {
    let (n_total, n_steps) = if cfg!(miri) { (128, 100) } else { (1000, 20_000) };
    let mut random = Random::new(7);
    let mut pages = Pages::new(n_total);
    let mut owner: Vec<Option<RunId>> = vec![None; n_total as usize];
    let mut live: Vec<(RunId, u32, u32)> = Vec::new();
    let (mut n_refused, mut n_fitted) = (0, 0);
    for _ in 0..n_steps {
        if live.is_empty() || random.below(100) < 52 {
            let n_pages_max = if random.below(8) == 0 { 400 } else { 40 };
            let n_pages = 1 + random.below(n_pages_max) as u32;
            let best = free_runs(&owner).into_iter().filter(|&n| n >= n_pages as usize).min();
            let found = pages.allocate(n_pages);
            assert_eq!(found.is_some(), best.is_some(), "a fitting run was overlooked");
            let Some(id) = found else {
                n_refused += 1;
                continue;
            };
            n_fitted += 1;
            let start = pages.start(id);
            let around = &owner[start as usize..];
            let run = around.iter().take_while(|owner| owner.is_none()).count();
            assert_eq!(Some(run), best, "not the best fit");
            owner[start as usize..(start + n_pages) as usize].fill(Some(id));
            live.push((id, start, n_pages));
        } else {
            let (id, start, n_pages) = live.swap_remove(random.below(live.len()));
            pages.free(id);
            owner[start as usize..(start + n_pages) as usize].fill(None);
        }
        pages.check().unwrap();
        assert_eq!(pages.n_free() as usize, free_runs(&owner).iter().sum::<usize>());
    }
    assert!(n_refused > 0 && n_fitted > 0);
    for (id, ..) in live {
        pages.free(id);
    }
    pages.check().unwrap();
    assert_eq!(pages.allocate(n_total).map(|id| pages.start(id)), Some(0));
}

fn free_runs(owner: &[Option<RunId>]) -> Vec<usize> {
    let runs = owner.split(Option::is_some).map(<[_]>::len);
    runs.filter(|&n| n > 0).collect()
}

#[test]
fn a_run_of_exactly_the_size_is_found_at_any_size() {
    for n_pages in [1, 63, 64, 65, 4095, 4096, 4097, 8193, 262_145] {
        let mut pages = Pages::new(2 * n_pages);
        let first = pages.allocate(n_pages).unwrap();
        let second = pages.allocate(n_pages).unwrap();
        assert_eq!(pages.allocate(1), None);
        pages.free(first);
        assert_eq!(pages.allocate(n_pages + 1), None);
        let third = pages.allocate(n_pages).unwrap();
        pages.free(second);
        pages.free(third);
        assert!(pages.allocate(2 * n_pages).is_some());
    }
}

#[test]
fn check_notices_broken_books() {
    let broken = |break_it: fn(&mut Pages)| {
        let mut pages = Pages::new(16);
        let first = pages.allocate(2).unwrap();
        pages.allocate(2).unwrap();
        pages.free(first);
        pages.check().unwrap();
        break_it(&mut pages);
        pages.check().unwrap_err().to_string()
    };
    assert!(broken(|pages| pages.n_free += 1).contains("by the counter"));
    assert!(broken(|pages| pages.heads[2] = 0).contains("length 2"));
    assert!(broken(|pages| pages.lengths.remove(12)).contains("length 12"));
    assert!(broken(|pages| pages.boundary[4] = 0).contains("page 4"));
    assert!(
        broken(|pages| {
            let id = pages.boundary[2] as usize;
            pages.runs[id].is_free = true;
        })
        .contains("adjacent")
    );
}

#[test]
fn the_bit_tree_agrees_with_an_ordered_set() {
    let mut random = Random::new(3);
    for n_numbers in [1, 64, 65, 4096, 4097, 300_000] {
        let (mut tree, mut set) = (BitTree::new(n_numbers), BTreeSet::new());
        for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
            let number = random.below(n_numbers);
            if random.below(2) == 0 {
                tree.insert(number);
                set.insert(number);
            } else {
                tree.remove(number);
                set.remove(&number);
            }
            let from = random.below(n_numbers);
            assert_eq!(tree.first_at_least(from), set.range(from..).next().copied());
            assert_eq!(tree.contains(number), set.contains(&number));
        }
    }
}
