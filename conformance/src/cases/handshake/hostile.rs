//! What others send does not keep it from answering.

use std::time::{Duration, Instant};

use local_daemon_harness::http::Connection;
use local_daemon_harness::wait::ms;

use super::exchange::{bearing, ensure_state, quietly};
use crate::case::case;
use crate::fixtures::malformed::broken_requests;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::Stage;

/// Requests that are cut off, malformed or much too large, and bytes that are none; after each of them the
/// next good handshake is answered by the same launch.
#[case("HS-10")]
fn answered_after_broken_requests(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let random = stage.rng().bytes(4096);
    let broken = broken_requests(&live, random);
    stage.expect(format!("a good handshake is answered after each of {} broken requests", broken.len()));
    for (what, bytes, ends) in &broken {
        stage
            .transcript()
            .note("suite", "broken request", format!("{what}, {} bytes", bytes.len()));
        // A daemon may refuse at once and not read the rest: how far the bytes get is its own affair.
        let deadline = ms(500);
        match Connection::open(live.target.address, deadline) {
            Ok(mut connection) => {
                let _ = connection.send(bytes, deadline);
                if *ends {
                    let _ = connection.finish();
                }
            }
            Err(fault) => return fail(format!("before {what}: {fault}")),
        }
        let response = match quietly(&live, "the next good handshake", &bearing(&live).bytes()) {
            Ok(response) => response,
            Err(fault) => {
                let alive = daemon.is_running();
                return fail(format!("after {what}, the good handshake: {fault}; the process runs: {alive}"));
            }
        };
        ensure_state(&live, &format!("after {what}"), "ready", &response)?;
    }
    stage.control("every broken request lay between two good handshakes of one id");
    stage.observed(format!("{} good handshakes were answered", broken.len()));
    Ok(())
}

/// 64 connections that send nothing, half a header or half a body stay open; handshakes are answered within 2
/// s meanwhile (opencode 1.18: row 36).
#[case("HS-11", exclusive)]
fn answered_beside_mute_connections(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let good = bearing(&live).bytes();
    let half_body = bearing(&live).header("Content-Length", "1000").bytes();
    let pieces: [&[u8]; 4] = [b"", b"GET", &good[..good.len() - 2], &half_body];
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut open = Vec::new();
    for (place, piece) in pieces.iter().cycle().take(64).enumerate() {
        let opened = Connection::open(live.target.address, deadline).and_then(|mut connection| {
            connection.send(piece, deadline)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => open.push(connection),
            Err(fault) => return fail(format!("connection {}: {fault}", place + 1)),
        }
        // Also with few of them: a server that keeps some workers has none left at some number.
        if matches!(place, 0 | 3 | 15 | 63) {
            let began = Instant::now();
            let response = match quietly(&live, "the good handshake", &good) {
                Ok(response) => response,
                Err(fault) => {
                    return fail(format!(
                        "beside {} connections that say nothing whole, the handshake: {fault} after {} ms",
                        open.len(),
                        began.elapsed().as_millis()
                    ));
                }
            };
            let what = format!("beside {} connections", open.len());
            stage.observed(format!("{what}: after {} ms", began.elapsed().as_millis()));
            ensure_state(&live, &what, "ready", &response)?;
        }
    }
    stage.precondition(format!(
        "{} connections were open, a quarter each mute, in the request line, in the header and in the body",
        open.len()
    ));
    stage.expect("handshakes beside 1, 4, 16 and 64 of them are answered within 2 s");
    drop(open);
    ensure!(live.is_ready(), "no good handshake after the connections were dropped");
    Ok(())
}
