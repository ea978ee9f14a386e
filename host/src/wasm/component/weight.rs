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
//! One thing multiplies that no store holds: exports. An exported instance may export another one twelve times and so on,
//! and wasmtime keeps an entry with its name for each, some 1.7 KB in all, once for each backend. They are counted apart. An
//! imported instance that is exported again has more than any limit, which no tool makes that we know.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentType, ComponentTypeRef, ElementItems, Instance, Parser, Payload,
};

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

struct Walked {
    whole: Weight,
    /// The items of the heaviest module.
    largest_module: u64,
}

/// A module or component that is being read.
#[derive(Default)]
struct Scope {
    own: Weight,
    /// What an instance of each module weighs, by its index.
    modules: Vec<Weight>,
    /// What an instance of each component weighs, by its index.
    components: Vec<Weight>,
    /// What each instance exports, by its index.
    instances: Vec<u64>,
    is_module: bool,
}

impl Scope {
    fn module() -> Self {
        Self { own: Weight::module(CORE_INSTANCE), is_module: true, ..Self::default() }
    }

    fn component() -> Self {
        let own = Weight { items: COMPONENT_INSTANCE, component_instances: 1, exports: 0 };
        Self { own, ..Self::default() }
    }

    fn add(&mut self, n: impl Into<u64>, items: u64) {
        self.own.items = self.own.items.saturating_add(n.into().saturating_mul(items));
    }

    fn instantiate(&mut self, part: Weight) {
        self.own = self.own.with(part);
    }

    /// Returns how much one export is: itself, and what it exports if it is an instance.
    fn exported(&self, kind: ComponentExternalKind, index: u32) -> u64 {
        match kind {
            ComponentExternalKind::Instance => self.exports_of(index).saturating_add(1),
            _ => 1,
        }
    }

    fn exports_of(&self, instance: u32) -> u64 {
        self.instances.get(instance as usize).copied().unwrap_or(u64::MAX)
    }
}

/// `foreign_module` is what a module weighs that comes from elsewhere.
fn walk(component: &[u8], foreign_module: Weight) -> Result<Walked, BinaryReaderError> {
    let mut walk = Walk { foreign_module, largest_module: 0, outer: Vec::new(), scope: Scope::component() };
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ModuleSection { .. } => walk.enter(Scope::module()),
            Payload::ComponentSection { .. } => walk.enter(Scope::component()),
            Payload::End(_) => {
                if !walk.leave() {
                    break;
                }
            }
            payload => walk.weigh(payload)?,
        }
    }
    Ok(Walked { whole: walk.scope.own, largest_module: walk.largest_module })
}

struct Walk {
    foreign_module: Weight,
    largest_module: u64,
    outer: Vec<Scope>,
    scope: Scope,
}

impl Walk {
    fn enter(&mut self, inner: Scope) {
        self.outer.push(std::mem::replace(&mut self.scope, inner));
    }

    /// Goes back to what is around; `false` if nothing is.
    fn leave(&mut self) -> bool {
        let Some(around) = self.outer.pop() else { return false };
        let ended = std::mem::replace(&mut self.scope, around);
        if ended.is_module {
            self.largest_module = self.largest_module.max(ended.own.items);
            self.scope.modules.push(ended.own);
        } else {
            self.scope.components.push(ended.own);
        }
        true
    }

    fn of_module(&self, scope: &Scope, index: u32) -> Weight {
        scope.modules.get(index as usize).copied().unwrap_or(self.foreign_module)
    }

    fn of_component(scope: &Scope, index: u32) -> Weight {
        scope.components.get(index as usize).copied().unwrap_or(Weight::UNKNOWN)
    }

