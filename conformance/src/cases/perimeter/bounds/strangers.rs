//! The bounds on connections that have not authenticated, above all those of another user.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use local_daemon_harness::http::Connection;
use local_daemon_harness::platform;
use local_daemon_harness::process::Signal;
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::wait::until;
use local_daemon_spec::Profile;

use super::times::{End, dawdle};
use super::{LATE, bounded, make_room, resident};
use crate::case::case;
use crate::cases::browser::visit::spent_ticket;
use crate::fixtures::http::{ANSWER, Ask, UNKNOWN, UNLISTED};
use crate::fixtures::malformed::broken_requests;
use crate::fixtures::stream::{brief, follow};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive, not_applicable, untestable};
use crate::stage::{Call, Daemon, ReadyDaemon, Stage, Start};

/// How many lines strangers may make the daemon write in a minute.
const LINES: usize = 100;
/// By how much memory may grow because of strangers, in bytes.
const GROWTH: u64 = 16 << 20;
/// By how much memory may grow because of bodies of 128 MB in all, in bytes: an interpreter takes 16 MiB for the connections.
const GROWTH_BY_BODIES: u64 = 32 << 20;

/// A POST without authentication to each route where a daemon might read the body first: those that judge a ticket, if the
/// daemon has them, and others.
fn doors(live: &ReadyDaemon) -> Vec<Ask> {
    let manifest = live.manifest();
    let mut paths = vec![UNKNOWN.to_owned(), manifest.binding.handshake.path.clone()];
    paths.extend(live.mutation_route().ok().map(|route| route.path));
    if manifest.claims(Profile::Browser) {
        paths.extend(["/page", "/v1/handoff"].map(str::to_owned));
    }
    let door = |path: &String| {
        let form = path == "/page";
        let kind = if form { "application/x-www-form-urlencoded" } else { "application/json" };
        Ask::new(live, "POST", path).with("Content-Type", kind)
    };
    paths.iter().map(door).collect()
}

/// A door's request with an announced length of its body, and with the first `sent` bytes of that body.
fn unfinished(door: &Ask, announced: usize, sent: usize) -> Vec<u8> {
    let mut bytes = door.clone().with("Content-Length", &announced.to_string()).bytes();
    bytes.resize(bytes.len() + sent, b' ');
    bytes
}

/// Connections of another user, which are opened again when they are closed.
struct Crowd {
    address: SocketAddr,
    /// What the connections send, in turn.
    shapes: Vec<Vec<u8>>,
    opened: AtomicUsize,
    held: AtomicUsize,
    over: AtomicBool,
}

impl Crowd {
    const SIZE: usize = 2_000;
    /// One connection is opened again per interval, also if a busy host delays the rounds.
    const AGAIN: Duration = Duration::from_millis(2);
    /// The pause between two rounds over all connections.
    const PAUSE: Duration = Duration::from_millis(50);

    fn crowd_in(&self) {
        let mut crowd: Vec<Option<TcpStream>> = Vec::new();
        crowd.resize_with(Self::SIZE, || None);
        let mut left = Self::SIZE;
        while !self.over.load(Ordering::SeqCst) {
            let began = Instant::now();
            for (place, slot) in crowd.iter_mut().enumerate() {
                if slot.as_ref().is_some_and(is_closed) {
                    *slot = None;
                }
                if slot.is_none() && left > 0 {
                    left -= 1;
                    *slot = self.open(&self.shapes[place % self.shapes.len()]);
                }
            }
            self.held.store(crowd.iter().flatten().count(), Ordering::SeqCst);
            sleep(Self::PAUSE);
            left = (began.elapsed().as_millis() / Self::AGAIN.as_millis()).try_into().unwrap_or(Self::SIZE);
        }
    }

    fn open(&self, shape: &[u8]) -> Option<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_millis(100)).ok()?;
        stream.set_nonblocking(true).ok()?;
        // As much of it as fits into the buffers.
        let _ = (&stream).write(shape);
        self.opened.fetch_add(1, Ordering::SeqCst);
        Some(stream)
    }
}

