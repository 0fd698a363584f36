//! The cases of profile `proof`.

use std::time::{Duration, Instant};

use local_daemon_harness::actors::{Bind, Squatter};
use local_daemon_harness::http::{
    Connection, DaemonProof, HttpFault, ProbeAnswer, Request, Response, Target, judge,
};
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{self, Record};
use local_daemon_spec::Profile;

use super::exchange::{
    Attempt, answered, authorized, bearing, conversation, ensure_state, hide_record, member, proof_of,
    quietly, refused, restore_record, without_proof,
};
use super::wrong::{malformed_proofs, unauthorized, vector_headers, wrong_macs};
use crate::case::case;
use crate::fixtures::daemon::{Rival, further_state_dir, yielding};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive, not_applicable};
use crate::stage::{PROBE, ReadyDaemon, Stage, Start};

/// The answer to the handshake with `nonce` is proven, and tells this state.
fn ensure_proven_state(
    live: &ReadyDaemon,
    what: &str,
    word: &str,
    response: Response,
    nonce: &str,
) -> Outcome {
    let answer = judge(response, &live.target, &live.credential, nonce);
    ensure!(
        answer.proof == DaemonProof::Valid,
        "{what}: the daemon's proof is {}; the answer was {}",
        in_words(&answer.proof),
        answer.response.summary(live.transcript())
    );
    ensure_state(live, what, word, &answer.response)
}

/// Does what must be refused between two good proofs, each seen to be proven and ready.
fn between_proofs<T>(
    stage: &mut Stage,
    live: &ReadyDaemon,
    act: impl FnOnce(&mut Stage) -> Outcome<T>,
) -> Outcome<T> {
    let ready = |answer: &Result<ProbeAnswer, HttpFault>| match answer {
        Ok(answer) if answer.ready().is_some_and(|body| body.id == live.record.id) => None,
        Ok(answer) => Some(format!("status {}, proof {}", answer.response.status, in_words(&answer.proof))),
        Err(fault) => Some(fault.to_string()),
    };
    if let Some(why) = ready(&live.probe_with_proof()) {
        return inconclusive(format!("the good proof before: {why}"));
    }
    stage.control("a good proof was answered 200 and proven before");
    let seen = act(stage)?;
    if let Some(why) = ready(&live.probe_with_proof()) {
        return fail(format!("the good proof afterwards: {why}"));
    }
    stage.control("a good proof was answered 200 and proven afterwards");
    Ok(seen)
}

/// Good proofs of different nonces, and one sent again. Each answer carries one D, right for its nonce and
/// for exactly the body's bytes, wrong for any other body or nonce; no content coding even if the client
/// takes one.
#[case("HS-17", "HS-21")]
fn proof_answered_with_proof(stage: &mut Stage) -> Outcome {
    const NONCES: usize = 16;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200, ready, and one D that is right for this nonce and these bytes alone");
    let mut proofs = Vec::new();
    for number in 1..=NONCES {
        let nonce = proof::nonce();
        let request = live
            .target
            .proving(&live.credential, &nonce)
            .header("Accept-Encoding", "gzip, deflate, br, zstd");
        // Twice: a daemon keeps no memory of nonces, and the answer is bound to what was asked, not to when.
        for what in [format!("proof {number}"), format!("proof {number}, sent again")] {
            let response = answered(&live, &what, &request)?;
            let coding = response.header("content-encoding").map(str::to_owned);
            let mac = response.header(proof::SCHEME).unwrap_or_default().to_owned();
            let mut altered = response.clone();
            altered.body = String::from_utf8_lossy(&response.body).replace("ready", "draining").into_bytes();
            ensure!(
                matches!(coding.as_deref(), None | Some("identity")),
                "{what}: Content-Encoding {coding}",
                coding = in_words(&coding)
            );
            ensure_proven_state(&live, &what, "ready", response, &nonce)?;
            let altered = judge(altered, &live.target, &live.credential, &nonce).proof;
            ensure!(altered == DaemonProof::Wrong, "{what}: D is also right for an altered body");
            proofs.push((nonce.clone(), mac));
        }
    }
    stage.precondition(format!("{} good proofs were answered", proofs.len()));
    proofs.sort();
    proofs.dedup();
    let mut macs: Vec<&String> = proofs.iter().map(|(_, mac)| mac).collect();
    macs.sort();
    macs.dedup();
    stage.observed(format!("{NONCES} nonces, {} proofs", macs.len()));
    ensure!(macs.len() >= NONCES, "{NONCES} nonces were answered with {} different proofs", macs.len());
    Ok(())
}

