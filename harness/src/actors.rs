//! Parts that the suite plays on loopback: whatever may sit behind a port, and a ledger of all that it was sent.
//!
//! Every actor reads on one thread for each connection, whatever it answers, so that its [`Ledger`] holds every byte
//! that a client sent, also to a part that never answers.

mod daemon;
mod ledger;
mod stage;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub use self::daemon::{FakeDaemon, FakeProof};
pub use self::ledger::{Ledger, Seen, Taken};
use self::stage::Stage;
use crate::record::Url;
use crate::transcript::Transcript;
use crate::wait::{Shared, lock, ms, until};

/// Where an actor listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    /// A free port of 127.0.0.1.
    V4,
    /// A free port of `[::1]`.
    V6,
    /// Exactly here: a port that a dead daemon left, or the same port of the other family.
    At(SocketAddr),
}

impl Bind {
    fn listen(self) -> io::Result<TcpListener> {
        match self {
            Self::V4 => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
            Self::V6 => TcpListener::bind((Ipv6Addr::LOCALHOST, 0)),
            // Of a port that was just left, a process that is being started holds a copy until its program runs.
            Self::At(address) => until(ms(5_000), || match TcpListener::bind(address) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
                bound => Some(bound),
            })
            .unwrap_or_else(|| TcpListener::bind(address)),
        }
    }
}

type Answer = Box<dyn Fn(&Seen, SocketAddr) -> Vec<u8> + Send + Sync>;

enum Part {
    /// Answers each request with these bytes.
    Answers(Answer),
    /// Closes each connection as soon as it is taken.
    Closes,
    /// Resets each connection at its first request.
    Resets,
    /// Takes connections, reads, never answers.
    Mute,
    /// Never takes a connection; the kernel does, as far as its backlog goes.
    Backlog,
    /// Answers the first request of a connection with these bytes, one each interval.
    Drips(Vec<u8>, Duration),
    /// Answers the first request of a connection with these bytes, and closes it.
    Says(Vec<u8>),
    /// Answers the first request of a connection with this head, and these bytes again and again without end.
    Floods(Vec<u8>, Vec<u8>),
    /// Passes everything on to another listener, and the answers back.
    Relays(SocketAddr),
    /// Passes whole requests on to another listener as if they had been sent to that one, and the answers back.
    Fronts(SocketAddr),
}

impl Part {
    /// Where it passes on what it is sent.
    fn passes_on(&self) -> Option<SocketAddr> {
        match self {
            Self::Relays(to) | Self::Fronts(to) => Some(*to),
            _ => None,
        }
    }
}

/// Something other than the daemon behind a port. Build one, then [`start`](Self::start) it.
pub struct Squatter {
    part: Part,
    /// How many connections it resets before it plays its part.
    resets: usize,
    transcript: Option<(Transcript, String)>,
}

impl Squatter {
    fn of(part: Part) -> Self {
        Self { part, resets: 0, transcript: None }
    }

    /// Answers every request with this status and body, as JSON.
    pub fn answering(status: u16, body: &str) -> Self {
        let answer = response(status, &[("Content-Type", "application/json")], body.as_bytes());
        Self::responding(move |_, _| answer.clone())
    }

    /// Sends every client elsewhere, with status 302.
    pub fn redirecting(location: &str) -> Self {
        let answer = response(302, &[("Location", location)], b"");
        Self::responding(move |_, _| answer.clone())
    }

    /// Answers every request with the bytes that `answer` makes for it and for the address it came to.
    pub fn responding(answer: impl Fn(&Seen, SocketAddr) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::of(Part::Answers(Box::new(answer)))
    }

    /// Closes each connection as soon as it is taken.
    pub fn closing() -> Self {
        Self::of(Part::Closes)
    }

    /// Takes connections and never answers.
    pub fn mute() -> Self {
        Self::of(Part::Mute)
    }

    /// Never takes a connection. What clients sent meanwhile enters the ledger when the actor ends.
    pub fn backlog_only() -> Self {
        Self::of(Part::Backlog)
    }

    /// Answers with a good 200 of this body, one byte each interval.
    pub fn dripping(body: &str, interval: Duration) -> Self {
        let answer = response(200, &[("Content-Type", "application/json")], body.as_bytes());
        Self::of(Part::Drips(answer, interval))
    }

    /// Answers 200 with a JSON string that does not end.
    pub fn flooding() -> Self {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n\"";
        Self::repeating(head, "x")
    }

    /// Answers with `head`, and then with `piece` again and again without end.
    pub fn repeating(head: &str, piece: &str) -> Self {
        let times = (16 * 1024_usize).div_ceil(piece.len());
        Self::of(Part::Floods(head.into(), piece.repeat(times).into_bytes()))
    }

    /// Answers the first request of each connection with exactly these bytes, and closes it.
    pub fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(Part::Says(bytes.into()))
    }

    /// Resets each connection at its first request, as a listener that dies with it unread does.
    pub fn resetting() -> Self {
        Self::of(Part::Resets)
    }

    /// Sits between the client and another listener and passes everything on.
    pub fn relaying(to: SocketAddr) -> Self {
        Self::of(Part::Relays(to))
    }

    /// Stands before another listener and keeps a ledger for it: each whole request is passed on with the port of that
    /// one in `Host` and `Origin` in the place of its own, and nothing else changed; the answers come back as they are.
    pub fn fronting(listener: SocketAddr) -> Self {
        Self::of(Part::Fronts(listener))
    }

    /// Resets this many connections, each at its first request, before it plays its part.
    #[must_use]
    pub fn after_resets(mut self, connections: usize) -> Self {
        self.resets = connections;
        self
    }

    /// Notes connections and requests in `transcript` under the name `actor`.
    #[must_use]
    pub fn noted(mut self, transcript: &Transcript, actor: &str) -> Self {
        self.transcript = Some((transcript.clone(), actor.to_owned()));
        self
    }

    /// Listens, and plays its part until the returned actor is dropped.
    pub fn start(self, bind: Bind) -> io::Result<Actor> {
        let listener = bind.listen()?;
        let address = listener.local_addr()?;
        let stage = Arc::new(Stage {
            part: self.part,
            resets: self.resets,
            address,
            transcript: self.transcript,
            ledger: Ledger(Shared::new(Vec::new())),
            over: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
        });
        let ledger = stage.ledger.clone();
        let thread = {
            let stage = Arc::clone(&stage);
            std::thread::spawn(move || stage.accept(&listener))
        };
        Ok(Actor { address, ledger, stage, thread: Some(thread) })
    }
}

/// A part that is being played. Dropping it closes its port and every connection.
pub struct Actor {
    address: SocketAddr,
    ledger: Ledger,
    stage: Arc<Stage>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Actor").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Actor {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A record URL that leads to it.
    pub fn url(&self) -> Url {
        Url::of(self.address)
    }

    /// What it was sent.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Cuts every connection that is open now.
    pub fn cut(&self) {
        for stream in &*lock(&self.stage.open) {
            // Those that have ended by themselves are among them.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Ends it and returns everything that it was sent, also what it had not read yet.
    pub fn stop(mut self) -> Ledger {
        self.end();
        self.ledger.clone()
    }

    fn end(&mut self) {
        self.stage.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            if !matches!(self.stage.part, Part::Backlog) {
                // A parked accept has no other end than a connection.
                let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
            }
            let _ = thread.join();
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.end();
    }
}

/// The bytes of an answer with `Content-Length`.
pub fn response(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status} Suite\r\nContent-Length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}
