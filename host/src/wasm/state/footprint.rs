//! The linear memory and the tables of one instance, counted and limited.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::ResourceLimiter;

use super::held::Charge;
use crate::config::BackendLimits;
use crate::limits::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLES_MAX};

/// Counts the bytes of all memories and the elements of all tables of a store, their initial size included, and refuses
/// growth beyond the limits. The guest sees a refusal as WebAssembly defines it: `memory.grow` and `table.grow` return
/// -1, and an instance that needs more at its start is not made.
pub(in crate::wasm) struct Footprint {
    memory: Count,
    table_elements: Count,
    /// The bytes of memory, for `status()`.
    shown: Arc<AtomicU64>,
    /// The host memory of the tables.
    tables: Charge,
}

/// Bytes of a table's element: a pointer.
const ELEMENT_BYTES: u64 = 8;

struct Count {
    used: u64,
    max: u64,
    /// What the last allowed growth added. It is subtracted if the system refuses the growth.
    last: u64,
    /// Whether a limit refused growth: the likely cause of a later trap.
    refused: bool,
}

impl Count {
    const fn new(max: u64) -> Self {
        Self { used: 0, max, last: 0, refused: false }
    }

    /// Counts growth from `current` to `desired` if the limit and the object's own maximum allow it.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let added = desired.saturating_sub(current) as u64;
        let allowed = self.used.checked_add(added).is_some_and(|used| used <= self.max);
        if allowed {
            self.used += added;
            self.last = added;
        }
        self.refused |= !allowed;
        allowed
    }

    /// Subtracts the growth that was allowed last.
    fn undo(&mut self) {
        self.used -= std::mem::take(&mut self.last);
    }
}

impl Footprint {
    pub(in crate::wasm) fn new(limits: &BackendLimits, shown: Arc<AtomicU64>, tables: Charge) -> Self {
        let (memory, table_elements) =
            (Count::new(limits.memory_bytes), Count::new(limits.table_elements as u64));
        Self { memory, table_elements, shown, tables }
    }

    /// Returns the limit that refused growth; `None` if none did.
    pub(in crate::wasm) fn refusal(&self) -> Option<String> {
        let memory = || {
            let max_mib = self.memory.max >> 20;
            format!(
                "memory beyond limits.memory ({max_mib} MiB); keep less and return no-space, or raise the limit"
            )
        };
        let tables = || format!("table elements beyond limits.table_elements ({})", self.table_elements.max);
        self.memory.refused.then(memory).or_else(|| self.table_elements.refused.then(tables))
    }

    fn show(&mut self) {
        self.shown.store(self.memory.used, Ordering::Relaxed);
        self.tables.set(self.table_elements.used * ELEMENT_BYTES);
    }
}

impl ResourceLimiter for Footprint {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = self.memory.grow(current, desired, maximum);
        self.show();
        Ok(allowed)
    }

    /// wasmtime calls this right after an allowed growth, before any other.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "out of memory for a guest's memory");
        self.memory.undo();
        self.show();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = self.table_elements.grow(current, desired, maximum);
        self.show();
        Ok(allowed)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "out of memory for a guest's table");
        self.table_elements.undo();
        self.show();
        Ok(())
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 1 << 16;

    fn footprint(memory_bytes: usize, table_elements: usize) -> (Footprint, Arc<AtomicU64>) {
        let shown = Arc::default();
        let limits =
            BackendLimits { memory_bytes: memory_bytes as u64, table_elements, ..BackendLimits::default() };
        let tables = Charge::new(&Arc::default());
        (Footprint::new(&limits, Arc::clone(&shown), tables), shown)
    }

    #[test]
    fn memories_and_tables_are_summed_and_what_is_refused_does_not_count() {
        let (mut footprint, shown) = footprint(5 * PAGE, 10);
        let mut memory =
            |from: usize, to: usize| footprint.memory_growing(from * PAGE, to * PAGE, None).unwrap();
        assert!(memory(0, 2), "the first memory");
        assert!(memory(0, 1), "the second");
        assert!(!memory(1, 4), "6 pages together");
        assert!(memory(2, 4), "5 pages together");
        assert!(!memory(4, 5));
        assert_eq!(shown.load(Ordering::Relaxed), 5 * PAGE as u64);
        let mut table = |from, to| footprint.table_growing(from, to, None).unwrap();
        assert!(table(0, 6));
        assert!(!table(0, 5));
        assert!(table(0, 4));
        assert!(footprint.refusal().unwrap().starts_with("memory beyond limits.memory"));
    }

    #[test]
    fn growth_that_the_system_refuses_is_given_back_once() {
        let (mut footprint, shown) = footprint(3 * PAGE, 10);
        assert!(footprint.memory_growing(0, PAGE, None).unwrap());
        assert!(footprint.memory_growing(PAGE, 3 * PAGE, None).unwrap());
        footprint.memory_grow_failed(wasmtime::format_err!("no memory")).unwrap();
        assert_eq!(shown.load(Ordering::Relaxed), PAGE as u64);
        footprint.memory_grow_failed(wasmtime::format_err!("told twice")).unwrap();
        assert_eq!(shown.load(Ordering::Relaxed), PAGE as u64);
        assert!(footprint.memory_growing(PAGE, 3 * PAGE, None).unwrap(), "there is room again");
        assert!(footprint.table_growing(0, 10, None).unwrap());
        footprint.table_grow_failed(wasmtime::format_err!("no memory")).unwrap();
        assert!(footprint.table_growing(0, 10, None).unwrap());
        assert_eq!(footprint.refusal(), None, "nothing was refused for the limits' sake");
    }

    #[test]
    fn an_objects_own_maximum_does_not_count_as_a_refusal() {
        let (mut footprint, shown) = footprint(9 * PAGE, 10);
        assert!(!footprint.memory_growing(0, 2 * PAGE, Some(PAGE)).unwrap());
        assert!(!footprint.table_growing(0, 2, Some(1)).unwrap());
        assert_eq!((footprint.refusal(), shown.load(Ordering::Relaxed)), (None, 0));
    }

    /// Instantiates a component of core modules, each as given, under a [`Footprint`].
    fn instantiate(modules: &[String], footprint: Footprint) -> wasmtime::Result<()> {
        let engine = wasmtime::Engine::default();
        let core = |(n, fields): (usize, &String)| {
            format!("(core module $m{n} {fields}) (core instance (instantiate $m{n}))")
        };
        let cores = modules.iter().enumerate().map(core).collect::<Vec<_>>().join(" ");
        let component = wasmtime::component::Component::new(&engine, format!("(component {cores})"))?;
        let mut store = wasmtime::Store::new(&engine, footprint);
        store.limiter(|footprint| footprint);
        wasmtime::component::Linker::new(&engine).instantiate(&mut store, &component).map(drop)
    }

    #[test]
    fn a_component_has_so_many_instances_memories_and_tables_and_no_more() {
        let cases = [
            (CORE_INSTANCES_MAX, "", "instance count too high"),
            (MEMORIES_MAX, "(memory 1)", "memory count too high"),
            (TABLES_MAX, "(table 1 funcref)", "table count too high"),
        ];
        for (max, fields, refusal) in cases {
            let attempt = |n: usize| {
                let (footprint, _) = footprint(64 * PAGE, 1000);
                instantiate(&vec![fields.to_owned(); n], footprint)
            };
            attempt(max).unwrap();
            let error = format!("{:#}", attempt(max + 1).unwrap_err());
            assert!(error.contains(refusal), "{error}");
        }
    }
}
