//! Connections to the daemon under load.

use std::net::SocketAddr;
use std::time::Instant;

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
