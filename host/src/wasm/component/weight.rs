//! How much of the host's memory a component takes in each store in which it is instantiated. Linear memories and
//! tables do not count: they are limited as they grow. A component of a few kilobytes can instantiate its parts
//! millions of times, so it is weighed before it is compiled.
//!
//! The weight is a number of items of `INSTANCE_ITEM_BYTES`. The table lists everything that wasmtime 48 keeps in a
//! store for a component, with wasmtime's structures. Each counts as often as instantiation repeats it.
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
//! Stacks, compiled code, types, names and the images of memories are not in the table, because a store holds them once
//! or all stores share them. Handles, tasks and streams are not either: a guest makes them as it runs.
//!
//! Exports multiply too, outside of stores. An exported instance may export another one twelve times, and so on, and
//! wasmtime keeps an entry with a name for each export, some 1.7 KB in all, once for each backend. They are counted
//! apart. An imported instance that is exported again exceeds every limit; no tool that we know makes one.

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

/// The weight of one instance of a component or of a core module, with all instances in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) items: u64,
    /// Component instances, the outermost included.
    pub(super) component_instances: u64,
    /// Its exports, those of the instances among them, and so on. The exports of instances inside it do not count.
    pub(super) exports: u64,
}

impl Weight {
    /// More than any limit, for a weight that cannot be computed.
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

/// Weighs one instance of a component, with every part as often as instantiation repeats it. Where modules are passed
/// as values, the weight is too high rather than too low; where components are, it exceeds every limit.
///
/// # Errors
/// The parser's. Bytes that are not a valid component may have any weight.
pub(super) fn weigh(component: &[u8]) -> Result<Weight, BinaryReaderError> {
    let largest_module = walk(component, Weight::default())?.largest_module;
    Ok(walk(component, Weight::module(largest_module))?.whole)
}

#[cfg(test)]
mod tests;
