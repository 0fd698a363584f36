//! Connections to the daemon under load.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, Request};
use local_daemon_harness::sse::EventStream;

use crate::stage::{PROBE, ReadyDaemon};

/// Returns the deadline of one exchange that begins now.
pub(super) fn soon() -> Instant {
    Instant::now() + PROBE
}

/// Opens the stream after an event, or at its end. Returns `None` unless it is answered 200.
pub(super) fn open_stream(address: SocketAddr, stream: &Request, after: Option<&str>) -> Option<EventStream> {
    let request = match after {
        Some(id) => stream.clone().header("Last-Event-ID", id),
        None => stream.clone(),
    };
    let connection = Connection::open(address, soon()).ok()?;
    let stream = EventStream::open(connection, &request.bytes(), soon()).ok()?;
    (stream.head.status == 200).then_some(stream)
}

/// Opens `count` connections at once and sends on each a request that the daemon has to hold in memory. Returns how many
/// could be opened; how they are answered does not matter.
pub(super) fn crowd(live: &ReadyDaemon, count: usize) -> usize {
    let head = "POST / HTTP/1.1\r\nContent-Length: 60000\r\nX-Filler: ";
    let bytes = format!("{head}{}", "x".repeat(7_000));
    let open = || {
        let mut connection = Connection::open(live.target.address, soon()).ok()?;
        connection.send(bytes.as_bytes(), soon()).ok()?;
        Some(connection)
    };
    let crowd: Vec<_> = (0..count).filter_map(|_| open()).collect();
    crowd.len()
}

/// Keeps `count` connections open until `is_over`, each with one of the beginnings, and opens those again that end. Returns how
/// many were opened.
pub(super) fn keep_open(
    live: &ReadyDaemon,
    count: usize,
    beginnings: &[&[u8]],
    is_over: &AtomicBool,
) -> usize {
    let open = |beginning: &[u8]| {
        let mut stream = TcpStream::connect_timeout(&live.target.address, Duration::from_millis(100)).ok()?;
        stream.set_nonblocking(true).ok()?;
        stream.write_all(beginning).ok();
        Some(stream)
    };
    let mut opened = 0;
    let mut connections: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !is_over.load(Relaxed) {
        for (connection, beginning) in connections.iter_mut().zip(beginnings.iter().cycle()) {
            let read = connection.as_mut().map(|stream| stream.read(&mut [0; 4096]));
            let has_ended = match read {
                None | Some(Ok(0)) => true,
                Some(Ok(_)) => false,
                Some(Err(error)) => error.kind() != ErrorKind::WouldBlock,
            };
            if has_ended {
                *connection = open(beginning);
                opened += usize::from(connection.is_some());
            }
        }
    }
    opened
}
