//! How much, how many and how slow.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault, Response};
use local_daemon_harness::process::{SocketState, sockets};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::wait::until;

use super::super::handshake::broken_requests;
use super::ask::{
    ANSWER, Ask, UNLISTED, all_answered, answer_to, answered, ensure_status, exchange, handshake_route,
    mutation_route, port, read_route, served,
};
use crate::case::{Case, Outcome};
use crate::stage::{Daemon, Live, Stage, Start};

pub(crate) const CASES: &[Case] = &[
    Case::perimeter(
        "perimeter/ordinary-sizes-served",
        &["PER-29"],
        "A body of 64 KiB, announced and in chunks, a target of 4 KiB and a header section of 8 KiB, in one header and \
         in many: served.",
        ordinary_sizes_served,
    ),
    Case::perimeter(
        "perimeter/many-connections-served",
        &["PER-29"],
        "128 connections are open with half a request each; then each sends the rest and is served.",
        many_connections_served,
    ),
    Case::perimeter(
        "perimeter/many-handshakes-served",
        &["PER-29"],
        "200 good handshakes as fast as this host sends them: each is answered 200.",
        many_handshakes_served,
    ),
    Case::perimeter(
        "perimeter/oversized-target-refused",
        &["PER-30"],
        "Request targets just beyond 32 KiB and longer, with and without the credential: 414.",
        oversized_target_refused,
    ),
    Case::perimeter(
        "perimeter/oversized-header-section-refused",
        &["PER-30"],
        "Header sections just beyond 64 KiB, in one header and in thousands, at once and in pieces, with and without the \
         credential: 431. A megabyte is refused or not read to its end.",
        oversized_header_section_refused,
    ),
    Case::perimeter(
        "perimeter/oversized-body-refused",
        &["PER-30"],
        "Bodies beyond 16 MiB with the credential, announced and in chunks: 413.",
        oversized_body_refused,
    ),
    Case::perimeter(
        "perimeter/endless-head-is-not-kept",
        &["PER-30"],
        "Request lines and header sections without end on eight connections: each is cut off before 16 MiB, and the \
         daemon's memory grows by less than that.",
        endless_head_is_not_kept,
    ),
    Case::perimeter(
        "perimeter/connections-beyond-the-limit-refused",
        &["PER-31"],
        "A daemon that may have 1024 descriptors is given 1100 connections: one after at least 128 is answered 503 with \
         Retry-After, none is left without an answer, and it serves again once they are closed.",
        connections_beyond_the_limit_refused,
    )
    .exclusive(),
    Case::perimeter(
        "perimeter/handshakes-beyond-the-limit-refused",
        &["PER-31"],
        "Handshakes with a wrong credential as fast as this host sends them: some are answered 503 with Retry-After.",
        handshakes_beyond_the_limit_refused,
    )
    .exclusive(),
    Case::perimeter(
        "perimeter/only-refused-handshakes-counted",
        &["PER-32"],
        "While handshakes with a wrong credential are answered 503, a good one is answered 200.",
        only_refused_handshakes_counted,
    )
    .exclusive(),
    Case::perimeter(
        "perimeter/slow-connections-ended",
        &["PER-33"],
        "Side by side: a header section that stops and one that drips, a body that stops, a client that reads no answer. \
         Each is ended by its bound: 10 s, 30 s, 30 s.",
        slow_connections_ended,
    )
    .idle()
    .deadline_s(100),
    Case::perimeter(
        "perimeter/served-after-every-bad-request",
        &["PER-34"],
        "After each of many refused, oversized and broken requests a good one is served, by the same launch in the same \
         process.",
        served_after_every_bad_request,
    ),
];

/// As much as the table's second column says, each.
const BODY: usize = 64 << 10;
const TARGET: usize = 4 << 10;
const SECTION: usize = 8 << 10;
/// How late a busy host may show what happened in time.
const LATE: Duration = Duration::from_secs(5);

