//! Grows volumes: the claim template of a StatefulSet can't be changed, so the claims are resized directly, whatever the
//! health of the pods, since a full volume is often why they are not healthy.

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::reconcile::Error;
use crate::reconcile::validate::ValidatedCluster;

/// Time between attempts to resize claims that are refused.
const RETRY: Duration = Duration::from_secs(60);

/// The refusal that was met last, so that it is not asked for every second.
#[derive(Debug, Default)]
pub struct Memory(Option<Refused>);

#[derive(Clone, Debug)]
struct Refused {
    size: Quantity,
    problem: String,
    at: Duration,
}

/// What came of it, in words; nodes go on all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Why a claim was not resized.
    pub problem: Option<String>,
    /// Claims that are larger than the spec wants, which is refused.
    pub larger: Option<String>,
}

/// Resizes the claims that are smaller than the spec wants. By what the claims themselves say: an earlier cluster of the name
/// may have left smaller ones than a StatefulSet would make today.
pub async fn grow(
    client: &Client,
    cluster: &ValidatedCluster,
    claims: &[PersistentVolumeClaim],
    memory: &mut Memory,
    now: Duration,
) -> Result<Growth, Error> {
    let Some(volume) = &cluster.volume else {
        return Ok(Growth::default());
    };
    let larger = refusal_to_shrink(claims, &volume.size);
    if let Some(problem) = memory.still_refused(&volume.size, now) {
        return Ok(Growth { problem: Some(problem), larger });
    }
    memory.0 = None;
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    for claim in claims.iter().filter(|claim| is_smaller(requested(claim).as_ref(), &volume.size)) {
        let name = claim.name_any();
        let wish = json!({"spec": {"resources": {"requests": {"storage": volume.size}}}});
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(wish)).await {
            Ok(_) => tracing::info!(claim = name, size = volume.size.0, "grew a volume"),
            // Forbidden or invalid: no retry helps until a person acts. Another claim may be of another class.
            Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_invalid() => {
                let problem = format!("volume claim {name} was not resized: {}", status.message);
                tracing::warn!(problem, "a volume was not resized");
                memory.0.get_or_insert(Refused { size: volume.size.clone(), problem, at: now });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Growth { problem: memory.0.as_ref().map(|refused| refused.problem.clone()), larger })
}

/// A volume can't shrink. No rule of the schema says so: who has asked for a growth that the StorageClass refuses must be able
/// to take it back.
fn refusal_to_shrink(claims: &[PersistentVolumeClaim], wanted: &Quantity) -> Option<String> {
    let larger = claims.iter().filter_map(|claim| Some((claim.name_any(), requested(claim)?)));
    let larger: Vec<(String, Quantity)> = larger.filter(|(_, there)| is_smaller(Some(wanted), there)).collect();
    let (_, most) = larger.iter().max_by_key(|(_, there)| bytes(there))?;
    let named: Vec<String> = larger.iter().map(|(name, there)| format!("{name} ({})", there.0)).collect();
    Some(format!(
        "spec.storage.volume.size is {}, and volumes never shrink: {}. They stay as they are; set it to {}, or give nodes smaller volumes in a new BrainyCluster",
        wanted.0,
        named.join(", "),
        most.0
    ))
}

impl Memory {
    fn still_refused(&self, size: &Quantity, now: Duration) -> Option<String> {
        let refused = self.0.as_ref()?;
        let same = refused.size == *size && now.saturating_sub(refused.at) < RETRY;
        same.then(|| refused.problem.clone())
    }
}

/// The least size that a claim asks for.
pub fn least(claims: &[PersistentVolumeClaim]) -> Option<Quantity> {
    claims.iter().filter_map(requested).min_by_key(bytes)
}

/// The claims that are smaller than a size, with what they ask for.
pub fn smaller(claims: &[PersistentVolumeClaim], size: &Quantity) -> Vec<(String, Quantity)> {
    let one = |claim: &PersistentVolumeClaim| {
        let there = requested(claim)?;
        is_smaller(Some(&there), size).then(|| (claim.name_any(), there))
    };
    claims.iter().filter_map(one).collect()
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()
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
    let suffix_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
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
            return text.parse::<f64>().ok().filter(|value| *value >= 0.0).map(whole);
        }
    };
    number.parse::<f64>().ok().filter(|value| *value >= 0.0).map(|value| whole(value * scale))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^128")]
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
        let cases =
            [("10Gi", 10_737_418_240), ("1.5Ki", 1536), ("500M", 500_000_000), ("1e9", 1_000_000_000), ("42", 42)];
        for (text, expected) in cases {
            assert_eq!(bytes(&quantity(text)), Some(expected), "{text}");
        }
        assert_eq!(bytes(&quantity("much")), None);
        assert_eq!(bytes(&quantity("-1Gi")), None);
    }

    #[test]
    fn a_refused_size_is_not_asked_for_again_at_once_and_another_one_is() {
        let at = Duration::from_secs(100);
        let refused = Refused { size: quantity("2Gi"), problem: "no".into(), at };
        let memory = Memory(Some(refused));
        assert_eq!(memory.still_refused(&quantity("2Gi"), at), Some("no".into()));
        assert_eq!(memory.still_refused(&quantity("3Gi"), at), None);
        assert_eq!(memory.still_refused(&quantity("2Gi"), at + RETRY), None);
    }

    fn claim(name: &str, size: &str) -> PersistentVolumeClaim {
        let claim = json!({"metadata": {"name": name}, "spec": {"resources": {"requests": {"storage": size}}}});
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn to_shrink_is_refused_with_the_way_out() {
        let claims = [claim("data-demo-0", "2Gi"), claim("data-demo-1", "1Gi"), claim("data-demo-2", "3Gi")];
        let refusal = refusal_to_shrink(&claims, &quantity("1Gi")).unwrap();
        assert!(refusal.contains("data-demo-0 (2Gi), data-demo-2 (3Gi)"), "{refusal}");
        assert!(refusal.contains("set it to 3Gi"), "{refusal}");
        assert_eq!(refusal_to_shrink(&claims, &quantity("3Gi")), None);
    }

    #[test]
    fn a_volume_grows_and_never_shrinks() {
        assert!(is_smaller(Some(&quantity("1Gi")), &quantity("2Gi")));
        assert!(!is_smaller(Some(&quantity("2Gi")), &quantity("2048Mi")));
        assert!(!is_smaller(Some(&quantity("2Gi")), &quantity("1Gi")));
        assert!(!is_smaller(None, &quantity("1Gi")));
    }
}
