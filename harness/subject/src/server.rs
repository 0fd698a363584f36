//! Connections, one thread each.

mod answering;
mod pages;
mod routes;

use std::io::Read as _;
use std::iter;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::answering::answer;
use crate::answer::{Answer, HEADERS_TOO_LARGE, INVALID, OVERLOADED, Refusal, TARGET_TOO_LONG};
use crate::fault::broken;
use crate::publish::BACKLOG;
use crate::request::{Incoming, NoRequest};
use crate::state::{Daemon, State};
use crate::strangers::Users;

/// The most connections that are served at once.
const CONNECTIONS: usize = 300;
/// How long a client may read nothing of an answer, which is far less than it may: whether what it reads is little or
/// nothing cannot be told.
const UNREAD: Duration = Duration::from_secs(10);
/// How long and how far a refused request is still read, so that its answer arrives.
const LINGER: Duration = Duration::from_secs(2);
const HEAD_LINGER: usize = 1024 * 1024;
const BODY_LINGER: usize = 64 * 1024 * 1024;

/// Serves connections until the process ends.
pub(super) fn accept(daemon: &Arc<Daemon>, listener: &TcpListener) {
    if broken("PUB-4.serves-late") {
        thread::sleep(Duration::from_secs(3));
    }
    // Without it, the age alone decides.
    let users = Users::new().ok();
    loop {
        while broken("HS-11.few") && daemon.state().connections >= 8 {
            thread::sleep(Duration::from_millis(10));
        }
        if DEAF.load(Ordering::Relaxed) {
            return;
        }
        let Ok(first) = listener.accept() else {
            // Out of descriptors: some connection will end.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        // All that wait are accepted before any is served: another user can open more at once than threads can be started.
        let most = if broken("HS-11.few") { 0 } else { BACKLOG };
        let _ = listener.set_nonblocking(true);
        let others: Vec<_> = (0..most).map_while(|_| listener.accept().ok()).collect();
        let _ = listener.set_nonblocking(false);
        let entered: Vec<_> = iter::once(first)
            .chain(others)
            .map(|(stream, peer)| {
                let user = users.as_ref().and_then(|users| users.of(&stream, peer));
                let stream = Arc::new(stream);
                let (number, crowded) = daemon.count(|state| enter(state, &stream, user));
                (stream, number, crowded)
            })
            .collect();
        for (stream, number, crowded) in entered {
            if daemon.state().strangers.contain(number) {
                start(daemon, stream, number, crowded);
            } else {
                daemon.count(|state| leave(state, number));
            }
        }
    }
}

/// Serves a connection on a thread of its own.
fn start(daemon: &Arc<Daemon>, stream: Arc<TcpStream>, number: u64, crowded: bool) {
    let serving = Arc::clone(daemon);
    let serve = move || {
        if crowded && broken("PER-31.waits-its-turn") {
            while serving.state().connections > CONNECTIONS {
                thread::sleep(Duration::from_millis(50));
            }
            serve(&serving, stream, number);
        } else if crowded {
            turn_away(&stream);
        } else {
            serve(&serving, stream, number);
        }
        serving.count(|state| leave(state, number));
    };
    if broken("HS-11.one-at-a-time") {
        serve();
    } else if thread::Builder::new().spawn(serve).is_err() {
        daemon.count(|state| leave(state, number));
    }
}

/// Counts a new connection, and returns its number and whether it is one too many. As long as there is a stranger of another
/// user, that one is closed instead.
fn enter(state: &mut State, stream: &Arc<TcpStream>, user: Option<u32>) -> (u64, bool) {
    let number = state.strangers.enter(stream, user);
    state.connections += 1;
    let most = if broken("PER-29.few-connections") { 64 } else { CONNECTIONS };
    let full = state.connections > most && !broken("PER-31.every-connection");
    let own = rustix::process::geteuid().as_raw();
    let crowded = full && (broken("PER-43.first-come") || !state.strangers.close_one(own));
    (number, crowded)
}

fn leave(state: &mut State, number: u64) {
    state.connections -= 1;
    state.strangers.leave(number);
}

/// Whether a faulty daemon has stopped to listen.
static DEAF: AtomicBool = AtomicBool::new(false);

/// What a faulty daemon does with a head that it cannot take.
fn stumble(refusal: Refusal) {
    if broken("PER-34.exits") && refusal.0 == 431 {
        std::process::exit(1);
    }
    DEAF.store(broken("PER-34.deaf") && refusal == INVALID, Ordering::Relaxed);
}

/// Answers one connection too many, without reading what it wants.
fn turn_away(stream: &TcpStream) {
    let answer = Answer::from(OVERLOADED);
    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
    let _ = answer.write(stream, true, true);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let _ = (&*stream).read(&mut [0; 4096]);
}

/// Answers the requests of one connection, one after the other.
fn serve(daemon: &Arc<Daemon>, stream: Arc<TcpStream>, number: u64) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_write_timeout((!broken("PER-33.unread")).then_some(UNREAD));
    let mut incoming = Incoming::new(stream, number);
    loop {
        match incoming.head() {
            Ok(request) => {
                daemon.state().strangers.note_head(number);
                match answer(daemon, &mut incoming, &request) {
                    Ok(true) => {}
                    Ok(false) => return linger(&incoming.stream, BODY_LINGER),
                    Err(_) => return,
                }
            }
            Err(NoRequest::Refused(refusal)) => {
                let fatal = match refusal {
                    INVALID => broken("HS-10.ends-over-nonsense"),
                    HEADERS_TOO_LARGE | TARGET_TOO_LONG => broken("HS-10.ends-over-size"),
                    _ => false,
                };
                if fatal {
                    std::process::exit(1);
                }
                stumble(refusal);
                let _ = Answer::from(refusal).write(&incoming.stream, true, true);
                return linger(&incoming.stream, HEAD_LINGER);
            }
            Err(NoRequest::Closed) => return,
        }
    }
}

/// Closes a connection on which something may still arrive: without this the system throws away the answer as well.
fn linger(mut stream: &TcpStream, most: usize) {
    let (until, mut read) = (Instant::now() + LINGER, 0);
    if broken("PER-49.at-once") {
        return;
    }
    if !broken("PER-49.half-open") {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let _ = stream.set_nonblocking(broken("PER-49.what-has-come"));
    let mut bytes = [0; 16 * 1024];
    while read < most {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let pause = if broken("PER-49.first-pause") {
            left.min(Duration::from_millis(300))
        } else {
            left
        };
        let _ = stream.set_read_timeout(Some(pause));
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => read += count,
        }
    }
}