/// `ask` with as many bytes of further headers as make its header section `length` long, in `count` headers.
fn padded(ask: &Ask, length: usize, count: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(&ask.bytes()).into_owned();
    let (line, rest) = text.split_once("\r\n").unwrap_or_default();
    let (section, body) = rest.split_once("\r\n\r\n").unwrap_or_default();
    let section = format!("{section}\r\n");
    let missing = length.saturating_sub(section.len());
    let mut filler = String::with_capacity(missing);
    for place in 0..count {
        // The last takes what a division leaves over.
        let share = (missing * (place + 1) / count).saturating_sub(filler.len());
        let head = format!("x-{place}: ");
        filler += &head;
        filler += &"a".repeat(share.saturating_sub(head.len() + 2));
        filler += "\r\n";
    }
    format!("{line}\r\n{section}{filler}\r\n{body}").into_bytes()
}

fn in_chunks(ask: &Ask, body: &str) -> Ask {
    let (first, second) = body.split_at(body.len() / 2);
    let chunks = format!(
        "{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    ask.clone().with("Transfer-Encoding", "chunked").body(chunks)
}

fn ordinary_sizes_served(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("2xx for each");
    let read = read_route(stage);
    let good = read.ask(&live).bearer(&live);
    let served_bytes = |stage: &mut Stage, what: &str, bytes: &[u8]| -> Outcome {
        let response = answer_to(stage, &live, what, bytes)?;
        ensure_status(stage, what, &response, &[200, 201, 202, 204])?;
        stage.precondition(format!("{what}: {}", response.status));
        Ok(())
    };
    let target = format!("{}?x=", read.path);
    let target = format!("{target}{}", "a".repeat(TARGET - target.len()));
    served_bytes(stage, "a target of 4 KiB", &good.clone().target(target).bytes())?;
    served_bytes(stage, "8 KiB of headers in one", &padded(&good, SECTION, 1))?;
    served_bytes(stage, "8 KiB of headers in 64", &padded(&good, SECTION, 64))?;
    if let Ok(mutation) = mutation_route(stage) {
        let body = mutation.body.clone().unwrap_or_else(|| "{}".to_owned());
        // White space at the end of JSON says nothing.
        let body = format!("{body}{}", " ".repeat(BODY - body.len()));
        let ask = Ask::new(&live, &mutation.method, &mutation.path)
            .with("Content-Type", "application/json")
            .bearer(&live);
        served_bytes(stage, "a body of 64 KiB", &ask.clone().body(&*body).bytes())?;
        served_bytes(
            stage,
            "a body of 64 KiB in chunks",
            &in_chunks(&ask, &body).bytes(),
        )?;
    }
    Ok(())
}

fn many_connections_served(stage: &mut Stage) -> Outcome {
    const MANY: usize = 128;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200 on each of 128 open connections");
    let request = read_route(stage).ask(&live).bearer(&live).bytes();
    let (first, second) = request.split_at(request.len() / 2);
    let deadline = Instant::now() + ANSWER;
    let mut open = Vec::new();
    for place in 1..=MANY {
        let connected = Connection::open(live.target.address, deadline)
            .and_then(|mut connection| connection.send(first, deadline).map(|()| connection));
        match connected {
            Ok(connection) => open.push(connection),
            Err(fault) => return stage.fail(format!("connection {place}: {fault}")),
        }
    }
    stage.precondition(format!("{MANY} connections are open, each with half a request"));
    for (place, connection) in open.iter_mut().enumerate() {
        let answer = connection.exchange(second, Instant::now() + ANSWER);
        let status = answer.as_ref().map(|answer| answer.status);
        stage.ensure(status == Ok(200), format!("connection {}: {status:?}", place + 1))?;
    }
    Ok(())
}

/// Sends `request` on `lanes` connections at once, in batches, until `enough` says so of the answers so far; returns how
/// many of each status came and how many were 503 without `Retry-After`.
struct Flood<'a> {
    address: SocketAddr,
    request: &'a [u8],
    batch: usize,
    sent: AtomicUsize,
    refused: AtomicUsize,
    bare: AtomicUsize,
    over: AtomicBool,
}

