//! Which chunks may pass: those that were offered often enough.

use std::collections::{HashMap, VecDeque};

use kvtier_guest::{ChunkKey, Error, Init};

const PUTS_DEFAULT: u8 = 2;
const REMEMBERED_DEFAULT: usize = 1 << 14;
/// Some 80 bytes each.
const REMEMBERED_MAX: usize = 1 << 20;

const PUTS: &str = "admission.puts";
const REMEMBERED: &str = "admission.remembered";

/// Counts how often chunks are offered, for the last chunks that were new.
pub(crate) struct Door {
    n_puts: u8,
    n_remembered_max: usize,
    counts: HashMap<ChunkKey, u8>,
    /// The counted chunks, the oldest first.
    order: VecDeque<ChunkKey>,
}

impl Door {
    /// Takes its settings out of `init`; the others are for the backend behind it.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if a value is wrong.
    pub(crate) fn from_init(init: &mut Init) -> Result<Self, Error> {
        let n_puts = init.parse_in(PUTS, 1..=u8::MAX)?.unwrap_or(PUTS_DEFAULT);
        let n_remembered_max = init.parse_in(REMEMBERED, 1..=REMEMBERED_MAX)?.unwrap_or(REMEMBERED_DEFAULT);
        init.config.retain(|(key, _)| ![PUTS, REMEMBERED].contains(&key.as_str()));
        Ok(Self { n_puts, n_remembered_max, counts: HashMap::new(), order: VecDeque::new() })
    }

    /// Counts one more offer of a chunk, and reports whether it may pass.
    pub(crate) fn admits(&mut self, key: ChunkKey) -> bool {
        if self.n_puts == 1 {
            return true;
        }
        if let Some(n) = self.counts.get_mut(&key) {
            *n = n.saturating_add(1);
            return *n >= self.n_puts;
        }
        if self.order.len() == self.n_remembered_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
        self.order.push_back(key);
        self.counts.insert(key, 1);
        false
    }
}

#[cfg(test)]
mod tests {
    use kvtier_guest::testing::{init, keys};

    use super::*;

    fn door(puts: &str, remembered: &str) -> Door {
        Door::from_init(&mut init([(PUTS, puts), (REMEMBERED, remembered)])).ok().unwrap()
    }

    #[test]
    fn a_chunk_passes_when_it_was_offered_often_enough() {
        let key = keys(1)[0];
        let mut door = door("3", "10");
        let admitted: Vec<bool> = (0..4).map(|_| door.admits(key)).collect();
        assert_eq!(admitted, [false, false, true, true]);
        assert!(self::door("1", "10").admits(key));
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let keys = keys(3);
        let mut door = door("2", "2");
        assert!(keys.iter().all(|key| !door.admits(*key)));
        assert!(door.admits(keys[2]) && door.admits(keys[1]) && !door.admits(keys[0]));
        assert_eq!((door.counts.len(), door.order.len()), (2, 2));
    }

    #[test]
    fn only_other_settings_are_left_for_the_backend_behind_it() {
        let mut given = init([(PUTS, "2"), ("capacity", "1GiB"), (REMEMBERED, "5")]);
        Door::from_init(&mut given).ok().unwrap();
        assert_eq!(given.config, [("capacity".to_owned(), "1GiB".to_owned())]);
        assert!(matches!(Door::from_init(&mut init([(PUTS, "0")])), Err(Error::InvalidConfig(_))));
    }
}
