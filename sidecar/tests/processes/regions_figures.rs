//! What a region's own reads and writes cost beside those of a cluster with one bucket, equally far away, and how late what is written in one region
//! is read in another. Measures and asserts nothing.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::clients::request;
use super::figures::{median, tail};
use super::notes::JSON;
use super::regions::{World, distance};

/// The region that is far from both others, and another one.
const HERE: usize = 0;
const THERE: usize = 2;
const CLIENTS: usize = 4;
/// Between two requests of a client: so that it is seen how long they take, and not how many the processors do for three servers.
const THINK: Duration = Duration::from_millis(40);
/// Requests of each client, in each turn.
const REQUESTS: usize = 60;
const TURNS: usize = 3;
const SIZE: usize = 1024;
/// Writes a second of which it is seen how late they are read elsewhere, for how long, and every which.
const RATE: u32 = 500;
const LASTS: Duration = Duration::from_secs(30);
const WRITERS: u32 = 50;
const SAMPLED: u32 = 50;
/// Between two looks whether it can be read: seldom enough for the looks to be a small part of what the servers do.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Put,
    Get,
}

fn ask(node: SocketAddr, what: What, key: &str) -> bool {
    let answer = match what {
        What::Put => request(node, &format!("PUT /v1/kv/{key}"), &JSON, &format!("\"{}\"", "x".repeat(SIZE))),
        What::Get => request(node, &format!("GET /v1/kv/{key}"), &[], ""),
    };
    answer.is_ok_and(|answer| answer.status.is_success())
}

/// The time that each request took.
fn turn(node: SocketAddr, what: What) -> Vec<Duration> {
    let client = |client: usize| {
        move || {
            let one = |number: usize| {
                std::thread::sleep(THINK);
                let began = Instant::now();
                assert!(ask(node, what, &format!("known-{client}-{number}")), "{what:?} of {node}");
                began.elapsed()
            };
            (0..REQUESTS).map(one).collect::<Vec<_>>()
        }
    };
    let clients: Vec<_> = (0..CLIENTS).map(|number| std::thread::spawn(client(number))).collect();
    clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
}

/// From the answer to a write here until another region's process reads it, of some of them.
fn lateness(here: SocketAddr, there: SocketAddr) -> Vec<Duration> {
    let (written, sampled) = mpsc::channel::<(String, Instant)>();
    let pause = Duration::from_secs(1) * WRITERS / RATE;
    let writer = |writer: u32| {
        let written = written.clone();
        move || {
            let began = Instant::now();
            std::thread::sleep(pause * writer / WRITERS);
            for number in 0.. {
                let key = format!("late-{writer}-{number}");
                assert!(ask(here, What::Put, &key), "{key} can't be written");
                if number % SAMPLED == writer % SAMPLED {
                    written.send((key, Instant::now())).unwrap();
                }
                let next = pause * (number + 1) + pause * writer / WRITERS;
                if next > LASTS {
                    return number + 1;
                }
                std::thread::sleep(next.saturating_sub(began.elapsed()));
            }
            0
        }
    };
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS).map(|number| std::thread::spawn(writer(number))).collect();
    drop(written);
    let read = |(key, at): (String, Instant)| {
        std::thread::spawn(move || {
            while !ask(there, What::Get, &key) {
                std::thread::sleep(LOOK);
            }
            at.elapsed()
        })
    };
    let readers: Vec<_> = sampled.into_iter().map(read).collect();
    let count: u32 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    println!("Regions: {:.0} writes a second in one", f64::from(count) / began.elapsed().as_secs_f64());
    readers.into_iter().map(|reader| reader.join().unwrap()).collect()
}

#[test]
#[ignore = "measures: `make bench`"]
fn near_and_far() {
    let world = World::start();
    let alone = world.alone(HERE);
    let ours = &world.nodes[HERE];
    // In this order: what is written is what is read.
    for what in [What::Put, What::Get] {
        let (mut regions, mut one) = (Vec::new(), Vec::new());
        // The first is not counted: connections are opened in it, and keys are made.
        for number in 0..=TURNS {
            let (a, b) = (turn(ours.api, what), turn(alone.api, what));
            if number > 0 {
                regions.extend(a);
                one.extend(b);
            }
        }
        let (regions, one) = (median(&mut regions), median(&mut one));
        println!(
            "Regions, {what:?} of {SIZE} bytes, {CLIENTS} clients, the bucket {:?} away: p50 {regions:.1?} with three regions, \
             {one:.1?} with one bucket; {:.2} times as long",
            distance(HERE, HERE),
            regions.as_secs_f64() / one.as_secs_f64()
        );
    }
    world.drained();
    drop(alone);
    let late = lateness(ours.api, world.nodes[THERE].api);
    println!(
        "Regions, from the answer in one until it is read in another, {:?} away: {}",
        distance(HERE, THERE),
        tail(late)
    );
}