/// The accepted Authorization texts of the test vectors, filled with a nonce and its right MAC: other order,
/// case of the scheme, white space.
#[case("HS-17")]
fn proof_accepted_in_every_spelling(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200, ready and proven for each");
    let nonce = proof::nonce();
    let mac = proof::client_mac(&live.credential, &live.target.authority, &nonce);
    let mut spellings = 0;
    for (name, value, _) in vector_headers(&nonce, &mac).iter().filter(|(_, _, accept)| *accept) {
        let response = answered(&live, name, &authorized(&live, value))?;
        ensure_proven_state(&live, name, "ready", response, &nonce)?;
        spellings += 1;
    }
    stage.observed(format!("{spellings} spellings were accepted"));
    Ok(())
}

/// Handshakes one after another and all at once on one connection, good ones and wrong ones in turn: each
/// answer has the proof of its own nonce, or none.
#[case("HS-21", "HS-22")]
fn each_request_of_a_connection_proves_itself(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("each good proof is answered with its own D, each wrong one with 401 and none");
    // A good proof, a wrong one, a bare request, and so on.
    let nonces: Vec<String> = (0..9).map(|_| proof::nonce()).collect();
    let requests: Vec<Vec<u8>> = nonces
        .iter()
        .enumerate()
        .map(|(place, nonce)| match place % 3 {
            0 => live.target.proving(&live.credential, nonce),
            1 => live.target.proving(&Credential::random(), nonce),
            _ => Request::get(&live.target.authority, &live.target.path),
        })
        .map(|request| request.bytes())
        .collect();
    let requests: Vec<&[u8]> = requests.iter().map(Vec::as_slice).collect();
    between_proofs(stage, &live, |stage| {
        for together in [false, true] {
            let responses = conversation(&live, &requests, together)?;
            let how = if together { "sent together" } else { "one after another" };
            stage.observed(format!("{how}: {} of {} were answered", responses.len(), requests.len()));
            for (place, response) in responses.into_iter().enumerate() {
                let what = format!("{how}, request {}", place + 1);
                if place % 3 == 0 {
                    ensure_proven_state(&live, &what, "ready", response, &nonces[place])?;
                } else {
                    without_proof(&what, &response)?;
                    let status = response.status;
                    ensure!(status == 401, "{what}: answered {status}");
                }
            }
        }
        Ok(())
    })
}

/// MACs that are one bit off, cut short, of another key, label, nonce or message. Each is 401 and proves
/// nothing.
#[case("HS-18", "HS-22")]
fn wrong_mac_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for each, without a proof of the daemon");
    let mut attempts = wrong_macs(&live);
    // What a daemon has proven is not what a client has: its D does not come back as a MAC.
    let nonce = proof::nonce();
    let answer = answered(&live, "a good proof", &live.target.proving(&live.credential, &nonce))?;
    if let Some(mac) = answer.header(proof::SCHEME).and_then(proof::parse_daemon_proof) {
        attempts.push((
            "the daemon's own D for this nonce".to_owned(),
            authorized(&live, &proof_of(&nonce, &mac)),
        ));
    }
    between_proofs(stage, &live, |_| refused(&live, &attempts, without_proof))
}

/// Nonces and MACs that are missing, next to a third parameter, empty, short, long, padded, twice, in hexadecimal or in another
/// alphabet, with the right MAC over the nonce as it was sent. Each is 401 and proves nothing.
#[case("HS-19", "HS-22")]
fn malformed_proof_refused(stage: &mut Stage) -> Outcome {
    // The text binds the two values, not the punctuation between them: a parser that is lenient there breaks nothing.
    const PUNCTUATION: [&str; 5] = [
        "authorization-no-comma",
        "authorization-semicolon",
        "authorization-unclosed-quote",
        "authorization-single-quotes",
        "authorization-trailing-text",
    ];
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for each, without a proof of the daemon");
    let nonce = proof::nonce();
    let mac = proof::client_mac(&live.credential, &live.target.authority, &nonce);
    let mut attempts: Vec<Attempt> = malformed_proofs(&live)
        .into_iter()
        .map(|(what, value)| (what.to_owned(), authorized(&live, &value)))
        .collect();
    for (name, value, accept) in vector_headers(&nonce, &mac) {
        if !accept && !PUNCTUATION.contains(&name.as_str()) {
            attempts.push((name, authorized(&live, &value)));
        }
    }
    between_proofs(stage, &live, |_| refused(&live, &attempts, without_proof))
}

