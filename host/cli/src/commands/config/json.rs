//! The review of a configuration as JSON. Its field names are an interface: scripts read them.

use kvtier::__internal::wasm::{Limit, Reach, ReviewResult};
use kvtier::ShownSetting;
use serde_json::{Value, json};

use super::{Findings, Reviewed};

pub(super) fn render(Findings { warnings, settings, backends }: &Findings) -> Value {
    json!({
        "warnings": warnings,
        "settings": settings.iter().map(setting).collect::<Vec<_>>(),
        "backends": backends.iter().map(backend).collect::<Vec<_>>(),
    })
}

fn setting(setting: &ShownSetting) -> Value {
    json!({ "key": setting.key, "value": setting.value, "default": setting.is_default })
}

fn backend(Reviewed { config, review }: &Reviewed) -> Value {
    let mut value = json!({
        "name": config.name,
        "component": config.module_path.display().to_string(),
        "class": config.class_name,
        "loadable": review.as_ref().is_ok_and(kvtier::__internal::wasm::Review::is_usable),
    });
    match review {
        Err(error) => value["error"] = error.to_string().into(),
        Ok(review) => {
            let secrets =
                config.secrets.iter().map(|(name, source)| (name.clone(), source.to_string().into()));
            value["size_bytes"] = review.inspection.size_bytes.into();
            value["digest"] = review.inspection.digest.to_string().into();
            value["pinned"] = review.pinned.into();
            value["blocking"] = review.class.as_ref().ok().copied().into();
            value["class_error"] = review.class.as_ref().err().map(ToString::to_string).into();
            value["overlap"] = review.overlap.as_ref().map(ToString::to_string).into();
            value["not_offered"] = json!(review.not_offered);
            value["limits"] = review.limits.iter().map(limit).collect();
            value["secrets"] = Value::Object(secrets.collect());
            value["grants"] = review.reaches.iter().map(reach).collect();
        }
    }
    value
}

fn limit(Limit { name, value, default }: &Limit) -> Value {
    json!({ "name": name, "value": value, "default": default })
}

fn reach(reach: &Reach) -> Value {
    let result = match reach.result() {
        ReviewResult::Unused => "unused",
        ReviewResult::Granted => "granted",
        ReviewResult::Denied => "denied",
        ReviewResult::NotNeeded => "not_needed",
    };
    json!({ "key": reach.key, "imported": reach.imported, "granted": reach.granted, "result": result })
}
