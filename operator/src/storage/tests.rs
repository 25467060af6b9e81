use std::collections::BTreeMap;

use k8s_openapi::ByteString;

use k8s_openapi::api::core::v1::Secret;

use super::problem::word;
use super::*;
use crate::fixtures::shared;
use crate::reconcile::validate::validate;

fn secret(keys: &[(&str, &str)]) -> Secret {
    let data: BTreeMap<String, ByteString> =
        keys.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect();
    Secret { data: Some(data), ..Secret::default() }
}

fn bucket() -> BucketSpec {
    validate(&shared()).unwrap().storage.bucket().cloned().unwrap()
}

#[test]
fn a_missing_or_empty_key_is_named() {
    let whole = secret(&[("accessKeyId", "id\n"), ("secretAccessKey", "hidden")]);
    let keys = Credentials::from_secret("team", "s3", &whole).unwrap();
    assert_eq!(keys, Credentials::Keys { access_key_id: "id".into(), secret_access_key: "hidden".into() });
    for (partial, missing) in [
        (secret(&[("accessKeyId", "id")]), "secretAccessKey"),
        (secret(&[("accessKeyId", " "), ("secretAccessKey", "x")]), "accessKeyId"),
        (Secret::default(), "accessKeyId"),
    ] {
        let problem = Credentials::from_secret("team", "s3", &partial).unwrap_err();
        assert_eq!(problem.reason, "SecretKeyMissing");
        assert!(problem.message.contains(&format!("team/s3 has no key {missing}")), "{}", problem.message);
    }
}

#[test]
fn the_cause_of_the_store_is_the_reason_and_the_bucket_is_named() {
    let error = brainy_storage::Error::unavailable("NoSuchBucket", "the bucket does not exist");
    let problem = Problem::of(&error, &bucket());
    assert_eq!(problem.reason, "NoSuchBucket");
    assert!(problem.message.starts_with("bucket data: "), "{}", problem.message);
    assert_eq!(word("403 Forbidden"), "StorageUnavailable", "a reason begins with a letter");
    assert_eq!(word("Signature-Does.Not"), "SignatureDoesNot");
}

#[test]
fn the_pause_doubles_from_five_seconds_to_a_minute_and_starts_over_after_success() {
    let mut memory = Memory::default();
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let Storage::Failed { retry_in, .. } = memory.failed(Problem::secret_not_found("n", "s"), Duration::ZERO)
        else {
            panic!("it failed")
        };
        pauses.push(retry_in.as_secs());
    }
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
    memory.succeeded();
    assert_eq!(pause_after(memory.failures).as_secs(), 5);
}

#[test]
fn a_changed_secret_or_endpoint_is_tried_at_once_and_the_same_one_is_not() {
    let keys = |secret: &str| Credentials::Keys { access_key_id: "id".into(), secret_access_key: secret.into() };
    let asked = fingerprint(&bucket(), &keys("one"), None);
    let mut memory = Memory { asked, ..Memory::default() };
    let now = Duration::from_secs(100);
    let _failed = memory.failed(Problem::new("AccessDenied", String::new()), now);
    assert!(memory.still_pausing(asked, now + Duration::from_secs(4)).is_some());
    assert!(memory.still_pausing(asked, now + Duration::from_secs(5)).is_none());
    assert!(memory.still_pausing(fingerprint(&bucket(), &keys("two"), None), now).is_none());
    assert!(memory.still_pausing(fingerprint(&bucket(), &keys("one"), Some("u1")), now).is_none());
    let elsewhere = BucketSpec { endpoint: Some("http://other".into()), ..bucket() };
    assert!(memory.still_pausing(fingerprint(&elsewhere, &keys("one"), None), now).is_none());
}

#[test]
fn no_secret_is_ever_shown() {
    let keys = Credentials::Keys { access_key_id: "id".into(), secret_access_key: "hidden".into() };
    assert!(!format!("{keys:?}").contains("hidden"));
}
