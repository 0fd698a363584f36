//! Of bodies that are refused or malformed.

use std::thread::sleep;
use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault, Response};

use super::in_chunks;
use crate::case::case;
use crate::fixtures::http::{ANSWER, Ask, UNKNOWN, UNLISTED};
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{ReadyDaemon, Stage};

/// Less than what a daemon has to discard, and more than the buffers of a connection hold.
const BODY: usize = 900_000;
/// For so long a daemon has to discard.
const DISCARDED: Duration = Duration::from_secs(2);

/// Requests that are refused before a daemon reads their bodies, with what each may be answered.
fn refused(live: &ReadyDaemon) -> Vec<(Ask, Vec<u16>)> {
    let route = live.mutation_route().unwrap_or_else(|_| live.read_route());
    let post = |path: &str| Ask::new(live, "POST", path).with("Content-Type", "application/json");
    let foreign = format!("evil.example:{}", live.port());
    vec![
        (post(&route.path).named("no credential"), vec![401, 413]),
        (post(&route.path).hosts([&*foreign]).bearer(live).named("a foreign Host"), vec![421]),
        (post(&route.path).origin(UNLISTED).bearer(live).named("an unlisted origin"), vec![403]),
        (post(UNKNOWN).bearer(live).named("an unknown path"), vec![404, 413]),
    ]
}

/// Sends a whole request, as clients do that read no answer before they have sent everything, and reads the answer.
fn upload(live: &ReadyDaemon, bytes: &[u8]) -> Result<Response, String> {
    let deadline = Instant::now() + ANSWER;
    let mut connection =
        Connection::open(live.target.address, deadline).map_err(|fault| fault.to_string())?;
    let mut sent = 0;
    for piece in bytes.chunks(16 << 10) {
        connection
            .send(piece, deadline)
            .map_err(|fault| format!("{fault} when {sent} bytes were sent"))?;
        sent += piece.len();
    }
    let response = connection
        .read_response(deadline)
        .map_err(|fault| format!("{fault} instead of an answer"))?;
    // A reset behind the answer takes the answer away from a client that is slower than this one.
    if response.closes && connection.read_some(deadline) == Err(HttpFault::Reset) {
        return Err(format!("answered {}, and then the connection was reset", response.status));
    }
    Ok(response)
}

/// What is seen of a request whose body goes on after its refusal.
enum Seen {
    /// The daemon did not close the connection.
    Open,
    /// The daemon ended its half, and took all that came within its time.
    Discarded,
    /// The daemon closes the connection, and has not ended its half.
    HalfOpen,
    /// The daemon closed the connection too early.
    Closed(String),
}

/// Sends a request of a long body with little of it, and reads the refusal.
fn begin(live: &ReadyDaemon, ask: &Ask) -> Result<(Connection, Response), HttpFault> {
    let deadline = Instant::now() + ANSWER;
    let mut connection = Connection::open(live.target.address, deadline)?;
    connection.send(&ask.clone().with("Content-Length", &BODY.to_string()).bytes(), deadline)?;
    connection.send(&[b' '; 1024], deadline)?;
    let response = connection.read_response(deadline)?;
    Ok((connection, response))
}

/// Begins such a request, reads the refusal and the end of the daemon's half, and sends more of
/// the body, a little at a time, as long as the daemon has to discard it.
fn trickle(live: &ReadyDaemon, ask: &Ask) -> Result<Seen, HttpFault> {
    const PIECE: usize = 16 << 10;
    const PACE: Duration = Duration::from_millis(450);
    /// Less than it may take to close the connection whole, and more than what a busy host delays the end of one half.
    const HALF_CLOSED: Duration = Duration::from_millis(1_500);
    let began = Instant::now();
    let deadline = began + ANSWER;
    let (mut connection, response) = begin(live, ask)?;
    if !response.closes {
        return Ok(Seen::Open);
    }
    match connection.read_some(began + HALF_CLOSED) {
        Ok(_) => {}
        Err(HttpFault::TimedOut) => return Ok(Seen::HalfOpen),
        Err(fault) => return Ok(Seen::Closed(format!("{fault} right after the answer"))),
    }
    let mut sent = 0;
    while began.elapsed() + PACE < DISCARDED {
        // What is sent into a closed connection is answered by a reset, which the next piece finds.
        let fault = connection.send(&[b' '; PIECE], deadline).err();
        let after = began.elapsed();
        match fault {
            Some(fault) if after < DISCARDED => {
                let why = format!("{fault} after {} ms and {sent} bytes", after.as_millis());
                return Ok(Seen::Closed(why));
            }
            _ => sent += PIECE,
        }
        sleep(PACE);
    }
    Ok(Seen::Discarded)
}

