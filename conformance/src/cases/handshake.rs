//! Handshake and proof: chapter 07.

mod exchange;
mod proofs;
mod wrong;

use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, Request};
use local_daemon_harness::process::Signal;
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{self, Record};
use local_daemon_harness::wait::{ms, until};

use self::exchange::{
    Attempt, answered, authorized, bad_members, bearing, conversation, ensure_draining_like, ensure_state,
    hide_record, member, object, quietly, refused, restore_record,
};
use self::wrong::unauthorized;
pub(super) use self::wrong::{broken_requests, wrong_bearers};
use super::scene::{Rival, open_work};
use crate::case::{Case, Outcome};
use crate::stage::{PROBE, Stage};

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "handshake/bearer-answered-with-every-member",
        &["HS-1", "HS-2", "HS-5", "HS-13"],
        "The credential file's 43 characters are sent as a bearer. One answer comes: 200, JSON, ready, and every \
         member of the table in its type.",
        bearer_answered_with_every_member,
    ),
    Case::core(
        "handshake/one-exchange-whatever-the-client-is",
        &["HS-1"],
        "The good handshake is sent as a browser, a script and an old library would: other Accept, encodings, \
         languages, agents, closing connections. It is never redirected, challenged or answered with a page.",
        one_exchange_whatever_the_client_is,
    ),
    Case::core(
        "handshake/id-and-pid-are-the-records",
        &["HS-3"],
        "A daemon is started, asked, ended without warning and started again: each answer names the id and the pid \
         of the record that is there.",
        id_and_pid_are_the_records,
    ),
    Case::core(
        "handshake/body-within-64-kib",
        &["HS-4"],
        "The answers of a ready daemon and of one that cannot read its record are at most 65536 bytes long.",
        body_within_64_kib,
    ),
    Case::core(
        "handshake/no-authorization-refused",
        &["HS-6"],
        "The handshake is asked without an Authorization header; also with the credential in the query, a cookie, \
         another header or the body. Each is 401 with WWW-Authenticate.",
        no_authorization_refused,
    ),
    Case::core(
        "handshake/wrong-bearer-refused",
        &["HS-7"],
        "Bearers that a careless comparison takes for the credential: empty, cut, longer, another case, one bit off, \
         another spelling of the same bytes, other schemes, beside a right one. Each is 401.",
        wrong_bearer_refused,
    ),
    Case::core(
        "handshake/every-path-and-method-refused",
        &["HS-8"],
        "Seven methods on known, likely and random paths, without authentication and with a wrong bearer: 401, never \
         404, 405 or 200 (opencode#6355, sccache 0.19: rows 1 and 37).",
        every_path_and_method_refused,
    ),
    Case::core(
        "handshake/authentication-is-for-one-request",
        &["HS-6", "HS-8"],
        "On a connection whose first request was authenticated, the next ones are not, and are refused; also when \
         they were sent together with it.",
        authentication_is_for_one_request,
    ),
    Case::core(
        "handshake/refusals-tell-no-facts",
        &["HS-9"],
        "Headers and bodies of refused handshakes are searched for the daemon's id, pid, version and protocol, which \
         an accepted handshake tells.",
        refusals_tell_no_facts,
    ),
    Case::core(
        "handshake/answered-after-broken-requests",
        &["HS-10"],
        "Requests that are cut off, malformed or much too large, and bytes that are none; after each of them the next \
         good handshake is answered by the same launch.",
        answered_after_broken_requests,
    ),
    Case::core(
        "handshake/answered-beside-mute-connections",
        &["HS-11"],
        "64 connections that send nothing, half a header or half a body stay open; handshakes are answered within 2 s \
         meanwhile (opencode 1.18: row 36).",
        answered_beside_mute_connections,
    )
    .exclusive(),
    Case::core(
        "handshake/tells-the-state-of-this-moment",
        &["HS-13", "HS-14", "HS-15", "HS-16"],
        "The record is made unreadable and restored, twenty times, each change followed by a handshake at once: \
         draining and 503 while the daemon cannot find its id, ready and 200 when it can.",
        tells_the_state_of_this_moment,
    ),
    Case::core(
        "handshake/never-ready-beside-another-owner",
        &["HS-15", "HS-16"],
        "While the daemon is stopped (SIGSTOP), its record is replaced by another's and handshakes are sent, one of them \
         on a connection that was told ready before; what it answers when it goes on is draining, with its own id.",
        never_ready_beside_another_owner,
    ),
    Case::core(
        "handshake/draining-while-it-stops",
        &["HS-14", "HS-16"],
        "The daemon is asked to stop (SIGTERM) with a request half received; as soon as its record is off its name, \
         handshakes are answered draining with all members (buck2: row 12).",
        draining_while_it_stops,
    ),
    Case::proof(
        "handshake/proof-answered-with-proof",
        &["HS-17", "HS-21"],
        "Good proofs of different nonces, and one sent again. Each answer carries one D, right for its nonce and for \
         exactly the body's bytes, wrong for any other body or nonce; no content coding even if the client takes one.",
        proofs::proof_answered_with_proof,
    ),
    Case::proof(
        "handshake/proof-accepted-in-every-spelling",
        &["HS-17"],
        "The accepted Authorization texts of the test vectors, filled with a nonce and its right MAC: other order, \
         case of the scheme, white space.",
        proofs::proof_accepted_in_every_spelling,
    ),
    Case::proof(
        "handshake/each-request-of-a-connection-proves-itself",
        &["HS-21", "HS-22"],
        "Handshakes one after another and all at once on one connection, good ones and wrong ones in turn: each \
         answer has the proof of its own nonce, or none.",
        proofs::each_request_of_a_connection_proves_itself,
    ),
    Case::proof(
        "handshake/wrong-mac-refused",
        &["HS-18", "HS-22"],
        "MACs that are one bit off, cut short, of another key, label, nonce or message. Each is 401 and proves \
         nothing.",
        proofs::wrong_mac_refused,
    ),
    Case::proof(
        "handshake/malformed-proof-refused",
        &["HS-19", "HS-22"],
        "Nonces and MACs that are missing, empty, short, long, padded, twice, in hexadecimal or in another alphabet, \
         with the right MAC over the nonce as it was sent. Each is 401 and proves nothing.",
        proofs::malformed_proof_refused,
    ),
    Case::proof(
        "handshake/proof-for-another-authority-refused",
        &["HS-20", "HS-22"],
        "Right MACs over other ports, other loopback names of the same port, and other spellings of the authority \
         (tailscale#7851: row 25). Each is 401 and proves nothing.",
        proofs::proof_for_another_authority_refused,
    ),
    Case::proof(
        "handshake/relayed-proof-refused",
        &["HS-20", "HS-22"],
        "Two daemons hold the same credential. A proof for one is sent to the other, also when the record of the one is \
         in the place of the other's, and a squatter passes a proof for its own port on to a daemon: 401, and nothing \
         that the squatter could answer with.",
        proofs::relayed_proof_refused,
    ),
    Case::proof(
        "handshake/unproven-answers-carry-no-proof",
        &["HS-22"],
        "The header Local-Daemon-Proof is looked for in answers to bearers, to nobody, to nonces without a MAC, and \
         on other routes.",
        proofs::unproven_answers_carry_no_proof,
    ),
    Case::proof(
        "handshake/proof-opens-no-other-route",
        &["HS-23"],
        "A valid proof is sent, fresh and replayed, to the operations that the credential opens, and to unknown \
         paths: 401, while the bearer is served; a shutdown has no effect.",
        proofs::proof_opens_no_other_route,
    ),
    Case::proof(
        "handshake/draining-is-proven-too",
        &["HS-21"],
        "A daemon that cannot read its record answers a good proof draining, with all members and a right D.",
        proofs::draining_is_proven_too,
    ),
    Case::proof(
        "handshake/draining-before-it-publishes",
        &["HS-16", "HS-21"],
        "A daemon that was told to yield looks at a record that leads to a mute socket. It listens and has not \
         published: what it answers meanwhile is draining and proven.",
        proofs::draining_before_it_publishes,
    ),
];

