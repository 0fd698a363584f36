//! What a daemon has to outlive while it serves.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault, Request, Response};
use local_daemon_harness::platform::{self, Resource, Squeezed};
use local_daemon_harness::proof;

use super::connections::{self, soon};
use crate::outcome::{Outcome, ensure, inconclusive, not_applicable, untestable};
use crate::stage::{Daemon, ReadyDaemon, Stage};

/// What is done to a daemon; it must hold while it lasts, and answer afterwards.
pub(super) type Strike = fn(&mut Stage, &Daemon, &ReadyDaemon) -> Outcome;

/// Each with its name.
pub(super) const STRIKES: &[(&str, Strike)] = &[
    ("load/paused", paused),
    ("load/no-descriptors", no_descriptors),
    ("load/idle-connections", idle_connections),
    ("load/slow-heads", slow_heads),
    ("load/huge-body", huge_body),
    ("load/endless-body", endless_body),
    ("load/resets", resets),
    ("load/garbage", garbage),
    ("load/stalled-streams", stalled_streams),
    ("load/crowd", crowd),
    ("load/strangers", strangers),
];

/// As many as a daemon may be held open, and more than any serves.
const IDLE: usize = 10_000;

/// A fault that nobody met was none.
fn met(connections: usize) -> Outcome {
    if connections == 0 {
        return inconclusive("there was no connection");
    }
    Ok(())
}

fn pause(stage: &mut Stage, millis: u64) {
    std::thread::sleep(Duration::from_millis(1 + stage.rng().below(millis)));
}

/// Stopped and let go, in quick succession.
fn paused(stage: &mut Stage, daemon: &Daemon, _live: &ReadyDaemon) -> Outcome {
    for _ in 0..10 {
        daemon.stop()?;
        pause(stage, 20);
        daemon.cont()?;
        pause(stage, 5);
    }
    Ok(())
}

/// Not one more descriptor, and connections that want some.
fn no_descriptors(_stage: &mut Stage, daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    let squeezed = Squeezed::new(daemon.pid(), Resource::Descriptors)?;
    let count = connections::crowd(live, 32);
    drop(squeezed);
    met(count)
}

/// More connections than it serves, none of which says anything.
fn idle_connections(_stage: &mut Stage, _daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut open = Vec::new();
    while open.len() < IDLE && Instant::now() < deadline {
        match Connection::open(live.target.address, soon()) {
            Ok(connection) => open.push(connection),
            // This process may hold no more, or the daemon takes no more: that is as good.
            Err(_) => break,
        }
    }
    met(open.len())
}

/// Heads that come by the byte, beside which others are answered.
fn slow_heads(_stage: &mut Stage, _daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    let head = live.handshake_request().bytes();
    let open = (0..64).map(|_| Connection::open(live.target.address, soon()));
    let mut slow: Vec<Connection> = open.flatten().collect();
    for byte in head.iter().take(20) {
        for connection in &mut slow {
            let _ = connection.send(std::slice::from_ref(byte), soon());
        }
        ensure!(live.is_ready(), "beside slow connections it does not answer");
    }
    Ok(())
}

/// A body of 1 GB, announced and sent until it is refused.
fn huge_body(stage: &mut Stage, _daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    const HUGE: usize = 1_000_000_000;
    let head = post(stage, live).map(|request| request.header("Content-Length", &HUGE.to_string()));
    refused(live, head, &vec![b'x'; 64 * 1024], HUGE / (64 * 1024))
}

/// A body in chunks that never ends.
fn endless_body(stage: &mut Stage, _daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    let head = post(stage, live).map(|request| request.header("Transfer-Encoding", "chunked"));
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    refused(live, head, chunk.as_bytes(), 16 * 1024)
}

/// The manifest's mutation without its body, authenticated.
fn post(stage: &Stage, live: &ReadyDaemon) -> Option<Request> {
    let operation = stage.manifest().binding.mutation.clone()?;
    let request = Request::new(&operation.method, &operation.path).host(&live.target.authority);
    let request = request.header("Authorization", &proof::bearer(&live.credential));
    Some(request.header("Content-Type", "application/json").unframed())
}

/// The piece is sent so often, until an answer comes or the connection ends. It must not be taken to the end.
fn refused(live: &ReadyDaemon, head: Option<Request>, piece: &[u8], times: usize) -> Outcome {
    let Some(head) = head else {
        return not_applicable("the manifest has no `binding.mutation`");
    };
    let mut connection = match Connection::open(live.target.address, soon()) {
        Ok(connection) => connection,
        Err(fault) => return inconclusive(format!("no connection: {fault}")),
    };
    let sent = connection.send(&head.bytes(), soon());
    let taken = (0..times).take_while(|_| sent.is_ok() && connection.send(piece, soon()).is_ok());
    let taken = taken.count();
    let answer: Result<Response, HttpFault> = connection.read_response(soon());
    let accepted = answer.is_ok_and(|answer| answer.status < 400);
    ensure!(taken < times && !accepted, "a body without end was taken");
    Ok(())
}

/// Connections that are reset in the middle of a request.
fn resets(stage: &mut Stage, _daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    let bytes = live.target.proving(&live.credential, &proof::nonce()).bytes();
    let mut count = 0;
    for _ in 0..100 {
        let part = usize::try_from(stage.rng().below(bytes.len() as u64)).unwrap_or(bytes.len());
        if let Ok(mut connection) = Connection::open(live.target.address, soon()) {
            let _ = connection.send(&bytes[..part], soon());
            let _ = connection.reset();
            count += 1;
        }
    }
    met(count)
}

/// Bytes that are no HTTP.
fn garbage(stage: &mut Stage, _daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    let mut count = 0;
    for _ in 0..50 {
        let length = usize::try_from(stage.rng().below(2_000)).unwrap_or_default();
        let bytes = stage.rng().bytes(length);
        if let Ok(mut connection) = Connection::open(live.target.address, soon()) {
            let _ = connection.send(&bytes, soon());
            count += 1;
        }
    }
    met(count)
}

/// Streams that nobody reads while notes are posted.
fn stalled_streams(stage: &mut Stage, _daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    let streams = (0..20).map(|_| live.stalled_stream("")).collect::<Outcome<Vec<_>>>()?;
    pause(stage, 300);
    drop(streams);
    Ok(())
}

/// Many that want something held for them.
fn crowd(_stage: &mut Stage, _daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    let count = connections::crowd(live, 100);
    met(count)
}

/// Another user opens thousands of connections, with requests in several states. Handshakes are answered at the same time
/// (PER-43).
fn strangers(_stage: &mut Stage, _daemon: &Daemon, live: &ReadyDaemon) -> Outcome {
    const MANY: usize = 2_000;
    const BOUND: Duration = Duration::from_secs(1);
    let Some(nobody) = platform::nobody().filter(|_| platform::is_root()) else {
        return untestable("only root can connect as another user");
    };
    let get = live.handshake_request().bytes();
    let beginnings = [&[][..], &get[..get.len() - 2], &get.repeat(20)];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            platform::as_user(nobody, || connections::keep_open(live, MANY, &beginnings, &is_over))
        });
        let mut slowest = Duration::ZERO;
        let mut answered = true;
        for _ in 0..50 {
            let began = Instant::now();
            answered &= live.is_ready();
            slowest = slowest.max(began.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        is_over.store(true, Relaxed);
        let opened = match flood.join() {
            Ok(opened) => opened?,
            Err(_) => return inconclusive("the flood has panicked"),
        };
        ensure!(
            answered && slowest <= BOUND,
            "with {opened} strangers, a handshake took {} ms",
            slowest.as_millis()
        );
        met(opened)
    })
}
