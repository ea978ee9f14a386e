//! From the list of classes to the bindings and the glue.

use std::collections::HashMap;

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, Path, Result, Token};

use crate::class_name::{RESERVED, kebab};
use crate::contract::{ClassNames, Export, component_wit, storage_package, wasi_clocks, wasi_filesystem};

/// The name of the class in the contract's own interface.
const INNER: &str = "backend";

/// The list between the parentheses of `export!`.
pub(crate) struct ClassList(Vec<Class>);

struct Class {
    path: Path,
    names: ClassNames,
}

impl Parse for ClassList {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.is_empty() {
            return Err(input.error("name at least one class: `kvtier_guest::export!(MyBackend);`"));
        }
        let classes = input.parse_terminated(Class::parse, Token![,])?;
        Ok(Self(classes.into_iter().collect()))
    }
}

impl Parse for Class {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut export = Export::Own;
        let is_path_next = input.peek2(syn::Ident)
            || input.peek2(Token![crate])
            || input.peek2(Token![self])
            || input.peek2(Token![super]);
        if input.peek(syn::Ident) && is_path_next {
            let word: Ident = input.parse()?;
            export = match word.to_string().as_str() {
                "blocking" => Export::Blocking,
                "inner" => Export::Inner,
                other => {
                    return Err(Error::new(
                        word.span(),
                        format!(
                            "expected a class, or `blocking` or `inner` and a class, found `{other}`; classes are \
                             separated by commas"
                        ),
                    ));
                }
            };
        }
        let path: Path = input.parse().map_err(|e| {
            Error::new(
                e.span(),
                "expected the name of a class, a struct that implements \
                 `kvtier_guest::StorageBackend`",
            )
        })?;
        let last = &path.segments[path.segments.len() - 1];
        if !last.arguments.is_none() {
            return Err(Error::new_spanned(
                &last.arguments,
                "a class has no generic arguments; export a type that wraps this one",
            ));
        }
        let name = last.ident.to_string();
        let Some(kebab) = kebab(&name) else {
            return Err(Error::new_spanned(
                &last.ident,
                format!(
                    "`{name}` cannot be the name of a class: it must begin with a capital letter \
                     and consist of ASCII letters and digits, as in `ExternalLogBackend`"
                ),
            ));
        };
        if RESERVED.contains(&name.as_str()) {
            return Err(Error::new_spanned(
                &last.ident,
                format!(
                    "`{name}` is a name of kvtier's contract and cannot be the name of a class; \
                     call it `{name}Backend`, for instance"
                ),
            ));
        }
        let kebab = if export == Export::Inner { INNER.to_owned() } else { kebab };
        Ok(Self { path, names: ClassNames { kebab, export } })
    }
}