fn bearer_answered_with_every_member(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200, application/json, `state` ready and every member of the table in its type");
    // A reader of the file sends what stands there, character for character.
    let text = std::fs::read_to_string(stage.credential_path())?;
    let from_file = authorized(&live, &format!("Bearer {}", text.trim_end()));
    for (what, request) in [
        ("the bearer", bearing(&live)),
        ("the file's characters", from_file),
    ] {
        let response = answered(stage, &live, what, &request)?;
        stage.observed(format!("{what}: {}", response.summary(stage.transcript())));
        stage.ensure(
            response.status == 200,
            format!("{what}: answered {}", response.status),
        )?;
        match object(&response) {
            Err(why) => return stage.fail(format!("{what}: {why}")),
            Ok(body) => {
                let bad = bad_members(&body);
                stage.ensure(
                    bad.is_empty(),
                    format!("{what}: missing or of another type: {bad:?}"),
                )?;
            }
        }
        ensure_state(stage, &live, what, "ready", &response)?;
    }
    Ok(())
}

fn one_exchange_whatever_the_client_is(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect(
        "the same 200 with a JSON object each time, without a redirect, a challenge or a content coding",
    );
    let clients: [(&str, &[(&str, &str)]); 7] = [
        ("no further header", &[]),
        ("curl", &[("User-Agent", "curl/8.5.0"), ("Accept", "*/*")]),
        (
            "a browser",
            &[
                (
                    "User-Agent",
                    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101",
                ),
                ("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
                ("Accept-Language", "en-US,en;q=0.5"),
                ("Upgrade-Insecure-Requests", "1"),
            ],
        ),
        ("one that reads text", &[("Accept", "text/plain")]),
        ("one that closes", &[("Connection", "close")]),
        ("one with a cookie", &[("Cookie", "session=1")]),
        ("one that would take a cached answer", &[("If-None-Match", "*")]),
    ];
    for (what, headers) in clients {
        let request = headers.iter().fold(bearing(&live), |request, (name, value)| {
            request.header(name, value)
        });
        let response = answered(stage, &live, what, &request)?;
        let location = response.header("location").map(str::to_owned);
        stage.ensure(location.is_none(), format!("{what}: redirected to {location:?}"))?;
        stage.ensure(
            response.status == 200,
            format!("{what}: answered {}", response.status),
        )?;
        if let Err(why) = object(&response) {
            return stage.fail(format!("{what}: {why}"));
        }
    }
    stage.observed(format!("{} clients were answered alike", clients.len()));
    Ok(())
}

fn id_and_pid_are_the_records(stage: &mut Stage) -> Outcome {
    stage.expect("`id` and `pid` of the answer are those of the record, at each of three launches");
    for launch in 1..=3 {
        let (daemon, live) = stage.launch_ready()?;
        let what = format!("launch {launch}");
        let response = answered(stage, &live, &what, &bearing(&live))?;
        let told = ["id", "pid"].map(|name| member(&response, name).unwrap_or_default());
        let recorded = [live.record.id.clone(), live.record.pid.to_string()];
        let seen = format!("{what}: the record says {recorded:?}, the handshake {told:?}");
        stage.observed(&seen);
        stage.ensure(told == recorded, seen)?;
        // The record may not follow the answer either.
        let now = Record::parse(&std::fs::read(stage.record_path())?);
        let same = now.as_ref() == Ok(&live.record);
        stage.ensure(same, format!("{what}: the record changed by itself"))?;
        daemon.kill_group();
    }
    Ok(())
}

fn body_within_64_kib(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("bodies of at most 65536 bytes");
    let ready = answered(stage, &live, "ready", &bearing(&live))?;
    let bytes = hide_record(stage)?;
    let draining = answered(stage, &live, "with an unreadable record", &bearing(&live))?;
    restore_record(stage, &bytes)?;
    let lengths = [ready.body.len(), draining.body.len()];
    stage.observed(format!("bodies of {lengths:?} bytes"));
    stage.ensure(
        lengths
            .iter()
            .all(|length| (1..=record::MOST_BYTES).contains(length)),
        format!("bodies of {lengths:?} bytes"),
    )
}

fn no_authorization_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 with WWW-Authenticate for each");
    stage.between_controls(&live, |stage| {
        refused(stage, &live, &unauthorized(&live), |stage, what, response| {
            let challenge = response.header("www-authenticate").unwrap_or_default().trim();
            stage.ensure(
                !challenge.is_empty(),
                format!("{what}: 401 without WWW-Authenticate"),
            )
        })
    })
}

