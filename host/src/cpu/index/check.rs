//! Verifies the index's invariants.

use super::sums::Sums;
use super::{Index, n_pins};
use crate::chunk::record;
use crate::cpu::order::Order;
use crate::memory::Inconsistency;

impl Index {
    pub(in crate::cpu) fn check(&self) -> Result<(), Inconsistency> {
        let unless = |holds, detail: &dyn Fn() -> String| {
            Inconsistency::unless(holds, "index of the CPU tier", detail)
        };
        let (mut n_parked, mut sums) = (0, Sums::default());
        for slot in self.table.slots() {
            let (record, is_parked) = (record(slot), Order::is_parked(slot));
            unless(record.is_in(self.id), &|| format!("slot {slot} is here and its record elsewhere"))?;
            let (key, sizes) = (record.key(), self.sizes(record));
            sums.add(sizes);
            if n_pins(slot) > 0 {
                sums.add_pinned(sizes);
            }
            n_parked += usize::from(is_parked);
            unless(self.find(key) == Some(slot), &|| format!("{key} is not found under its key"))?;
            unless(self.is_hot || is_parked, &|| format!("{key} cannot leave, though the cache is off"))?;
        }
        unless(sums.entries == self.table.len(), &|| format!("{sums:?}, {} keys", self.table.len()))?;
        unless(sums == self.sums, &|| format!("{sums:?} by entry, {:?} by counter", self.sums))?;
        self.order.check(sums.entries, n_parked).or_else(|what| unless(false, &|| what.clone()))
    }
}
