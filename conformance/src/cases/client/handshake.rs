//! The client's side of the handshake: chapter 07.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use local_daemon_harness::actors::{Actor, Bind, FakeDaemon, FakeProof, Seen, Squatter, Taken, response};
use local_daemon_harness::host::Host;
use local_daemon_harness::http::HANDSHAKE;
use local_daemon_harness::proof;
use local_daemon_harness::record::{MOST_BYTES, Record, Url, replace};

use super::outcomes::{arrange, look};
use crate::case::case;
use crate::fixtures::client::{SOON, at_first, furnished, play_published, publish, squat};
use crate::fixtures::daemon::{NOBODYS_PID, SLACK};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive, untestable};
use crate::stage::{Call, Command, PROBE, Stage};

/// Listeners take the connection and say nothing, send their answer byte by byte, and stop in the middle of
/// one: the client leaves each of them within 2 s.
#[case("HS-24")]
fn client_waits_two_seconds(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("each connection closed within 2 s");
    let body = good.daemon.body();
    let half = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{{", body.len());
    let listeners = [
        ("says nothing", Squatter::mute()),
        ("drips", Squatter::dripping(&body, Duration::from_millis(100))),
        ("stops in the middle", Squatter::responding(move |_, _| half.clone().into_bytes())),
    ];
    let mut waiting = Vec::new();
    for (what, squatter) in listeners {
        let (actor, _) = squat(stage, squatter)?;
        let caller = stage.call(Call::connect())?;
        if actor.ledger().wait_request(Instant::now() + SOON).is_none() {
            return fail(format!("the listener that {what} was not asked"));
        }
        waiting.push((what, actor, caller));
    }
    stage.precondition("each client is connected to a listener of its own");
    // So that nobody goes from one silent listener to the next.
    publish(stage, &good.record)?;
    for (what, actor, caller) in waiting {
        let closed = |taken: &[Taken]| taken[0].closed.is_some();
        let taken = actor.ledger().wait_for(caller.began + PROBE + SLACK * 2, closed);
        let length = taken.map(|taken| taken[0].closed.unwrap_or(taken[0].at) - taken[0].at);
        let in_time = length.is_some_and(|length| length <= PROBE + SLACK);
        ensure!(in_time, "a listener that {what} was left after {length}", length = in_words(&length));
        let answer = stage.answer(&caller)?;
        answer.must_be_ready_with(&good.daemon.id)?;
    }
    Ok(())
}

/// Every call of the client that may meet a record, as far as it has it; those that spawn only where they meet nobody
/// whom they would wait for.
fn calls(stage: &mut Stage) -> Outcome<Vec<Call>> {
    let client = stage.client()?;
    let optional = [
        (Command::Stop, client.stop.is_some()),
        (Command::ForceStop, client.force_stop.is_some()),
        (Command::Repair, client.repair.is_some()),
        (Command::Spawn, client.connect_or_spawn.is_some()),
    ];
    let there = optional.into_iter().filter(|(_, there)| *there);
    let mut calls = vec![Call::connect()];
    calls.extend(there.map(|(command, _)| Call::new(command)));
    Ok(calls)
}

type Squatters = Vec<(&'static str, Box<dyn Fn() -> Squatter>)>;

/// Whatever sits at the recorded address (200, a challenge for a bearer, a redirect, a silent one, wrong
/// proofs), nothing that the client does sends it the credential in any form: jupyter server stop and
/// opencode do.
#[case("HS-25")]
fn client_keeps_its_secret(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("nothing of the credential at any of them");
    let body = world.daemon().body();
    let challenge = |scheme: &'static str| {
        move |_: &Seen, _: SocketAddr| response(401, &[("WWW-Authenticate", scheme)], b"")
    };
    let wrong = |proof: FakeProof| world.daemon().proof(proof);
    let (none, reflected) = (wrong(FakeProof::None), wrong(FakeProof::Reflected));
    let squatters: Squatters = vec![
        ("200", Box::new(move || Squatter::answering(200, &body))),
        ("a challenge for a bearer", { Box::new(move || Squatter::responding(challenge("Bearer"))) }),
        ("a challenge for a password", {
            Box::new(move || Squatter::responding(challenge("Basic realm=\"x\"")))
        }),
        ("no proof", Box::new(move || none.clone().part())),
        ("the client's own proof", Box::new(move || reflected.clone().part())),
    ];
    for (what, squatter) in squatters {
        for call in calls(stage)? {
            let (actor, _) = squat(stage, squatter())?;
            let caller = stage.call(call)?;
            let Some(_) = actor.ledger().wait_request(Instant::now() + SOON) else {
                return fail(format!("{}: {what} was not asked", caller.name));
            };
            stage.answer(&caller)?;
            let ledger = actor.stop();
            let bearer = |seen: &Seen| {
                let value = seen.header("authorization").unwrap_or_default();
                value.to_ascii_lowercase().starts_with("bearer")
            };
            let told = ledger.saw_secret(&world.credential) || ledger.requests().iter().any(bearer);
            ensure!(!told, "{what}: the credential was sent: {}", in_words(&caller.argv()));
            stage.arena().end_leaks();
        }
    }
    Ok(())
}

/// A daemon proves itself, closes the connection, and a stranger takes its port before the next one.
#[case("HS-25")]
fn client_proves_each_connection(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("the credential only on a connection that has proven itself");
    let daemon = FakeDaemon { closes: true, ..world.daemon() };
    let id = daemon.id.clone();
    let asked = AtomicBool::new(false);
    let then_a_stranger = Squatter::responding(move |seen, address| {
        if asked.swap(true, Ordering::SeqCst) {
            response(401, &[("WWW-Authenticate", "Bearer")], b"")
        } else {
            daemon.answer(seen, address)
        }
    });
    let (actor, record) = squat(stage, then_a_stranger)?;
    publish(stage, &record.with_id(id))?;
    let caller = stage.call(Call::new(Command::Stop))?;
    stage.answer(&caller)?;
    let connections = actor.stop().connections();
    let handshake = connections.first().and_then(|taken| taken.requests().into_iter().next());
    let proven = handshake
        .as_ref()
        .is_some_and(|seen| seen.target == HANDSHAKE && seen.header("authorization").is_some());
    if !proven {
        return fail("the client did not ask the record's daemon for a proof");
    }
    stage.precondition("the record's daemon proved itself and closed the connection");
    let told = |taken: &Taken| proof::holds(&taken.bytes(), world.credential.bytes());
    let later = connections.iter().skip(1).any(told);
    ensure!(!later, "the credential was sent on a later connection, to a stranger");
    Ok(())
}

/// Answers with no proof and with wrong ones say draining, another protocol, another contract: the client
/// neither waits nor calls it incompatible.
#[case("HS-26")]
fn client_believes_nothing_unproven(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("foreign, at once");
    let daemon = world.daemon();
    let says = [
        ("draining", daemon.clone().draining()),
        ("another protocol", daemon.clone().protocol("another/1")),
        (
            "another contract",
            FakeDaemon {
                members: serde_json::Map::from_iter([("spec".to_owned(), "local-daemon/2".into())]),
                ..daemon
            },
        ),
    ];
    let proofs = [
        FakeProof::None,
        FakeProof::Wrong,
        FakeProof::OtherBody,
        FakeProof::Reflected,
    ];
    for (what, daemon) in says {
        for proof in proofs {
            let _played = play_published(stage, daemon.clone().proof(proof))?;
            let answer = stage.ask(look().within(2))?;
            answer
                .must_be_after("foreign", &format!("{what} with proof {proof}", proof = in_words(&proof)))?;
        }
    }
    let twice = world.daemon();
    let twice = Squatter::responding(move |seen, address| {
        let text = String::from_utf8_lossy(&twice.answer(seen, address)).into_owned();
        let proof = text.lines().find(|line| line.starts_with(proof::SCHEME)).unwrap_or_default();
        text.replacen(proof, &format!("{proof}\r\n{proof}"), 1).into_bytes()
    });
    let (_actor, _) = squat(stage, twice)?;
    let answer = stage.ask(look().within(2))?;
    answer.must_be_after("foreign", "a right proof twice")
}

/// The daemon that proves itself at the recorded address is not the record's: it is neither ready nor
/// stopped, and when the record has changed, the client goes to the daemon that is there.
#[case("HS-27")]
fn another_id_is_no_answer(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("not ready, and nothing sent to it but handshakes");
    let record = Record::new(good.actor.url(), NOBODYS_PID);
    publish(stage, &record)?;
    let mut calls = vec![Call::connect()];
    let client = stage.client()?;
    calls.extend(client.stop.is_some().then(|| Call::new(Command::Stop)));
    calls.extend(client.force_stop.is_some().then(|| Call::new(Command::ForceStop)));
    for call in calls {
        let caller = stage.call(call)?;
        let answer = stage.answer(&caller)?;
        ensure!(answer.outcome != "ready", "a daemon of another id is taken for the record's: {answer}");
        let requests = good.actor.ledger().requests();
        let other = requests.iter().find(|seen| seen.target != HANDSHAKE);
        let other = other.map(|seen| format!("{} {}", seen.method, seen.target));
        ensure!(other.is_none(), "a daemon of another id was sent {other}", other = in_words(&other));
    }
    Ok(())
}

/// Every handshake of many calls, and of one call that asks several times, has a nonce of 32 bytes of its
/// own.
#[case("HS-28")]
fn client_draws_fresh_nonces(stage: &mut Stage) -> Outcome {
    const CALLS: usize = 24;
    let (world, good) = furnished(stage)?;
    stage.expect("no two alike, and no byte that is always the same");
    for _ in 0..CALLS {
        stage.ask(Call::connect())?;
    }
    let mut requests = good.actor.stop().requests();
    // One call that has to ask twice: at its first question the record changes to the id that answers.
    let (other, path) = (world.daemon(), stage.record_path());
    let answers = other.clone();
    let twice = at_first(
        move |address| {
            let _ = replace(&path, other.record(address).to_json().as_bytes(), 0o600);
        },
        move |seen, address| answers.answer(seen, address),
    );
    let actor = twice.start(Bind::V4)?;
    publish(stage, &Record::new(actor.url(), NOBODYS_PID))?;
    stage.ask(Call::connect())?;
    requests.extend(actor.stop().requests());
    let mut nonces = Vec::new();
    for seen in &requests {
        let value = seen.header("authorization").unwrap_or_default();
        let Some(proof) = proof::parse_authorization(value) else {
            return fail("a handshake holds no proof with a nonce of 32 bytes");
        };
        nonces.push(URL_SAFE_NO_PAD.decode(&proof.nonce).unwrap_or_default());
    }
    if nonces.len() < CALLS {
        return inconclusive(format!("only {} handshakes", nonces.len()));
    }
    let distinct: BTreeSet<&Vec<u8>> = nonces.iter().collect();
    ensure!(distinct.len() == nonces.len(), "{} nonces in {} handshakes", distinct.len(), nonces.len());
    for place in 0..32 {
        let values: BTreeSet<u8> = nonces.iter().filter_map(|nonce| nonce.get(place).copied()).collect();
        ensure!(values.len() > 3, "byte {place} has only {} values in {} nonces", values.len(), nonces.len());
    }
    Ok(())
}

/// What answers redirects, in each way that HTTP has, to a daemon that would prove itself.
#[case("HS-29")]
fn client_follows_no_redirect(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("foreign, and nothing sent to where the redirect leads");
    let heard = good.actor.ledger().connections().len();
    let location = format!("{}{HANDSHAKE}", good.actor.url().text());
    for status in [301, 302, 303, 307, 308] {
        let answer = response(status, &[("Location", &location)], b"");
        let (_actor, record) = squat(stage, Squatter::responding(move |_, _| answer.clone()))?;
        // The redirect leads to the very daemon of the record's id.
        let id = good.daemon.id.clone();
        publish(stage, &record.with_id(id))?;
        let answer = stage.ask(Call::connect())?;
        let more = good.actor.ledger().connections().len() - heard;
        ensure!(more == 0, "{status} was followed: {answer}");
        answer.must_be_after("foreign", &format!("after status {status}"))?;
    }
    Ok(())
}

/// Every variable that names a proxy names one: it sees nothing (bobmatnyc/trusty-tools#4392).
#[case("HS-30")]
fn client_uses_no_proxy(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("ready, and nothing sent to the proxy");
    let trap = Squatter::answering(502, "{}").noted(stage.transcript(), "proxy").start(Bind::V4)?;
    let url = trap.url().text().to_owned();
    let mut call = Call::connect();
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        call = call.var(name, &url).var(name.to_uppercase(), &url);
    }
    for name in ["no_proxy", "NO_PROXY"] {
        call = call.var(name, "");
    }
    // Node asks its users to ask for it.
    let answer = stage.ask(call.var("NODE_USE_ENV_PROXY", "1"))?;
    let seen = trap.ledger().connections().len();
    ensure!(seen == 0, "{seen} connections to the proxy");
    answer.must_be_ready_with(&good.daemon.id)
}

/// Proven answers of more than 64 KiB of body and of headers are not believed; a body and headers without end
/// are not read on. A proven body of exactly 64 KiB is.
#[case("HS-31")]
fn client_reads_no_more_than_its_bound(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("ready for 64 KiB; not for a byte more, nor for larger headers; no reading on");
    let daemon = world.daemon();
    let long = |length| FakeDaemon { length, ..daemon.clone() };
    let header = ("X-Padding".to_owned(), "x".repeat(MOST_BYTES + 1));
    let headers = FakeDaemon { headers: vec![header], ..daemon.clone() };
    let scenes = [
        ("a body of 64 KiB", long(MOST_BYTES), true),
        ("a body of 64 KiB and a byte", long(MOST_BYTES + 1), false),
        ("a body of 1 MiB", long(1024 * 1024), false),
        ("headers of more than 64 KiB", headers, false),
    ];
    for (what, daemon, good) in scenes {
        let _played = play_published(stage, daemon)?;
        let answer = stage.ask(Call::connect())?;
        ensure!((answer.outcome == "ready") == good, "a proven answer with {what}: {answer}");
    }
    let header = format!("X-Flood: {}\r\n", "x".repeat(1_000));
    reads_no_flood(stage, "a body", Squatter::flooding())?;
    reads_no_flood(stage, "headers", Squatter::repeating("HTTP/1.1 200 OK\r\n", &header))
}

/// Checks that the client stops reading an endless answer.
fn reads_no_flood(stage: &mut Stage, what: &str, squatter: Squatter) -> Outcome {
    /// Several times what a client may read and what the system's buffers hold.
    const MOST: u64 = 1024 * 1024;
    let (actor, _) = squat(stage, squatter)?;
    let answer = stage.ask(Call::connect())?;
    let sent = actor.stop().connections().iter().map(|taken| taken.sent).max();
    let sent = sent.unwrap_or_default();
    stage.observed(format!("of {what} without end, {sent} bytes were taken"));
    ensure!(
        sent < MOST && answer.outcome != "ready",
        "of {what} without end, {sent} bytes were taken: {answer}"
    );
    Ok(())
}

/// How a daemon of the suite pads the framing of its answer.
#[derive(Debug, Clone, Copy, Default)]
struct Framing {
    /// The lengths of the interim answers before it.
    interim: [usize; 2],
    header: usize,
    /// The bytes of the body in each chunk.
    chunk: usize,
    /// The length of the extension of each of the first two chunks.
    extension: usize,
}

impl Framing {
    fn frame(self, answer: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let padding = |length: usize| format!("X-Padding: {}\r\n", "x".repeat(length));
        let mut framed = String::new();
        for length in self.interim.into_iter().filter(|length| *length > 0) {
            framed.extend(["HTTP/1.1 103 Early Hints\r\n", &padding(length), "\r\n"]);
        }
        let kept = head.split("\r\n").filter(|line| !line.starts_with("Content-Length"));
        framed.extend(kept.flat_map(|line| [line, "\r\n"]));
        framed.extend(["Transfer-Encoding: chunked\r\n", &padding(self.header), "\r\n"]);
        for (place, chunk) in body.as_bytes().chunks(self.chunk).enumerate() {
            let extension = if place < 2 { self.extension } else { 0 };
            let extension = if extension > 0 {
                format!(";x={}", "x".repeat(extension))
            } else {
                String::new()
            };
            let chunk = String::from_utf8_lossy(chunk);
            framed.extend([&format!("{:x}{extension}\r\n", chunk.len()), &*chunk, "\r\n"]);
        }
        framed.push_str("0\r\n\r\n");
        framed.into_bytes()
    }
}

/// Proven answers have interim answers, headers and framing of chunks that are no more than 64 KiB each, but more together: they
/// are not believed. An answer with a little of each is. Endless interim answers, extensions, chunks and trailers are not read
/// on.
#[case("HS-31")]
fn total_header_bound(stage: &mut Stage) -> Outcome {
    const MUCH: usize = 40 * 1024;
    let (world, _good) = furnished(stage)?;
    stage.expect("ready with a little of each; not with more than 64 KiB of all together; no reading on");
    let little = Framing { interim: [100, 1_000], header: 1_000, chunk: 50, extension: 100 };
    let plain = Framing { chunk: 1_000, ..Framing::default() };
    let scenes = [
        ("a little of each", little, true),
        ("two interim answers of 40 KiB", Framing { interim: [MUCH; 2], ..plain }, false),
        (
            "an interim answer and headers of 40 KiB",
            Framing { interim: [MUCH, 0], header: MUCH, ..plain },
            false,
        ),
        ("headers and an extension of 40 KiB", Framing { header: MUCH, extension: MUCH, ..plain }, false),
        ("two extensions of 40 KiB", Framing { chunk: 100, extension: MUCH, ..plain }, false),
        ("chunks of one byte", Framing { chunk: 1, ..plain }, false),
    ];
    for (what, framing, good) in scenes {
        // In chunks of one byte, a body of this length has more than 64 KiB of frames.
        let daemon = FakeDaemon { length: if framing.chunk == 1 { MUCH } else { 0 }, ..world.daemon() };
        let id = daemon.id.clone();
        let framed = Squatter::responding(move |seen, address| framing.frame(&daemon.answer(seen, address)));
        let (_actor, record) = squat(stage, framed)?;
        publish(stage, &record.with_id(id))?;
        let answer = stage.ask(Call::connect())?;
        ensure!((answer.outcome == "ready") == good, "a proven answer with {what}: {answer}");
        if good {
            stage.control(format!("the client was ready with {what}"));
        }
    }
    let padding = "x".repeat(1_000);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (what, head, piece) in [
        ("interim answers", "", format!("HTTP/1.1 103 Early Hints\r\nX-Flood: {padding}\r\n\r\n")),
        ("an extension", &format!("{chunked}2;x="), padding.clone()),
        ("extensions", chunked, format!("1;x={padding}\r\n \r\n")),
        ("trailers", &format!("{chunked}2\r\n{{}}\r\n0\r\n"), format!("X-Flood: {padding}\r\n")),
    ] {
        reads_no_flood(stage, what, Squatter::repeating(head, &piece))?;
    }
    Ok(())
}

/// Two actors at one port, of 127.0.0.1 and of `[::1]`.
fn both_families(v4: impl Fn() -> Squatter, v6: impl Fn() -> Squatter) -> Outcome<(Actor, Actor)> {
    let mut last = None;
    for _ in 0..50 {
        let actor = v4().start(Bind::V4)?;
        let port = actor.address().port();
        match v6().start(Bind::At(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))) {
            Ok(other) => return Ok((actor, other)),
            // Somebody has that port of the other family.
            Err(error) => last = Some(error),
        }
    }
    Err(Stop::Fault(format!("no port of both families: {last}", last = in_words(&last))))
}