fn wrong_bearer_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for each");
    let attempts: Vec<Attempt> = wrong_bearers(&live.credential)
        .into_iter()
        .map(|(what, value)| (what.to_owned(), authorized(&live, &value)))
        .collect();
    stage.between_controls(&live, |stage| {
        refused(stage, &live, &attempts, |_, _, _| Ok(()))?;
        // Two headers are one list, which is not the credential as a whole; a server may find them malformed.
        let what = "a wrong bearer and the right one";
        let request = authorized(&live, "Bearer x").header("Authorization", &proof::bearer(&live.credential));
        let response = answered(stage, &live, what, &request)?;
        stage.ensure(
            matches!(response.status, 400 | 401),
            format!("{what}: answered {}", response.summary(stage.transcript())),
        )
    })
}

fn every_path_and_method_refused(stage: &mut Stage) -> Outcome {
    const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for every path and method");
    let handshake = live.target.path.clone();
    let mut paths: Vec<String> = [
        "/",
        "/health",
        "/healthz",
        "/metrics",
        "/favicon.ico",
        "/index.html",
        "/v1",
        "/v1/status",
        "/.well-known/",
    ]
    .map(str::to_owned)
    .into();
    paths.extend([
        format!("{handshake}/"),
        format!("{handshake}/x"),
        format!("/x/..{handshake}"),
        handshake.to_ascii_uppercase(),
        handshake.replace('w', "%77"),
        format!("/{}", proof::hex(&stage.rng().bytes(8))),
        format!("/v1/{}?q=1", proof::hex(&stage.rng().bytes(8))),
    ]);
    let binding = &stage.manifest().binding;
    let operations = [
        &binding.authenticated_read,
        &binding.mutation,
        &binding.shutdown,
        &binding.emit,
        &binding.ticket,
    ];
    paths.extend(
        operations
            .into_iter()
            .flatten()
            .map(|operation| operation.path.clone()),
    );
    paths.extend(binding.stream.as_ref().map(|stream| stream.path.clone()));
    paths.sort();
    paths.dedup();
    let mut attempts: Vec<Attempt> = Vec::new();
    let wrong = proof::bearer(&Credential::random());
    for path in &paths {
        for method in METHODS {
            let request = Request::new(method, path).host(&live.target.authority);
            attempts.push((format!("{method} {path}"), request));
        }
        let request = Request::get(&live.target.authority, path).header("Authorization", &wrong);
        attempts.push((format!("GET {path} with a wrong bearer"), request));
    }
    for method in METHODS.iter().filter(|method| **method != "GET") {
        let request = Request::new(method, &handshake).host(&live.target.authority);
        attempts.push((format!("{method} {handshake}"), request));
    }
    let read = stage.manifest().binding.authenticated_read.clone();
    let control = |stage: &mut Stage, when: &str| -> Outcome {
        let Some(read) = &read else { return Ok(()) };
        let request = stage
            .operation(&live, read)
            .header("Authorization", &proof::bearer(&live.credential));
        let response = answered(stage, &live, "the authenticated read", &request)?;
        if !(200..300).contains(&response.status) {
            let summary = response.summary(stage.transcript());
            return stage.fail(format!("the authenticated read {when}: {summary}"));
        }
        stage.control(format!("the authenticated read was served {when}"));
        Ok(())
    };
    stage.between_controls(&live, |stage| {
        control(stage, "before")?;
        refused(stage, &live, &attempts, |_, _, _| Ok(()))?;
        control(stage, "afterwards")
    })
}