impl<'a> Flood<'a> {
    fn new(address: SocketAddr, request: &'a [u8], batch: usize) -> Self {
        Self {
            address,
            request,
            batch,
            sent: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            bare: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// One lane, until it is over.
    fn run(&self) -> Result<(), HttpFault> {
        let batch = self.request.repeat(self.batch);
        while !self.over.load(Ordering::SeqCst) {
            let deadline = Instant::now() + ANSWER;
            let mut connection = Connection::open(self.address, deadline)?;
            // Refusals may close the connection, and then the rest of a batch is lost.
            let _ = connection.send(&batch, deadline);
            for _ in 0..self.batch {
                let Ok(answer) = connection.read_response(deadline) else {
                    break;
                };
                self.count(&answer);
                if answer.closes {
                    break;
                }
            }
        }
        Ok(())
    }

    fn count(&self, answer: &Response) {
        self.sent.fetch_add(1, Ordering::SeqCst);
        if answer.status == 503 {
            self.refused.fetch_add(1, Ordering::SeqCst);
            if answer.header("retry-after").is_none() {
                self.bare.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

fn many_handshakes_served(stage: &mut Stage) -> Outcome {
    const MANY: usize = 200;
    const LANES: usize = 8;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200 for each of 200");
    let request = handshake_route(stage).ask(&live).bearer(&live).bytes();
    let began = Instant::now();
    let answers = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| {
                scope.spawn(|| -> Vec<Result<u16, HttpFault>> {
                    let one = || exchange(&live, &request).map(|answer| answer.status);
                    (0..MANY / LANES).map(|_| one()).collect()
                })
            })
            .collect();
        lanes
            .into_iter()
            .flat_map(|lane| lane.join().unwrap_or_default())
            .collect::<Vec<_>>()
    });
    let good = answers.iter().filter(|answer| **answer == Ok(200)).count();
    stage.precondition(format!(
        "{} handshakes were sent in {} ms",
        answers.len(),
        began.elapsed().as_millis()
    ));
    let other = answers.iter().find(|answer| **answer != Ok(200));
    stage.ensure(
        good == MANY,
        format!("{good} of {MANY} were answered 200; another: {other:?}"),
    )
}

fn oversized_target_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("414");
    let read = read_route(stage);
    let long = |length: usize| format!("{}?{}", read.path, "a".repeat(length - read.path.len() - 1));
    let mut asks = Vec::new();
    for length in [(32 << 10) + 1, 48 << 10, 60_000] {
        let ask = read.ask(&live).target(long(length));
        asks.push(
            ask.clone()
                .bearer(&live)
                .named(format!("a target of {length} bytes")),
        );
        asks.push(ask.named(format!("a target of {length} bytes, no credential")));
    }
    asks.push(
        read.ask(&live)
            .target(format!("/{}", "a".repeat(40 << 10)))
            .bearer(&live)
            .named("a path of 40 KiB"),
    );
    stage.between_controls(&live, |stage| all_answered(stage, &live, &asks, &[414]))
}

/// Sends `bytes` in pieces of `size` and reads the answer, whether or not all could be sent.
fn in_pieces(live: &Live, bytes: &[u8], size: usize) -> Result<Response, HttpFault> {
    let deadline = Instant::now() + ANSWER;
    let mut connection = Connection::open(live.target.address, deadline)?;
    for piece in bytes.chunks(size) {
        if connection.send(piece, deadline).is_err() {
            break;
        }
    }
    connection.read_response(deadline)
}

fn oversized_header_section_refused(stage: &mut Stage) -> Outcome {
    const LIMIT: usize = 64 << 10;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("431");
    let open = read_route(stage).ask(&live);
    let good = open.clone().bearer(&live);
    let mut requests = Vec::new();
    for (who, ask) in [("with the credential", &good), ("without one", &open)] {
        for (length, count) in [
            (LIMIT + 1, 1),
            (LIMIT + 1, 64),
            (100_000, 1),
            (100_000, 2_000),
            (200_000, 10),
        ] {
            let what = format!("{length} bytes in {count} headers, {who}");
            requests.push((what, padded(ask, length, count)));
        }
    }
    stage.between_controls(&live, |stage| {
        for (what, bytes) in &requests {
            for (how, size) in [("at once", bytes.len()), ("in pieces", 1_000)] {
                let what = format!("{what}, {how}");
                stage.transcript().note("suite", "request", &what);
                match in_pieces(&live, bytes, size) {
                    Ok(response) => ensure_status(stage, &what, &response, &[431])?,
                    Err(fault) => return stage.fail(format!("{what}: {fault}")),
                }
            }
        }
        // So much is in the way of its own refusal: what counts is that it is not served.
        for (what, bytes) in [
            ("a megabyte in one header", padded(&good, 1 << 20, 1)),
            ("a megabyte in 10,000 headers", padded(&good, 1 << 20, 10_000)),
        ] {
            if let Ok(response) = in_pieces(&live, &bytes, bytes.len()) {
                ensure_status(stage, what, &response, &[431])?;
            }
        }
        Ok(())
    })
}

fn oversized_body_refused(stage: &mut Stage) -> Outcome {
    const BEYOND: usize = (16 << 20) + 1;
    let mutation = mutation_route(stage)?;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("413");
    let good = mutation.ask(&live).bearer(&live);
    served(stage, &live, &good)?;
    let ask = Ask::new(&live, &mutation.method, &mutation.path)
        .with("Content-Type", "application/json")
        .bearer(&live);
    let announced = |length: usize| ask.clone().with("Content-Length", &length.to_string());
    let asks = [
        announced(BEYOND).named("16 MiB and a byte announced"),
        announced(BEYOND)
            .with("Expect", "100-continue")
            .named("the same, and waited for leave"),
        announced(1 << 40).named("a terabyte announced"),
    ];
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let chunks = ask.with("Transfer-Encoding", "chunked").bytes();
    stage.between_controls(&live, |stage| {
        all_answered(stage, &live, &asks, &[413])?;
        let what = "17 MiB in chunks";
        stage.transcript().note("suite", "request", what);
        let deadline = Instant::now() + ANSWER;
        let send = || -> Result<Response, HttpFault> {
            let mut connection = Connection::open(live.target.address, deadline)?;
            connection.send(&chunks, deadline)?;
            for _ in 0..17 {
                if connection.send(chunk.as_bytes(), deadline).is_err() {
                    break;
                }
            }
            let _ = connection.send(b"0\r\n\r\n", deadline);
            connection.read_response(deadline)
        };
        match send() {
            Ok(response) => ensure_status(stage, what, &response, &[413]),
            Err(fault) => stage.fail(format!("{what}: {fault}")),
        }
    })
}

/// Resident memory of the daemon's processes, in bytes.
fn resident(daemon: &Daemon) -> u64 {
    let of = |pid: u32| -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let pids = daemon.tree().into_iter().map(|process| process.pid);
    pids.filter_map(of).sum::<u64>() * 1024
}

fn endless_head_is_not_kept(stage: &mut Stage) -> Outcome {
    const MOST: usize = 16 << 20;
    const LANES: usize = 8;
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("each connection is cut off before 16 MiB were taken, and memory grows by less");
    let own = live.target.authority.clone();
    let piece = "a".repeat(64 << 10);
    let header = format!("x-a: {}\r\n", "a".repeat(1_000)).repeat(64);
    let shapes: [(&str, String, &str); 4] = [
        ("a method without end", String::new(), &piece),
        ("a target without end", "GET /".to_owned(), &piece),
        (
            "a header without end",
            format!("GET / HTTP/1.1\r\nHost: {own}\r\nx-a: "),
            &piece,
        ),
        (
            "headers without end",
            format!("GET / HTTP/1.1\r\nHost: {own}\r\n"),
            &header,
        ),
    ];
    stage.between_controls(&live, |stage| {
        let before = resident(&daemon);
        let taken: Vec<(&str, usize)> = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES)
                .map(|lane| {
                    let (what, start, more) = &shapes[lane % shapes.len()];
                    let live = &live;
                    scope.spawn(move || (*what, flood_head(live, start, more, MOST)))
                })
                .collect();
            lanes.into_iter().filter_map(|lane| lane.join().ok()).collect()
        });
        let grown = resident(&daemon).saturating_sub(before);
        for (what, taken) in &taken {
            stage.ensure(*taken < MOST, format!("{what}: {taken} bytes were taken"))?;
        }
        stage.observed(format!("taken: {taken:?}; memory grew by {grown} bytes"));
        stage.ensure(grown < MOST as u64, format!("memory grew by {grown} bytes"))
    })
}

