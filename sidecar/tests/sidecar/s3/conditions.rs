//! Writes under conditions: each is decided once, whatever comes in between.

use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::Semaphore;

use super::site::{BUCKET, Site, bytes, code, raw, refusal};
use crate::support::answer::Answer;
use crate::support::faulty::Fault;

/// A PUT as an SDK would send it, with headers of its own.
async fn put_raw(site: &Site, key: &str, body: &str, headers: &str) -> Answer {
    let head = format!("PUT /{BUCKET}/{key} HTTP/1.1\r\nhost: h\r\n{headers}content-length: {}\r\n\r\n", body.len());
    raw(site, head + body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_create_a_key_exactly_one_does() {
    let site = Site::new().await;
    let create = |n: usize| {
        site.client().put_object().bucket(BUCKET).key("k").body(bytes(&n.to_string())).if_none_match("*").send()
    };
    let outcomes = join_all((0..32).map(create)).await;
    let winners: Vec<usize> = (0..32).filter(|n| outcomes[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(site.text("k").await, winners[0].to_string());
    for lost in outcomes.into_iter().filter(Result::is_err) {
        assert_eq!(refusal(lost), (412, "PreconditionFailed".into()));
    }
}

/// Reads a number and writes the next over it, until that has been done `times` times.
async fn count(site: &Site, times: u32) {
    let client = site.client();
    let mut done = 0;
    while done < times {
        let got = client.get_object().bucket(BUCKET).key("k").send().await.unwrap();
        let etag = got.e_tag.unwrap();
        let text = String::from_utf8(got.body.collect().await.unwrap().to_vec()).unwrap();
        let next = (text.parse::<u32>().unwrap() + 1).to_string();
        let put = client.put_object().bucket(BUCKET).key("k").body(bytes(&next)).if_match(etag).send().await;
        match put {
            Ok(_) => done += 1,
            refused => assert_eq!(refusal(refused), (412, "PreconditionFailed".into())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_count_is_lost_by_writers_who_each_name_what_they_read() {
    let site = Site::new().await;
    site.put("k", "0").await;
    join_all((0..8).map(|_| count(&site, 10))).await;
    assert_eq!(site.text("k").await, "80");
}

/// The tag was looked at, and then somebody else wrote: what is written over must be what was looked at.
#[tokio::test]
async fn what_comes_between_the_look_at_a_tag_and_the_write_is_not_written_over() {
    let site = Site::new().await;
    let etag = site.put("k", "first").await;
    let gate = Arc::new(Semaphore::new(0));
    site.app.as_ref().unwrap().stores.set_fault(Fault::Held(Arc::clone(&gate)));
    let write = |site: &Site, body: &'static str, etag: Option<String>| {
        let put = site.client().put_object().bucket(BUCKET).key("k").body(bytes(body)).set_if_match(etag);
        tokio::spawn(put.send())
    };
    let conditional = write(&site, "second", Some(etag));
    // Its look: then it wants to write, and waits.
    gate.add_permits(1);
    while gate.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let app = site.app.as_ref().unwrap();
    app.stores.set_fault(Fault::None);
    assert_eq!(app.put_json(&format!("/v1/namespaces/{BUCKET}/kv/k"), "1").await.status, 200);
    gate.add_permits(100);
    assert_eq!(refusal(conditional.await.unwrap()), (412, "PreconditionFailed".into()));
    assert_eq!(site.text("k").await, "1");
}

#[tokio::test]
async fn a_write_over_nothing_and_a_removal_of_something_else_are_refused() {
    let site = Site::new().await;
    let put = |condition: &str| site.client().put_object().bucket(BUCKET).key("k").body(bytes("x")).if_match(condition);
    for condition in ["\"0\"", "*"] {
        assert_eq!(refusal(put(condition).send().await), (404, "NoSuchKey".into()));
    }
    let etag = site.put("k", "x").await;
    assert!(put("*").send().await.is_ok() && put(&etag).send().await.is_ok());
    let delete = |etag: &str| site.client().delete_object().bucket(BUCKET).key("k").if_match(etag).send();
    assert_eq!(refusal(delete("\"0\"").await), (412, "PreconditionFailed".into()));
    delete(&etag).await.unwrap();
    assert_eq!(refusal(delete(&etag).await), (404, "NoSuchKey".into()));
}

#[tokio::test]
async fn an_unknown_outcome_is_never_told_as_a_refusal_or_a_success() {
    let site = Site::new().await;
    let stores = &site.app.as_ref().unwrap().stores;
    for condition in ["", "if-none-match: *\r\n"] {
        stores.set_fault(Fault::UnknownWrites);
        let answer = put_raw(&site, "k", "x", condition).await;
        assert_eq!(code(&answer), (500, "InternalError".into()));
        assert!(answer.text().contains("may or may not have taken effect"), "{}", answer.text());
        stores.set_fault(Fault::None);
        assert_eq!(site.text("k").await, "x", "it had taken effect");
        site.client().delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_an_sdk_sends_again_is_answered_as_it_was_the_first_time() {
    let site = Site::new().await;
    let create = "if-none-match: *\r\namz-sdk-invocation-id: one\r\n";
    for _ in 0..2 {
        assert_eq!(put_raw(&site, "k", "first", create).await.status, 200);
    }
    let other = "if-none-match: *\r\namz-sdk-invocation-id: two\r\n";
    assert_eq!(code(&put_raw(&site, "k", "first", other).await), (412, "PreconditionFailed".into()));
    assert_eq!(code(&put_raw(&site, "k", "other", create).await), (412, "PreconditionFailed".into()), "other content");

    let over = "if-match: \"8b04d5e3775d298e78455efc5ca404d5\"\r\namz-sdk-invocation-id: three\r\n";
    for _ in 0..2 {
        assert_eq!(put_raw(&site, "k", "second", over).await.status, 200);
    }
    assert_eq!(code(&put_raw(&site, "k", "third", over).await), (412, "PreconditionFailed".into()));
    // Another has written since: it was done all the same, and is not done again.
    site.put("k", "of another").await;
    assert_eq!(put_raw(&site, "k", "second", over).await.status, 200);
    assert_eq!(site.text("k").await, "of another");
}

#[tokio::test]
async fn an_sdk_whose_answers_are_lost_creates_once_and_learns_of_it() {
    let site = Site::new().await;
    site.app.as_ref().unwrap().stores.set_fault(Fault::UnknownOnce(Box::new(Fault::None)));
    // The look at the bucket is the first operation, and is no write.
    site.client().head_bucket().bucket(BUCKET).send().await.unwrap();
    site.app.as_ref().unwrap().stores.set_fault(Fault::UnknownOnce(Box::new(Fault::None)));
    let put = site.client().put_object().bucket(BUCKET).key("k").body(bytes("x")).if_none_match("*").send().await;
    assert!(put.is_ok(), "{put:?}");
}
