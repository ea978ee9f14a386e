//! What the operator can set.

use kvtier_guest::{Caching, Error, Init};

/// The backend's settings.
pub(crate) struct Config {
    /// `config.root`: the directory, as the guest sees it; `None` is the first one granted.
    pub(crate) root: Option<String>,
    /// `config.capacity`: bytes of chunks that are kept; no limit by default.
    pub(crate) capacity_bytes: u64,
    /// `config.direct`: past the page cache; through it by default.
    pub(crate) caching: Caching,
}

impl Config {
    pub(crate) fn from_init(init: &Init) -> Result<Self, Error> {
        init.only(&["root", "capacity", "direct"])?;
        let root = init.get("root").map(|_| init.require("root")).transpose()?;
        let capacity_bytes = init.bytes_in("capacity", 1..)?.unwrap_or(u64::MAX);
        if root.is_some_and(|path| path.split('/').any(|part| part == "..")) {
            return Err(Error::invalid_config("root", "must not contain `..`"));
        }
        let caching = if init.parse("direct")?.unwrap_or(false) { Caching::Direct } else { Caching::Cached };
        Ok(Self { root: root.map(str::to_owned), capacity_bytes, caching })
    }
}

/// Finds the granted directory that holds `root`, and `root`'s path below it.
///
/// # Errors
/// [`Error::InvalidConfig`] if nothing is granted, or nothing that holds `root`.
pub(crate) fn locate<'a>(root: Option<&'a str>, granted: &[String]) -> Result<(usize, &'a str), Error> {
    let Some(root) = root else {
        return match granted {
            [] => Err(Error::invalid_config(
                "root",
                "no directory is granted; grant one with `allow.fs: [\"/host/path:/data:rw\"]`",
            )),
            _ => Ok((0, "")),
        };
    };
    let holds = |grant: &str| {
        let rest = root.strip_prefix(grant.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/'))
    };
    let found = granted.iter().enumerate().filter_map(|(i, grant)| Some((i, holds(grant)?)));
    // The shortest rest belongs to the closest grant.
    found.min_by_key(|(_, rest)| rest.len()).ok_or_else(|| {
        let granted = if granted.is_empty() { "nothing".to_owned() } else { granted.join(", ") };
        Error::invalid_config(
            "root",
            format!("its {} bytes name no directory that `allow.fs` grants; it grants {granted}", root.len()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::locate;

    fn granted(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|&path| path.into()).collect()
    }

    #[test]
    fn the_closest_grant_is_taken() {
        let grants = granted(&["/data", "/data/kv/", "/"]);
        assert_eq!(locate(None, &grants), Ok((0, "")));
        assert_eq!(locate(Some("/data"), &grants), Ok((0, "")));
        assert_eq!(locate(Some("/data/"), &grants), Ok((0, "")));
        assert_eq!(locate(Some("/data/kv/a"), &grants), Ok((1, "a")));
        assert_eq!(locate(Some("/database"), &grants), Ok((2, "database")));
    }

    #[test]
    fn a_root_without_a_grant_is_an_error_that_says_so() {
        for (root, grants) in [(None, vec![]), (Some("/data"), vec!["/database"])] {
            let error = locate(root, &granted(&grants)).expect_err("not granted");
            let text = error.to_string();
            assert!(text.contains("config.root") && text.contains("allow.fs"), "{text}");
        }
    }
}
