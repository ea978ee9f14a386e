//! The directories that are granted to an instance, by the guest's paths.

use std::fs::File;
use std::sync::Arc;

use super::{Denial, DenialLog};
use crate::limits::GRANTS_NAMED_MAX;

/// A granted directory, opened by the host.
pub(in crate::wasm) struct GrantedDirectory {
    /// Absolute, and without a slash at its end unless it is `/`.
    pub(in crate::wasm) guest_path: String,
    pub(in crate::wasm) directory: Arc<File>,
    pub(in crate::wasm) is_read_only: bool,
}

impl GrantedDirectory {
    /// Returns the part of a path below this directory; `None` if the path is not in it.
    fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(self.guest_path.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/'))
    }
}

/// Returns the granted directory that a path is in, and the part of the path below it. The longest granted path counts.
///
/// # Errors
/// What to do if none has it. The denial is recorded.
pub(in crate::wasm) fn locate<'a>(
    granted: &'a [GrantedDirectory],
    path: &'a str,
    denial_log: &DenialLog,
) -> Result<(&'a GrantedDirectory, &'a str), String> {
    let found = granted.iter().filter_map(|grant| Some((grant, grant.below(path)?)));
    found.max_by_key(|(grant, _)| grant.guest_path.len()).ok_or_else(|| {
        let path = denial_log.guest_text(path);
        let grants = names(granted);
        denial_log.record(Denial::Outside(path.clone()));
        format!("the path {path} lies in no directory that allow.fs grants; it grants {grants}")
    })
}

/// Lists the first granted paths.
fn names(granted: &[GrantedDirectory]) -> String {
    if granted.is_empty() {
        return "none".to_owned();
    }
    let mut names: Vec<&str> = granted.iter().map(|grant| grant.guest_path.as_str()).collect();
    let n_more = names.len().saturating_sub(GRANTS_NAMED_MAX);
    names.truncate(GRANTS_NAMED_MAX);
    match n_more {
        0 => names.join(", "),
        n_more => format!("{}, and {n_more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Grants;
    use crate::wasm::policy::{Denials, Secrets};

    fn granted(paths: &[&str]) -> Vec<GrantedDirectory> {
        let directory = Arc::new(File::open(".").unwrap());
        let grant = |path: &&str| GrantedDirectory {
            guest_path: (*path).to_owned(),
            directory: Arc::clone(&directory),
            is_read_only: false,
        };
        paths.iter().map(grant).collect()
    }

    fn found(paths: &[&str], path: &str) -> Result<(String, String), String> {
        let denials = Denials::new("b", &Grants::default());
        let denial_log = DenialLog::new(&denials, &Secrets::default());
        let granted = granted(paths);
        let located = locate(&granted, path, &denial_log);
        assert_eq!(denials.count(), u64::from(located.is_err()));
        located.map(|(grant, rest)| (grant.guest_path.clone(), rest.to_owned()))
    }

    #[test]
    fn the_longest_granted_path_counts_and_names_are_compared_as_a_whole() {
        let grants = ["/data", "/", "/data/kv"];
        for (path, grant, rest) in [
            ("/data", "/data", ""),
            ("/data/", "/data", ""),
            ("/data//a/b/", "/data", "a/b"),
            ("/data/kv/a", "/data/kv", "a"),
            ("/data/kva", "/data", "kva"),
            ("/database", "/", "database"),
            ("/", "/", ""),
        ] {
            assert_eq!(found(&grants, path), Ok((grant.into(), rest.into())), "{path}");
        }
    }

    #[test]
    fn a_path_in_no_grant_is_named_with_the_grants() {
        for (grants, words) in [(vec![], "it grants none"), (vec!["/a", "/b"], "it grants /a, /b")] {
            for path in ["/data/x", "data", "", "/ab"] {
                let error = found(&grants, path).unwrap_err();
                assert!(error.contains(&format!("\"{path}\"")) && error.contains("allow.fs"), "{error}");
                assert!(error.ends_with(words), "{error}");
            }
        }
        let many: Vec<String> = (0..GRANTS_NAMED_MAX + 3).map(|n| format!("/g{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = found(&many, "/data").unwrap_err();
        assert!(error.ends_with("/g7, and 3 more"), "{error}");
    }
}
