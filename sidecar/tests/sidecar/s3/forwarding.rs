//! Through any node, whoever owns the shard.

use brainy_sidecar::s3::{Access, DEFAULT_PAGE};
use futures::future::join_all;

use super::site::{BUCKET, Site, bytes, refusal};
use crate::support::cluster::Cluster;

async fn three() -> (Cluster, Vec<Site>) {
    let cluster = Cluster::of(3).await;
    let mut sites = Vec::new();
    for node in &cluster.nodes {
        sites.push(Site::over(node.router.clone(), Access::Anyone, DEFAULT_PAGE).await);
    }
    sites[0].client().create_bucket().bucket(BUCKET).send().await.unwrap();
    (cluster, sites)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_the_same_through_every_node() {
    let (_cluster, sites) = three().await;
    let key = |n: usize| format!("folder/{n:03}");
    join_all((0..60).map(|n| {
        let put = sites[n % 3].client().put_object().bucket(BUCKET).key(key(n)).body(bytes(&n.to_string()));
        put.content_type("text/plain").metadata("n", n.to_string()).send()
    }))
    .await
    .into_iter()
    .for_each(|put| drop(put.unwrap()));
    for site in &sites {
        let listed = site.client().list_objects_v2().bucket(BUCKET).send().await.unwrap();
        let keys: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
        assert_eq!(keys, (0..60).map(key).collect::<Vec<_>>());
        let got = site.client().get_object().bucket(BUCKET).key(key(7)).send().await.unwrap();
        assert_eq!(
            (got.content_type.as_deref(), got.metadata.as_ref().unwrap()["n"].as_str()),
            (Some("text/plain"), "7")
        );
        assert_eq!(got.body.collect().await.unwrap().to_vec(), b"7");
        let head = site.client().head_object().bucket(BUCKET).key(key(59)).send().await.unwrap();
        assert_eq!(head.content_length, Some(2));
    }
    sites[1].client().delete_object().bucket(BUCKET).key(key(7)).send().await.unwrap();
    assert_eq!(refusal(sites[2].client().head_object().bucket(BUCKET).key(key(7)).send().await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_create_a_key_through_different_nodes_exactly_one_does() {
    let (_cluster, sites) = three().await;
    for round in 0..5 {
        let create = |n: usize| {
            let put = sites[n % 3].client().put_object().bucket(BUCKET).key(format!("k{round}"));
            put.body(bytes(&n.to_string())).if_none_match("*").send()
        };
        let outcomes = join_all((0..12).map(create)).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    }
}