/// Returns whether the peer has closed a connection. Discards what the peer has sent.
fn is_closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 4096]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Another user holds 2,000 connections open, a quarter each mute, in half a header section, in a body that never ends and
/// with 401s that it does not read, and opens them again when they are closed. The owner's handshakes are answered 200
/// within 1 s, half of them within 200 ms, a client connects to the same daemon, its memory grows by 16 MiB at most, and it
/// writes no more than 100 lines in a minute.
#[case("PER-43", "PER-47", exclusive)]
fn strangers_do_not_lock_out(stage: &mut Stage) -> Outcome {
    const HANDSHAKES: usize = 20;
    const BOUND: Duration = Duration::from_secs(1);
    const USUAL: Duration = Duration::from_millis(200);
    if !stage.manifest().daemon.knows_peer_users {
        return not_applicable(
            "the daemon does not know the users of connections (`daemon.knows_peer_users`)",
        );
    }
    let Some(nobody) = platform::nobody().filter(|_| platform::is_root()) else {
        return untestable("the suite may not act as another user here");
    };
    if !make_room(Crowd::SIZE as u64 + 400) {
        return untestable("this host lets the suite have too few descriptors");
    }
    let daemon = stage.launch_with(Start::new().under(bounded()))?;
    let live = stage.ready(&daemon)?;
    stage.expect("200 for each of the owner's handshakes within 1 s, and the same daemon for its client");
    let refused = stage.read_route().ask(&live).bytes();
    let mut shapes = Vec::new();
    for door in doors(&live) {
        shapes.push(Vec::new());
        shapes.push(refused[..refused.len() - 2].to_vec());
        shapes.push(unfinished(&door, 1_000, 10));
        shapes.push(refused.repeat(8));
    }
    let crowd = Crowd {
        address: live.target.address,
        shapes,
        opened: AtomicUsize::new(0),
        held: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    };
    let before = resident(&daemon);
    let (written, began) = (lines(&daemon, &live), Instant::now());
    std::thread::scope(|scope| {
        let crowding = scope.spawn(|| platform::as_user(nobody, || crowd.crowd_in()));
        let opened = || (crowd.opened.load(Ordering::SeqCst) >= Crowd::SIZE).then_some(());
        let filled = until(Instant::now() + ANSWER, opened);
        let judged = match filled {
            Some(()) => with_crowd(stage, &live, &crowd, HANDSHAKES),
            None => {
                inconclusive(format!("{} connections could be opened", crowd.opened.load(Ordering::SeqCst)))
            }
        };
        let grown = resident(&daemon).saturating_sub(before);
        crowd.over.store(true, Ordering::SeqCst);
        match crowding.join() {
            Ok(done) => done?,
            Err(_) => return inconclusive("the crowd has panicked"),
        }
        let mut times = judged?;
        times.sort_unstable();
        let (median, worst) = (times[HANDSHAKES / 2], times[HANDSHAKES - 1]);
        stage.observed(format!(
            "{HANDSHAKES} handshakes, the median after {} ms, the last after {} ms; memory grew by {grown} bytes",
            median.as_millis(),
            worst.as_millis()
        ));
        ensure!(worst <= BOUND, "a handshake was answered after {} ms", worst.as_millis());
        ensure!(median <= USUAL, "half of the handshakes took {} ms or more", median.as_millis());
        // A daemon that the system kills for its memory answers no request.
        ensure!(grown <= GROWTH, "memory grew by {grown} bytes");
        ensure_writes_little(&daemon, &live, written, began)
    })
}

/// Counts the lines that the daemon has written, to its output and its log.
fn lines(daemon: &Daemon, live: &ReadyDaemon) -> usize {
    let log = std::fs::read(live.log_path()).unwrap_or_default();
    let all = [daemon.output().all(), log].concat();
    String::from_utf8_lossy(&all).lines().count()
}

/// Fails if the daemon has written more lines since `began`, when it had written so many, than strangers may make it write.
fn ensure_writes_little(daemon: &Daemon, live: &ReadyDaemon, written: usize, began: Instant) -> Outcome {
    let (more, lasted) = (lines(daemon, live) - written, began.elapsed());
    live.observed(format!("{more} lines in {} ms", lasted.as_millis()));
    let minutes = usize::try_from(lasted.as_secs() / 60).unwrap_or_default() + 1;
    ensure!(more <= LINES * minutes, "{more} lines");
    Ok(())
}

/// Makes the owner's handshakes and its client's connects during the crowd; returns how long each handshake took.
fn with_crowd(
    stage: &mut Stage,
    live: &ReadyDaemon,
    crowd: &Crowd,
    handshakes: usize,
) -> Outcome<Vec<Duration>> {
    // The crowd is judged, and not the burst in which it arrived.
    let over = until(Instant::now() + ANSWER, || live.is_ready().then_some(()));
    ensure!(over.is_some(), "no handshake is answered");
    stage.precondition(format!(
        "another user has opened {} connections, and holds {}",
        crowd.opened.load(Ordering::SeqCst),
        crowd.held.load(Ordering::SeqCst)
    ));
    let good = stage.handshake_route().ask(live).bearer(live).bytes();
    let mut times = Vec::new();
    for number in 1..=handshakes {
        let began = Instant::now();
        match live.exchange(&good) {
            Ok(answer) => ensure!(answer.status == 200, "handshake {number} was answered {}", answer.status),
            Err(fault) => {
                return fail(format!("handshake {number}: {fault} after {} ms", began.elapsed().as_millis()));
            }
        }
        times.push(began.elapsed());
        sleep(Crowd::PAUSE);
    }
    if stage.manifest().claims(Profile::Client) {
        for _ in 0..3 {
            let answer = stage.ask(Call::connect())?;
            let same = answer.outcome == "ready" && answer.id.as_ref() == Some(&live.record.id);
            ensure!(same, "its client: {answer}");
        }
    }
    Ok(times)
}

