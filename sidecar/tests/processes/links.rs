//! A way between two processes that can be cut.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Nothing goes through, either way; nobody is told.
    Cut,
    /// What is asked goes through, and no answer.
    Unanswered,
    /// Requests are answered with 503.
    Busy,
}

/// Each node's process, by which a link knows who asks.
pub(crate) type Processes = Arc<Mutex<BTreeMap<usize, u32>>>;

/// What was sent in the name of one who asks, both ways.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) passed: usize,
    pub(crate) held: usize,
}

#[derive(Debug)]
struct Ways {
    /// Of all but those below.
    all: Way,
    /// Of single nodes that ask.
    of: BTreeMap<usize, Way>,
    /// By node; `None`: of who is no node, or could not be told.
    traffic: BTreeMap<Option<usize>, Traffic>,
}

#[derive(Debug)]
struct State {
    ways: Mutex<Ways>,
    changed: Condvar,
    /// Requests that were passed on, by what they begin with.
    requests: AtomicUsize,
    /// Answers that forbid what was asked.
    forbidden: AtomicUsize,
    /// How much later a question and its answer together arrive.
    late: Mutex<Duration>,
}

/// Listens in place of a server, and passes on.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    state: Arc<State>,
}

const BUSY: &[u8] =
    b"HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: 44\r\nconnection: close\r\n\r\n\
    <Error><Code>ServiceUnavailable</Code></Error>";

const FORBIDDEN: &[u8] = b"HTTP/1.1 403 ";

impl Link {
    /// `there` listens from now on, and leads to `server`.
    pub(crate) fn new(there: SocketAddr, server: SocketAddr) -> Self {
        Self::knowing(Processes::default(), there, server)
    }

    /// The same, and it knows which of these asks.
    pub(crate) fn knowing(nodes: Processes, there: SocketAddr, server: SocketAddr) -> Self {
        let state = Arc::new(State {
            ways: Mutex::new(Ways { all: Way::Open, of: BTreeMap::new(), traffic: BTreeMap::new() }),
            changed: Condvar::new(),
            requests: AtomicUsize::new(0),
            forbidden: AtomicUsize::new(0),
            late: Mutex::default(),
        });
        let listener = TcpListener::bind(there).unwrap();
        let link = Self { state };
        let passing = link.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (link, caller) = (passing.clone(), Caller::of(&client, &nodes));
                std::thread::spawn(move || link.pass(&caller, client, server));
            }
        });
        link
    }

    pub(crate) fn set(&self, way: Way) {
        self.state.ways.lock().unwrap().all = way;
        self.state.changed.notify_all();
    }

    /// A question and its answer together take so much longer from now on.
    pub(crate) fn set_late(&self, by: Duration) {
        *self.state.late.lock().unwrap() = by;
    }

    /// Of what this node asks alone.
    pub(crate) fn set_of(&self, node: usize, way: Way) {
        self.state.ways.lock().unwrap().of.insert(node, way);
        self.state.changed.notify_all();
    }

    /// How often something did not go through, so far.
    pub(crate) fn held(&self) -> usize {
        self.state.ways.lock().unwrap().traffic.values().map(|traffic| traffic.held).sum()
    }

    /// What was sent in the name of this node, so far.
    pub(crate) fn traffic_of(&self, node: usize) -> Traffic {
        self.state.ways.lock().unwrap().traffic.get(&Some(node)).copied().unwrap_or_default()
    }

    /// HTTP requests that have gone through so far.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// HTTP requests that were answered with 403 so far.
    pub(crate) fn forbidden(&self) -> usize {
        self.state.forbidden.load(Ordering::SeqCst)
    }

    /// Waits while a question or an answer is held. How it is then.
    fn passable(&self, caller: &Caller, is_question: bool) -> Way {
        // Found out only where it makes a difference: the kernel's table of connections is long.
        let makes_a_difference = !self.state.ways.lock().unwrap().of.is_empty();
        let who = if makes_a_difference { caller.node() } else { None };
        let way = |ways: &Ways| who.and_then(|node| ways.of.get(&node)).copied().unwrap_or(ways.all);
        let stops = |way| way == Way::Cut || way == Way::Unanswered && !is_question;
        let mut ways = self.state.ways.lock().unwrap();
        let is_held = way(&ways) == Way::Busy || stops(way(&ways));
        let traffic = ways.traffic.entry(who).or_default();
        *if is_held { &mut traffic.held } else { &mut traffic.passed } += 1;
        while stops(way(&ways)) {
            ways = self.state.changed.wait(ways).unwrap();
        }
        way(&ways)
    }

    fn pass(&self, caller: &Caller, mut client: TcpStream, server: SocketAddr) {
        let opened = match self.passable(caller, true) {
            Way::Open | Way::Unanswered => TcpStream::connect(server).ok(),
            Way::Cut | Way::Busy => None,
        };
        let Some(upstream) = opened else {
            // What it sends is read first: a connection that ends over unread bytes takes the answer with it.
            let busy = self.state.ways.lock().unwrap().all == Way::Busy;
            if busy && client.read(&mut [0; 64 << 10]).is_ok() {
                let _ = client.write_all(BUSY);
            }
            return;
        };
        let (Ok(back_from), Ok(back_to)) = (upstream.try_clone(), client.try_clone()) else { return };
        let (link, asks) = (self.clone(), caller.clone());
        let answers = std::thread::spawn(move || link.copy(&asks, back_from, back_to, false));
        self.copy(caller, client, upstream, true);
        let _ = answers.join();
    }

    fn copy(&self, caller: &Caller, mut from: TcpStream, mut to: TcpStream, requests: bool) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            if read == 0 {
                break;
            }
            let begins = [&b"GET "[..], b"PUT ", b"HEAD ", b"POST ", b"DELETE "];
            if requests && begins.iter().any(|method| buffer[..read].starts_with(method)) {
                self.state.requests.fetch_add(1, Ordering::SeqCst);
            }
            if !requests && buffer[..read].starts_with(FORBIDDEN) {
                self.state.forbidden.fetch_add(1, Ordering::SeqCst);
            }
            let late = *self.state.late.lock().unwrap();
            std::thread::sleep(late / 2);
            match self.passable(caller, requests) {
                Way::Busy if requests => {
                    let _ = from.write_all(BUSY);
                    let _ = from.shutdown(Shutdown::Both);
                    break;
                }
                _ if to.write_all(&buffer[..read]).is_err() => break,
                _ => {}
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Read);
    }
}

