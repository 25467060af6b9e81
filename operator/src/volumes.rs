//! Grows the nodes' volumes. The claim template of a StatefulSet can't be changed, so the claims are resized directly,
//! whatever the health of the pods: a full volume is often why they are not healthy.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::reconcile::Error;
use crate::reconcile::build::{DATA_VOLUME, claim_name, selector_text};
use crate::reconcile::validate::{ValidatedCluster, ValidatedStorage};

/// Resizes the claims that are smaller than the spec wants. `template` is the live claim template: while it says what the
/// spec says there is nothing to look at.
pub async fn grow(
    client: &Client,
    cluster: &ValidatedCluster,
    template: Option<&PersistentVolumeClaim>,
) -> Result<(), Error> {
    let ValidatedStorage::Isolated(volume) = &cluster.storage else {
        return Ok(());
    };
    let Some(created_with) = template.and_then(requested) else {
        return Ok(());
    };
    if bytes(&created_with) == bytes(&volume.size) {
        return Ok(());
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    let ours = ListParams::default().labels(&selector_text(&cluster.name));
    for claim in claims.list(&ours).await? {
        let name = claim.name_any();
        if is_a_node_s(&name, &cluster.name) && is_smaller(requested(&claim).as_ref(), &volume.size)
        {
            let wish = json!({"spec": {"resources": {"requests": {"storage": volume.size}}}});
            tracing::info!(claim = name, size = volume.size.0, "growing a volume");
            claims
                .patch(&name, &PatchParams::default(), &Patch::Merge(wish))
                .await
                .map_err(|source| Error::VolumeNotResized {
                    claim: name.clone(),
                    source: Box::new(source),
                })?;
        }
    }
    Ok(())
}

fn is_a_node_s(claim: &str, cluster: &str) -> bool {
    let ordinal = claim
        .strip_prefix(&format!("{DATA_VOLUME}-{cluster}-"))
        .and_then(|rest| rest.parse().ok());
    ordinal.is_some_and(|ordinal| claim == claim_name(cluster, ordinal))
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim
        .spec
        .as_ref()?
        .resources
        .as_ref()?
        .requests
        .as_ref()?
        .get("storage")
        .cloned()
}

/// A volume never shrinks, and what can't be read is left alone.
fn is_smaller(there: Option<&Quantity>, wanted: &Quantity) -> bool {
    match (there.and_then(bytes), bytes(wanted)) {
        (Some(there), Some(wanted)) => there < wanted,
        _ => false,
    }
}

/// A quantity in bytes: `10Gi`, `500M`, `1e9`, `1.5Ti`. `None`: not a number of bytes.
fn bytes(quantity: &Quantity) -> Option<u128> {
    let text = quantity.0.trim();
    let suffix_at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(suffix_at);
    let scale: f64 = match suffix {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024_f64,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        _ => {
            return text
                .parse::<f64>()
                .ok()
                .filter(|value| *value >= 0.0)
                .map(whole);
        }
    };
    number
        .parse::<f64>()
        .ok()
        .filter(|value| *value >= 0.0)
        .map(|value| whole(value * scale))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and far below 2^128"
)]
fn whole(value: f64) -> u128 {
    value.ceil() as u128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity(text.into())
    }

    #[test]
    fn sizes_are_compared_in_bytes() {
        let cases = [
            ("10Gi", 10_737_418_240),
            ("1.5Ki", 1536),
            ("500M", 500_000_000),
            ("1e9", 1_000_000_000),
            ("42", 42),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(&quantity(text)), Some(expected), "{text}");
        }
        assert_eq!(bytes(&quantity("much")), None);
        assert_eq!(bytes(&quantity("-1Gi")), None);
    }

    #[test]
    fn a_volume_grows_and_never_shrinks() {
        assert!(is_smaller(Some(&quantity("1Gi")), &quantity("2Gi")));
        assert!(!is_smaller(Some(&quantity("2Gi")), &quantity("2048Mi")));
        assert!(!is_smaller(Some(&quantity("2Gi")), &quantity("1Gi")));
        assert!(!is_smaller(None, &quantity("1Gi")));
    }

    #[test]
    fn claims_of_another_cluster_whose_name_begins_alike_are_not_touched() {
        assert!(is_a_node_s("data-demo-0", "demo"));
        assert!(!is_a_node_s("data-demo-x-0", "demo"));
        assert!(!is_a_node_s("data-demo-00", "demo"));
        assert!(!is_a_node_s("other", "demo"));
    }
}