/// Sends `start` and then `more` again and again, until the other side has had enough; how many bytes went.
fn flood_head(live: &Live, start: &str, more: &str, most: usize) -> usize {
    let deadline = Instant::now() + ANSWER;
    let Ok(mut connection) = Connection::open(live.target.address, deadline) else {
        return 0;
    };
    let mut taken = 0;
    let mut piece = start;
    while taken < most && connection.send(piece.as_bytes(), deadline).is_ok() {
        taken += piece.len();
        piece = more;
    }
    taken
}

/// Gives this process room for so many descriptors; whether it has it.
fn make_room(wanted: u64) -> bool {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return true;
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        return false;
    }
    limit.current = Some(wanted);
    setrlimit(Resource::Nofile, limit).is_ok()
}

fn connections_beyond_the_limit_refused(stage: &mut Stage) -> Outcome {
    const LEAST: usize = 128;
    const MANY: usize = 1_100;
    if !make_room(MANY as u64 + 400) {
        return stage.untestable("this host lets the suite have too few descriptors");
    }
    let bounded = ["sh", "-c", r#"ulimit -n 1024; exec "$@""#, "sh"].map(str::to_owned);
    let daemon = stage.launch_with(Start::new().under(bounded.into()))?;
    let live = stage.ready(&daemon)?;
    stage.expect("503 with Retry-After on a connection after the 128th, and no connection without an answer");
    let request = handshake_route(stage).ask(&live).bearer(&live).bytes();
    let mut open = Vec::new();
    let mut refusal = None;
    while refusal.is_none() && open.len() < MANY {
        let place = open.len() + 1;
        let deadline = Instant::now() + ANSWER;
        let asked = || -> Result<(Connection, Response), HttpFault> {
            let mut connection = Connection::open(live.target.address, deadline)?;
            let answer = connection.exchange(&request, deadline)?;
            if answer.status == 200 {
                // Half of the next one, so that it is no idle connection that may be closed for another.
                connection.send(&request[..request.len() / 2], deadline)?;
            }
            Ok((connection, answer))
        };
        match asked() {
            Ok((connection, answer)) if answer.status == 200 => open.push(connection),
            Ok((_, answer)) => refusal = Some(answer),
            Err(fault) => return stage.fail(format!("connection {place} has no answer: {fault}")),
        }
    }
    stage.precondition(format!("{} connections are open and were served", open.len()));
    let Some(answer) = refusal else {
        return stage.inconclusive(format!("{MANY} connections were served: it makes room for more"));
    };
    let seen = answer.summary(stage.transcript());
    let place = open.len() + 1;
    stage.observed(format!("connection {place} was answered {seen}"));
    stage.ensure(
        place > LEAST,
        format!("connection {place} was refused already: {seen}"),
    )?;
    stage.ensure(
        answer.status == 503,
        format!("connection {place} was answered {seen}"),
    )?;
    stage.ensure(
        answer.header("retry-after").is_some(),
        format!("connection {place} was answered 503 without Retry-After"),
    )?;
    drop(open);
    let deadline = Instant::now() + ANSWER;
    let again = until(deadline, Duration::from_millis(5), || {
        stage.is_ready(&live).then_some(())
    });
    stage.ensure(
        again.is_some(),
        "no good handshake is answered after the connections are closed",
    )
}

/// Floods the daemon with handshakes of a wrong credential until some are answered 503, and then does `meanwhile`.
fn flooded(stage: &mut Stage, meanwhile: impl FnOnce(&mut Stage, &Live) -> Outcome) -> Outcome {
    const LANES: usize = 3;
    const LENGTH: Duration = Duration::from_secs(8);
    /// A host that sends fewer in a second may stay below a limit that is fair.
    const RATE: u128 = 1_000;
    let (_daemon, live) = stage.launch_ready()?;
    let wrong = proof::bearer(&Credential::random());
    let request = handshake_route(stage)
        .ask(&live)
        .with("Authorization", &wrong)
        .bytes();
    stage.between_controls(&live, |stage| {
        let flood = Flood::new(live.target.address, &request, 50);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(|| flood.run())).collect();
            let refused = || (flood.refused.load(Ordering::SeqCst) > 0).then_some(());
            let reached = until(began + LENGTH, Duration::from_millis(5), refused);
            let outcome = if reached.is_some() {
                meanwhile(stage, &live)
            } else {
                Ok(())
            };
            flood.over.store(true, Ordering::SeqCst);
            for lane in lanes {
                let _ = lane.join();
            }
            outcome
        })?;
        let (sent, refused) = (
            flood.sent.load(Ordering::SeqCst),
            flood.refused.load(Ordering::SeqCst),
        );
        let lasted = began.elapsed().as_millis().max(1);
        stage.observed(format!(
            "{refused} of {sent} handshakes in {lasted} ms were answered 503"
        ));
        if refused == 0 && sent as u128 * 1_000 / lasted < RATE {
            return stage.inconclusive(format!("only {sent} handshakes in {lasted} ms"));
        }
        stage.ensure(
            refused > 0,
            format!("none of {sent} handshakes in {lasted} ms was answered 503"),
        )?;
        let bare = flood.bare.load(Ordering::SeqCst);
        stage.ensure(
            bare == 0,
            format!("{bare} of {refused} answers of 503 have no Retry-After"),
        )?;
        if let Some(why) = flood_over(stage, &live) {
            return stage.fail(why);
        }
        Ok(())
    })
}

