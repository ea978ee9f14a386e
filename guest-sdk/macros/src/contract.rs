//! The contract's text, and the interfaces and world of an author's component derived from it.

use crate::class_name::camel;

/// The files of `wit/`, in the order in which they refer to each other, with the package of each.
const STORAGE: [&str; 9] = [
    include_str!("../wit/types.wit"),
    include_str!("../wit/buffers.wit"),
    include_str!("../wit/streams.wit"),
    include_str!("../wit/files.wit"),
    include_str!("../wit/directory.wit"),
    include_str!("../wit/limits.wit"),
    include_str!("../wit/logging.wit"),
    BACKEND,
    include_str!("../wit/worlds.wit"),
];
const BACKEND: &str = include_str!("../wit/backend.wit");
const CLOCKS: [&str; 1] = [include_str!("../wit/deps/clocks-0.3/system-clock.wit")];
const FILESYSTEM_0_2: [&str; 1] = [include_str!("../wit/deps/filesystem-0.2/types.wit")];
const FILESYSTEM_0_3: [&str; 2] = [
    include_str!("../wit/deps/filesystem-0.3/types.wit"),
    include_str!("../wit/deps/filesystem-0.3/preopens.wit"),
];

/// How a class is exported.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Export {
    /// In an interface of the author's.
    Own,
    /// The same, with methods that are `func`, not `async func`.
    Blocking,
    /// In the contract's interface `backend`, which a middleware imports.
    Inner,
}

/// A class as the component exports it.
#[derive(Clone)]
pub(crate) struct ClassNames {
    /// `external-log-backend`
    pub(crate) kebab: String,
    pub(crate) export: Export,
}

impl ClassNames {
    /// `ExternalLogBackend`, spelt by the bindings generator.
    pub(crate) fn camel(&self) -> String {
        camel(&self.kebab)
    }

    /// `kvtier_author::my_crate::external_log_backend_class`, the module of the bindings. `package` is the module of
    /// the author's package.
    pub(crate) fn module(&self, package: &str) -> String {
        match self.export {
            Export::Own | Export::Blocking => {
                format!("kvtier_author::{package}::{}_class", self.kebab.replace('-', "_"))
            }
            Export::Inner => "kvtier::storage::backend".to_owned(),
        }
    }
}

/// Returns the WIT text for a component that exports `classes`, in a package named after `krate`.
pub(crate) fn component_wit(krate: &str, classes: &[ClassNames]) -> String {
    let storage = storage_package();
    let (name, version) = storage.split_once('@').unwrap_or((&storage, ""));
    let own = || classes.iter().filter(|class| class.export != Export::Inner);
    let interfaces = own().map(|class| {
        let kebab = &class.kebab;
        let body = class_body(class);
        format!(
            "interface {kebab}-class {{\n\
             use {name}/types@{version}.{{init, chunk-key, error, pinning}};\n\
             use {name}/buffers@{version}.{{sources, sinks}};\n\
             resource %{kebab} {{{body}}}\n}}\n"
        )
    });
    let exports = classes.iter().map(|class| match class.export {
        Export::Own | Export::Blocking => format!("export {}-class;\n", class.kebab),
        Export::Inner => format!("export {name}/backend@{version};\n"),
    });
    let mut wit = vec![format!("package {};\n", author_package(krate))];
    wit.extend([&CLOCKS[..], &FILESYSTEM_0_2, &FILESYSTEM_0_3, &STORAGE].map(nested));
    wit.extend(interfaces);
    wit.push(format!("world component {{\ninclude {name}/imports@{version};\n"));
    wit.extend(exports);
    wit.push("}\n".to_owned());
    wit.concat()
}

/// The package of the author's interfaces: `kvtier-author:` and the crate's name.
pub(crate) fn author_package(krate: &str) -> String {
    let words: Vec<String> = krate
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        // A word of WIT begins with a letter.
        .map(|word| match word.as_bytes()[0] {
            b'0'..=b'9' => format!("n{}", word.to_ascii_lowercase()),
            _ => word.to_ascii_lowercase(),
        })
        .collect();
    if words.is_empty() {
        return "kvtier-author:backend".to_owned();
    }
    format!("kvtier-author:%{}", words.join("-"))
}

