use super::*;
use crate::limits::COMPONENT_INSTANCES_MAX;

fn weight(component: &str) -> Weight {
    weigh(&wat::parse_str(component).unwrap()).unwrap()
}

/// Items of a component besides its own.
fn items(component: &str) -> u64 {
    weight(component).items - COMPONENT_INSTANCE
}

/// Items of one core instance besides its own.
fn core_items(fields: &str) -> u64 {
    items(&format!("(component (core module $m {fields}) (core instance (instantiate $m)))")) - CORE_INSTANCE
}

const TWO: &str = "(core module $two (global i32 i32.const 1) (func))";
const OF_TWO: u64 = CORE_INSTANCE + GLOBAL + FUNCTION;

#[test]
fn every_instance_counts_and_a_module_without_instance_does_not() {
    let empty = Weight { items: COMPONENT_INSTANCE, component_instances: 1, exports: 0 };
    assert_eq!(weight("(component)"), empty);
    assert_eq!(items(&format!("(component {TWO})")), 0);
    let twice = "(core instance (instantiate $two)) (core instance (instantiate $two))";
    assert_eq!(items(&format!("(component {TWO} {twice})")), 2 * OF_TWO);
}

#[test]
fn every_kind_of_item_has_its_weight() {
    let n_functions = "(func)".repeat(7);
    assert_eq!(core_items(&n_functions), 7 * FUNCTION);
    assert_eq!(core_items(&"(global i32 i32.const 1)".repeat(7)), 7 * GLOBAL);
    assert_eq!(core_items(&"(table 1 funcref)".repeat(7)), 7 * TABLE);
    assert_eq!(core_items(&"(memory 1)".repeat(7)), 7 * MEMORY);
    assert_eq!(core_items(&format!("(type $t (func)) {}", "(tag (type $t))".repeat(7))), 7 * GLOBAL);
    let data = "(data \"x\")".repeat(7);
    assert_eq!(core_items(&format!("(memory 1) {data}")), MEMORY + 7 * DATA_SEGMENT);
    let import = "(core module $f (func (export \"f\"))) (core instance $f (instantiate $f)) \
                  (core module $m (import \"f\" \"f\" (func))) \
                  (core instance (instantiate $m (with \"f\" (instance $f))))";
    assert_eq!(items(&format!("(component {import})")), 2 * CORE_INSTANCE + FUNCTION + IMPORT);
}

#[test]
fn the_elements_of_segments_count_one_by_one() {
    let nulls = "(ref.null func) ".repeat(100);
    let passive = format!("(elem funcref {nulls})");
    assert_eq!(core_items(&passive), ELEMENT_SEGMENT + 100 * ELEMENT);
    assert_eq!(core_items(&passive.repeat(3)), 3 * (ELEMENT_SEGMENT + 100 * ELEMENT));
    let functions = format!("(func $f) (elem func {})", "$f ".repeat(100));
    assert_eq!(core_items(&functions), FUNCTION + ELEMENT_SEGMENT + 100 * ELEMENT);
}

#[test]
fn resource_types_and_canonical_functions_count() {
    let types = "(type (resource (rep i32)))".repeat(7);
    assert_eq!(items(&format!("(component {types})")), 7 * RESOURCE);
    let functions = "(core func (canon resource.new $r))".repeat(7);
    let resource = "(type $r (resource (rep i32)))";
    assert_eq!(items(&format!("(component {resource} {functions})")), RESOURCE + 7 * CANONICAL);
    let inner = format!("(component $inner {resource} {functions})");
    let ten = "(instance (instantiate $inner)) ".repeat(10);
    let one = COMPONENT_INSTANCE + RESOURCE + 7 * CANONICAL;
    assert_eq!(items(&format!("(component {inner} {ten})")), 10 * one);
}

#[test]
fn instances_multiply_with_the_components_around_them() {
    let inner = "(component $inner (core instance (instantiate $two)))";
    let ten = "(instance (instantiate $inner)) ".repeat(10);
    let of_inner = COMPONENT_INSTANCE + OF_TWO;
    let outer = weight(&format!("(component {TWO} {inner} {ten})"));
    assert_eq!(outer.items, COMPONENT_INSTANCE + 10 * of_inner, "the module is an outer alias");
    assert_eq!(outer.component_instances, 11);
    let middle = format!("(component $middle {ten})");
    let three = "(instance (instantiate $middle)) ".repeat(3);
    let outer = weight(&format!("(component {TWO} {inner} {middle} {three})"));
    assert_eq!(outer.items, COMPONENT_INSTANCE + 3 * (COMPONENT_INSTANCE + 10 * of_inner));
    assert_eq!(outer.component_instances, 1 + 3 * 11);
}