/// Requests are refused while their bodies of 900 KB are on their way. A client that sends everything before it reads gets
/// each answer; one that sends slowly sees the end of the daemon's half and can send on for nearly 2 s.
#[case("PER-49", deadline_s = 60)]
fn a_refusal_is_readable(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("each answer, without a reset, and a connection that takes 1 MiB for 2 s after the daemon has ended its half");
    let body = " ".repeat(BODY);
    live.between_controls(|| {
        for (ask, statuses) in refused(&live) {
            for (how, bytes) in [
                ("announced", ask.clone().body(&*body).bytes()),
                ("in chunks", in_chunks(&ask, &body).bytes()),
            ] {
                let what = format!("{}, {BODY} bytes {how}", ask.what);
                stage.transcript().note("suite", "request", &what);
                for _ in 0..3 {
                    match upload(&live, &bytes) {
                        Ok(response) => {
                            let is_one = statuses.contains(&response.status);
                            ensure!(is_one, "{what}: answered {}", response.summary(stage.transcript()));
                        }
                        Err(why) => return fail(format!("{what}: {why}")),
                    }
                }
            }
        }
        for (ask, _) in refused(&live) {
            let what = format!("{}, a body that comes slowly", ask.what);
            stage.transcript().note("suite", "request", &what);
            let mut half_open = 0;
            loop {
                match trickle(&live, &ask) {
                    Ok(Seen::Discarded) => break stage.observed(format!("{what}: refused and discarded")),
                    Ok(Seen::Open) => break stage.observed(format!("{what}: the connection stays open")),
                    Ok(Seen::HalfOpen) if half_open < 2 => half_open += 1,
                    Ok(Seen::HalfOpen) => {
                        return fail(format!(
                            "{what}: the daemon closes the connection and does not end its half first"
                        ));
                    }
                    Ok(Seen::Closed(why)) => return fail(format!("{what}: {why}")),
                    Err(fault) => return inconclusive(format!("{what}: {fault}")),
                }
            }
        }
        Ok(())
    })
}

/// Requests are refused before their bodies have come: a daemon that then ends the connection has said so in its answer.
#[case("PER-55")]
fn a_close_is_announced(stage: &mut Stage) -> Outcome {
    /// More than the end of one half takes on a busy host, and less than a daemon may wait for the rest of a body.
    const STILL_OPEN: Duration = Duration::from_millis(1_500);
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("`Connection: close` in each answer after which the connection ends");
    live.between_controls(|| {
        for (ask, _) in refused(&live) {
            let (mut connection, response) = match begin(&live, &ask) {
                Ok(begun) => begun,
                Err(fault) => return inconclusive(format!("{}: {fault}", ask.what)),
            };
            let is_said = response.closes;
            let ends = !is_said && connection.wait_closed(Instant::now() + STILL_OPEN);
            ensure!(!ends, "{}, answered {}: the connection ends unannounced", ask.what, response.status);
            stage.observed(format!(
                "{}, answered {}: {}",
                ask.what,
                response.status,
                if is_said { "the end is announced" } else { "the connection stays open" }
            ));
        }
        Ok(())
    })
}

/// Bodies in chunks whose sizes are none, or are not those of their chunks: 400. In good chunks the same body is served.
#[case("PER-50")]
fn a_malformed_chunk_is_named(stage: &mut Stage) -> Outcome {
    let mutation = stage.mutation_route()?;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("400 for each");
    let body = mutation.body.clone().unwrap_or_else(|| "{}".to_owned());
    let length = body.len();
    let ask = Ask::new(&live, &mutation.method, &mutation.path)
        .with("Content-Type", "application/json")
        .bearer(&live);
    live.served(&in_chunks(&ask, &body).named("the same in good chunks"))?;
    let malformed = [
        ("a size of no digits", format!("zz\r\n{body}\r\n0\r\n\r\n")),
        ("a signed size", format!("+{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("a negative size", "-1\r\n".to_owned()),
        ("a size in 0x", format!("0x{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("two sizes", format!("{length:x} {length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk longer than its size", format!("{:x}\r\n{body}\r\n0\r\n\r\n", length - 1)),
        ("no line break after a chunk", format!("{length:x}\r\n{body}x0\r\n\r\n")),
        ("a second chunk of no size", format!("{length:x}\r\n{body}\r\n!\r\n\r\n")),
    ];
    let asks = malformed
        .map(|(what, chunks)| ask.clone().with("Transfer-Encoding", "chunked").body(chunks).named(what));
    live.between_controls(|| live.all_answered(&asks, &[400]))
}
