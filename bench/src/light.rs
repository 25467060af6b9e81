//! Clients that keep a server busy over HTTP and take as little of the machine as they can: what they take, a server on the
//! same cores lacks, and the slower of two servers lacks less of it. Each has a connection of its own, and asks again as soon
//! as it is answered. One thread has them all: it sends what was rendered before, reads each answer in one piece, and
//! compares it with what it must be.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::http::{self, Answer};
use crate::load::{Dice, Laps, nanoseconds};

/// For an answer that is still missing when the time is up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room for an answer, at first.
const ROOM: usize = 8 << 10;

/// A request, as it is sent, and what its answer must hold.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Head and body.
    pub request: Vec<u8>,
    /// The body of its answer; `None`: it may be any.
    pub answer: Option<Vec<u8>>,
}

impl Exchange {
    /// A request that must only succeed.
    pub fn any(request: Vec<u8>) -> Self {
        Self { request, answer: None }
    }

    /// A request whose answer is known.
    pub fn of(request: Vec<u8>, answer: Vec<u8>) -> Self {
        Self { request, answer: Some(answer) }
    }
}

/// Clients at once, and the least time from one request of a client to its next.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// How many.
    pub clients: usize,
    /// Zero: each asks again as soon as it is answered.
    pub pace: Duration,
}

impl Crowd {
    /// Clients that ask as fast as they are answered.
    pub fn of(clients: usize) -> Self {
        Self { clients, pace: Duration::ZERO }
    }
}

/// Lets clients have any of the exchanges, over and over, for a time. Blocks.
pub fn any_of(address: SocketAddr, crowd: Crowd, exchanges: &[Exchange], duration: Duration) -> anyhow::Result<Laps> {
    let Crowd { clients, pace } = crowd;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(clients));
    let mut all = Vec::with_capacity(clients);
    for number in 0..clients {
        let mut client = Client::open(address, number)?;
        poll.registry().register(&mut client.stream, Token(number), Interest::READABLE)?;
        all.push(client);
    }
    let (mut laps, mut busy, began) = (Laps::default(), clients, Instant::now());
    // Who asks next, and when: in the order of time, for all have the same pace.
    let mut next: VecDeque<(usize, Instant)> =
        (0..clients).map(|number| (number, began + pace * number as u32 / clients as u32)).collect();
    while busy > 0 {
        while let Some((number, _)) = next.pop_front_if(|(_, due)| *due <= Instant::now()) {
            all[number].ask(exchanges, Instant::now())?;
        }
        let left = (duration + PATIENCE).saturating_sub(began.elapsed());
        ensure!(!left.is_zero(), "{busy} of {clients} clients got no answer");
        let left = next.front().map_or(left, |(_, due)| due.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, Some(left)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for Token(number) in events.iter().map(Event::token) {
            let client = &mut all[number];
            if !client.is_answered(exchanges)? {
                continue;
            }
            let now = Instant::now();
            laps.latencies.push(nanoseconds(now - client.asked));
            if now - began >= duration {
                busy -= 1;
            } else if pace.is_zero() {
                client.ask(exchanges, now)?;
            } else {
                next.push_back((number, client.asked + pace));
            }
        }
    }
    laps.took = began.elapsed();
    Ok(laps)
}

struct Client {
    stream: TcpStream,
    dice: Dice,
    /// What it asked last, and when.
    exchange: usize,
    asked: Instant,
    room: Vec<u8>,
    received: usize,
}

impl Client {
    fn open(address: SocketAddr, number: usize) -> anyhow::Result<Self> {
        let stream = std::net::TcpStream::connect(address).with_context(|| format!("can't connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (stream, dice) = (TcpStream::from_std(stream), Dice::new(number));
        Ok(Self { stream, dice, exchange: 0, asked: Instant::now(), room: vec![0; ROOM], received: 0 })
    }

    fn ask(&mut self, exchanges: &[Exchange], now: Instant) -> anyhow::Result<()> {
        (self.exchange, self.asked, self.received) = (self.dice.below(exchanges.len()), now, 0);
        let request = &exchanges[self.exchange].request;
        // There is room for it: nothing else is on its way.
        ensure!(self.stream.write(request)? == request.len(), "a request is too long to be sent at once");
        Ok(())
    }

    /// Reads what there is. True: that was the answer, and it is as it must be.
    fn is_answered(&mut self, exchanges: &[Exchange]) -> anyhow::Result<bool> {
        loop {
            if self.received == self.room.len() {
                self.room.resize(2 * self.received, 0);
            }
            match self.stream.read(&mut self.room[self.received..]) {
                Ok(0) => bail!("the server hung up"),
                Ok(count) => self.received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            let received = &self.room[..self.received];
            let Some(Answer { status, body }) = http::answer(received)? else { continue };
            let body = &received[body];
            ensure!(status / 100 == 2, "status {status}: {}", String::from_utf8_lossy(body));
            if exchanges[self.exchange].answer.as_ref().is_some_and(|answer| answer != body) {
                let request = String::from_utf8_lossy(&exchanges[self.exchange].request);
                bail!("another answer than expected to {request}: {}", String::from_utf8_lossy(body));
            }
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers every request with this, in two pieces.
    fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    let mut request = [0; 1024];
                    while stream.read(&mut request).is_ok_and(|count| count > 0) {
                        let (first, rest) = answer.split_at(answer.len() / 2);
                        if stream.write_all(first).and_then(|()| stream.write_all(rest)).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn have(answer: &'static [u8], expected: &str, pace: Duration) -> anyhow::Result<Laps> {
        let exchange = Exchange::of(http::get("/"), expected.as_bytes().to_vec());
        any_of(server(answer), Crowd { clients: 3, pace }, &[exchange], Duration::from_millis(20))
    }

    #[test]
    fn each_client_asks_and_is_answered() {
        let greeting = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let laps = have(greeting, "hello", Duration::ZERO).unwrap();
        assert!(laps.latencies.len() >= 3);
        let laps = have(greeting, "hello", Duration::from_millis(8)).unwrap();
        assert!((3..=12).contains(&laps.latencies.len()), "{laps:?}");
    }

    #[test]
    fn an_answer_that_is_no_success_or_another_one_is_noticed() {
        assert!(have(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nworld", "hello", Duration::ZERO).is_err());
        assert!(have(b"HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\nhello", "hello", Duration::ZERO).is_err());
    }
}