/// Right MACs over other ports, other loopback names of the same port, and other spellings of the authority
/// (tailscale#7851: row 25). Each is 401 and proves nothing.
#[case("HS-20", "HS-22")]
fn proof_for_another_authority_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for each, without a proof of the daemon");
    let own = live.target.authority.clone();
    let port = live.target.address.port();
    let mut authorities: Vec<String> = [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        format!("127.0.0.2:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("LOCALHOST:{port}"),
        format!("localhost.:{port}"),
        format!("127.0.0.1:0{port}"),
        format!("127.1:{port}"),
        "127.0.0.1:1".to_owned(),
        "127.0.0.1:80".to_owned(),
        "127.0.0.1".to_owned(),
        "localhost".to_owned(),
        format!("{port}"),
        format!(":{port}"),
        "unix:daemon.sock".to_owned(),
        String::new(),
    ]
    .into();
    authorities.extend([port.wrapping_add(1), port.wrapping_sub(1)].map(|port| format!("127.0.0.1:{port}")));
    authorities.extend([
        live.record.url.text().to_owned(),
        format!("{own}/"),
        format!(" {own}"),
        format!("{own} "),
        format!("{own}{}", live.target.path),
        format!("user@{own}"),
    ]);
    authorities.retain(|authority| *authority != own);
    let attempts: Vec<Attempt> = authorities
        .iter()
        .flat_map(|authority| {
            let nonce = proof::nonce();
            let value = proof::authorization(&live.credential, authority, &nonce);
            let sent = authorized(&live, &value);
            // The header says where the sender believes to be; what counts is the MAC.
            let hosts = ["localhost", "[::1]", "127.0.0.1"].map(|name| format!("{name}:{port}"));
            let same_host = hosts.contains(authority).then(|| {
                let request = Request::get(authority, &live.target.path).header("Authorization", &value);
                (format!("MAC and Host of {authority}", authority = in_words(&authority)), request)
            });
            std::iter::once((format!("MAC over {authority}", authority = in_words(&authority)), sent))
                .chain(same_host)
        })
        .collect();
    between_proofs(stage, &live, |_| refused(&live, &attempts, without_proof))
}