/// Components in `n_levels` levels, of which each instantiates the one below 12 times.
fn tower(n_levels: u32) -> String {
    let mut text = "(component $c0)".to_owned();
    for level in 1..=n_levels {
        let twelve = format!("(instance (instantiate $c{})) ", level - 1).repeat(12);
        text = format!("{text} (component $c{level} {twelve})");
    }
    format!("(component {text} (instance (instantiate $c{n_levels})))")
}

#[test]
fn empty_components_count_after_multiplication_and_saturate() {
    let instances = |n_levels: u32| 1 + (0..=n_levels).map(|level| 12_u64.pow(level)).sum::<u64>();
    for n_levels in [0, 1, 2, 7] {
        assert_eq!(weight(&tower(n_levels)).component_instances, instances(n_levels));
    }
    assert!(weight(&tower(1)).component_instances <= COMPONENT_INSTANCES_MAX);
    assert!(weight(&tower(2)).component_instances > COMPONENT_INSTANCES_MAX);
    assert_eq!(weight(&tower(40)), Weight { exports: 0, ..Weight::UNKNOWN });
}

/// An instance that exports the one below it 12 times, and so on, exported.
fn export_tower(n_levels: usize) -> String {
    let mut text =
        "(component $c (type $t u8) (export \"t\" (type $t))) (instance $i0 (instantiate $c))".to_owned();
    for level in 1..=n_levels {
        let one = |n| format!("(export \"e{n}\" (instance $i{}))", level - 1);
        let twelve = (0..12).map(one).collect::<String>();
        text = format!("{text} (instance $i{level} {twelve})");
    }
    format!("(component {text} (export \"a:b/c\" (instance $i{n_levels})))")
}

#[test]
fn exports_count_with_those_of_exported_instances_and_saturate() {
    assert_eq!(weight("(component (type $t u8) (export \"t\" (type $t)))").exports, 1);
    // One at the bottom, and at each level itself 12 times.
    let exports = |n_levels: u32| (0..n_levels).fold(1, |below, _| 12 * (below + 1)) + 1;
    for n_levels in [0, 1, 2, 5] {
        assert_eq!(weight(&export_tower(n_levels as usize)).exports, exports(n_levels));
    }
    assert_eq!(weight(&export_tower(40)).exports, u64::MAX);
    let of_another = "(component $in (type $t u8) (export \"t\" (type $t)) (export \"u\" (type $t)))";
    let unexported = format!("(component {of_another} (instance $i (instantiate $in)))");
    assert_eq!(weight(&unexported).exports, 0);
    let again = format!(
        "(component {of_another} (instance $i (instantiate $in)) (export $j \"a:b/c\" (instance $i)) \
         (export \"a:b/d\" (instance $j)))"
    );
    assert_eq!(weight(&again).exports, 6);
}

#[test]
fn a_module_that_is_handed_on_counts_as_the_largest() {
    let taker = "(component $taker (import \"m\" (core module $m)) (core instance (instantiate $m)))";
    let given = "(instance (instantiate $taker (with \"m\" (core module $one))))";
    let one = "(core module $one (func))";
    let weighed = items(&format!("(component {TWO} {one} {taker} {given})"));
    assert_eq!(weighed, COMPONENT_INSTANCE + OF_TWO);
}

#[test]
fn a_component_that_is_handed_on_counts_as_more_than_any() {
    let twice = "(instance (instantiate $c)) (instance (instantiate $c))";
    let taker = format!("(component $taker (import \"c\" (component $c)) {twice})");
    let given = "(instance (instantiate $taker (with \"c\" (component $one))))";
    let weighed = weight(&format!("(component (component $one) {taker} {given})"));
    assert_eq!(weighed, Weight { exports: 0, ..Weight::UNKNOWN });
    let exported = "(component $lib (component $c) (export \"c\" (component $c))) (instance $lib (instantiate $lib)) \
                    (alias export $lib \"c\" (component $c)) (instance (instantiate $c))";
    assert_eq!(weight(&format!("(component {exported})")), Weight { exports: 0, ..Weight::UNKNOWN });
}

#[test]
fn bytes_that_are_no_component_have_a_weight_or_are_refused() {
    let whole = wat::parse_str(format!("(component {TWO} (core instance (instantiate $two)))")).unwrap();
    for len in 0..whole.len() {
        // Either is right, as long as it ends.
        drop(weigh(&whole[..len]));
    }
    // It instantiates itself, and what comes later.
    for index in [0, 7] {
        let bytes = [&b"\0asm\x0d\0\x01\0\x05\x04\x01\x00"[..], &[index, 0]].concat();
        assert_eq!(weigh(&bytes).unwrap(), Weight { exports: 0, ..Weight::UNKNOWN });
    }
}