/// Who has the other end of a connection.
#[derive(Clone, Debug)]
struct Caller {
    /// Its address, and ours.
    ends: Option<(SocketAddr, SocketAddr)>,
    nodes: Processes,
    found: Arc<OnceLock<Option<usize>>>,
}

impl Caller {
    fn of(client: &TcpStream, nodes: &Processes) -> Self {
        let ends = client.peer_addr().ok().zip(client.local_addr().ok());
        Self { ends, nodes: Arc::clone(nodes), found: Arc::default() }
    }

    /// The node, if it is one.
    fn node(&self) -> Option<usize> {
        *self.found.get_or_init(|| who_has(self.ends?, &self.nodes))
    }
}

/// The node whose process has the other end of a connection. All are on one machine, and all come from its one loopback
/// address: only whose descriptor it is tells them apart.
fn who_has((there, here): (SocketAddr, SocketAddr), nodes: &Processes) -> Option<usize> {
    let processes = nodes.lock().unwrap().clone();
    if processes.is_empty() {
        return None;
    }
    let descriptor = format!("socket:[{}]", inode(there, here)?);
    let has = |process: u32| {
        let all = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
        // Each may be closed any time.
        let mut targets = all.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| target.as_os_str() == descriptor.as_str()).then_some(())
    };
    processes.into_iter().find(|(_, process)| has(*process).is_some()).map(|(node, _)| node)
}

/// The number by which the kernel knows the socket of one end of a connection.
fn inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let written = |address| match address {
        SocketAddr::V4(v4) => Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())),
        SocketAddr::V6(_) => None,
    };
    let (local, remote) = (written(local)?, written(remote)?);
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1..3) == Some(&[local.as_str(), remote.as_str()]);
        is_it.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}