/// Two daemons hold the same credential. A proof for one is sent to the other, also when the record of the
/// one is in the place of the other's, and a squatter passes a proof for its own port on to a daemon: 401,
/// and nothing that the squatter could answer with.
#[case("HS-20", "HS-22")]
fn relayed_proof_refused(stage: &mut Stage) -> Outcome {
    let (_first, one) = stage.launch_ready()?;
    let beside = further_state_dir(stage, "beside")?;
    let credential = std::fs::read(stage.credential_path())?;
    record::write_new(&beside.join(&stage.manifest().binding.credential), &credential, 0o600)?;
    let second = stage.launch_with(Start::new().state_dir(&beside))?;
    let two = stage.ready(&second)?;
    if one.credential != two.credential {
        return inconclusive("the second daemon did not adopt the credential that was there");
    }
    stage.expect("401 from a daemon for a proof that was made for another port, and no proof to pass back");
    let relay = Squatter::relaying(one.target.address)
        .noted(stage.transcript(), "relay")
        .start(Bind::V4)?;
    let relayed = Target { path: one.target.path.clone(), ..Target::at(relay.address()) };
    between_proofs(stage, &one, |stage| {
        between_proofs(stage, &two, |stage| {
            stage.precondition("both daemons accept proofs made with one credential");
            for (from, to, what) in [
                (&one, &two, "a proof for the first daemon, sent to the second"),
                (&two, &one, "a proof for the second daemon, sent to the first"),
            ] {
                // With the receiver's own Host, which leaves the MAC alone to tell them apart.
                let value = proof::authorization(&from.credential, &from.target.authority, &proof::nonce());
                let proving = authorized(to, &value);
                refused(to, &[(what.to_owned(), proving)], without_proof)?;
            }
            // The victim's record names the relay's port: that is the authority of its proof.
            let nonce = proof::nonce();
            let answer = match stage
                .wire()
                .exchange(relay.address(), &relayed.proving(&one.credential, &nonce).bytes())
            {
                Ok(response) => judge(response, &relayed, &one.credential, &nonce),
                Err(fault) => return fail(format!("through the relay: {fault}")),
            };
            if relay.ledger().requests().is_empty() {
                return inconclusive("the relay saw no request");
            }
            let what = "a proof for the relay's port, passed on";
            stage.observed(format!(
                "{what}: status {}, proof {}",
                answer.response.status,
                in_words(&answer.proof)
            ));
            without_proof(what, &answer.response)?;
            // The relay keeps the Host of its own port, which a daemon may refuse before it looks at anything else.
            ensure!(
                matches!(answer.response.status, 401 | 421),
                "{what}: answered {}",
                answer.response.status
            );
            // One that also writes the Host anew gets no further.
            let request = Request::get(&one.target.authority, &one.target.path)
                .header("Authorization", &proof::authorization(&one.credential, &relayed.authority, &nonce));
            let what = "the same with the daemon's own Host".to_owned();
            refused(&one, &[(what, request)], without_proof)
        })
    })?;
    // A daemon and its successor hold one credential always. Open work keeps the first one there to answer.
    let _work = match one.open_work() {
        Err(Stop::Untestable(_) | Stop::NotApplicable(_)) => None,
        work => Some(work?),
    };
    record::replace(&stage.record_path(), two.record.to_json().as_bytes(), 0o600)?;
    let what = "a proof for the daemon whose record has taken the place of its own";
    let value = proof::authorization(&two.credential, &two.target.authority, &proof::nonce());
    match quietly(&one, what, &authorized(&one, &value).bytes()) {
        Ok(response) => {
            let summary = response.summary(stage.transcript());
            ensure!(response.status == 401, "{what}: answered {summary}");
            without_proof(what, &response)
        }
        // It has left already.
        Err(fault) => {
            stage.observed(format!("{what}: {fault}"));
            Ok(())
        }
    }
}

/// The header Local-Daemon-Proof is looked for in answers to bearers, to nobody, to nonces without a MAC, and
/// on other routes.
#[case("HS-22")]
fn unproven_answers_carry_no_proof(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("no header Local-Daemon-Proof");
    let (authority, nonce) = (live.target.authority.clone(), proof::nonce());
    let bearer = proof::bearer(&live.credential);
    let mac = proof::client_mac(&live.credential, &authority, &nonce);
    let mut attempts = vec![
        ("the right bearer".to_owned(), bearing(&live)),
        (
            "the right bearer and a nonce beside it".to_owned(),
            bearing(&live)
                .header("Nonce", &nonce)
                .header(proof::SCHEME, &format!("nonce=\"{nonce}\"")),
        ),
        (
            "a nonce without a MAC".to_owned(),
            authorized(&live, &format!("{} nonce=\"{nonce}\"", proof::SCHEME)),
        ),
        (
            "a nonce in the query".to_owned(),
            Request::get(&authority, &format!("{}?nonce={nonce}", live.target.path)),
        ),
        (
            "the proof in another header".to_owned(),
            Request::get(&authority, &live.target.path)
                .header("X-Authorization", &proof_of(&nonce, &mac))
                .header(proof::SCHEME, &format!("nonce=\"{nonce}\", mac=\"{mac}\"")),
        ),
        (
            "an unknown path with the bearer".to_owned(),
            Request::get(&authority, "/nothing-here").header("Authorization", &bearer),
        ),
        (
            "an unknown path with the proof".to_owned(),
            Request::get(&authority, "/nothing-here").header("Authorization", &proof_of(&nonce, &mac)),
        ),
    ];
    attempts.extend(unauthorized(&live));
    if let Some(read) = stage.manifest().binding.authenticated_read.clone() {
        let read = live.operation(&read);
        attempts.push(("the authenticated read".to_owned(), read.clone().header("Authorization", &bearer)));
        attempts.push(("the authenticated read, unauthenticated".to_owned(), read));
    }
    between_proofs(stage, &live, |stage| {
        for (what, request) in &attempts {
            let response = answered(&live, what, request)?;
            without_proof(what, &response)?;
        }
        stage.observed(format!("{} answers without the header", attempts.len()));
        Ok(())
    })
}

