//! Of connections and of refused handshakes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault, Response};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::wait::until;

use super::{bounded, make_room};
use crate::case::case;
use crate::fixtures::http::ANSWER;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive, untestable};
use crate::stage::{ReadyDaemon, Stage, Start};

/// 128 connections of the daemon's user are open with half a request each; then each sends the rest and is served.
#[case("PER-29")]
fn many_connections_served(stage: &mut Stage) -> Outcome {
    const MANY: usize = 128;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200 on each of 128 open connections");
    let request = stage.read_route().ask(&live).bearer(&live).bytes();
    let (first, second) = request.split_at(request.len() / 2);
    let deadline = Instant::now() + ANSWER;
    let mut open = Vec::new();
    for place in 1..=MANY {
        let connected = Connection::open(live.target.address, deadline)
            .and_then(|mut connection| connection.send(first, deadline).map(|()| connection));
        match connected {
            Ok(connection) => open.push(connection),
            Err(fault) => return fail(format!("connection {place}: {fault}")),
        }
    }
    stage.precondition(format!("{MANY} connections are open, each with half a request"));
    for (place, connection) in open.iter_mut().enumerate() {
        let answer = connection.exchange(second, Instant::now() + ANSWER);
        let status = answer.as_ref().map(|answer| answer.status);
        ensure!(status == Ok(200), "connection {}: {status}", place + 1, status = in_words(&status));
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

/// 200 good handshakes as fast as this host sends them: each is answered 200.
#[case("PER-29")]
fn many_handshakes_served(stage: &mut Stage) -> Outcome {
    const MANY: usize = 200;
    const LANES: usize = 8;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200 for each of 200");
    let request = stage.handshake_route().ask(&live).bearer(&live).bytes();
    let began = Instant::now();
    let answers = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| {
                scope.spawn(|| -> Vec<Result<u16, HttpFault>> {
                    let one = || live.exchange(&request).map(|answer| answer.status);
                    (0..MANY / LANES).map(|_| one()).collect()
                })
            })
            .collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    let good = answers.iter().filter(|answer| **answer == Ok(200)).count();
    stage.precondition(format!(
        "{} handshakes were sent in {} ms",
        answers.len(),
        began.elapsed().as_millis()
    ));
    let other = answers.iter().find(|answer| **answer != Ok(200));
    ensure!(good == MANY, "{good} of {MANY} were answered 200; another: {other}", other = in_words(&other));
    Ok(())
}

/// A daemon that may have 1024 descriptors is given 1100 connections of its own user: one after at least 128 is answered 503
/// with Retry-After, none is left without an answer, and it serves again once they are closed.
#[case("PER-31", exclusive)]
fn connections_beyond_the_limit_refused(stage: &mut Stage) -> Outcome {
    const LEAST: usize = 128;
    const MANY: usize = 1_100;
    if !make_room(MANY as u64 + 400) {
        return untestable("this host lets the suite have too few descriptors");
    }
    let daemon = stage.launch_with(Start::new().under(bounded()))?;
    let live = stage.ready(&daemon)?;
    stage.expect("503 with Retry-After on a connection after the 128th, and no connection without an answer");
    let request = stage.handshake_route().ask(&live).bearer(&live).bytes();
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
            Err(fault) => return fail(format!("connection {place} has no answer: {fault}")),
        }
    }
    stage.precondition(format!("{} connections are open and were served", open.len()));
    let Some(answer) = refusal else {
        return inconclusive(format!("{MANY} connections were served: it makes room for more"));
    };
    let seen = answer.summary(stage.transcript());
    let place = open.len() + 1;
    stage.observed(format!("connection {place} was answered {seen}"));
    ensure!(place > LEAST, "connection {place} was refused already: {seen}");
    ensure!(answer.status == 503, "connection {place} was answered {seen}");
    ensure!(
        answer.header("retry-after").is_some(),
        "connection {place} was answered 503 without Retry-After"
    );
    drop(open);
    let deadline = Instant::now() + ANSWER;
    let again = until(deadline, || live.is_ready().then_some(()));
    ensure!(again.is_some(), "no good handshake is answered after the connections are closed");
    Ok(())
}

/// Floods the daemon with handshakes of a wrong credential until some are answered 503, and then does `meanwhile`.
fn flooded(stage: &mut Stage, meanwhile: impl FnOnce(&mut Stage, &ReadyDaemon) -> Outcome) -> Outcome {
    const LANES: usize = 3;
    const LENGTH: Duration = Duration::from_secs(8);
    /// A host that sends fewer in a second may stay below a limit that is fair.
    const RATE: u128 = 1_000;
    let (_daemon, live) = stage.launch_ready()?;
    let wrong = proof::bearer(&Credential::random());
    let request = stage.handshake_route().ask(&live).with("Authorization", &wrong).bytes();
    live.between_controls(|| {
        let flood = Flood::new(live.target.address, &request, 50);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(|| flood.run())).collect();
            let refused = || (flood.refused.load(Ordering::SeqCst) > 0).then_some(());
            let reached = until(began + LENGTH, refused);
            let outcome = if reached.is_some() { meanwhile(stage, &live) } else { Ok(()) };
            flood.over.store(true, Ordering::SeqCst);
            for lane in lanes {
                let _ = lane.join();
            }
            outcome
        })?;
        let (sent, refused) = (flood.sent.load(Ordering::SeqCst), flood.refused.load(Ordering::SeqCst));
        let lasted = began.elapsed().as_millis().max(1);
        stage.observed(format!("{refused} of {sent} handshakes in {lasted} ms were answered 503"));
        if refused == 0 && sent as u128 * 1_000 / lasted < RATE {
            return inconclusive(format!("only {sent} handshakes in {lasted} ms"));
        }
        ensure!(refused > 0, "none of {sent} handshakes in {lasted} ms was answered 503");
        let bare = flood.bare.load(Ordering::SeqCst);
        ensure!(bare == 0, "{bare} of {refused} answers of 503 have no Retry-After");
        if let Some(why) = flood_over(&live) {
            return fail(why);
        }
        Ok(())
    })
}

/// Waits until a good handshake is answered again, where refused ones are not the only ones that count.
fn flood_over(live: &ReadyDaemon) -> Option<String> {
    let again = until(Instant::now() + ANSWER, || live.is_ready().then_some(()));
    again.is_none().then(|| "no good handshake is answered after the flood".to_owned())
}

/// Handshakes with a wrong credential as fast as this host sends them: some are answered 503 with
/// Retry-After.
#[case("PER-31", exclusive)]
fn handshakes_beyond_the_limit_refused(stage: &mut Stage) -> Outcome {
    stage.expect("503 with Retry-After for some");
    flooded(stage, |_, _| Ok(()))
}

/// While handshakes with a wrong credential are answered 503, a good one is answered 200.
#[case("PER-32", exclusive)]
fn only_refused_handshakes_counted(stage: &mut Stage) -> Outcome {
    stage.expect("200 for the good handshake");
    flooded(stage, |stage, live| {
        let ask = stage.handshake_route().ask(live).bearer(live);
        live.answered(&ask.named("a good handshake in the flood"), &[200])?;
        Ok(())
    })
}