/// At each place that takes a POST, bodies of a megabyte without authentication: nearly all of it comes, on 120
/// connections, announced and in chunks. Memory grows by less than 16 MiB, and each answer is 413 or the usual refusal.
#[case("PER-44")]
fn unauthenticated_body_is_small(stage: &mut Stage) -> Outcome {
    const ANNOUNCED: usize = 1 << 20;
    const SENT: usize = 1_000_000;
    /// Of its own user a daemon need not take more than 128.
    const CONNECTIONS: usize = 120;
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("memory that does not grow with the bodies, and 413 or 401");
    let mut requests = Vec::new();
    let doors = doors(&live);
    let each = CONNECTIONS / doors.len() / 2;
    for door in doors {
        let head = door.clone().with("Transfer-Encoding", "chunked").bytes();
        let chunk = format!("{SENT:x}\r\n{}", " ".repeat(SENT));
        for bytes in [
            unfinished(&door, ANNOUNCED, SENT),
            [head, chunk.into_bytes()].concat(),
        ] {
            requests.extend(vec![(door.what.clone(), bytes); each]);
        }
    }
    live.between_controls(|| {
        let before = resident(&daemon);
        let address = live.target.address;
        let mut open: Vec<(String, Connection)> = std::thread::scope(|scope| {
            let send = |(what, bytes): (String, Vec<u8>)| {
                scope.spawn(move || {
                    let deadline = Instant::now() + Duration::from_secs(3);
                    let mut connection = Connection::open(address, deadline).ok()?;
                    // A daemon that refuses it need not read it.
                    let _ = connection.send(&bytes, deadline);
                    Some((what, connection))
                })
            };
            let lanes: Vec<_> = requests.into_iter().map(send).collect();
            lanes.into_iter().filter_map(|lane| lane.join().ok().flatten()).collect()
        });
        // What has been sent may not have been read yet.
        let grown = || resident(&daemon).saturating_sub(before);
        until(Instant::now() + Duration::from_secs(1), || (grown() >= GROWTH_BY_BODIES).then_some(()));
        let grown = grown();
        stage.observed(format!("{} connections, memory grew by {grown} bytes", open.len()));
        ensure!(grown < GROWTH_BY_BODIES, "memory grew by {grown} bytes");
        for (what, connection) in &mut open {
            let Ok(answer) = connection.read_response(Instant::now() + ANSWER) else {
                continue;
            };
            let seen = answer.summary(stage.transcript());
            ensure!(matches!(answer.status, 401 | 408 | 413), "{what}: answered {seen}");
        }
        Ok(())
    })
}

/// At each place that takes a POST, a body without authentication that stops, and one that drips: the request is answered,
/// or its connection closed, within 5 s.
#[case("PER-45", idle)]
fn slow_unauthenticated_body_ended(stage: &mut Stage) -> Outcome {
    const BOUND: Duration = Duration::from_secs(5);
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("an answer or the end of the connection within 5 s");
    let address = live.target.address;
    live.between_controls(|| {
        let ends: Vec<(String, End)> = std::thread::scope(|scope| {
            let mut lanes = Vec::new();
            for door in doors(&live) {
                for (how, drip) in [("stops", ""), ("drips", " ")] {
                    let bytes = unfinished(&door, 1_000, 10);
                    let what = format!("{}, a body that {how}", door.what);
                    lanes.push((what, scope.spawn(move || dawdle(address, &bytes, drip, BOUND))));
                }
            }
            let end = |(what, lane): (String, std::thread::ScopedJoinHandle<End>)| {
                (what, lane.join().unwrap_or(End::Open))
            };
            lanes.into_iter().map(end).collect()
        });
        for (what, end) in ends {
            stage.observed(format!("{what}: {end}", end = in_words(&end)));
            let in_time = match end {
                End::Closed(after) => after <= BOUND + LATE,
                End::Answered(status, after) => status >= 400 && after <= BOUND + LATE,
                End::Open => false,
            };
            ensure!(in_time, "{what}: {end}", end = in_words(&end));
        }
        Ok(())
    })
}

