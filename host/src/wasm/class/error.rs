//! Why a class cannot be used.

use crate::limits::CLASS_LIST_BYTES_MAX;
use crate::text::joined;
use crate::wasm::CONTRACT_VERSION;

/// Why a class cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassError {
    /// The component exports no such class.
    #[error("the component exports no class `{class}`; it exports {}", listed(exported))]
    NotExported {
        /// The class that the configuration names.
        class: String,
        /// The classes that are exported.
        exported: Vec<String>,
    },
    /// Methods are missing or have other signatures.
    #[error(
        "class `{class}` does not fulfil contract kvtier:storage@{}: {}; build it against this version of the contract",
        CONTRACT_VERSION,
        joined(flaws, "; ", CLASS_LIST_BYTES_MAX)
    )]
    Contract {
        /// The class.
        class: String,
        /// One sentence per method that does not fit.
        flaws: Vec<String>,
    },
    /// Some methods are `async func`, some are plain `func`.
    #[error("class `{class}` mixes `async func` and `func` methods; make all methods alike")]
    MixedStyle {
        /// The class.
        class: String,
    },
    /// An export that the component's type lists cannot be found.
    #[error("export `{0}` is listed in the component's type but cannot be found; the file is damaged")]
    Vanished(String),
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "no class at all; in Rust, `kvtier_guest::export!(ThingBackend)` exports one".to_owned(),
        names => {
            format!("{}; give one of these as class_name", joined(names, ", ", CLASS_LIST_BYTES_MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_as_many_classes_as_it_has_room_for_and_counts_the_others() {
        let exported: Vec<String> = (0..5_000).map(|n| format!("Class{n:04}{}", "X".repeat(800))).collect();
        let error = ClassError::NotExported { class: "Absent".into(), exported: exported.clone() };
        let text = error.to_string();
        assert!(text.len() < CLASS_LIST_BYTES_MAX + 200, "{}", text.len());
        assert!(text.contains("Class0000X") && text.contains(", and 4998 more; give one"), "{text}");
        let error = ClassError::Contract { class: "Wide".into(), flaws: exported };
        assert!(error.to_string().len() < CLASS_LIST_BYTES_MAX + 200);
    }
}
