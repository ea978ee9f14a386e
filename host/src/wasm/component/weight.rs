//! What a component takes of the host's memory in each store that it is instantiated in, beside its linear memories
//! and tables, which are limited as they grow. A component of a few kilobytes can instantiate its parts millions of
//! times, so it is weighed before it is compiled.
//!
//! Whatever wasmtime 48 keeps in a store for a component weighs as so many items of `INSTANCE_ITEM_BYTES`. Here is all
//! of it, by the structures of wasmtime that hold it, and each as often as instantiation repeats it.
//!
//! | held for | in | bytes | items |
//! |---|---|---|---|
//! | a core instance | `vm::Instance`, its fixed fields in `VMContext`, its place in the store and the component | 400 | [`CORE_INSTANCE`] |
//! | an import of it | `VMFunctionImport`, `VMGlobalImport` and so on, 32; a `VMFuncRef`, 32, if its address is taken | 64 | [`IMPORT`] |
//! | a function of it | `VMFuncRef`, if its address is taken | 32 | [`FUNCTION`] |
//! | a global or tag | `VMGlobalDefinition`, `VMTagDefinition` | 16 | [`GLOBAL`] |
//! | a table | `VMTableDefinition`, `Table`; its elements count towards `limits.table_elements` | 112 | [`TABLE`] |
//! | a memory | `VMMemoryDefinition`, `Memory`; its bytes count towards `limits.memory` | 400 | [`MEMORY`] |
//! | a data segment | base and length, for those that are passive | 12 | [`DATA_SEGMENT`] |
//! | an element segment | `PassiveElementSegment`, for those that are passive | 32 | [`ELEMENT_SEGMENT`] |
//! | an element of one | `ValRaw`, for those that are passive | 16 | [`ELEMENT`] |
//! | a component instance | `InstanceState` (handles, tasks, threads), the flag of its `VMComponentContext` | 160 | [`COMPONENT_INSTANCE`] |
//! | a resource type | `ResourceType`, its destructor | 48 | [`RESOURCE`] |
//! | a canonical function | for one of the host: trampoline, `VMLowering`, memory, `realloc`, `callback`, `post-return`; for one of a component: the adapter between the two, a function of a further core instance with some ten imports | 500 | [`CANONICAL`] |
//!
//! Not among it, because a store holds them once, or they are shared by all: stacks, compiled code, types, names, the
//! images of memories. Nor what a guest makes as it runs: handles, tasks, streams.
//!
//! One thing multiplies that no store holds: exports. An exported instance may export another one twelve times and so
//! on, and wasmtime keeps an entry with its name for each, some 1.7 KB in all, once for each backend. They are counted
//! apart. An imported instance that is exported again has more than any limit, which no tool makes that we know.

mod walk;

use wasmparser::BinaryReaderError;

use self::walk::walk;

const CORE_INSTANCE: u64 = 16;
const IMPORT: u64 = 2;
const FUNCTION: u64 = 1;
const GLOBAL: u64 = 1;
const TABLE: u64 = 4;
const MEMORY: u64 = 16;
const DATA_SEGMENT: u64 = 1;
const ELEMENT_SEGMENT: u64 = 1;
const ELEMENT: u64 = 1;
const COMPONENT_INSTANCE: u64 = 8;
const RESOURCE: u64 = 2;
const CANONICAL: u64 = 16;

/// What one instance of a component or of a core module weighs, with all instances in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) items: u64,
    /// Component instances, the outermost included.
    pub(super) component_instances: u64,
    /// What it exports, and what the instances among it export, and so on. Not what instances in it export.
    pub(super) exports: u64,
}

impl Weight {
    /// More than any limit: what cannot be known.
    const UNKNOWN: Self = Self { items: u64::MAX, component_instances: u64::MAX, exports: u64::MAX };

    fn module(items: u64) -> Self {
        Self { items, ..Self::default() }
    }

    /// Adds an instance that is made inside.
    fn with(self, part: Self) -> Self {
        Self {
            items: self.items.saturating_add(part.items),
            component_instances: self.component_instances.saturating_add(part.component_instances),
            ..self
        }
    }
}

/// Weighs a component: one instance of it, every part as often as instantiation repeats it. Rather too much where
/// modules are handed on as values; and more than any limit where components are.
///
/// # Errors
/// The parser's. Bytes that are no valid component may have any weight.
pub(super) fn weigh(component: &[u8]) -> Result<Weight, BinaryReaderError> {
    let largest_module = walk(component, Weight::default())?.largest_module;
    Ok(walk(component, Weight::module(largest_module))?.whole)
}

#[cfg(test)]
mod tests;