/// A valid proof is sent, fresh and replayed, to the operations that the credential opens, and to unknown
/// paths: 401, while the bearer is served; a shutdown has no effect.
#[case("HS-23")]
fn proof_opens_no_other_route(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("401 for the proof wherever the bearer is served, and no effect");
    let nonce = proof::nonce();
    let value = proof::authorization(&live.credential, &live.target.authority, &nonce);
    let binding = stage.manifest().binding.clone();
    let mut routes: Vec<(String, Request, bool)> = Vec::new();
    for (what, operation, served) in [
        ("the authenticated read", &binding.authenticated_read, true),
        ("the mutation", &binding.mutation, true),
        ("the ticket", &binding.ticket, false),
        ("the shutdown", &binding.shutdown, false),
    ] {
        if let Some(operation) = operation {
            routes.push((what.to_owned(), live.operation(operation), served));
        }
    }
    for path in ["/", "/v1", "/nothing-here", &format!("{}/", live.target.path)] {
        let request = Request::get(&live.target.authority, path);
        routes.push((format!("GET {path}"), request, false));
    }
    let served = |stage: &mut Stage, when: &str| -> Outcome {
        for (what, request, _) in routes.iter().filter(|(_, _, served)| *served) {
            let request = request.clone().header("Authorization", &proof::bearer(&live.credential));
            let response = answered(&live, what, &request)?;
            if !(200..300).contains(&response.status) {
                let summary = response.summary(stage.transcript());
                return fail(format!("{what} with the bearer {when}: {summary}"));
            }
            stage.control(format!("{what} was served to the bearer {when}"));
        }
        Ok(())
    };
    between_proofs(stage, &live, |stage| {
        served(stage, "before")?;
        // The proof is good: the handshake takes it before and after.
        let own = authorized(&live, &value);
        let response = answered(&live, "the proof at the handshake", &own)?;
        ensure_proven_state(&live, "the proof at the handshake", "ready", response, &nonce)?;
        for (what, request, _) in &routes {
            let fresh = proof::authorization(&live.credential, &live.target.authority, &proof::nonce());
            let attempts = [
                (format!("{what}, with the replayed proof"), request.clone().header("Authorization", &value)),
                (format!("{what}, with a fresh proof"), request.clone().header("Authorization", &fresh)),
            ];
            refused(&live, &attempts, without_proof)?;
        }
        // A connection that has proven itself is no more trusted than any other.
        let requests: Vec<Vec<u8>> = routes
            .iter()
            .map(|(_, request, _)| request.clone().header("Authorization", &value).bytes())
            .collect();
        for request in &requests {
            let responses = conversation(&live, &[&own.bytes(), request], false)?;
            let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
            ensure!(
                matches!(statuses[..], [200] | [200, 401]),
                "on a proven connection: {statuses}",
                statuses = in_words(&statuses)
            );
        }
        served(stage, "afterwards")?;
        ensure!(daemon.is_running(), "the daemon has ended");
        Ok(())
    })
}

/// A proof is answered 200. 4 s later the connection takes another request: it is a client's only way to send the credential
/// (HS-25).
#[case("HS-34", idle)]
fn a_proven_connection_stays_open(stage: &mut Stage) -> Outcome {
    /// For so long a daemon waits for another request; what a busy host takes to send it is left out.
    const KEPT: Duration = Duration::from_secs(5);
    const LATER: Duration = Duration::from_secs(4);
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("an open connection, and 200 to a request with the bearer on it, 4 s after the proof");
    let deadline = Instant::now() + KEPT + PROBE;
    let mut connection = match Connection::open(live.target.address, deadline) {
        Ok(connection) => connection,
        Err(fault) => return inconclusive(fault.to_string()),
    };
    let nonce = proof::nonce();
    let began = Instant::now();
    let response = match connection.exchange(&live.target.proving(&live.credential, &nonce).bytes(), deadline)
    {
        Ok(response) => response,
        Err(fault) => return fail(format!("a good proof: {fault}")),
    };
    let closes = response.closes;
    ensure_proven_state(&live, "a good proof", "ready", response, &nonce)?;
    stage.precondition("a good proof was answered 200");
    ensure!(!closes, "the answer to a good proof says that the connection ends with it");
    match connection.read_some(began + LATER) {
        Err(HttpFault::TimedOut) => {}
        Ok(_) | Err(HttpFault::Reset) => {
            return fail(format!("the connection ended {} ms after the proof", began.elapsed().as_millis()));
        }
        Err(fault) => return inconclusive(fault.to_string()),
    }
    if began.elapsed() >= KEPT {
        return inconclusive("this host took more than a second too long to come back to the connection");
    }
    match connection.exchange(&bearing(&live).bytes(), deadline) {
        Ok(response) => {
            let summary = response.summary(stage.transcript());
            ensure!(response.status == 200, "the bearer on the proven connection: answered {summary}");
            Ok(())
        }
        Err(fault) => fail(format!("the bearer on the proven connection: {fault}")),
    }
}