/// Returns bindings and glue for the classes of one component.
pub(crate) fn expand(list: &ClassList) -> Result<TokenStream> {
    refuse_duplicates(&list.0)?;
    let krate = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let names: Vec<ClassNames> = list.0.iter().map(|class| class.names.clone()).collect();
    let wit = component_wit(&krate, &names);
    let package = crate_module(&krate);
    let mappings = mappings();
    let component = format_ident!("__KvtierComponent");
    let impls = list.0.iter().map(|class| glue(class, &package, &component));
    let checks = list.0.iter().map(check);
    Ok(quote! {
        #(#checks)*

        #[doc(hidden)]
        #[allow(warnings, unsafe_code, missing_docs, clippy::all, clippy::pedantic)]
        mod __kvtier_exports {
            ::kvtier_guest::wit_bindgen::generate!({
                inline: #wit,
                // A folder `wit` of the author's crate is none of our business.
                path: [],
                world: "component",
                runtime_path: "::kvtier_guest::wit_bindgen::rt",
                with: { #mappings },
            });
        }

        #[doc(hidden)]
        #[allow(warnings, unsafe_code, missing_docs, clippy::all, clippy::pedantic)]
        const _: () = {
            struct #component;
            #(#impls)*
            __kvtier_exports::export!(#component with_types_in __kvtier_exports);
        };
    })
}

/// The contract's interfaces, each with the SDK's bindings of it.
fn mappings() -> TokenStream {
    let storage = storage_package();
    let (name, version) = storage.split_once('@').unwrap_or((&storage, ""));
    let ours = [
        "types",
        "buffers",
        "streams",
        "files",
        "files-blocking",
        "directory",
        "directory-blocking",
        "limits",
        "logging",
    ]
    .map(|interface| {
        let key = format!("{name}/{interface}@{version}");
        let module = format_ident!("{}", interface.replace('-', "_"));
        quote! { #key: ::kvtier_guest::bindings::kvtier::storage::#module, }
    });
    let [p2, p3] = wasi_filesystem();
    let [clock_types, system_clock] = wasi_clocks();
    quote! {
        #(#ours)*
        #clock_types: ::kvtier_guest::wasip3::clocks::types,
        #system_clock: ::kvtier_guest::wasip3::clocks::system_clock,
        #p2: ::kvtier_guest::wasip2::filesystem::types,
        #p3: ::kvtier_guest::wasip3::filesystem::types,
    }
}

/// The module in which the bindings generator puts the author's package.
fn crate_module(krate: &str) -> Ident {
    let package = crate::contract::author_package(krate);
    let name = package.rsplit([':', '%']).next().unwrap_or("backend");
    syn::parse_str(&name.replace('-', "_")).unwrap_or_else(|_| format_ident!("{}_", name.replace('-', "_")))
}

fn refuse_duplicates(classes: &[Class]) -> Result<()> {
    let mut seen: HashMap<&str, &Class> = HashMap::new();
    for class in classes {
        let Some(first) = seen.insert(&class.names.kebab, class) else {
            continue;
        };
        let (this, other) = (rust_name(class), rust_name(first));
        let n_inner = [class, first].iter().filter(|class| class.names.export == Export::Inner).count();
        let text = if this == other && n_inner != 1 {
            format!("the class `{this}` is listed twice")
        } else if n_inner == 2 {
            "one class of a component can be `inner`".to_owned()
        } else if n_inner == 1 {
            let own = if class.names.export == Export::Inner { &other } else { &this };
            format!("the inner class is called `{INNER}` in a component; rename `{own}`")
        } else {
            format!(
                "the classes `{other}` and `{this}` are both called `{}` in a component; \
                 rename one of them",
                class.names.kebab
            )
        };
        return Err(Error::new_spanned(&class.path, text));
    }
    Ok(())
}

fn rust_name(class: &Class) -> String {
    class.path.segments[class.path.segments.len() - 1].ident.to_string()
}

/// Reports a missing trait at the class's name and not somewhere inside the glue.
fn check(class: &Class) -> TokenStream {
    let path = &class.path;
    let bound = match class.names.export {
        Export::Blocking => quote!(::kvtier_guest::BlockingBackend),
        Export::Own | Export::Inner => quote!(::kvtier_guest::StorageBackend),
    };
    quote_spanned! { path.span() =>
        const _: () = {
            const fn class_implements_the_backend_trait<T: #bound>() {}
            class_implements_the_backend_trait::<#path>();
        };
    }
}

fn glue(class: &Class, package: &Ident, component: &Ident) -> TokenStream {
    let path = class.path.to_token_stream();
    let module: Path = syn::parse_str(&class.names.module(&package.to_string()))
        .unwrap_or_else(|error| unreachable!("the generator's module is a path: {error}"));
    let camel = format_ident!("{}", class.names.camel());
    let guest = format_ident!("Guest{}", class.names.camel());
    let at = quote!(__kvtier_exports::exports::#module);
    let (bound, asyncness, wait) = match class.names.export {
        Export::Blocking => (quote!(::kvtier_guest::BlockingBackend), quote!(), quote!()),
        Export::Own | Export::Inner => {
            (quote!(::kvtier_guest::StorageBackend), quote!(async), quote!(.await))
        }
    };
    let this = quote!(<#path as #bound>);
    let unit = quote!(::core::result::Result<(), ::kvtier_guest::Error>);
    let count = quote!(::core::result::Result<u32, ::kvtier_guest::Error>);
    let keys = quote!(::std::vec::Vec<::kvtier_guest::ChunkKey>);
    let enter = match class.names.export {
        Export::Own | Export::Blocking => quote!(),
        Export::Inner => quote!(::kvtier_guest::__private::end_late();),
    };
    let optional = if class.names.export == Export::Inner {
        // The contract's interface has the required methods only.
        quote!()
    } else {
        quote! {
            fn lanes_max() -> u32 {
                #this::lanes_max()
            }
            #asyncness fn present(
                &self,
                keys: #keys,
            ) -> ::core::result::Result<::std::vec::Vec<bool>, ::kvtier_guest::Error> {
                #this::present(self, &keys)#wait
            }
        }
    };
    quote! {
        impl #at::Guest for #component {
            type #camel = #path;
        }

        impl #at::#guest for #path {
            fn new(init: ::kvtier_guest::Init) -> ::core::result::Result<Self, ::kvtier_guest::Error> {
                ::kvtier_guest::__private::install_panic_hook();
                #this::new(init)
            }
            #optional
            #asyncness fn open(&self) -> #unit {
                #enter
                #this::open(self)#wait
            }
            #asyncness fn contains(&self, keys: #keys, pinning: ::kvtier_guest::Pinning) -> #count {
                #enter
                #this::contains(self, &keys, pinning)#wait
            }
            #asyncness fn put(
                &self,
                keys: #keys,
                data: ::kvtier_guest::Sources,
            ) -> ::std::vec::Vec<#unit> {
                #enter
                #this::put(self, &keys, &data)#wait
            }
            #asyncness fn get(
                &self,
                keys: #keys,
                into: ::kvtier_guest::Sinks,
            ) -> ::std::vec::Vec<::core::result::Result<::core::option::Option<u64>, ::kvtier_guest::Error>> {
                #enter
                #this::get(self, &keys, &into)#wait
            }
            #asyncness fn pin(&self, keys: #keys) -> #count {
                #enter
                #this::pin(self, &keys)#wait
            }
            #asyncness fn unpin(&self, keys: #keys) -> #count {
                #enter
                #this::unpin(self, &keys)#wait
            }
            #asyncness fn remove(&self, keys: #keys) -> #count {
                #enter
                #this::remove(self, &keys)#wait
            }
            #asyncness fn close(&self) -> #unit {
                #enter
                #this::close(self)#wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_before_a_class_is_read_whatever_its_path_begins_with() {
        for path in ["Store", "store::Store", "crate::Store", "self::Store", "super::Store"] {
            for (word, export) in
                [("", Export::Own), ("blocking", Export::Blocking), ("inner", Export::Inner)]
            {
                let class: Class = syn::parse_str(&format!("{word} {path}")).unwrap();
                assert!(class.names.export == export, "{word} {path}");
            }
        }
        assert!(syn::parse_str::<Class>("inside Store").is_err());
    }
}
