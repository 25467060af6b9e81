//! A collector of traces, and one request as it shows there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use brainy_coordination::ShardId;
use brainy_storage::object::hex;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

use super::clients::request;
use super::cluster::{Cluster, Setup};
use super::support::{own_ip, wait_for};
use super::tls::CLUSTER;

/// A span as it was sent.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    node: String,
    name: String,
    kind: SpanKind,
    trace: String,
    id: String,
    parent: String,
    attributes: Vec<String>,
}

/// Takes what it is sent.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind((own_ip(), 0)).unwrap();
        let (address, spans) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Span>>>::default());
        let found = Arc::clone(&spans);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let sent = ExportTraceServiceRequest::decode(&*take(stream.unwrap())).unwrap();
                found.lock().unwrap().extend(spans_of(sent));
            }
        });
        Self { address, spans }
    }

    /// Waits until a trace has so many spans.
    fn trace(&self, trace: &str, count: usize) -> Vec<Span> {
        wait_for("a trace", || {
            let found: Vec<Span> = self.of(trace);
            if found.len() >= count { Ok(found) } else { Err(format!("only {found:?}")) }
        })
    }

    fn of(&self, trace: &str) -> Vec<Span> {
        self.spans.lock().unwrap().iter().filter(|span| span.trace == trace).cloned().collect()
    }
}

/// The body of the one request on a connection, which is answered.
fn take(stream: TcpStream) -> Vec<u8> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_ascii_lowercase()),
        }
    }
    assert!(head[0].starts_with("post /v1/traces "), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    body
}

fn spans_of(sent: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_process in sent.resource_spans {
        let attributes = of_process.resource.unwrap().attributes;
        let node = attributes.iter().find(|attribute| attribute.key == "service.instance.id").unwrap();
        let Some(Value::StringValue(node)) = node.value.clone().unwrap().value else { panic!("{node:?}") };
        for span in of_process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                node: node.clone(),
                kind: span.kind(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                attributes: span.attributes.iter().map(|attribute| format!("{attribute:?}")).collect(),
                name: span.name,
            });
        }
    }
    spans
}

#[test]
fn a_request_is_traced_from_its_client_through_the_owner_to_the_store() {
    const CLIENT: &str = "00f067aa0ba902b7";
    let collector = Collector::start();
    let setup = Setup { nodes: 2, collector: Some(collector.address), ..Setup::default() };
    let cluster = Cluster::start(setup).unwrap();
    let owners = cluster.settled();
    let of_another = |key: &String| owners[&u64::from(ShardId::of("", key, setup.shards).0)].0 == 1;
    let key = (0..).map(|number| format!("key-{number}")).find(of_another).unwrap();
    let put = |trace: &str, sampled: &str| {
        let context = format!("00-{trace}-{CLIENT}-{sampled}");
        let headers = [("traceparent", &*context), ("content-type", "application/json")];
        let answer = request(cluster.nodes[0].api, &format!("PUT /v1/kv/{key}"), &headers, "\"a secret of ours\"");
        assert!(answer.is_ok_and(|answer| answer.status.is_success()));
    };
    let (unwanted, wanted) = ("4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f3577b34da6a3ce929d0e0e4737");
    put(unwanted, "00");
    put(wanted, "01");

    let found = collector.trace(wanted, 4);
    let [here, there] = [0, 1].map(|node| format!("{CLUSTER}-{node}"));
    let named =
        |name: &str| found.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {found:?}"));
    let (asked, forward) = (named("PUT /v1/kv/{*key}"), named("forward"));
    let (calls, storage) = (named("calls"), named("storage"));
    assert_eq!([asked, forward, calls, storage].map(|span| &span.node), [&here, &here, &there, &there]);
    assert_eq!(
        [asked, forward, calls, storage].map(|span| span.kind),
        [SpanKind::Server, SpanKind::Client, SpanKind::Server, SpanKind::Internal]
    );
    assert_eq!(asked.parent, CLIENT);
    assert_eq!(forward.parent, asked.id);
    assert_eq!(calls.parent, forward.id);
    assert_eq!(storage.parent, calls.id);
    assert!(storage.attributes.iter().any(|attribute| attribute.contains(&key)), "{storage:?}");
    assert!(!format!("{found:?}").contains("secret"), "values are nobody's business: {found:?}");
    assert_eq!(collector.of(unwanted), Vec::new(), "its client did not want it traced");
}
