//! Buckets.

use super::site::{BUCKET, Site, refusal};

#[tokio::test]
async fn a_bucket_is_there_from_when_it_is_made_until_it_is_removed() {
    let site = Site::new().await;
    let client = site.client();
    assert_eq!(refusal(client.head_bucket().bucket("another").send().await).0, 404);
    client.create_bucket().bucket("another").send().await.unwrap();
    client.head_bucket().bucket("another").send().await.unwrap();
    let again = client.create_bucket().bucket("another").send().await;
    assert_eq!(refusal(again), (409, "BucketAlreadyOwnedByYou".into()));
    let names = |buckets: &[aws_sdk_s3::types::Bucket]| {
        buckets.iter().map(|bucket| bucket.name().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = client.list_buckets().send().await.unwrap();
    assert_eq!(names(all.buckets()), [BUCKET, "another"]);
    let first = client.list_buckets().max_buckets(1).send().await.unwrap();
    assert_eq!(names(first.buckets()), [BUCKET]);
    let rest = client.list_buckets().continuation_token(first.continuation_token.unwrap()).send().await.unwrap();
    assert_eq!((names(rest.buckets()), rest.continuation_token), (vec!["another".to_owned()], None));

    client.delete_bucket().bucket("another").send().await.unwrap();
    assert_eq!(refusal(client.delete_bucket().bucket("another").send().await), (404, "NoSuchBucket".into()));
    let put = client.put_object().bucket("another").key("k").send().await;
    assert_eq!(refusal(put), (404, "NoSuchBucket".into()));
}

#[tokio::test]
async fn a_bucket_with_objects_stays() {
    let site = Site::new().await;
    site.put("k", "x").await;
    let refused = site.client().delete_bucket().bucket(BUCKET).send().await;
    assert_eq!(refusal(refused), (409, "BucketNotEmpty".into()));
    site.client().delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    site.client().delete_bucket().bucket(BUCKET).send().await.unwrap();
}

#[tokio::test]
async fn names_of_buckets_are_checked_as_s3_does() {
    let site = Site::new().await;
    for name in ["ab", "Upper", "under_score", "192.168.0.1", "-dash", "a..b"] {
        let refused = site.client().create_bucket().bucket(name).send().await;
        assert_eq!(refusal(refused), (400, "InvalidBucketName".into()), "{name}");
    }
}