fn authentication_is_for_one_request(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200, and then 401 for each further request of the connection");
    let bare = Request::get(&live.target.authority, &live.target.path).bytes();
    let other = Request::get(&live.target.authority, "/").bytes();
    let good = bearing(&live).bytes();
    stage.between_controls(&live, |stage| {
        for together in [false, true] {
            let statuses = conversation(stage, &live, &[&good, &bare, &other], together)?
                .iter()
                .map(|response| response.status)
                .collect::<Vec<_>>();
            let how = if together {
                "sent together"
            } else {
                "one after another"
            };
            stage.observed(format!("{how}: {statuses:?}"));
            stage.ensure(
                statuses.first() == Some(&200) && statuses[1..].iter().all(|status| *status == 401),
                format!("{how}: {statuses:?}"),
            )?;
        }
        Ok(())
    })
}

fn refusals_tell_no_facts(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let answer = answered(stage, &live, "the good handshake", &bearing(&live))?;
    let mut facts: Vec<(&str, String)> = Vec::new();
    for name in ["id", "pid", "version", "protocol"] {
        let Some(value) = member(&answer, name) else {
            return stage.fail(format!("the good handshake has no `{name}`"));
        };
        // A shorter text is found by chance in lengths, dates and the version of HTTP.
        if value.len() >= 4 {
            facts.push((name, value));
        } else {
            stage.observed(format!("`{name}` is {value}: too short to be looked for"));
        }
    }
    stage.expect(format!(
        "none of {} in any refusal",
        facts.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    ));
    let wrong = proof::bearer(&Credential::random());
    let wrong_proof = proof::authorization(&Credential::random(), &live.target.authority, &proof::nonce());
    let mut attempts = unauthorized(&live);
    attempts.push(("a wrong bearer".to_owned(), authorized(&live, &wrong)));
    attempts.push(("a wrong proof".to_owned(), authorized(&live, &wrong_proof)));
    attempts.push(("an unknown scheme".to_owned(), authorized(&live, "Negotiate x")));
    for accept in ["text/plain", "text/html", "application/json", "*/*"] {
        let request = authorized(&live, &wrong).header("Accept", accept);
        attempts.push((format!("a wrong bearer that accepts {accept}"), request));
    }
    stage.between_controls(&live, |stage| {
        refused(stage, &live, &attempts, |stage, what, response| {
            // A number in these headers is a time or a length.
            let told = response
                .headers
                .iter()
                .filter(|(name, _)| {
                    !["date", "content-length", "age"].contains(&name.to_ascii_lowercase().as_str())
                })
                .map(|(name, value)| format!("{name}: {value}\n"));
            let text = told.collect::<String>() + &String::from_utf8_lossy(&response.body);
            for (name, value) in &facts {
                stage.ensure(
                    !holds_word(&text, value),
                    format!("{what}: the refusal tells the {name}: {text}"),
                )?;
            }
            Ok(())
        })
    })
}

