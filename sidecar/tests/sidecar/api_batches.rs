//! Batches and listings through the storage API.

use serde_json::{Value, json};

use crate::support::app::{App, failed};

#[tokio::test]
async fn a_batch_is_written_and_read_in_order() {
    let app = App::new();
    let items: Vec<Value> = (0..500).map(|n| json!({ "key": format!("k{n}"), "value": { "n": n } })).collect();
    let answer = app.post("/v1/kv:setBatch", &json!({ "items": items })).await.json();
    let outcomes = answer["items"].as_array().unwrap();
    assert_eq!(outcomes.len(), 500);
    for (n, item) in outcomes.iter().enumerate() {
        assert_eq!((&item["key"], &item["outcome"]), (&json!(format!("k{n}")), &json!("applied")));
        assert!(item["version"].is_string());
    }
    let keys: Vec<String> = (0..501).rev().map(|n| format!("k{n}")).collect();
    let answer = app.post("/v1/kv:getBatch", &json!({ "keys": keys })).await.json();
    let found = answer["items"].as_array().unwrap();
    assert_eq!(found[0], json!({ "key": "k500", "found": false }));
    for (item, n) in found[1..].iter().zip((0..500).rev()) {
        assert_eq!((&item["key"], &item["value"]), (&json!(format!("k{n}")), &json!({ "n": n })));
    }
}

#[tokio::test]
async fn a_batch_tells_null_and_empty_values_from_missing_ones() {
    let app = App::new();
    let items = json!({ "items": [
        { "key": "null", "value": null }, { "key": "zero", "value": 0 }, { "key": "empty", "value": "" },
        { "key": "false", "value": false }, { "key": "bytes", "valueBase64": "" },
    ] });
    assert_eq!(app.post("/v1/kv:setBatch", &items).await.status, 200);
    let keys = json!({ "keys": ["null", "zero", "empty", "false", "bytes", "missing"] });
    let answer = app.post("/v1/kv:getBatch", &keys).await.json();
    let found: Vec<bool> = answer["items"].as_array().unwrap().iter().map(|item| item["found"] == true).collect();
    assert_eq!(found, [true, true, true, true, true, false]);
    assert_eq!(answer["items"][0].get("value"), Some(&Value::Null));
    assert_eq!(answer["items"][4]["valueBase64"], "");
    assert_eq!(answer["items"][5].get("value"), None);
}

#[tokio::test]
async fn the_later_of_two_items_of_one_key_wins() {
    let app = App::new();
    let items =
        json!({ "items": [{ "key": "k", "value": 1 }, { "key": "other", "value": 0 }, { "key": "k", "value": 2 }] });
    app.post("/v1/kv:setBatch", &items).await;
    assert_eq!(app.get("/v1/kv/k").await.json(), 2);
}

#[tokio::test]
async fn a_malformed_item_refuses_the_whole_batch_and_is_named() {
    let app = App::new();
    for (bad, field) in [
        (json!({ "key": "", "value": 1 }), "items[1].key"),
        (json!({ "key": "k".repeat(1025), "value": 1 }), "items[1].key"),
        (json!({ "key": "k" }), "items[1].value"),
        (json!({ "key": "k", "value": 1, "valueBase64": "" }), "items[1].value"),
        (json!({ "key": "k", "valueBase64": "***" }), "items[1].valueBase64"),
    ] {
        let answer = app.post("/v1/kv:setBatch", &json!({ "items": [{ "key": "good", "value": 1 }, bad] })).await;
        assert_eq!((answer.problem(), &answer.json()["field"]), (failed(400, "invalid-request"), &json!(field)));
    }
    assert_eq!(app.get("/v1/kv/good").await.status, 404);
    let answer = app.post("/v1/kv:getBatch", &json!({ "keys": ["good", ""] })).await;
    assert_eq!((answer.problem(), &answer.json()["field"]), (failed(400, "invalid-request"), &json!("keys[1]")));
}

#[tokio::test]
async fn a_batch_of_too_many_items_is_refused() {
    let app = App::new();
    let keys: Vec<&str> = vec!["k"; 10_001];
    let answer = app.post("/v1/kv:getBatch", &json!({ "keys": keys })).await;
    assert_eq!((answer.problem(), &answer.json()["field"]), (failed(400, "invalid-request"), &json!("keys")));
}

#[tokio::test]
async fn a_batch_whose_values_exceed_memory_says_so_key_by_key() {
    let app = App::new();
    for n in 0..6 {
        let written = app.call("PUT", &format!("/v1/kv/k{n}"), &[], vec![7; 8 * 1024 * 1024]).await;
        assert_eq!(written.status, 200);
    }
    let keys: Vec<String> = (0..6).map(|n| format!("k{n}")).collect();
    let answer = app.post("/v1/kv:getBatch", &json!({ "keys": keys })).await.json();
    let items = answer["items"].as_array().unwrap();
    let found = items.iter().filter(|item| item["found"] == true).count();
    let refused = items.iter().filter(|item| item["problem"]["outcome"] == "failed").count();
    assert_eq!((found, refused), (4, 2));
    assert_eq!(app.get("/v1/kv/k5").await.status, 200);
}

#[tokio::test]
async fn keys_are_listed_page_by_page_across_all_shards() {
    let app = App::new();
    let mut expected: Vec<String> = (0..97).map(|n| format!("a/{n}")).chain(["ä".into(), "a".into()]).collect();
    expected.sort();
    let items: Vec<Value> = expected.iter().map(|key| json!({ "key": key, "value": 1 })).collect();
    app.post("/v1/kv:setBatch", &json!({ "items": items })).await;
    let mut listed: Vec<String> = Vec::new();
    let mut path = "/v1/kv?limit=10".to_owned();
    let mut pages = 0;
    loop {
        let page = app.get(&path).await.json();
        listed.extend(page["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()));
        pages += 1;
        match page.get("cursor") {
            Some(cursor) => path = format!("/v1/kv?limit=10&cursor={}", cursor.as_str().unwrap()),
            None => break,
        }
    }
    assert_eq!((listed, pages), (expected.clone(), 10));
    let all = app.get("/v1/kv?prefix=a/&limit=97").await.json();
    assert_eq!((all["keys"].as_array().unwrap().len(), all.get("cursor")), (97, None));
}

#[tokio::test]
async fn a_listing_that_makes_no_sense_is_refused() {
    let app = App::new();
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=x", "query"),
        ("cursor=!", "cursor"),
        ("cursor=_w", "cursor"),
        ("nonsense=1", "query"),
    ] {
        let answer = app.get(&format!("/v1/kv?{query}")).await;
        assert_eq!(
            (answer.problem(), &answer.json()["field"]),
            (failed(400, "invalid-request"), &json!(field)),
            "{query}"
        );
    }
}
