//! The class that is checked, made from the command line.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kvtier::{BackendConfig, Config};
use kvtier_check::Subject;
use serde_json::{Map, Value, json};

use crate::Adapt;
use crate::args::SubjectArgs;
use crate::commands::read_config;

/// The name of a backend that comes from a file alone.
const NAME: &str = "check";

/// Makes the class that a command line describes. `adapt` fits the configuration to this program.
///
/// # Errors
/// If the configuration is invalid or has no such backend, if the component cannot be loaded, and if it has several
/// classes and none is named.
pub(crate) fn subject(args: &SubjectArgs, adapt: Adapt<'_>) -> Result<Subject> {
    let Some(component) = &args.component else {
        let mut config = read_config(args.config.as_deref())?.log();
        adapt(&mut config);
        let backend = choose(&config, args.backend.as_deref())?;
        return Ok(Subject::new(config, backend));
    };
    // The library's message supposes a configuration, where a relative path has another meaning.
    std::fs::metadata(component)
        .with_context(|| format!("cannot open the component {}", component.display()))?;
    let mut config = of_component(component, args)?;
    adapt(&mut config);
    let backend = choose(&config, None)?;
    match args.class {
        Some(_) => Ok(Subject::new(config, backend)),
        None => Ok(Subject::with_only_class(config, backend)?),
    }
}

/// Reads the configuration of one backend that the options describe.
fn of_component(component: &Path, args: &SubjectArgs) -> Result<Config> {
    let folder = std::env::current_dir().context("cannot tell the working directory")?;
    let path = component.to_str().context("the component's path is not UTF-8; move it")?;
    let class = args.class.as_deref().unwrap_or("any");
    let given = [("module_path", path), ("class_name", class)];
    let set = args.set.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut extra = Map::new();
    for (key, value) in given.into_iter().chain(set) {
        let full_key = format!("external_backend.{NAME}.{key}");
        if let Some(Value::Array(grants)) = extra.get_mut(&full_key) {
            grants.push(Value::from(value));
            continue;
        }
        ensure!(
            !extra.contains_key(&full_key),
            "--set {key} is given twice, or stands for an argument of its own"
        );
        // Grants are lists.
        let value = if key.starts_with("allow.") { json!([value]) } else { Value::from(value) };
        extra.insert(full_key, value);
    }
    let text = json!({ "external_backends": NAME, "extra_config": extra }).to_string();
    let read = Config::from_json(&text, folder, []).context("the options make no valid configuration")?;
    Ok(read.log())
}

fn choose(config: &Config, name: Option<&str>) -> Result<BackendConfig> {
    let names = || config.backends.iter().map(|backend| backend.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = match (name, config.backends.as_slice()) {
        (Some(name), backends) => backends.iter().find(|backend| backend.name == name),
        (None, [only]) => Some(only),
        (None, []) => {
            bail!("the configuration has no backend; name a component, or add one to external_backends")
        }
        (None, _) => {
            bail!("the configuration has several backends; name one of them with --backend: {}", names())
        }
    };
    found.cloned().with_context(|| {
        format!("the configuration has no backend `{}`; it has {}", name.unwrap_or_default(), names())
    })
}