/// A daemon is ended by SIGTERM with nothing to wait for, and another one with requests open that have not authenticated and whose
/// bodies have not come: it takes no longer.
#[case("PER-46", exclusive)]
fn stranger_does_not_delay_the_end(stage: &mut Stage) -> Outcome {
    const MORE: Duration = Duration::from_secs(2);
    stage.expect("an end that comes as soon as without the strangers");
    let mut took = Vec::new();
    for with_strangers in [false, true] {
        let (daemon, live) = stage.launch_ready()?;
        let deadline = Instant::now() + ANSWER;
        let mut open = Vec::new();
        if with_strangers {
            for door in doors(&live) {
                let mut connection = match Connection::open(live.target.address, deadline) {
                    Ok(connection) => connection,
                    Err(fault) => return inconclusive(format!("{}: {fault}", door.what)),
                };
                let _ = connection.send(&unfinished(&door, 1_000, 10), deadline);
                open.push(connection);
            }
            // They were accepted before a later handshake is answered.
            if !live.is_ready() {
                return inconclusive("the good handshake after them is not answered");
            }
            stage.precondition(format!("{} requests are open whose bodies have not come", open.len()));
        }
        let began = Instant::now();
        daemon.signal(Signal::TERM)?;
        let most = stage.manifest().daemon.stand_down_timeout() + MORE + LATE;
        if daemon.wait_exit(began + most).is_none() {
            let why = format!("it runs {} ms after SIGTERM", began.elapsed().as_millis());
            return if with_strangers { fail(why) } else { inconclusive(why) };
        }
        took.push(began.elapsed());
    }
    stage.observed(format!("it ended after {took}, without and with strangers", took = in_words(&took)));
    ensure!(
        took[1] <= took[0] + MORE,
        "it ended after {took}, without and with strangers",
        took = in_words(&took)
    );
    Ok(())
}

/// 2,000 requests without authentication, of every kind that is refused; with pages, 1,000 more with a ticket that was
/// used. What the daemon writes about them is no more than 100 lines and 100 events.
#[case("PER-47")]
fn strangers_write_little(stage: &mut Stage) -> Outcome {
    const MANY: usize = 2_000;
    const TICKETS: usize = 1_000;
    const MOST: usize = 100;
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("no more than 100 lines of output and log, and no more than 100 events");
    let read = stage.read_route().ask(&live);
    let wrong = proof::bearer(&Credential::random());
    let mut requests = vec![
        read.bytes(),
        read.clone().with("Authorization", &wrong).bytes(),
        stage.handshake_route().ask(&live).with("Authorization", &wrong).bytes(),
        read.clone().hosts(["evil.example"]).bytes(),
        read.clone().origin(UNLISTED).bytes(),
        read.clone().target(UNKNOWN).bytes(),
        read.clone().parameter("token", "x").bytes(),
        read.clone().method("BREW").bytes(),
    ];
    requests.extend(doors(&live).iter().map(|door| door.clone().body("x").bytes()));
    let random = stage.rng().bytes(64);
    let short = |(_, bytes, _): &(&str, Vec<u8>, bool)| bytes.len() < 4096;
    requests.extend(broken_requests(&live, random).into_iter().filter(short).map(|(_, bytes, _)| bytes));
    let mut again = Vec::new();
    if stage.manifest().claims(Profile::Browser) {
        again = spent_ticket(stage, &live)?.bytes();
    }
    let mut stream = None;
    if stage.stream_route().is_ok() {
        stream = Some(live.open_stream("")?);
    }
    let (written, began) = (lines(&daemon, &live), Instant::now());
    live.between_controls(|| {
        for request in requests.iter().cycle().take(MANY) {
            let deadline = Instant::now() + ANSWER;
            if let Ok(mut connection) = Connection::open(live.target.address, deadline) {
                // Other cases judge the answers; an incomplete request may get none.
                let _ = connection.send(request, deadline).and_then(|()| connection.finish());
                let _ = connection.read_response(deadline);
            }
        }
        for _ in 0..if again.is_empty() { 0 } else { TICKETS } {
            if let Err(fault) = live.exchange(&again) {
                return fail(format!("a used ticket: {fault}"));
            }
        }
        Ok(())
    })?;
    let lasted = began.elapsed();
    stage.observed(format!("{MANY} requests, and their answers, in {} ms", lasted.as_millis()));
    if lasted > Duration::from_mins(1) {
        return inconclusive("the requests took more than a minute");
    }
    // All events about them have arrived when none has come for a while.
    let events = stream.as_mut().map_or_else(Vec::new, |stream| {
        follow(stream, Instant::now() + Duration::from_secs(1), |_| false).events
    });
    stage.observed(format!("{} events", events.len()));
    ensure!(events.len() <= MOST, "{} events: {}", events.len(), brief(&events));
    ensure_writes_little(&daemon, &live, written, began)
}