/// `kvtier:storage@0.1.0`
pub(crate) fn storage_package() -> String {
    package_of(STORAGE[0]).to_owned()
}

/// `wasi:filesystem/types` in the versions that the contract names: 0.2 and 0.3.
pub(crate) fn wasi_filesystem() -> [String; 2] {
    [FILESYSTEM_0_2[0], FILESYSTEM_0_3[0]].map(|text| package_of(text).replace('@', "/types@"))
}

/// Interfaces of `wasi:clocks` that the file system's refer to.
pub(crate) fn wasi_clocks() -> [String; 2] {
    ["/types@", "/system-clock@"].map(|name| package_of(CLOCKS[0]).replace('@', name))
}

/// The methods that the contract does not require; the SDK's traits have defaults for them.
const OPTIONAL: &str = "lanes-max: static func() -> u32;\n\
                        present: async func(keys: list<chunk-key>) -> result<list<bool>, error>;\n";

/// Returns the methods of the contract's template for `class`, and the optional ones.
fn class_body(class: &ClassNames) -> String {
    let template = without_comments(BACKEND);
    let start = template
        .find("resource backend {")
        .map(|at| at + "resource backend {".len())
        .expect("the contract has the template `resource backend`");
    let end = template[start..].find('}').expect("the template's closing brace");
    let body = template[start..start + end]
        .lines()
        // The author's package has no version, so it has no history either.
        .filter(|line| !line.trim_start().starts_with("@since"))
        .collect::<Vec<_>>()
        .join("\n")
        .replace("result<backend,", &format!("result<%{},", class.kebab));
    let body = format!("{body}\n{OPTIONAL}");
    if class.export == Export::Blocking { body.replace("async func", "func") } else { body }
}

/// Returns `texts`, files of one package, as a nested package.
fn nested(texts: &[&str]) -> String {
    let mut out = format!("package {} {{\n", package_of(texts[0]));
    for text in texts {
        for line in without_comments(text).lines().filter(|l| !l.starts_with("package ")) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out.push_str("}\n");
    out
}

fn package_of(text: &str) -> &str {
    text.lines()
        .find_map(|line| line.strip_prefix("package ")?.strip_suffix(';'))
        .expect("every file of the contract names its package")
}

/// The documentation is for readers of `wit/`; in every component it would be dead weight.
fn without_comments(text: &str) -> String {
    let is_text = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    text.lines().filter(is_text).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{ClassNames, Export, author_package, class_body, component_wit};

    fn class(kebab: &str, export: Export) -> ClassNames {
        ClassNames { kebab: kebab.to_owned(), export }
    }

    #[test]
    fn author_packages_are_valid_names() {
        assert_eq!(author_package("kvtier-backend-log"), "kvtier-author:%kvtier-backend-log");
        assert_eq!(author_package("my_Backend"), "kvtier-author:%my-backend");
        assert_eq!(author_package("s3-2go"), "kvtier-author:%s3-n2go");
    }

    #[test]
    fn the_class_takes_its_methods_from_the_template() {
        let body = class_body(&class("disk", Export::Own));
        assert!(body.contains("constructor(init: init) -> result<%disk, error>;"), "{body}");
        for method in ["open", "contains", "put", "get", "pin", "unpin", "remove", "close"] {
            assert!(body.contains(&format!("{method}: async func(")), "{method} in {body}");
        }
        assert!(body.contains("lanes-max: static func() -> u32;"), "{body}");
        assert!(!body.contains("@since"), "{body}");
    }

    #[test]
    fn a_blocking_class_has_plain_methods() {
        assert!(!class_body(&class("disk", Export::Blocking)).contains("async"));
    }

    #[test]
    fn every_class_is_exported_from_an_interface_of_its_own() {
        let wit = component_wit("two", &[class("alpha", Export::Own), class("beta2", Export::Blocking)]);
        for text in ["export alpha-class;", "export beta2-class;", "resource %beta2 {"] {
            assert!(wit.contains(text), "{text} in {wit}");
        }
    }

    #[test]
    fn an_inner_class_is_exported_from_the_contracts_interface() {
        let wit = component_wit("one", &[class("backend", Export::Inner)]);
        assert!(wit.contains("export kvtier:storage/backend@") && !wit.contains("-class"), "{wit}");
    }
}
