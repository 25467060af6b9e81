//! A way between two processes that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Nothing goes through, either way; nobody is told.
    Cut,
    /// Requests are answered with 503.
    Busy,
}

#[derive(Debug)]
struct State {
    way: Mutex<Way>,
    changed: Condvar,
    /// What did not go through.
    held: AtomicUsize,
    /// Requests that were passed on, by what they begin with.
    requests: AtomicUsize,
}

/// Listens in place of a server, and passes on.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    state: Arc<State>,
}

const BUSY: &[u8] =
    b"HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: 44\r\nconnection: close\r\n\r\n\
    <Error><Code>ServiceUnavailable</Code></Error>";

impl Link {
    /// `there` listens from now on, and leads to `server`.
    pub(crate) fn new(there: SocketAddr, server: SocketAddr) -> Self {
        let state = Arc::new(State {
            way: Mutex::new(Way::Open),
            changed: Condvar::new(),
            held: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind(there).unwrap();
        let link = Self { state };
        let passing = link.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let link = passing.clone();
                std::thread::spawn(move || link.pass(client, server));
            }
        });
        link
    }

    pub(crate) fn set(&self, way: Way) {
        *self.state.way.lock().unwrap() = way;
        self.state.changed.notify_all();
    }

    /// How often something did not go through, so far.
    pub(crate) fn held(&self) -> usize {
        self.state.held.load(Ordering::SeqCst)
    }

    /// HTTP requests that have gone through so far.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Waits while it is cut. How it is then.
    fn passable(&self) -> Way {
        let mut way = self.state.way.lock().unwrap();
        if *way != Way::Open {
            self.state.held.fetch_add(1, Ordering::SeqCst);
        }
        while *way == Way::Cut {
            way = self.state.changed.wait(way).unwrap();
        }
        *way
    }

    fn pass(&self, mut client: TcpStream, server: SocketAddr) {
        let opened = match self.passable() {
            Way::Open => TcpStream::connect(server).ok(),
            Way::Cut | Way::Busy => None,
        };
        let Some(mut upstream) = opened else {
            // What it sends is read first: a connection that ends over unread bytes takes the answer with it.
            if *self.state.way.lock().unwrap() == Way::Busy && client.read(&mut [0; 64 << 10]).is_ok() {
                let _ = client.write_all(BUSY);
            }
            return;
        };
        let (Ok(back_from), Ok(back_to)) = (upstream.try_clone(), client.try_clone()) else { return };
        let link = self.clone();
        let answers = std::thread::spawn(move || link.copy(back_from, back_to, false));
        self.copy_requests(&mut client, &mut upstream);
        let _ = answers.join();
    }

    fn copy_requests(&self, client: &mut TcpStream, upstream: &mut TcpStream) {
        if let (Ok(from), Ok(to)) = (client.try_clone(), upstream.try_clone()) {
            self.copy(from, to, true);
        }
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, requests: bool) {
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
            match self.passable() {
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
