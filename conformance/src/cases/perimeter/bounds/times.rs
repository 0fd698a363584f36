//! Of whoever takes its time, and after all that is bad.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault};
use local_daemon_harness::process::{SocketState, sockets};

use super::{LATE, padded};
use crate::case::case;
use crate::fixtures::http::{ANSWER, Ask, UNLISTED};
use crate::fixtures::malformed::broken_requests;
use crate::fixtures::words::{InWords, in_words};
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Daemon, ReadyDaemon, Stage};

/// How a slow connection ended.
#[derive(Debug)]
pub(super) enum End {
    Closed(Duration),
    Answered(u16, Duration),
    Open,
}

impl InWords for End {
    fn in_words(&self) -> String {
        match self {
            Self::Closed(after) => format!("closed after {} ms", after.as_millis()),
            Self::Answered(status, after) => format!("answered {status} after {} ms", after.as_millis()),
            Self::Open => "still open".to_owned(),
        }
    }
}

impl End {
    fn in_time(&self, bound: Duration) -> bool {
        match self {
            Self::Closed(after) | Self::Answered(408, after) => *after <= bound + LATE,
            Self::Answered(..) | Self::Open => false,
        }
    }
}

/// Sends `start`, then a byte of `drip` each second, until the connection ends or is well over its bound.
pub(super) fn dawdle(address: SocketAddr, start: &[u8], drip: &str, bound: Duration) -> End {
    let began = Instant::now();
    let over = began + bound + LATE;
    let Ok(mut connection) = Connection::open(address, over) else {
        return End::Open;
    };
    if connection.send(start, over).is_err() {
        return End::Closed(began.elapsed());
    }
    let mut bytes = drip.bytes().cycle();
    let last = Instant::now();
    loop {
        let next = (Instant::now() + Duration::from_secs(1)).min(over);
        match connection.read_response(if drip.is_empty() { over } else { next }) {
            Ok(answer) => return End::Answered(answer.status, last.elapsed()),
            Err(HttpFault::TimedOut) if Instant::now() < over => {}
            Err(HttpFault::TimedOut) => return End::Open,
            Err(_) => return End::Closed(last.elapsed()),
        }
        // The bound of a body counts from its last byte, that of a header section from its first.
        let byte = bytes.next().unwrap_or(b'a');
        if connection.send(&[byte], over).is_err() {
            return End::Closed(last.elapsed());
        }
    }
}

/// Asks again and again without reading an answer, until nothing more goes either way; then waits for the daemon to let
/// go of the connection.
fn read_nothing(daemon: &Daemon, live: &ReadyDaemon, request: &[u8], bound: Duration) -> Result<End, String> {
    use std::io::{ErrorKind, Write as _};
    use std::net::TcpStream;
    /// For so long nothing goes when both sides' buffers are full.
    const STUCK: Duration = Duration::from_secs(3);
    const FILLED: Duration = Duration::from_secs(40);
    let io = |error: std::io::Error| error.to_string();
    let socket = TcpStream::connect_timeout(&live.target.address, ANSWER).map_err(io)?;
    // Not so small that what the daemon acknowledges is thrown away with what it answers: then this side stalls first.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 128 * 1024)
        .map_err(|error| error.to_string())?;
    socket.set_write_timeout(Some(Duration::from_secs(1))).map_err(io)?;
    // Little waits on this side, so that what the daemon still takes is seen at once.
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, 64 << 10).map_err(|error| io(error.into()))?;
    let own = socket.local_addr().map_err(io)?;
    let batch = request.repeat(100);
    let (begun, mut place, mut progress) = (Instant::now(), 0, Instant::now());
    // A busy daemon takes its time over what it has; one that is stuck takes nothing more at all.
    while progress.elapsed() < STUCK {
        match (&socket).write(&batch[place..]) {
            Ok(sent) => {
                place = (place + sent) % batch.len();
                progress = Instant::now();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return Ok(End::Closed(begun.elapsed())),
        }
        if begun.elapsed() > FILLED {
            return Err("the daemon takes requests without end whose answers nobody reads".to_owned());
        }
    }
    let began = Instant::now();
    let held = || {
        let looks = || {
            sockets(&daemon.tree())
                .iter()
                .any(|socket| socket.remote == own && socket.state != SocketState::Listen)
        };
        // The kernel's table is read piece by piece, and an entry may be missed where others come and go.
        (0..5).any(|_| looks())
    };
    while held() {
        if Instant::now() > began + bound + LATE {
            return Ok(End::Open);
        }
        // Nothing announces that the other side lets go, short of its end.
        daemon.wait_exit(Instant::now() + Duration::from_millis(200));
    }
    Ok(End::Closed(began.elapsed()))
}

