//! What a configured backend could reach, compared with what its component asks for. Runs none of its code.

use super::class::{self, ClassError};
use super::component::ComponentError;
use super::inspect::{Inspection, inspect};
use super::offers;
use crate::config::{BackendConfig, Sha256Digest};

/// One backend of a configuration beside its component.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Review {
    /// The component.
    pub inspection: Inspection,
    /// Whether the class is in blocking style; or what is wrong with it.
    pub class: Result<bool, ClassError>,
    /// How the file stands to the configuration's digest.
    pub pin: Pin,
    /// The imports that this host does not offer: with one of them the component does not load.
    pub not_offered: Vec<String>,
    /// What is asked for and what is granted, one entry for each key of grants, also where both are empty.
    pub reaches: Vec<Reach>,
    /// The limits that are not the defaults.
    pub limits: Vec<Limit>,
}

/// How a component's file stands to the digest in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// No digest is given: whatever is in the file is run.
    None,
    /// The file has the digest.
    Matches,
    /// The file has another digest, and is not loaded.
    Differs(Sha256Digest),
}

/// One kind of thing to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The key that grants it.
    pub key: &'static str,
    /// The interfaces that the component imports for it.
    pub imported: Vec<String>,
    /// The grants. Values of variables are left out.
    pub granted: Vec<String>,
}

/// What follows from imports and grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Neither asked for nor granted.
    Unused,
    /// Asked for and granted: it reaches what the grants name.
    Granted,
    /// Imported and not granted: attempts are denied.
    Denied,
    /// Granted and not imported: the component cannot use it.
    NotNeeded,
}

/// A limit that is not the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its name below `limits.`.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// Its default.
    pub default: u64,
}

impl Reach {
    /// Says what follows.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.imported.is_empty(), self.granted.is_empty()) {
            (true, true) => Verdict::Unused,
            (false, false) => Verdict::Granted,
            (false, true) => Verdict::Denied,
            (true, false) => Verdict::NotNeeded,
        }
    }
}

impl Review {
    /// Tells whether the backend can be loaded, as far as can be told without running it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.class.is_ok() && self.not_offered.is_empty() && !matches!(self.pin, Pin::Differs(_))
    }
}

/// Compares a backend's grants with its component's imports.
///
/// # Errors
/// [`ComponentError`], if the component cannot be read or compiled.
pub fn review(config: &BackendConfig) -> Result<Review, ComponentError> {
    let inspection = inspect(&config.module_path)?;
    let pin = match config.digest {
        None => Pin::None,
        Some(pinned) if pinned == inspection.digest => Pin::Matches,
        Some(pinned) => Pin::Differs(pinned),
    };
    let not_offered = inspection.imports.iter().map(|(name, _)| name).filter(|name| !offers(name));
    let settings = config.limits.settings();
    let changed = settings.into_iter().filter(|(_, value, bound)| *value != bound.default);
    Ok(Review {
        class: class::check(&inspection.classes, &config.class_name).map(|(_, blocking)| blocking),
        pin,
        not_offered: not_offered.cloned().collect(),
        reaches: reaches(config, &inspection),
        limits: changed.map(|(name, value, bound)| Limit { name, value, default: bound.default }).collect(),
        inspection,
    })
}

fn reaches(config: &BackendConfig, inspection: &Inspection) -> Vec<Reach> {
    let allow = &config.allow;
    let imported = |key: &str| {
        let asking = inspection.imports.iter().filter(|(_, grant)| *grant == Some(key));
        asking.map(|(name, _)| name.clone()).collect()
    };
    let reach = |key, granted| Reach { key, imported: imported(key), granted };
    vec![
        reach("allow.fs", allow.fs.iter().map(ToString::to_string).collect()),
        reach("allow.net", allow.net.iter().map(ToString::to_string).collect()),
        reach("allow.env", allow.env.iter().map(|grant| grant.name().to_owned()).collect()),
    ]
}
