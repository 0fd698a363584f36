//! Connections of another user on which no request authenticates, and how the daemon still serves its own user.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_uid;

use super::{Row, time};
use crate::contestant::{Contestant, Ours, Wire, run};
use crate::measure::{Connection, memory_kb};

/// How many connections the other user tries to keep open.
const STRANGERS: usize = 2_000;
/// How many new connections of the daemon's user are measured.
const ROUNDS: usize = 200;
/// The user that opens the connections: `nobody` on most systems.
const NOBODY: u32 = 65_534;
/// How long a request of the daemon's user may take while they are open.
const MAX_TIME: Duration = Duration::from_millis(200);
/// How much memory they may cost the daemon, in kB.
const MAX_MEMORY: u64 = 16 * 1024;

pub(super) fn rows() -> Vec<Row> {
    let what = format!("with {STRANGERS} strangers");
    if !geteuid().is_root() {
        return vec![Row::alone(
            what,
            "not measured: only root can act as another user",
            "–",
            true,
        )];
    }
    let ours = Ours::new();
    run(ours.connect());
    let (wire, daemon) = (ours.wire().unwrap(), ours.daemons()[0]);
    let alone = percentiles(&wire);
    let (record, memory) = (record(&ours), memory_kb(daemon, "Pss"));
    let is_over = AtomicBool::new(false);
    let (flooded, most) = thread::scope(|scope| {
        let (full, is_full) = channel();
        scope.spawn(|| flood(wire.address.parse().unwrap(), full, &is_over));
        let most = scope.spawn(|| {
            let look = || {
                thread::sleep(Duration::from_millis(20));
                (!is_over.load(Ordering::Relaxed)).then(|| memory_kb(daemon, "Pss"))
            };
            std::iter::from_fn(look).max().unwrap_or_default()
        });
        // Each of them has tried to connect once.
        is_full.recv().unwrap();
        let flooded = percentiles(&wire);
        run(ours.connect());
        is_over.store(true, Ordering::Relaxed);
        (flooded, most.join().unwrap())
    });
    let is_same = record == self::record(&ours);
    let row = |name: &str, alone: Duration, flooded: Duration| Row {
        what: format!("{what}: a request over a fresh connection of the daemon's user, {name}"),
        floor: time(alone),
        ours: time(flooded),
        ratio: Some(flooded.div_duration_f64(alone)),
        goal: format!("≤ {}", time(MAX_TIME)),
        is_met: flooded <= MAX_TIME,
    };
    let more = most.saturating_sub(memory);
    vec![
        row("p50", alone.0, flooded.0),
        row("p99", alone.1, flooded.1),
        Row::alone(
            format!("{what}: more memory, and whether `locald connect` finds the same daemon"),
            format!("{more} kB; {}", if is_same { "the same" } else { "another" }),
            "≤ 16 MiB; the same",
            more <= MAX_MEMORY && is_same,
        ),
    ]
}

fn record(ours: &Ours) -> Vec<u8> {
    std::fs::read(ours.state_dir().join("registration.json")).unwrap()
}

/// Measures requests over connections of their own, from connecting to the whole answer: p50 and p99.
fn percentiles(wire: &Wire) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            Connection::open(wire).unwrap().ask().unwrap();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    (times[ROUNDS / 2], times[ROUNDS * 99 / 100])
}

/// Keeps connections open as another user: in turn idle, with half a head, with an unfinished body at each route that takes one
/// without authentication, and with many requests at once. One that is closed is opened again.
fn flood(address: SocketAddr, full: Sender<()>, is_over: &AtomicBool) {
    // The system call changes this thread alone. A socket belongs to the user that created it.
    set_thread_uid(Uid::from_raw(NOBODY)).unwrap();
    let head = |line: &str, rest: &str| format!("{line} HTTP/1.1\r\nHost: {address}\r\n{rest}");
    let body = "Content-Length: 4000\r\n\r\n{";
    let beginnings = [
        String::new(),
        head("GET /v1/status", &format!("X: {}", "x".repeat(30_000))),
        head("POST /page", &format!("Content-Type: application/x-www-form-urlencoded\r\n{body}")),
        head("POST /v1/handoff", &format!("Content-Type: application/json\r\n{body}")),
        head("GET /v1/status", "\r\n").repeat(200),
        head("GET /", "\r\n").repeat(200),
    ];
    let mut open: Vec<Option<TcpStream>> = (0..STRANGERS).map(|_| None).collect();
    let mut full = Some(full);
    while !is_over.load(Ordering::Relaxed) {
        for (place, slot) in open.iter_mut().enumerate() {
            let beginning = beginnings[place % beginnings.len()].as_bytes();
            match slot {
                None => {
                    *slot = TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
                    if let Some(stream) = slot {
                        stream.set_nonblocking(true).unwrap();
                        // As much of it as fits into the buffer.
                        let _ = stream.write_all(beginning);
                    }
                }
                Some(stream) => match stream.read(&mut [0; 16 * 1024]) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    _ => *slot = None,
                },
            }
        }
        if let Some(full) = full.take() {
            full.send(()).unwrap();
        }
    }
}
