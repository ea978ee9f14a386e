//! The export macro of `kvtier-guest`. Use it from there: `kvtier_guest::export!`.

mod class_name;
mod contract;
mod expand;

/// Exports classes of a component by their Rust names. Documented at `kvtier_guest::export`.
#[proc_macro]
pub fn export(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let list = syn::parse_macro_input!(input as expand::ClassList);
    expand::expand(&list).unwrap_or_else(syn::Error::into_compile_error).into()
}