/// Whether `text` holds `word` in any case of letters, and not as a part of a longer word or number.
fn holds_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let inside = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    text.match_indices(&word).any(|(start, found)| {
        !inside(text[..start].chars().next_back()) && !inside(text[start + found.len()..].chars().next())
    })
}

fn answered_after_broken_requests(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let random = stage.rng().bytes(4096);
    let broken = broken_requests(&live, random);
    stage.expect(format!(
        "a good handshake is answered after each of {} broken requests",
        broken.len()
    ));
    for (what, bytes, ends) in &broken {
        stage.transcript().note(
            "suite",
            "broken request",
            format!("{what}, {} bytes", bytes.len()),
        );
        // A daemon may refuse at once and not read the rest: how far the bytes get is its own affair.
        let deadline = ms(500);
        match Connection::open(live.target.address, deadline) {
            Ok(mut connection) => {
                let _ = connection.send(bytes, deadline);
                if *ends {
                    let _ = connection.finish();
                }
            }
            Err(fault) => return stage.fail(format!("before {what}: {fault}")),
        }
        let response = match quietly(stage, &live, "the next good handshake", &bearing(&live).bytes()) {
            Ok(response) => response,
            Err(fault) => {
                let alive = daemon.is_running();
                return stage.fail(format!(
                    "after {what}, the good handshake: {fault}; the process runs: {alive}"
                ));
            }
        };
        ensure_state(stage, &live, &format!("after {what}"), "ready", &response)?;
    }
    stage.control("every broken request lay between two good handshakes of one id");
    stage.observed(format!("{} good handshakes were answered", broken.len()));
    Ok(())
}

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
            Err(fault) => return stage.fail(format!("connection {}: {fault}", place + 1)),
        }
        // Also with few of them: a server that keeps some workers has none left at some number.
        if matches!(place, 0 | 3 | 15 | 63) {
            let began = Instant::now();
            let response = match quietly(stage, &live, "the good handshake", &good) {
                Ok(response) => response,
                Err(fault) => {
                    return stage.fail(format!(
                        "beside {} connections that say nothing whole, the handshake: {fault} after {} ms",
                        open.len(),
                        began.elapsed().as_millis()
                    ));
                }
            };
            let what = format!("beside {} connections", open.len());
            stage.observed(format!("{what}: after {} ms", began.elapsed().as_millis()));
            ensure_state(stage, &live, &what, "ready", &response)?;
        }
    }
    stage.precondition(format!(
        "{} connections were open, a quarter each mute, in the request line, in the header and in the body",
        open.len()
    ));
    stage.expect("handshakes beside 1, 4, 16 and 64 of them are answered within 2 s");
    drop(open);
    let ready = stage.is_ready(&live);
    stage.ensure(ready, "no good handshake after the connections were dropped")
}