/// A daemon that cannot read its record answers a good proof draining, with all members and a right D.
#[case("HS-21")]
fn draining_is_proven_too(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("a right D over the body that says draining");
    between_proofs(stage, &live, |stage| {
        let bytes = hide_record(stage)?;
        for number in 1..=3 {
            let what = format!("proof {number} while the record cannot be read");
            let nonce = proof::nonce();
            let request = live.target.proving(&live.credential, &nonce);
            let response = answered(&live, &what, &request)?;
            stage.observed(format!("{what}: {}", response.summary(stage.transcript())));
            if member(&response, "state").as_deref() != Some("draining") {
                return inconclusive(format!("{what}: not draining"));
            }
            ensure_proven_state(&live, &what, "draining", response, &nonce)?;
        }
        restore_record(stage, &bytes)
    })
}

/// A daemon that was told to yield looks at a record that leads to a mute socket. It listens and has not
/// published: what it answers meanwhile is draining and proven.
#[case("HS-16", "HS-21", profile = Profile::Proof)]
fn draining_before_it_publishes(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    stage.arena().make_state_dir()?;
    let credential = Credential::random();
    stage.transcript().hide(credential.bytes());
    record::write_new(&stage.credential_path(), format!("{}\n", credential.text()).as_bytes(), 0o600)?;
    let squatter = Squatter::mute().noted(stage.transcript(), "mute").start(Bind::V4)?;
    let other = Rival::new()?.record.with_url(squatter.url());
    record::replace(&stage.record_path(), other.to_json().as_bytes(), 0o600)?;
    stage.expect("draining and proven as long as the record is another's, then ready");
    let daemon = stage.launch_with(start)?;
    let Some(address) = daemon.wait_listening(stage.ready_deadline()) else {
        return Err(Stop::NotReady(format!("{} does not listen", daemon.name)));
    };
    let target = Target {
        path: stage.manifest().binding.handshake.path.clone(),
        ..Target::at(address)
    };
    let mut before = 0;
    let deadline = stage.ready_deadline();
    while Instant::now() < deadline {
        let nonce = proof::nonce();
        let response = stage.wire().exchange(address, &target.proving(&credential, &nonce).bytes());
        // Read after the answer: as long as it is another's, the daemon had not published when it answered.
        let owner = Record::parse(&std::fs::read(stage.record_path())?).map(|record| record.id);
        let published = owner != Ok(other.id.clone());
        if published {
            break;
        }
        // Nothing says that it answers before it publishes; another case judges that it publishes in time.
        let Ok(response) = response else { continue };
        if before == 0 {
            stage.precondition("the daemon listens and answers, and the record is another's");
        }
        before += 1;
        let answer = judge(response, &target, &credential, &nonce);
        let summary = answer.response.summary(stage.transcript());
        ensure!(
            answer.proof == DaemonProof::Valid,
            "before it has published: proof {}, {summary}",
            in_words(&answer.proof)
        );
        let draining = member(&answer.response, "state").as_deref() == Some("draining");
        ensure!(draining, "before it has published: {summary}");
        if before >= 5 {
            break;
        }
    }
    stage.observed(format!("{before} answers before it published, all of them draining"));
    // Its look at the squatter ends, and so does its waiting.
    drop(squatter);
    let live = stage.ready(&daemon)?;
    stage.control(format!("it published {} and was ready", live.record.id));
    if before == 0 {
        return not_applicable("the daemon answers nothing before it publishes");
    }
    Ok(())
}
