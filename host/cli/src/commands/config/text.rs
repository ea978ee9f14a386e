//! The review of a configuration as text.

use std::fmt::Write as _;

use kvtier::__internal::wasm::{Limit, Reach, ReviewResult};

use super::{Findings, Reviewed};
use crate::format::{bytes, indented};
use crate::table::table;

/// Renders the findings as text.
pub fn render(Findings { warnings, settings, backends }: &Findings) -> String {
    let mut text = String::new();
    for warning in warnings {
        text.extend(["WARNING  ", warning, "\n"]);
    }
    if !warnings.is_empty() {
        text.push('\n');
    }
    for backend in backends {
        backend.render(&mut text);
        text.push('\n');
    }
    let changed: Vec<_> = settings.iter().filter(|setting| !setting.is_default).collect();
    if !changed.is_empty() {
        let rows = changed.iter().map(|setting| [&setting.key, &setting.value]);
        text = format!("{text}settings that differ from their default\n{}\n", indented(&table(&[], 2, rows)));
    }
    text.push_str(if backends.is_empty() {
        "no backends\n"
    } else {
        "Imports are what a component could use, not what it needs: the standard libraries of Rust, Python and\n\
         JavaScript import most of WASI. When a backend is denied something, its log and errors name it.\n"
    });
    text
}

impl Reviewed {
    fn render(&self, text: &mut String) {
        let Self { config, review } = self;
        // Writing to a string cannot fail.
        let mut line = |line: std::fmt::Arguments| writeln!(text, "{line}").unwrap_or_default();
        line(format_args!("backend {}", config.name));
        let review = match review {
            Ok(review) => review,
            Err(error) => {
                line(format_args!("  NOT LOADABLE  {error}"));
                return;
            }
        };
        let size = bytes(review.inspection.size_bytes);
        line(format_args!("  component  {} ({size})", config.module_path.display()));
        match &review.class {
            Ok(blocking) => {
                let style = if *blocking { "blocking: one call at a time" } else { "async" };
                line(format_args!("  class      {}, fulfils the contract, {style}", config.class_name));
            }
            Err(error) => line(format_args!("  class      NOT LOADABLE: {error}")),
        }
        let digest = &review.inspection.digest;
        let pinned = if review.pinned { "pinned" } else { "NOT PINNED: whatever is in the file is run" };
        line(format_args!("  digest     {digest}, {pinned}"));
        if let Some(overlap) = &review.overlap {
            line(format_args!("  grants     NOT LOADABLE: {overlap}"));
        }
        for import in &review.not_offered {
            line(format_args!("  import     NOT LOADABLE: {import} is not offered by this host"));
        }
        line(format_args!("  limits     {}", limits(&review.limits)));
        let secrets: Vec<_> =
            config.secrets.iter().map(|(name, source)| format!("{name} from {source}")).collect();
        line(format_args!("  secrets    {}", or_none(&secrets.join(", "))));
        text.push_str(&indented(&reaches(&review.reaches)));
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn limits(changed: &[Limit]) -> String {
    if changed.is_empty() {
        return "the defaults".to_owned();
    }
    let shown =
        changed.iter().map(|Limit { name, value, default }| format!("{name} {value} (default {default})"));
    format!("{}; otherwise the defaults", shown.collect::<Vec<_>>().join(", "))
}

/// Returns a table with one line for each import and grant of a key, and what follows from them.
fn reaches(reaches: &[Reach]) -> String {
    let rows = reaches.iter().flat_map(|reach| {
        let result = match reach.result() {
            ReviewResult::Unused => "not used",
            ReviewResult::Granted => "granted",
            ReviewResult::Denied if reach.key == "allow.env" => "sees no variable",
            ReviewResult::Denied => "DENIED",
            ReviewResult::NotNeeded => "NOT NEEDED: the component does not import it",
        };
        let n_lines = reach.imported.len().max(reach.granted.len()).max(1);
        (0..n_lines).map(move |index| {
            let first = |text: &str| if index == 0 { text.to_owned() } else { String::new() };
            let item = |items: &[String]| items.get(index).cloned().unwrap_or_else(|| first("-"));
            [first(reach.key), item(&reach.imported), item(&reach.granted), first(result)]
        })
    });
    table(&["grant", "imported", "granted", "result"], 4, rows)
}

#[cfg(test)]
mod tests {
    use kvtier::__internal::wasm;
    use kvtier::__internal::wasm::Compilation;
    use kvtier::{BackendConfig, Config};

    use super::super::ensure_usable;
    use super::*;

    fn reach(key: &'static str, imported: &[&str], granted: &[&str]) -> Reach {
        let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Reach { key, imported: owned(imported), granted: owned(granted) }
    }

    #[test]
    fn imports_and_grants_stand_beside_each_other_and_the_difference_is_named() {
        let reaches = [
            reach(
                "allow.fs",
                &["wasi:filesystem/preopens@0.2.6", "wasi:filesystem/types@0.2.6"],
                &["/kv:/data:rw"],
            ),
            reach("allow.net", &["wasi:sockets/tcp@0.2.6"], &[]),
            reach("allow.env", &["wasi:cli/environment@0.2.6"], &[]),
        ];
        insta::assert_snapshot!(super::reaches(&reaches), @r"
        grant      imported                        granted       result
        allow.fs   wasi:filesystem/preopens@0.2.6  /kv:/data:rw  granted
                   wasi:filesystem/types@0.2.6
        allow.net  wasi:sockets/tcp@0.2.6          -             DENIED
        allow.env  wasi:cli/environment@0.2.6      -             sees no variable
        ");
        let reaches = [
            reach("allow.fs", &[], &["/kv:/data:rw", "/more:/more:ro"]),
            reach("allow.net", &[], &[]),
            reach("allow.env", &["wasi:cli/environment@0.2.6"], &["HOME"]),
        ];
        insta::assert_snapshot!(super::reaches(&reaches), @r"
        grant      imported                    granted         result
        allow.fs   -                           /kv:/data:rw    NOT NEEDED: the component does not import it
                                               /more:/more:ro
        allow.net  -                           -               not used
        allow.env  wasi:cli/environment@0.2.6  HOME            granted
        ");
    }

    #[test]
    fn limits_are_shown_where_they_differ() {
        assert_eq!(limits(&[]), "the defaults");
        let changed = [Limit { name: "call_timeout_ms", value: 500, default: 1000 }];
        assert_eq!(limits(&changed), "call_timeout_ms 500 (default 1000); otherwise the defaults");
    }

    #[test]
    fn a_backend_without_a_component_is_named() {
        let compilation = Compilation::new(&Config::default());
        let config = BackendConfig::new("a", "none/such.wasm", "ABackend");
        let backends = vec![Reviewed { review: wasm::review(&compilation, &config), config }];
        let findings = Findings { warnings: Vec::new(), settings: Vec::new(), backends };
        let text = render(&findings);
        assert!(
            text.starts_with("backend a\n  NOT LOADABLE  component `none/such.wasm` does not exist"),
            "{text}"
        );
        assert_eq!(ensure_usable(&findings).unwrap_err().to_string(), "cannot be loaded: a");
        let none = |warnings: Vec<String>| Findings { warnings, settings: Vec::new(), backends: Vec::new() };
        assert_eq!(render(&none(Vec::new())), "no backends\n");
        assert!(ensure_usable(&none(Vec::new())).is_ok());
        assert_eq!(render(&none(vec!["a tier".into()])), "WARNING  a tier\n\nno backends\n");
    }
}