/// Waits until a good handshake is answered again, where refused ones are not the only ones that count.
fn flood_over(stage: &Stage, live: &Live) -> Option<String> {
    let again = until(Instant::now() + ANSWER, Duration::from_millis(5), || {
        stage.is_ready(live).then_some(())
    });
    again
        .is_none()
        .then(|| "no good handshake is answered after the flood".to_owned())
}

fn handshakes_beyond_the_limit_refused(stage: &mut Stage) -> Outcome {
    stage.expect("503 with Retry-After for some");
    flooded(stage, |_, _| Ok(()))
}

fn only_refused_handshakes_counted(stage: &mut Stage) -> Outcome {
    stage.expect("200 for the good handshake");
    flooded(stage, |stage, live| {
        let ask = handshake_route(stage).ask(live).bearer(live);
        answered(stage, live, &ask.named("a good handshake in the flood"), &[200])?;
        Ok(())
    })
}

/// How a slow connection ended.
#[derive(Debug)]
enum End {
    Closed(Duration),
    Answered(u16, Duration),
    Open,
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
fn dawdle(address: SocketAddr, start: &[u8], drip: &str, bound: Duration) -> End {
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
fn read_nothing(daemon: &Daemon, live: &Live, request: &[u8], bound: Duration) -> Result<End, String> {
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
    socket
        .set_write_timeout(Some(Duration::from_secs(1)))
        .map_err(io)?;
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

fn slow_connections_ended(stage: &mut Stage) -> Outcome {
    const HEAD: Duration = Duration::from_secs(10);
    const REST: Duration = Duration::from_secs(30);
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("header sections are ended after 10 s, an unfinished body and an unread answer after 30 s");
    let read = read_route(stage);
    let good = read.ask(&live).bearer(&live).bytes();
    let half = good[..good.len() - 2].to_vec();
    let line = good[..5].to_vec();
    let body = mutation_route(stage).ok().map(|mutation| {
        let whole = mutation.ask(&live).bearer(&live).bytes();
        whole[..whole.len() - 1].to_vec()
    });
    stage.between_controls(&live, |stage| {
        let address = live.target.address;
        let (heads, body, reader) = std::thread::scope(|scope| {
            let heads = [
                ("a header section that stops", &half, ""),
                (
                    "a header section that drips",
                    &half,
                    "x-a: aaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
                ),
                ("a request line that drips", &line, "a"),
            ]
            .map(|(what, start, drip)| (what, scope.spawn(move || dawdle(address, start, drip, HEAD))));
            let body = body
                .as_ref()
                .map(|body| scope.spawn(move || dawdle(address, body, "", REST)));
            let reader = scope.spawn(|| read_nothing(&daemon, &live, &good, REST));
            let heads = heads.map(|(what, thread)| (what, thread.join().unwrap_or(End::Open)));
            let body = body.map(|thread| thread.join().unwrap_or(End::Open));
            (heads, body, reader.join().unwrap_or(Ok(End::Open)))
        });
        for (what, end) in &heads {
            stage.observed(format!("{what}: {end:?}"));
            stage.ensure(end.in_time(HEAD), format!("{what}: {end:?}"))?;
        }
        if let Some(end) = body {
            stage.observed(format!("a body that stops: {end:?}"));
            stage.ensure(end.in_time(REST), format!("a body that stops: {end:?}"))?;
        }
        match reader {
            Ok(end) => {
                stage.observed(format!("a client that reads nothing: {end:?}"));
                stage.ensure(end.in_time(REST), format!("a client that reads nothing: {end:?}"))
            }
            Err(why) => stage.inconclusive(why),
        }
    })
}

fn served_after_every_bad_request(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("2xx after each, from the same process");
    let read = read_route(stage);
    let good = read.ask(&live).bearer(&live);
    served(stage, &live, &good)?;
    let foreign = format!("evil.example:{}", port(&live));
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
        (
            "a header section of 10,000 headers",
            padded(&good, 100_000, 10_000),
        ),
        (
            "a target of 40 KiB",
            good.clone().target(format!("/{}", "a".repeat(40 << 10))).bytes(),
        ),
        (
            "a body of a terabyte",
            good.clone()
                .method("POST")
                .with("Content-Length", &(1_u64 << 40).to_string())
                .bytes(),
        ),
        (
            "an upgrade",
            good.clone()
                .with("Connection", "upgrade")
                .with("Upgrade", "x")
                .bytes(),
        ),
        ("a path of no text", good.clone().target("/%ff%fe/%00").bytes()),
        (
            "a query of no text",
            good.clone().target(format!("{}?%ff=%00&&==&", read.path)).bytes(),
        ),
        ("JSON of a thousand depths", deep(stage, &live)),
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
        let response = match exchange(&live, &good.bytes()) {
            Ok(response) => response,
            Err(fault) => return stage.fail(format!("after {what}: {fault}")),
        };
        let seen = response.summary(stage.transcript());
        stage.ensure(response.status == 200, format!("after {what}: answered {seen}"))?;
        stage.ensure(
            daemon.is_running(),
            format!("after {what}: the process has ended"),
        )?;
    }
    stage.control(format!(
        "a good request was served after each of {count} bad ones"
    ));
    stage.ensure(stage.is_ready(&live), "another launch answers now")
}

/// A body that ends a parser which calls itself for every bracket.
fn deep(stage: &mut Stage, live: &Live) -> Vec<u8> {
    let route = mutation_route(stage).unwrap_or_else(|_| read_route(stage));
    let ask = Ask::new(live, "POST", &route.path).with("Content-Type", "application/json");
    ask.bearer(live).body("[".repeat(50_000)).bytes()
}
