//! What S3 of a node costs over a bucket that is far away, beside going there directly, by the same client. Measures and asserts nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;

use super::cluster::{Cluster, Setup};
use super::figures::median;
use super::links::Link;
use super::s3::client;
use super::store::{ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY};
use super::support::{free_address, own_ip};

/// How far the bucket is: a request and its answer together.
const AWAY: Duration = Duration::from_millis(40);
const CLIENTS: usize = 8;
/// Requests of each client, in each turn.
const REQUESTS: usize = 50;
const TURNS: usize = 3;
const SIZE: usize = 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    PutNew,
    PutOver,
    /// Of what was put before: the node has it in its cache.
    Get,
}

async fn ask(client: &Client, bucket: &str, what: What, (turn, who, number): (usize, usize, usize)) {
    let key = match what {
        What::PutNew => format!("new/{turn}/{who}/{number}"),
        What::PutOver | What::Get => format!("known/{who}/{number}"),
    };
    match what {
        What::PutNew | What::PutOver => {
            let body = vec![turn as u8; SIZE];
            client.put_object().bucket(bucket).key(key).body(body.into()).send().await.unwrap();
        }
        What::Get => {
            let got = client.get_object().bucket(bucket).key(key).send().await.unwrap();
            assert_eq!(got.body.collect().await.unwrap().to_vec().len(), SIZE);
        }
    }
}

/// The time that each request took.
async fn turn(client: &Client, bucket: &'static str, what: What, turn: usize) -> Vec<Duration> {
    let mut tasks = tokio::task::JoinSet::new();
    for who in 0..CLIENTS {
        let client = client.clone();
        tasks.spawn(async move {
            let mut took = Vec::with_capacity(REQUESTS);
            for number in 0..REQUESTS {
                let began = Instant::now();
                ask(&client, bucket, what, (turn, who, number)).await;
                took.push(began.elapsed());
            }
            took
        });
    }
    tasks.join_all().await.concat()
}

#[test]
#[ignore = "measures: `make bench`"]
fn of_a_bucket_that_is_far_away() {
    let Some(cluster) = Cluster::start(Setup { nodes: 1, s3: true, ..Setup::default() }) else { return };
    cluster.settled();
    let there = SocketAddr::from((own_ip(), free_address().port()));
    let directly = Link::new(there, cluster.store.address);
    for link in [&directly, &cluster.nodes[0].outward] {
        link.set_late(AWAY);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ours = client(cluster.nodes[0].s3, "any", "any");
    let theirs = client(there, ACCESS_KEY_ID, SECRET_ACCESS_KEY);
    runtime.block_on(async {
        ours.create_bucket().bucket("figures").send().await.unwrap();
        // In this order: what is written over is what is read.
        for what in [What::PutNew, What::PutOver, What::Get] {
            let (mut through, mut direct) = (Vec::new(), Vec::new());
            // The first is not counted: connections are opened in it, and what is known is written.
            for number in 0..=TURNS {
                let (a, b) = (turn(&ours, "figures", what, number).await, turn(&theirs, BUCKET, what, number).await);
                if number > 0 {
                    through.extend(a);
                    direct.extend(b);
                }
            }
            let (through, direct) = (median(&mut through), median(&mut direct));
            println!(
                "S3, {what:?} of {SIZE} bytes, {CLIENTS} clients, the bucket {AWAY:?} away: p50 {through:.1?} through the node, \
                 {direct:.1?} directly; {:.2} times as long",
                through.as_secs_f64() / direct.as_secs_f64()
            );
        }
    });
}