/// Side by side: a header section that stops and one that drips, a body that stops, a client that reads no
/// answer. Each is ended by its bound: 10 s, 30 s, 30 s.
#[case("PER-33", idle, deadline_s = 100)]
fn slow_connections_ended(stage: &mut Stage) -> Outcome {
    const HEAD: Duration = Duration::from_secs(10);
    const REST: Duration = Duration::from_secs(30);
    let (daemon, live) = stage.launch_ready()?;
    stage.expect(
        "408, or a closed connection: within 10 s for a header section, and 30 s for an unfinished body and an unread answer",
    );
    let read = stage.read_route();
    let good = read.ask(&live).bearer(&live).bytes();
    let half = good[..good.len() - 2].to_vec();
    let line = good[..5].to_vec();
    let body = stage.mutation_route().ok().map(|mutation| {
        let whole = mutation.ask(&live).bearer(&live).bytes();
        whole[..whole.len() - 1].to_vec()
    });
    live.between_controls(|| {
        let address = live.target.address;
        let (heads, body, reader) = std::thread::scope(|scope| {
            let heads = [
                ("a header section that stops", &half, ""),
                ("a header section that drips", &half, "x-a: aaaaaaaaaaaaaaaaaaaaaaaaa\r\n"),
                ("a request line that drips", &line, "a"),
            ]
            .map(|(what, start, drip)| (what, scope.spawn(move || dawdle(address, start, drip, HEAD))));
            let body = body.as_ref().map(|body| scope.spawn(move || dawdle(address, body, "", REST)));
            let reader = scope.spawn(|| read_nothing(&daemon, &live, &good, REST));
            let heads = heads.map(|(what, thread)| (what, thread.join().unwrap_or(End::Open)));
            let body = body.map(|thread| thread.join().unwrap_or(End::Open));
            (heads, body, reader.join().unwrap_or(Ok(End::Open)))
        });
        for (what, end) in &heads {
            stage.observed(format!("{what}: {end}", end = in_words(&end)));
            ensure!(end.in_time(HEAD), "{what}: {end}", end = in_words(&end));
        }
        if let Some(end) = body {
            stage.observed(format!("a body that stops: {end}", end = in_words(&end)));
            ensure!(end.in_time(REST), "a body that stops: {end}", end = in_words(&end));
        }
        match reader {
            Ok(end) => {
                stage.observed(format!("a client that reads nothing: {end}", end = in_words(&end)));
                ensure!(end.in_time(REST), "a client that reads nothing: {end}", end = in_words(&end));
                Ok(())
            }
            Err(why) => inconclusive(why),
        }
    })
}

/// After each of many refused, oversized and broken requests a good one is served, by the same launch in the
/// same process.
#[case("PER-34")]
fn served_after_every_bad_request(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("2xx after each, from the same process");
    let read = stage.read_route();
    let good = read.ask(&live).bearer(&live);
    live.served(&good)?;
    let foreign = format!("evil.example:{}", live.port());
    let mut bad: Vec<(String, Vec<u8>, bool)> = Vec::new();
    let random = stage.rng().bytes(4096);
    for (what, bytes, ends) in broken_requests(&live, random) {
        bad.push((what.to_owned(), bytes, ends));
    }
    for (what, bytes) in [
        ("no credential", read.ask(&live).bytes()),
        ("an unlisted origin", good.clone().origin(UNLISTED).bytes()),
        ("a foreign Host", good.clone().hosts([&*foreign]).bytes()),
        ("an unknown path", good.clone().target("/no/such/route").bytes()),
        ("a header section of 100 KB", padded(&good, 100_000, 10)),
        ("a header section of 10,000 headers", padded(&good, 100_000, 10_000)),
        ("a target of 40 KiB", good.clone().target(format!("/{}", "a".repeat(40 << 10))).bytes()),
        (
            "a body of a terabyte",
            good.clone().method("POST").with("Content-Length", &(1_u64 << 40).to_string()).bytes(),
        ),
        ("an upgrade", good.clone().with("Connection", "upgrade").with("Upgrade", "x").bytes()),
        ("a path of no text", good.clone().target("/%ff%fe/%00").bytes()),
        ("a query of no text", good.clone().target(format!("{}?%ff=%00&&==&", read.path)).bytes()),
        ("JSON of a thousand depths", deep(&live)),
    ] {
        bad.push((what.to_owned(), bytes, false));
    }
    let count = bad.len();
    for (what, bytes, ends) in bad {
        stage.transcript().note("suite", "request", &what);
        let deadline = Instant::now() + ANSWER;
        // Whatever it answers, if it does, is other cases' affair.
        if let Ok(mut connection) = Connection::open(live.target.address, deadline) {
            let _ = connection.send(&bytes, deadline);
            if ends && connection.finish().is_ok() {
                let _ = connection.read_raw(Instant::now() + Duration::from_millis(200));
            }
        }
        let response = match live.exchange(&good.bytes()) {
            Ok(response) => response,
            Err(fault) => return fail(format!("after {what}: {fault}")),
        };
        let seen = response.summary(stage.transcript());
        ensure!(response.status == 200, "after {what}: answered {seen}");
        ensure!(daemon.is_running(), "after {what}: the process has ended");
    }
    stage.control(format!("a good request was served after each of {count} bad ones"));
    ensure!(live.is_ready(), "another launch answers now");
    Ok(())
}

/// A body that ends a parser which calls itself for every bracket.
fn deep(live: &ReadyDaemon) -> Vec<u8> {
    let route = live.mutation_route().unwrap_or_else(|_| live.read_route());
    let ask = Ask::new(live, "POST", &route.path).with("Content-Type", "application/json");
    ask.bearer(live).body("[".repeat(50_000)).bytes()
}