type Part<'a> = &'a dyn Fn() -> Squatter;

/// The record says `localhost`: the daemon is at 127.0.0.1 or at [::1], and nobody or a stranger at the same
/// port of the other.
#[case("HS-32")]
fn client_tries_both_families(stage: &mut Stage) -> Outcome {
    if !Host::look().ipv6 {
        return untestable("this host has no `[::1]`");
    }
    let (world, _good) = furnished(stage)?;
    stage.expect("ready with the daemon, whichever of the two it is");
    let stranger: Part<'_> = &|| Squatter::answering(401, "{}");
    let liar: Part<'_> = &|| Squatter::answering(200, "{}");
    let closing: Part<'_> = &Squatter::closing;
    let silent: Part<'_> = &Squatter::mute;
    let scenes = [
        ("401", stranger, Ipv4Addr::LOCALHOST.into()),
        ("401", stranger, Ipv6Addr::LOCALHOST.into()),
        ("200", liar, Ipv4Addr::LOCALHOST.into()),
        ("200", liar, Ipv6Addr::LOCALHOST.into()),
        ("closes", closing, Ipv4Addr::LOCALHOST.into()),
        ("closes", closing, Ipv6Addr::LOCALHOST.into()),
        ("silent", silent, std::net::IpAddr::from(Ipv6Addr::LOCALHOST)),
    ];
    for (what, other, at) in scenes {
        let daemon = world.daemon();
        let answers = || {
            let daemon = daemon.clone();
            Squatter::responding(move |seen, address| {
                let authority = Some(format!("localhost:{}", address.port()));
                let daemon = FakeDaemon { authority, ..daemon.clone() };
                daemon.answer(seen, address)
            })
        };
        let actors = if at.is_ipv4() {
            both_families(answers, other)?
        } else {
            both_families(other, answers)?
        };
        let url = Url::parse(&format!("http://localhost:{}", actors.0.address().port()));
        let url = url.ok_or_else(|| Stop::Fault("no URL of localhost".to_owned()))?;
        let record = daemon.record(actors.0.address()).with_url(url);
        publish(stage, &record)?;
        let answer = stage.ask(Call::connect())?;
        let seen = format!("the daemon at {at}, and at the other address one that is {what}: {answer}");
        let ready = answer.outcome == "ready" && answer.id.as_ref() == Some(&daemon.id);
        ensure!(ready, "{seen}");
    }
    Ok(())
}

/// The record's daemon proves itself and is draining; its successor is published when the client has waited
/// for a while.
#[case("HS-33")]
fn draining_means_wait(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("no answer while it drains, and ready with the successor");
    let _standing = arrange(stage, &world, "busy", NOBODYS_PID)?;
    let caller = stage.call(Call::connect())?;
    if let Some(exit) = caller.wait_exit(Instant::now() + Duration::from_millis(700)) {
        return fail(format!("the client did not wait: {exit}"));
    }
    let successor = play_published(stage, world.daemon())?;
    let answer = stage.answer(&caller)?;
    answer.must_be_ready_with(&successor.daemon.id)
}
