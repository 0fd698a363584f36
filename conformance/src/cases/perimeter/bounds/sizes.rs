//! Of one request.

use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault, Response};

use super::{BODY, LINES, SECTION, TARGET, in_chunks, padded, resident};
use crate::case::case;
use crate::fixtures::http::{ANSWER, Ask, ensure_status};
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{ReadyDaemon, Stage};

/// A body of 64 KiB, announced and in chunks, a target of 4 KiB and a header section of 8 KiB, in one header
/// and in many: served.
#[case("PER-29")]
fn ordinary_sizes_served(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("2xx for each");
    let read = stage.read_route();
    let good = read.ask(&live).bearer(&live);
    let served_bytes = |stage: &mut Stage, what: &str, bytes: &[u8]| -> Outcome {
        let response = live.answer_to(what, bytes)?;
        ensure_status(stage, what, &response, &[200, 201, 202, 204])?;
        stage.precondition(format!("{what}: {}", response.status));
        Ok(())
    };
    let target = format!("{}?x=", read.path);
    let target = format!("{target}{}", "a".repeat(TARGET - target.len()));
    served_bytes(stage, "a target of 4 KiB", &good.clone().target(target).bytes())?;
    served_bytes(stage, "8 KiB of headers in one", &padded(&good, SECTION, 1))?;
    // The request line and the empty line are no header lines.
    let own_lines = String::from_utf8_lossy(&good.bytes()).lines().count() - 2;
    served_bytes(stage, "8 KiB of headers in 100", &padded(&good, SECTION, LINES - own_lines))?;
    if let Ok(mutation) = stage.mutation_route() {
        let body = mutation.body.clone().unwrap_or_else(|| "{}".to_owned());
        // White space at the end of JSON says nothing.
        let body = format!("{body}{}", " ".repeat(BODY - body.len()));
        let ask = Ask::new(&live, &mutation.method, &mutation.path)
            .with("Content-Type", "application/json")
            .bearer(&live);
        served_bytes(stage, "a body of 64 KiB", &ask.clone().body(&*body).bytes())?;
        served_bytes(stage, "a body of 64 KiB in chunks", &in_chunks(&ask, &body).bytes())?;
    }
    Ok(())
}

/// Request targets just beyond 32 KiB and longer, with and without the credential: 414.
#[case("PER-30")]
fn oversized_target_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("414");
    let read = stage.read_route();
    let long = |length: usize| format!("{}?{}", read.path, "a".repeat(length - read.path.len() - 1));
    let mut asks = Vec::new();
    for length in [(32 << 10) + 1, 48 << 10, 60_000] {
        let ask = read.ask(&live).target(long(length));
        asks.push(ask.clone().bearer(&live).named(format!("a target of {length} bytes")));
        asks.push(ask.named(format!("a target of {length} bytes, no credential")));
    }
    asks.push(
        read.ask(&live)
            .target(format!("/{}", "a".repeat(40 << 10)))
            .bearer(&live)
            .named("a path of 40 KiB"),
    );
    live.between_controls(|| live.all_answered(&asks, &[414]))
}

/// Sends `bytes` in pieces of `size` and reads the answer, whether or not all could be sent.
fn in_pieces(live: &ReadyDaemon, bytes: &[u8], size: usize) -> Result<Response, HttpFault> {
    let deadline = Instant::now() + ANSWER;
    let mut connection = Connection::open(live.target.address, deadline)?;
    for piece in bytes.chunks(size) {
        if connection.send(piece, deadline).is_err() {
            break;
        }
    }
    connection.read_response(deadline)
}

/// Header sections just beyond 64 KiB, in one header and in thousands, at once and in pieces, with and
/// without the credential: 431. A megabyte is refused or not read to its end.
#[case("PER-30")]
fn oversized_header_section_refused(stage: &mut Stage) -> Outcome {
    const LIMIT: usize = 64 << 10;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("431");
    let open = stage.read_route().ask(&live);
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
    live.between_controls(|| {
        for (what, bytes) in &requests {
            for (how, size) in [("at once", bytes.len()), ("in pieces", 1_000)] {
                let what = format!("{what}, {how}");
                stage.transcript().note("suite", "request", &what);
                match in_pieces(&live, bytes, size) {
                    Ok(response) => ensure_status(stage, &what, &response, &[431])?,
                    Err(fault) => return fail(format!("{what}: {fault}")),
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

/// Bodies beyond 16 MiB with the credential, announced and in chunks: 413.
#[case("PER-30")]
fn oversized_body_refused(stage: &mut Stage) -> Outcome {
    const BEYOND: usize = (16 << 20) + 1;
    let mutation = stage.mutation_route()?;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("413");
    let good = mutation.ask(&live).bearer(&live);
    live.served(&good)?;
    let ask = Ask::new(&live, &mutation.method, &mutation.path)
        .with("Content-Type", "application/json")
        .bearer(&live);
    let announced = |length: usize| ask.clone().with("Content-Length", &length.to_string());
    let asks = [
        announced(BEYOND).named("16 MiB and a byte announced"),
        announced(BEYOND).with("Expect", "100-continue").named("the same, and waited for leave"),
        announced(1 << 40).named("a terabyte announced"),
    ];
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let chunks = ask.with("Transfer-Encoding", "chunked").bytes();
    live.between_controls(|| {
        live.all_answered(&asks, &[413])?;
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
            Err(fault) => fail(format!("{what}: {fault}")),
        }
    })
}

/// Request lines and header sections without end on eight connections, up to 16 MiB each: the daemon's memory never grows by
/// 16 MiB. How much of them it discards, and how soon it closes the connections, is its own affair here.
#[case("PER-30")]
fn endless_head_is_not_kept(stage: &mut Stage) -> Outcome {
    const MOST: usize = 16 << 20;
    const LANES: usize = 8;
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("memory that grows by less than 16 MiB, as long as the connections last");
    let own = live.target.authority.clone();
    let piece = "a".repeat(64 << 10);
    let header = format!("x-a: {}\r\n", "a".repeat(1_000)).repeat(64);
    let shapes: [(&str, String, &str); 4] = [
        ("a method without end", String::new(), &piece),
        ("a target without end", "GET /".to_owned(), &piece),
        ("a header without end", format!("GET / HTTP/1.1\r\nHost: {own}\r\nx-a: "), &piece),
        ("headers without end", format!("GET / HTTP/1.1\r\nHost: {own}\r\n"), &header),
    ];
    live.between_controls(|| {
        let before = resident(&daemon);
        let mut most = before;
        let taken: Vec<(&str, usize)> = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES)
                .map(|lane| {
                    let (what, start, more) = &shapes[lane % shapes.len()];
                    let live = &live;
                    scope.spawn(move || (*what, flood_head(live, start, more, MOST)))
                })
                .collect();
            while lanes.iter().any(|lane| !lane.is_finished()) {
                most = most.max(resident(&daemon));
                std::thread::sleep(Duration::from_millis(5));
            }
            lanes.into_iter().filter_map(|lane| lane.join().ok()).collect()
        });
        let grown = most.max(resident(&daemon)).saturating_sub(before);
        let taken: Vec<String> =
            taken.iter().map(|(what, taken)| format!("{taken} bytes of {what}")).collect();
        stage.observed(format!("sent: {}; memory grew by {grown} bytes at most", taken.join(", ")));
        ensure!(grown < MOST as u64, "memory grew by {grown} bytes");
        Ok(())
    })
}

/// Sends `start` and then `more` again and again, until the other side has had enough; how many bytes went.
fn flood_head(live: &ReadyDaemon, start: &str, more: &str, most: usize) -> usize {
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
