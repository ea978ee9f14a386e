//! What a component's core instances take of the host's memory beside linear memories and tables, which are
//! limited as they grow: each instance has an entry for each item of its module.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Instance, Parser, Payload,
};

use crate::limits::CORE_INSTANCES_MAX;

/// Returns how many items all core instances of a component have together; rather too many where modules are handed
/// on as values.
///
/// # Errors
/// The parser's, for bytes that are no valid component.
pub(super) fn instance_items(component: &[u8]) -> Result<u64, BinaryReaderError> {
    let largest = weigh(component, 0)?.largest_module;
    Ok(weigh(component, largest)?.items)
}

struct Weight {
    items: u64,
    largest_module: u64,
}

/// A module or component that is being read.
#[derive(Default)]
struct Scope {
    /// A module's items, or those of all core instances of a component.
    items: u64,
    /// The items of each module by its index.
    modules: Vec<u64>,
    /// The items of all core instances of each component by its index.
    components: Vec<u64>,
    is_module: bool,
}

impl Scope {
    fn add(&mut self, n: u64) {
        self.items = self.items.saturating_add(n);
    }
}

/// `unknown` is what a module counts that comes from elsewhere.
fn weigh(component: &[u8], unknown: u64) -> Result<Weight, BinaryReaderError> {
    let at = |items: &[u64], index: u32| items.get(index as usize).copied();
    let unknown_component = unknown.saturating_mul(CORE_INSTANCES_MAX as u64);
    let mut largest_module = 0;
    let mut outer: Vec<Scope> = Vec::new();
    let mut scope = Scope::default();
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ModuleSection { .. } => {
                outer.push(std::mem::replace(&mut scope, Scope { is_module: true, ..Scope::default() }));
            }
            Payload::ComponentSection { .. } => outer.push(std::mem::take(&mut scope)),
            Payload::End(_) => {
                let Some(parent) = outer.pop() else { break };
                let ended = std::mem::replace(&mut scope, parent);
                if ended.is_module {
                    largest_module = largest_module.max(ended.items);
                    scope.modules.push(ended.items);
                } else {
                    scope.components.push(ended.items);
                }
            }
            Payload::ImportSection(section) => scope.add(section.count().into()),
            Payload::FunctionSection(section) => scope.add(section.count().into()),
            Payload::TableSection(section) => scope.add(section.count().into()),
            Payload::MemorySection(section) => scope.add(section.count().into()),
            Payload::TagSection(section) => scope.add(section.count().into()),
            Payload::GlobalSection(section) => scope.add(section.count().into()),
            Payload::ElementSection(section) => scope.add(section.count().into()),
            Payload::DataSection(section) => scope.add(section.count().into()),
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        scope.add(at(&scope.modules, module_index).unwrap_or(unknown));
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        scope.add(at(&scope.components, component_index).unwrap_or(unknown_component));
                    }
                }
            }
            // What follows makes no instances, but takes part in the numbering of modules and components.
            Payload::ComponentImportSection(section) => {
                for import in section {
                    match import?.ty {
                        ComponentTypeRef::Module(_) => scope.modules.push(unknown),
                        ComponentTypeRef::Component(_) => scope.components.push(unknown_component),
                        _ => {}
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    match export.kind {
                        ComponentExternalKind::Module => {
                            scope.modules.push(at(&scope.modules, export.index).unwrap_or(unknown));
                        }
                        ComponentExternalKind::Component => {
                            let items = at(&scope.components, export.index).unwrap_or(unknown_component);
                            scope.components.push(items);
                        }
                        _ => {}
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    match alias? {
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
                            scope.modules.push(unknown);
                        }
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                            scope.components.push(unknown_component);
                        }
                        ComponentAlias::Outer { kind, count, index } => {
                            // 0 is this component itself.
                            let level = (outer.len() + 1).checked_sub(count as usize + 1);
                            let named = level.map(|level| outer.get(level).unwrap_or(&scope));
                            match kind {
                                ComponentOuterAliasKind::CoreModule => {
                                    let items = named.and_then(|scope| at(&scope.modules, index));
                                    scope.modules.push(items.unwrap_or(unknown));
                                }
                                ComponentOuterAliasKind::Component => {
                                    let items = named.and_then(|scope| at(&scope.components, index));
                                    scope.components.push(items.unwrap_or(unknown_component));
                                }
                                _ => {}
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Weight { items: scope.items, largest_module })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(component: &str) -> u64 {
        instance_items(&wat::parse_str(component).unwrap()).unwrap()
    }

    const TWO: &str = "(core module $two (global i32 i32.const 1) (func))";

    #[test]
    fn every_instance_counts_and_a_module_without_instance_does_not() {
        assert_eq!(items("(component)"), 0);
        assert_eq!(items(&format!("(component {TWO})")), 0);
        let twice = "(core instance (instantiate $two)) (core instance (instantiate $two))";
        assert_eq!(items(&format!("(component {TWO} {twice})")), 4);
        let kinds = "(core module $m (table 1 funcref) (memory 1) (func $f) (elem (i32.const 0) $f) \
                     (data (i32.const 0) \"x\"))";
        assert_eq!(items(&format!("(component {kinds} (core instance (instantiate $m)))")), 5);
        let import = "(core module $f (func (export \"f\"))) (core instance $f (instantiate $f)) \
                      (core module $m (import \"f\" \"f\" (func))) \
                      (core instance (instantiate $m (with \"f\" (instance $f))))";
        assert_eq!(items(&format!("(component {import})")), 2);
    }

    #[test]
    fn instances_multiply_with_the_components_around_them() {
        let inner = "(component $inner (core instance (instantiate $two)))";
        let ten = "(instance (instantiate $inner)) ".repeat(10);
        assert_eq!(items(&format!("(component {TWO} {inner} {ten})")), 20, "the module is an outer alias");
        let middle = format!("(component $middle {ten})");
        let three = "(instance (instantiate $middle)) ".repeat(3);
        assert_eq!(items(&format!("(component {TWO} {inner} {middle} {three})")), 60);
    }

    #[test]
    fn a_module_that_is_handed_on_counts_as_the_largest() {
        let taker = "(component $taker (import \"m\" (core module $m)) (core instance (instantiate $m)))";
        let given = "(instance (instantiate $taker (with \"m\" (core module $one))))";
        let one = "(core module $one (func))";
        assert_eq!(items(&format!("(component {TWO} {one} {taker} {given})")), 2);
    }
}
