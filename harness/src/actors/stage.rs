//! How an actor plays its part: it takes connections, reads them into its ledger, and answers.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::ledger::parse_request;
use super::{Ledger, Part, Seen, Taken};
use crate::transcript::{Transcript, printable};
use crate::wait::{lock, until};

pub(super) struct Stage {
    pub(super) part: Part,
    pub(super) resets: usize,
    pub(super) address: SocketAddr,
    pub(super) transcript: Option<(Transcript, String)>,
    pub(super) ledger: Ledger,
    pub(super) over: AtomicBool,
    pub(super) open: Mutex<Vec<TcpStream>>,
}

impl Stage {
    pub(super) fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads = Vec::new();
        if matches!(self.part, Part::Backlog) {
            self.leave_waiting(listener);
        } else {
            while let Ok((stream, peer)) = listener.accept() {
                if self.over.load(Ordering::SeqCst) {
                    break;
                }
                let index = self.enter(peer);
                if let Ok(other) = stream.try_clone() {
                    lock(&self.open).push(other);
                }
                let stage = Arc::clone(self);
                threads.push(std::thread::spawn(move || stage.play(&stream, index)));
            }
        }
        for stream in lock(&self.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Holds the port without taking anything; in the end, reads what the kernel took.
    fn leave_waiting(&self, listener: &TcpListener) {
        // A connection that ended the part would wait in the backlog like any other: look for the flag instead.
        let over = || self.over.load(Ordering::SeqCst).then_some(());
        let forever = Instant::now() + Duration::from_secs(u64::from(u32::MAX));
        until(forever, over);
        let _ = listener.set_nonblocking(true);
        while let Ok((mut stream, peer)) = listener.accept() {
            let index = self.enter(peer);
            let _ = stream.set_nonblocking(true);
            let mut piece = [0; 16 * 1024];
            while let Ok(n @ 1..) = stream.read(&mut piece) {
                self.receive(index, &piece[..n]);
            }
        }
    }

    fn enter(&self, peer: SocketAddr) -> usize {
        self.note("connection", || peer.to_string());
        self.ledger.0.update(|taken| {
            taken.push(Taken {
                at: Instant::now(),
                peer,
                received: Vec::new(),
                closed: None,
                sent: 0,
                answered: Vec::new(),
            });
            taken.len() - 1
        })
    }

    fn receive(&self, index: usize, bytes: &[u8]) {
        self.ledger.0.update(|taken| taken[index].received.push((Instant::now(), bytes.to_vec())));
    }

    fn note(&self, what: &str, detail: impl FnOnce() -> String) {
        if let Some((transcript, actor)) = &self.transcript {
            transcript.note(actor, what, detail());
        }
    }

    fn play(self: &Arc<Self>, stream: &TcpStream, index: usize) {
        let target = match (&self.part, self.part.passes_on()) {
            (Part::Closes, _) => None,
            (_, Some(to)) => TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok(),
            _ => Some(stream.try_clone()).and_then(Result::ok),
        };
        if let Some(target) = target {
            if let (Some(_), Ok(other)) = (self.part.passes_on(), target.try_clone()) {
                lock(&self.open).push(other);
            }
            let (requests, incoming) = channel();
            std::thread::scope(|scope| {
                scope.spawn(|| self.answer(&target, stream, index, incoming));
                self.read(stream, &target, index, &requests);
                drop(requests);
                match self.part {
                    Part::Relays(_) => drop(target.shutdown(Shutdown::Write)),
                    // Whoever reads a stream says nothing more and is there; a browser that closes is gone.
                    Part::Fronts(_) => drop(target.shutdown(Shutdown::Both)),
                    _ => {}
                }
            });
        }
        let _ = stream.shutdown(Shutdown::Both);
        self.ledger.0.update(|taken| taken[index].closed = Some(Instant::now()));
    }

    /// Reads until the client ends, records everything, and hands whole requests over (or, as a relay, all bytes on).
    fn read(&self, mut stream: &TcpStream, mut target: &TcpStream, index: usize, requests: &Sender<Seen>) {
        let (mut piece, mut unread) = ([0; 16 * 1024], Vec::new());
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            self.receive(index, &piece[..n]);
            unread.extend_from_slice(&piece[..n]);
            // Whole requests reach the transcript, so that a secret sent in two parts is still recognised.
            while let Some((request, length)) = parse_request(&unread) {
                self.note("request", || printable(&unread[..length]));
                unread.drain(..length);
                if let Part::Fronts(to) = self.part
                    && target.write_all(&request.moved(self.address.port(), to.port())).is_err()
                {
                    return;
                }
                // The answering side may have ended first; what comes is recorded all the same.
                let _ = requests.send(request);
            }
            if matches!(self.part, Part::Relays(_)) && target.write_all(&piece[..n]).is_err() {
                break;
            }
        }
        if !unread.is_empty() {
            self.note("part of a request", || printable(&unread));
        }
    }

    fn answer(&self, mut target: &TcpStream, mut stream: &TcpStream, index: usize, requests: Receiver<Seen>) {
        let part = if index < self.resets { &Part::Resets } else { &self.part };
        match part {
            Part::Answers(answer) => {
                for request in requests {
                    let answer = answer(&request, self.address);
                    if stream.write_all(&answer).is_err() {
                        return;
                    }
                    self.ledger.0.update(|taken| taken[index].answered.extend_from_slice(&answer));
                }
            }
            Part::Drips(answer, interval) => {
                if requests.recv().is_err() {
                    return;
                }
                for byte in answer {
                    // The end of the connection ends the pause.
                    if requests.recv_timeout(*interval) == Err(RecvTimeoutError::Disconnected)
                        || stream.write_all(&[*byte]).is_err()
                    {
                        return;
                    }
                }
            }
            Part::Floods(head, body) => {
                if requests.recv().is_err() {
                    return;
                }
                // A small buffer, because what the system buffers would count as read by the client.
                let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, 16 * 1024);
                let mut piece: &[u8] = head;
                while stream.write_all(piece).is_ok() {
                    let sent = piece.len() as u64;
                    self.ledger.0.update(|taken| taken[index].sent += sent);
                    piece = body;
                }
            }
            Part::Says(answer) => {
                if requests.recv().is_ok() {
                    let _ = stream.write_all(answer);
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
            Part::Resets => {
                if requests.recv().is_ok() {
                    // The reading side holds the same socket: this is what ends it for the client too.
                    let _ = crate::platform::reset(stream);
                }
            }
            Part::Relays(_) => {
                let _ = io::copy(&mut target, &mut stream);
                let _ = stream.shutdown(Shutdown::Both);
            }
            Part::Fronts(_) => {
                let mut piece = [0; 16 * 1024];
                while let Ok(n @ 1..) = target.read(&mut piece) {
                    let answered = &piece[..n];
                    self.ledger.0.update(|taken| taken[index].answered.extend_from_slice(answered));
                    if stream.write_all(answered).is_err() {
                        break;
                    }
                }
                let _ = stream.shutdown(Shutdown::Both);
            }
            Part::Mute | Part::Closes | Part::Backlog => {}
        }
    }
}