fn tells_the_state_of_this_moment(stage: &mut Stage) -> Outcome {
    const ROUNDS: usize = 20;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect(format!("draining, then ready, {ROUNDS} times"));
    let first = answered(stage, &live, "before", &bearing(&live))?;
    for round in 1..=ROUNDS {
        let bytes = hide_record(stage)?;
        let what = format!("round {round}, right after the record became unreadable");
        let response = answered(stage, &live, &what, &bearing(&live))?;
        ensure_draining_like(stage, &live, &what, &first, &response)?;
        restore_record(stage, &bytes)?;
        let what = format!("round {round}, right after the record came back");
        let response = answered(stage, &live, &what, &bearing(&live))?;
        ensure_state(stage, &live, &what, "ready", &response)?;
        stage.ensure(
            response.status == 200,
            format!("{what}: ready with status {}", response.status),
        )?;
    }
    stage.control("ready before and after each draining");
    stage.observed(format!("{ROUNDS} times draining and ready"));
    Ok(())
}

fn never_ready_beside_another_owner(stage: &mut Stage) -> Outcome {
    const LAUNCHES: usize = 3;
    stage.expect("draining with the displaced daemon's own id and pid, or nothing because it has left");
    let binding = &stage.manifest().binding;
    let holds_work =
        binding.stream.is_some() || binding.mutation.as_ref().is_some_and(|op| op.body.is_some());
    let mut answers = 0;
    for launch in 1..=LAUNCHES {
        let (daemon, live) = stage.launch_ready()?;
        // With open work it stays for longer; not every daemon has what could be left open.
        let _work = holds_work.then(|| open_work(stage, &live)).transpose()?;
        let rival = Rival::new()?;
        let bytes = bearing(&live).bytes();
        let connect = || Connection::open(live.target.address, Instant::now() + PROBE);
        // One that was told `ready` before: what was true of a connection is not true of its next request.
        let told = connect().and_then(|mut it| {
            let answer = it.exchange(&bytes, Instant::now() + PROBE)?;
            Ok((it, answer))
        });
        let early = match told {
            Ok((_, answer)) if answer.closes => connect(),
            Ok((it, answer)) => {
                ensure_state(stage, &live, "before", "ready", &answer)?;
                Ok(it)
            }
            Err(fault) => return stage.inconclusive(format!("no handshake of a ready daemon: {fault}")),
        };
        daemon.stop()?;
        rival.publish(&stage.record_path())?;
        let deadline = Instant::now() + PROBE;
        let sent = [early, connect()]
            .map(|connection| connection.and_then(|mut it| it.send(&bytes, deadline).map(|()| it)));
        stage.precondition(format!(
            "launch {launch}: the record names {} before the daemon goes on",
            rival.record.id
        ));
        daemon.cont()?;
        for connection in sent {
            // A daemon that is leaving may close a connection unanswered.
            let answer = connection.and_then(|mut it| it.read_response(Instant::now() + PROBE));
            if let Ok(response) = answer {
                answers += 1;
                let what = "after the record became another's";
                ensure_state(stage, &live, what, "draining", &response)?;
            }
        }
        daemon.kill_group();
    }
    stage.observed(format!("{answers} answers, all of them draining"));
    if answers == 0 {
        return stage.not_applicable("a displaced daemon was gone each time before it answered");
    }
    Ok(())
}

fn draining_while_it_stops(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    let _work = open_work(stage, &live)?;
    let ready = answered(stage, &live, "before", &bearing(&live))?;
    stage.expect("draining with all members from the removal of the record until the exit");
    let Ok(early) = Connection::open(live.target.address, Instant::now() + PROBE) else {
        return stage.inconclusive("no further connection to a ready daemon");
    };
    daemon.signal(Signal::TERM)?;
    let path = stage.record_path();
    let removed = until(stage.stand_down_deadline(), || (!path.exists()).then_some(()));
    if removed.is_none() {
        return stage.inconclusive("the record was not taken off its name");
    }
    stage.precondition("SIGTERM was sent, and the record is off its name");
    let good = bearing(&live).bytes();
    let mut answers = 0;
    for connection in [
        Connection::open(live.target.address, Instant::now() + PROBE),
        Ok(early),
    ] {
        let answer = connection.and_then(|mut it| it.exchange(&good, Instant::now() + PROBE));
        match answer {
            Ok(response) => {
                answers += 1;
                ensure_draining_like(stage, &live, "after SIGTERM", &ready, &response)?;
            }
            // An idle connection may be closed by a daemon that drains.
            Err(fault) => stage.observed(format!("after SIGTERM: {fault}")),
        }
    }
    stage.observed(format!("{answers} answers, all of them draining"));
    match answers {
        0 if daemon.wait_exit(ms(500)).is_some() => {
            stage.not_applicable("the daemon left without waiting for open work")
        }
        0 => stage.fail("the daemon still runs, its record is off its name, and no handshake is answered"),
        _ => Ok(()),
    }
}
