//! Lists of objects.

use aws_sdk_s3::types::EncodingType;
use brainy_sidecar::s3::Access;
use futures::future::join_all;

use super::site::{BUCKET, Site, refusal};

const KEYS: [&str; 7] = ["a", "b/1", "b/2", "b/3/4", "c", "c/", "d e&<"];

async fn filled(page: u32) -> Site {
    let site = Site::with(Access::Anyone, page).await;
    join_all(KEYS.map(|key| site.put(key, key))).await;
    site
}

fn keys(objects: &[aws_sdk_s3::types::Object]) -> Vec<&str> {
    objects.iter().filter_map(aws_sdk_s3::types::Object::key).collect()
}

fn prefixes(prefixes: &[aws_sdk_s3::types::CommonPrefix]) -> Vec<&str> {
    prefixes.iter().filter_map(aws_sdk_s3::types::CommonPrefix::prefix).collect()
}

#[tokio::test]
async fn keys_of_all_shards_come_in_order_with_what_is_told_of_them() {
    let site = filled(1000).await;
    let all = site.client().list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(keys(all.contents()), KEYS);
    assert_eq!((all.key_count, all.is_truncated, all.max_keys), (Some(7), Some(false), Some(1000)));
    let first = &all.contents()[0];
    assert_eq!((first.size(), first.e_tag()), (Some(1), Some("\"0cc175b9c0f1b6a831c399e269772661\"")));
    assert!(first.last_modified().is_some() && first.owner().is_none());
    let old = site.client().list_objects().bucket(BUCKET).send().await.unwrap();
    assert_eq!(keys(old.contents()), KEYS);
    assert!(old.contents()[0].owner().is_some() && old.next_marker.is_none());
}

#[tokio::test]
async fn keys_that_share_a_prefix_are_told_as_one() {
    let site = filled(1000).await;
    let list = || site.client().list_objects_v2().bucket(BUCKET).delimiter("/");
    let top = list().send().await.unwrap();
    assert_eq!((keys(top.contents()), prefixes(top.common_prefixes())), (vec!["a", "c", "d e&<"], vec!["b/", "c/"]));
    let below = list().prefix("b/").send().await.unwrap();
    assert_eq!((keys(below.contents()), prefixes(below.common_prefixes())), (vec!["b/1", "b/2"], vec!["b/3/"]));
    let after = list().start_after("b/2").send().await.unwrap();
    assert_eq!(prefixes(after.common_prefixes()), ["b/", "c/"]);
    let after = list().start_after("b/").send().await.unwrap();
    assert_eq!((keys(after.contents()), prefixes(after.common_prefixes())), (vec!["c", "d e&<"], vec!["c/"]));
}

#[tokio::test]
async fn each_page_begins_where_the_one_before_has_ended() {
    let site = filled(1000).await;
    for delimiter in [None, Some("/".to_owned())] {
        for most in 1..5 {
            let mut told: Vec<String> = Vec::new();
            let mut token = None;
            loop {
                let page = site.client().list_objects_v2().bucket(BUCKET).max_keys(most);
                let page = page.set_delimiter(delimiter.clone()).set_continuation_token(token).send().await.unwrap();
                let mut here = keys(page.contents());
                here.extend(prefixes(page.common_prefixes()));
                here.sort_unstable();
                assert!(here.len() <= most as usize && page.key_count == Some(here.len() as i32));
                told.extend(here.into_iter().map(ToOwned::to_owned));
                token = page.next_continuation_token;
                assert_eq!(page.is_truncated, Some(token.is_some()));
                if token.is_none() {
                    break;
                }
            }
            let expected: &[&str] = if delimiter.is_some() { &["a", "b/", "c", "c/", "d e&<"] } else { &KEYS };
            assert_eq!(told, expected, "{delimiter:?} in pages of {most}");
        }
    }
    // The same in the first version, by markers.
    let page = site.client().list_objects().bucket(BUCKET).delimiter("/").max_keys(2).send().await.unwrap();
    assert_eq!((page.next_marker.as_deref(), page.is_truncated), (Some("b/"), Some(true)));
    let rest = site.client().list_objects().bucket(BUCKET).delimiter("/").marker("b/").send().await.unwrap();
    assert_eq!((keys(rest.contents()), prefixes(rest.common_prefixes())), (vec!["c", "d e&<"], vec!["c/"]));
}

#[tokio::test]
async fn a_page_has_as_many_keys_as_is_set_unless_fewer_are_asked_for() {
    let two = filled(2).await;
    let page = two.client().list_objects_v2().bucket(BUCKET).max_keys(1000).send().await.unwrap();
    assert_eq!((keys(page.contents()).len(), page.is_truncated), (2, Some(true)));
    let all = filled(0).await;
    let page = all.client().list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!((keys(page.contents()).len(), page.is_truncated), (7, Some(false)));
    let page = all.client().list_objects_v2().bucket(BUCKET).max_keys(3).send().await.unwrap();
    assert_eq!((keys(page.contents()).len(), page.is_truncated), (3, Some(true)));
    let none = all.client().list_objects_v2().bucket(BUCKET).max_keys(0).send().await.unwrap();
    assert_eq!((keys(none.contents()).len(), none.is_truncated), (0, Some(false)));
}

#[tokio::test]
async fn names_are_encoded_where_that_is_asked_for() {
    let site = filled(1000).await;
    let page = site.client().list_objects_v2().bucket(BUCKET).prefix("d e").encoding_type(EncodingType::Url);
    let page = page.send().await.unwrap();
    assert_eq!((keys(page.contents()), page.prefix()), (vec!["d%20e%26%3C"], Some("d%20e")));
}

#[tokio::test]
async fn what_can_not_be_listed_is_refused() {
    let site = filled(1000).await;
    let list = || site.client().list_objects_v2().bucket(BUCKET);
    assert_eq!(refusal(list().continuation_token("!").send().await), (400, "InvalidArgument".into()));
    assert_eq!(refusal(list().max_keys(-1).send().await), (400, "InvalidArgument".into()));
    let none = site.client().list_objects_v2().bucket("no-bucket").send().await;
    assert_eq!(refusal(none), (404, "NoSuchBucket".into()));
}