    fn weigh(&mut self, payload: Payload<'_>) -> Result<(), BinaryReaderError> {
        let scope = &mut self.scope;
        match payload {
            Payload::ImportSection(section) => scope.add(section.count(), IMPORT),
            Payload::FunctionSection(section) => scope.add(section.count(), FUNCTION),
            Payload::TableSection(section) => scope.add(section.count(), TABLE),
            Payload::MemorySection(section) => scope.add(section.count(), MEMORY),
            Payload::TagSection(section) => scope.add(section.count(), GLOBAL),
            Payload::GlobalSection(section) => scope.add(section.count(), GLOBAL),
            Payload::DataSection(section) => scope.add(section.count(), DATA_SEGMENT),
            Payload::ElementSection(section) => {
                for segment in section {
                    let n_elements = match segment?.items {
                        ElementItems::Functions(elements) => elements.count(),
                        ElementItems::Expressions(_, elements) => elements.count(),
                    };
                    scope.add(1_u64, ELEMENT_SEGMENT);
                    scope.add(n_elements, ELEMENT);
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        let part = self.of_module(&self.scope, module_index);
                        self.scope.instantiate(part);
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    let exports = match instance? {
                        ComponentInstance::Instantiate { component_index, .. } => {
                            let part = Self::of_component(&self.scope, component_index);
                            self.scope.instantiate(part);
                            part.exports
                        }
                        ComponentInstance::FromExports(exports) => exports
                            .iter()
                            .map(|export| self.scope.exported(export.kind, export.index))
                            .fold(0, u64::saturating_add),
                    };
                    self.scope.instances.push(exports);
                }
            }
            Payload::ComponentTypeSection(section) => {
                for ty in section {
                    if matches!(ty?, ComponentType::Resource { .. }) {
                        scope.add(1_u64, RESOURCE);
                    }
                }
            }
            Payload::ComponentCanonicalSection(section) => scope.add(section.count(), CANONICAL),
            // What follows makes no instances, but takes part in the numbering of modules and components.
            Payload::ComponentImportSection(section) => {
                for import in section {
                    match import?.ty {
                        ComponentTypeRef::Module(_) => self.scope.modules.push(self.foreign_module),
                        ComponentTypeRef::Component(_) => self.scope.components.push(Weight::UNKNOWN),
                        ComponentTypeRef::Instance(_) => self.scope.instances.push(u64::MAX),
                        _ => {}
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    let n = self.scope.exported(export.kind, export.index);
                    self.scope.own.exports = self.scope.own.exports.saturating_add(n);
                    match export.kind {
                        ComponentExternalKind::Instance => {
                            let exports = self.scope.exports_of(export.index);
                            self.scope.instances.push(exports);
                        }
                        ComponentExternalKind::Module => {
                            let part = self.of_module(&self.scope, export.index);
                            self.scope.modules.push(part);
                        }
                        ComponentExternalKind::Component => {
                            let part = Self::of_component(&self.scope, export.index);
                            self.scope.components.push(part);
                        }
                        _ => {}
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    self.alias(&alias?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match *alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
                self.scope.modules.push(self.foreign_module);
            }
            // No more than all that it is one of.
            ComponentAlias::InstanceExport {
                kind: ComponentExternalKind::Instance, instance_index, ..
            } => {
                let exports = self.scope.exports_of(instance_index);
                self.scope.instances.push(exports);
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                self.scope.components.push(Weight::UNKNOWN);
            }
            ComponentAlias::Outer { kind, count, index } => {
                // 0 is this component itself.
                let level = (self.outer.len() + 1).checked_sub(count as usize + 1);
                let named = level.map(|level| self.outer.get(level).unwrap_or(&self.scope));
                match kind {
                    ComponentOuterAliasKind::CoreModule => {
                        let part = named.map(|scope| self.of_module(scope, index));
                        self.scope.modules.push(part.unwrap_or(self.foreign_module));
                    }
                    ComponentOuterAliasKind::Component => {
                        let part = named.map(|scope| Self::of_component(scope, index));
                        self.scope.components.push(part.unwrap_or(Weight::UNKNOWN));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
