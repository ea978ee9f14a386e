//! What authors see when they use `export!` wrongly.

#[test]
fn the_export_macro_explains_what_is_wrong() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
