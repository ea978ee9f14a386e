//! Walking through the sections of a component, with what each adds to its weight.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentType, ComponentTypeRef, ElementItems, Instance, Parser, Payload,
};

use super::{
    CANONICAL, COMPONENT_INSTANCE, CORE_INSTANCE, DATA_SEGMENT, ELEMENT, ELEMENT_SEGMENT, FUNCTION, GLOBAL,
    IMPORT, MEMORY, RESOURCE, TABLE, Weight,
};

pub(super) struct Walked {
    pub(super) whole: Weight,
    /// The items of the heaviest module.
    pub(super) largest_module: u64,
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

/// `foreign_module` is the weight of a module that comes from elsewhere.
pub(super) fn walk(component: &[u8], foreign_module: Weight) -> Result<Walked, BinaryReaderError> {
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

    /// Returns to the enclosing component. Reports whether there is one.
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
            // The rest makes no instances, but takes part in the numbering of modules and components.
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
