//! The CustomResourceDefinition as the API server gets it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::BrainyCluster;

/// The name of the CustomResourceDefinition.
pub const NAME: &str = "brainyclusters.brainy.io";

/// Where the generated manifest lies, relative to the repository's root. Both files are the same.
pub const FILES: [&str; 2] =
    ["crds/brainyclusters.brainy.io.yaml", "charts/brainy-operator/files/brainyclusters.brainy.io.yaml"];

const HEADER: &str = "# Generated from crds/src/spec.rs and status.rs by `make crds`. Do not edit.\n";

/// Types of Kubernetes' own that the spec embeds. Their descriptions are left out: they are ten times as long as all of
/// ours, and a CustomResourceDefinition over 262,144 bytes can't be applied from the client side.
const EMBEDDED: [&str; 5] = ["affinity", "env", "resources", "size", "tolerations"];

/// Why the manifest could not be made: a defect of the types in this crate, found by its tests.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The generated definition is not what the post-processing expects.
    #[error("the generated definition has no object at {0}")]
    Shape(&'static str),
    /// It can't be written as JSON.
    #[error("the definition can't be written as JSON")]
    Json(#[from] serde_json::Error),
    /// It can't be written as YAML.
    #[error("the definition can't be written as YAML")]
    Yaml(#[from] serde_yaml::Error),
}

/// The CustomResourceDefinition as JSON.
pub fn definition() -> Result<Value, Error> {
    let mut definition = serde_json::to_value(BrainyCluster::crd())?;
    let schema = definition
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .and_then(Value::as_object_mut)
        .ok_or(Error::Shape("spec.versions[0].schema.openAPIV3Schema"))?;
    schema.insert(
        "description".into(),
        json!("N Brainy nodes with sharded storage, every shard owned by exactly one node."),
    );
    shorten_embedded(schema);
    tidy(schema);
    Ok(definition)
}

/// The CustomResourceDefinition as a typed object.
pub fn custom_resource_definition() -> Result<CustomResourceDefinition, Error> {
    Ok(serde_json::from_value(definition()?)?)
}

/// The manifest, as it lies in [`FILES`].
pub fn yaml() -> Result<String, Error> {
    Ok(format!("{HEADER}{}", serde_yaml::to_string(&definition()?)?))
}

/// The schema of the one version.
pub fn schema() -> Result<Value, Error> {
    let mut definition = definition()?;
    let schema =
        definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema").ok_or(Error::Shape("spec.versions[0]"))?;
    Ok(schema.take())
}

fn shorten_embedded(schema: &mut Map<String, Value>) {
    for_each_property(schema, &mut |name, property| {
        if EMBEDDED.contains(&name) {
            without_inner_descriptions(property, true);
        }
    });
}

fn for_each_property(schema: &mut Map<String, Value>, act: &mut impl FnMut(&str, &mut Map<String, Value>)) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties.iter_mut() {
            if let Some(property) = property.as_object_mut() {
                act(name, property);
                for_each_property(property, act);
            }
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner).and_then(Value::as_object_mut) {
            for_each_property(inner, act);
        }
    }
}

/// Removes descriptions below a property; its own stays when it is ours, which is short.
fn without_inner_descriptions(schema: &mut Map<String, Value>, outermost: bool) {
    let ours = schema.get("description").and_then(Value::as_str).is_some_and(|text| text.len() <= 200);
    if !(outermost && ours) {
        schema.remove("description");
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for property in properties.values_mut().filter_map(Value::as_object_mut) {
            without_inner_descriptions(property, false);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner).and_then(Value::as_object_mut) {
            without_inner_descriptions(inner, false);
        }
    }
}

/// Removes what the API server has no use for: number formats beside explicit bounds.
fn tidy(schema: &mut Map<String, Value>) {
    for_each_property(schema, &mut |_, property| {
        if property.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
            property.remove("format");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_small_enough_to_be_applied_from_the_client_side() {
        let yaml = yaml().unwrap();
        let json = serde_json::to_string(&definition().unwrap()).unwrap();
        assert!(yaml.len() < 200_000, "{} bytes", yaml.len());
        assert!(json.len() < 200_000, "{} bytes", json.len());
    }

    #[test]
    fn the_manifest_reads_back_as_a_definition_with_a_scale_subresource() {
        let definition = custom_resource_definition().unwrap();
        assert_eq!(definition.metadata.name.as_deref(), Some(NAME));
        let scale = definition.spec.versions[0].subresources.as_ref().and_then(|s| s.scale.as_ref()).unwrap();
        assert_eq!(scale.label_selector_path.as_deref(), Some(".status.selector"));
    }

    /// A structural schema may not forbid additional properties beside named ones: strict field validation does that.
    #[test]
    fn the_schema_is_structural() {
        fn check(schema: &Value, path: &str) {
            let Some(object) = schema.as_object() else {
                return;
            };
            if !path.contains("anyOf") && !path.contains("oneOf") {
                let typed = object.contains_key("type")
                    || object.contains_key("x-kubernetes-int-or-string")
                    || object.contains_key("x-kubernetes-preserve-unknown-fields");
                assert!(typed, "{path} has no type");
            }
            assert!(
                !matches!(object.get("additionalProperties"), Some(Value::Bool(false))),
                "{path} forbids additional properties"
            );
            for word in ["$ref", "definitions", "uniqueItems", "const"] {
                assert!(!object.contains_key(word), "{path} has {word}");
            }
            for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
                check(property, &format!("{path}.{name}"));
            }
            for inner in ["items", "additionalProperties"] {
                if let Some(inner_schema) = object.get(inner).filter(|inner| inner.is_object()) {
                    check(inner_schema, &format!("{path}.{inner}"));
                }
            }
        }
        let schema = schema().unwrap();
        check(&schema, "");
    }
}
