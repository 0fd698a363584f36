//! Handshake and proof: chapter 07.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use local_daemon_harness::actors::{Bind, Squatter};
use local_daemon_harness::http::{
    Connection, DaemonProof, HttpFault, ProbeAnswer, Request, Response, Target, is_protocol, judge,
};
use local_daemon_harness::process::Signal;
use local_daemon_harness::proof::{self, Credential};
use local_daemon_harness::record::{self, Record};
use local_daemon_harness::wait::{LONGEST_POLL, ms, until};
use local_daemon_spec::vectors;
use serde_json::Value;

use super::scene::{Rival, further_state_dir, open_work, yielding};
use crate::case::{Case, Outcome, Stop};
use crate::stage::{Live, PROBE, Stage, Start};

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
        "While the daemon is stopped (SIGSTOP), its record is replaced by another's and handshakes are sent; what it \
         answers when it goes on is draining, with its own id.",
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
        proof_answered_with_proof,
    ),
    Case::proof(
        "handshake/proof-accepted-in-every-spelling",
        &["HS-17"],
        "The accepted Authorization texts of the test vectors, filled with a nonce and its right MAC: other order, \
         case of the scheme, white space.",
        proof_accepted_in_every_spelling,
    ),
    Case::proof(
        "handshake/each-request-of-a-connection-proves-itself",
        &["HS-21", "HS-22"],
        "Handshakes one after another and all at once on one connection, good ones and wrong ones in turn: each \
         answer has the proof of its own nonce, or none.",
        each_request_of_a_connection_proves_itself,
    ),
    Case::proof(
        "handshake/wrong-mac-refused",
        &["HS-18", "HS-22"],
        "MACs that are one bit off, of another key, label, nonce or message. Each is 401 and proves nothing.",
        wrong_mac_refused,
    ),
    Case::proof(
        "handshake/malformed-proof-refused",
        &["HS-19", "HS-22"],
        "Nonces and MACs that are missing, empty, short, long, padded, twice, in hexadecimal or in another alphabet, \
         with the right MAC over the nonce as it was sent. Each is 401 and proves nothing.",
        malformed_proof_refused,
    ),
    Case::proof(
        "handshake/proof-for-another-authority-refused",
        &["HS-20", "HS-22"],
        "Right MACs over other ports, other loopback names of the same port, and other spellings of the authority \
         (tailscale#7851: row 25). Each is 401 and proves nothing.",
        proof_for_another_authority_refused,
    ),
    Case::proof(
        "handshake/relayed-proof-refused",
        &["HS-20", "HS-22"],
        "Two daemons hold the same credential. A proof for one is sent to the other, and a squatter passes a proof \
         for its own port on to a daemon: 401, and nothing that the squatter could answer with.",
        relayed_proof_refused,
    ),
    Case::proof(
        "handshake/unproven-answers-carry-no-proof",
        &["HS-22"],
        "The header Local-Daemon-Proof is looked for in answers to bearers, to nobody, to nonces without a MAC, and \
         on other routes.",
        unproven_answers_carry_no_proof,
    ),
    Case::proof(
        "handshake/proof-opens-no-other-route",
        &["HS-23"],
        "A valid proof is sent, fresh and replayed, to the operations that the credential opens, and to unknown \
         paths: 401, while the bearer is served; a shutdown has no effect.",
        proof_opens_no_other_route,
    ),
    Case::proof(
        "handshake/draining-is-proven-too",
        &["HS-14", "HS-21"],
        "A daemon that cannot read its record answers a good proof draining, with all members and a right D.",
        draining_is_proven_too,
    ),
    Case::proof(
        "handshake/draining-before-it-publishes",
        &["HS-16", "HS-21"],
        "A daemon that was told to yield looks at a record that leads to a mute socket. It listens and has not \
         published: what it answers meanwhile is draining and proven.",
        draining_before_it_publishes,
    ),
];

// What must be seen of an answer.

/// What is wrong with a handshake's answer by HS-1, HS-2 and HS-4, apart from its state.
fn faults(response: &Response) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            faults.push(what);
        }
    };
    let media_type = response.media_type();
    check(
        media_type.as_deref() == Some("application/json"),
        format!("Content-Type is {media_type:?}"),
    );
    let length = response.body.len();
    check(
        length <= record::MOST_BYTES,
        format!("the body is {length} bytes long"),
    );
    let members = match record::parse_object(&response.body) {
        Ok(members) => members,
        Err(fault) => return vec![format!("the body is {fault}")],
    };
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let is_text = |name: &str, valid: fn(&str) -> bool| text(name).is_some_and(valid);
    check(
        text("spec") == Some("local-daemon/1"),
        "`spec` is not local-daemon/1".into(),
    );
    check(
        is_text("protocol", is_protocol),
        "`protocol` is not name/N".into(),
    );
    check(
        is_text("id", record::is_id),
        "`id` is not 32 hexadecimal digits".into(),
    );
    let pid = members.get("pid").and_then(Value::as_i64);
    check(
        pid.is_some_and(|pid| (1..=i64::from(i32::MAX)).contains(&pid)),
        format!("`pid` is {:?}", members.get("pid")),
    );
    check(is_text("version", |_| true), "`version` is no string".into());
    let status = match text("state") {
        Some("ready") => 200,
        Some("draining") => 503,
        _ => 0,
    };
    check(
        status == response.status,
        format!(
            "status {} with `state` {:?}",
            response.status,
            members.get("state")
        ),
    );
    let capabilities = members.get("capabilities").and_then(Value::as_array);
    let names: Option<Vec<&str>> = capabilities.and_then(|list| {
        list.iter()
            .map(|name| name.as_str().filter(|n| !n.is_empty()))
            .collect()
    });
    check(
        names.is_some_and(|mut names| {
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            names.len() == all
        }),
        "`capabilities` is not a list of distinct names".into(),
    );
    faults
}

/// The text of a member of an answer's body.
fn member(response: &Response, name: &str) -> Option<String> {
    let body = response.json()?;
    match body.get(name)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// An answer that is whole and in this state, of the daemon whose record is `live`'s.
fn ensure_state(stage: &mut Stage, live: &Live, what: &str, state: &str, response: &Response) -> Outcome {
    let summary = response.summary(stage.transcript());
    let mut faults = faults(response);
    for (name, expected) in [
        ("state", state.to_owned()),
        ("id", live.record.id.clone()),
        ("pid", live.record.pid.to_string()),
    ] {
        let seen = member(response, name);
        if seen.as_deref() != Some(&expected) {
            faults.push(format!("`{name}` is {seen:?} and not {expected}"));
        }
    }
    stage.ensure(
        faults.is_empty(),
        format!("{what}: {}; the answer was {summary}", faults.join(", ")),
    )
}

/// The same, with a proof that is right for `nonce`.
fn ensure_proven_state(
    stage: &mut Stage,
    live: &Live,
    what: &str,
    state: &str,
    response: Response,
    nonce: &str,
) -> Outcome {
    let answer = judge(response, &live.target, &live.credential, nonce);
    stage.ensure(
        answer.proof == DaemonProof::Valid,
        format!(
            "{what}: the daemon's proof is {:?}; the answer was {}",
            answer.proof,
            answer.response.summary(stage.transcript())
        ),
    )?;
    ensure_state(stage, live, what, state, &answer.response)
}

// What is sent.

/// Sends bytes to a live daemon on a connection of their own. The transcript has only `what` they are: they may hold
/// half of a secret, which redaction does not recognise.
fn quietly(stage: &Stage, live: &Live, what: &str, bytes: &[u8]) -> Result<Response, HttpFault> {
    stage.transcript().note("suite", "request", what);
    let answer = local_daemon_harness::http::exchange(live.target.address, bytes, Instant::now() + PROBE);
    let seen = match &answer {
        Ok(response) => response.summary(stage.transcript()),
        Err(fault) => fault.to_string(),
    };
    stage.transcript().note("suite", "answer", seen);
    answer
}

/// Sends a request that has to be answered; that it is not violates the requirements.
fn answered(stage: &mut Stage, live: &Live, what: &str, request: &Request) -> Outcome<Response> {
    match quietly(stage, live, what, &request.bytes()) {
        Ok(response) => Ok(response),
        Err(fault) => stage.fail(format!("{what}: {fault}")),
    }
}

/// The good handshake of profile `core`.
fn bearing(live: &Live) -> Request {
    live.target.bearing(&live.credential)
}

/// A request to the handshake with this `Authorization`.
fn authorized(live: &Live, authorization: &str) -> Request {
    Request::get(&live.target.authority, &live.target.path).header("Authorization", authorization)
}

/// A proof of exactly these two texts.
fn proof_of(nonce: &str, mac: &str) -> String {
    format!("{} nonce=\"{nonce}\", mac=\"{mac}\"", proof::SCHEME)
}

/// Something that has to be refused, and what it is.
type Attempt = (String, Request);

/// Sends each attempt and expects 401; what came is handed to `look`.
fn refused(
    stage: &mut Stage,
    live: &Live,
    attempts: &[Attempt],
    mut look: impl FnMut(&mut Stage, &str, &Response) -> Outcome,
) -> Outcome {
    for (what, request) in attempts {
        let response = answered(stage, live, what, request)?;
        let summary = response.summary(stage.transcript());
        stage.ensure(response.status == 401, format!("{what}: answered {summary}"))?;
        look(stage, what, &response)?;
    }
    stage.observed(format!("{} requests were answered 401", attempts.len()));
    Ok(())
}

/// No header `Local-Daemon-Proof` (HS-22).
fn without_proof(stage: &mut Stage, what: &str, response: &Response) -> Outcome {
    let carries = response.header(proof::SCHEME).is_some();
    stage.ensure(
        !carries,
        format!("{what}: the answer of status {} carries a proof", response.status),
    )
}

/// Does what must be refused between two good proofs, each seen to be proven and ready.
fn between_proofs<T>(
    stage: &mut Stage,
    live: &Live,
    act: impl FnOnce(&mut Stage) -> Outcome<T>,
) -> Outcome<T> {
    let ready = |answer: &Result<ProbeAnswer, HttpFault>| match answer {
        Ok(answer) if answer.ready().is_some_and(|body| body.id == live.record.id) => None,
        Ok(answer) => Some(format!(
            "status {}, proof {:?}",
            answer.response.status, answer.proof
        )),
        Err(fault) => Some(fault.to_string()),
    };
    if let Some(why) = ready(&stage.probe_with_proof(live)) {
        // A subject that proves nothing has nothing to refuse: that it claims the profile is the violation.
        return stage.fail(format!("the good proof before: {why}"));
    }
    stage.control("a good proof was answered 200 and proven before");
    let seen = act(stage)?;
    if let Some(why) = ready(&stage.probe_with_proof(live)) {
        return stage.fail(format!("the good proof afterwards: {why}"));
    }
    stage.control("a good proof was answered 200 and proven afterwards");
    Ok(seen)
}

// The record that cannot be read.

/// Replaces the record, in one step, by something that no daemon can read and that is not "no such file": a symbolic
/// link to a directory. The daemon goes on, and has to answer `draining` (CONV-6, HS-16). Returns the record's bytes.
fn hide_record(stage: &Stage) -> Outcome<Vec<u8>> {
    let path = stage.record_path();
    let bytes = std::fs::read(&path)?;
    let aside = stage.arena().path().join("unreadable");
    symlink(".", &aside)?;
    std::fs::rename(&aside, &path)?;
    stage
        .transcript()
        .note("suite", "record", "is a symbolic link to a directory");
    Ok(bytes)
}

/// Puts the record back, in one step.
fn restore_record(stage: &Stage, bytes: &[u8]) -> Outcome {
    record::replace(&stage.record_path(), bytes, 0o600)?;
    stage.transcript().note("suite", "record", "is as it was");
    Ok(())
}

// The cases of profile `core`.

fn bearer_answered_with_every_member(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200, application/json, `state` ready and every member of the table in its type");
    let response = answered(stage, &live, "the bearer", &bearing(&live))?;
    stage.observed(response.summary(stage.transcript()));
    ensure_state(stage, &live, "the bearer", "ready", &response)?;
    // A reader of the file sends what stands there, character for character.
    let text = std::fs::read_to_string(stage.credential_path())?;
    let request = authorized(&live, &format!("Bearer {}", text.trim_end()));
    let response = answered(stage, &live, "the file's characters as bearer", &request)?;
    ensure_state(
        stage,
        &live,
        "the file's characters as bearer",
        "ready",
        &response,
    )
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
        ensure_state(stage, &live, what, "ready", &response)?;
    }
    stage.observed(format!("{} clients were answered alike", clients.len()));
    Ok(())
}

fn id_and_pid_are_the_records(stage: &mut Stage) -> Outcome {
    stage.expect("`id` and `pid` of the answer are those of the record, at each of three launches");
    for launch in 1..=3 {
        let (daemon, live) = stage.launch_ready()?;
        let record = Record::parse(&std::fs::read(stage.record_path())?);
        let what = format!("launch {launch}");
        let response = answered(stage, &live, &what, &bearing(&live))?;
        stage.ensure(
            record.as_ref() == Ok(&live.record),
            format!("{what}: the record changed by itself"),
        )?;
        stage.observed(format!(
            "{what}: the record says {} and pid {}, the handshake {:?} and {:?}",
            live.record.id,
            live.record.pid,
            member(&response, "id"),
            member(&response, "pid"),
        ));
        ensure_state(stage, &live, &what, "ready", &response)?;
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

/// Handshakes without an `Authorization`, some with the credential in another place.
fn unauthorized(live: &Live) -> Vec<Attempt> {
    let (authority, path) = (live.target.authority.as_str(), live.target.path.as_str());
    let text = live.credential.text();
    let asked = || Request::get(authority, path);
    let query = |name: &str| Request::get(authority, &format!("{path}?{name}={text}"));
    [
        ("no header", asked()),
        ("credential as query token", query("token")),
        ("credential as query access_token", query("access_token")),
        (
            "credential in a cookie",
            asked().header("Cookie", &format!("token={text}")),
        ),
        ("credential in X-Api-Key", asked().header("X-Api-Key", &text)),
        (
            "credential in Proxy-Authorization",
            asked().header("Proxy-Authorization", &proof::bearer(&live.credential)),
        ),
        (
            "credential in X-Authorization",
            asked().header("X-Authorization", &proof::bearer(&live.credential)),
        ),
        ("credential as user info", asked().header("From", &text)),
        (
            "credential in the body",
            asked().json(format!("{{\"token\":\"{text}\"}}")),
        ),
        (
            "a claim to be local",
            asked().header("X-Forwarded-For", "127.0.0.1"),
        ),
    ]
    .map(|(what, request)| (what.to_owned(), request))
    .into()
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

/// Values of `Authorization` that are not the bearer and look like it.
fn wrong_bearers(credential: &Credential) -> Vec<(&'static str, String)> {
    let text = credential.text();
    let flipped = |byte: usize, bit: u8| {
        let mut bytes = *credential.bytes();
        bytes[byte] ^= bit;
        format!("Bearer {}", Credential::from_bytes(bytes).text())
    };
    let swapped: String = text
        .chars()
        .map(|letter| match letter {
            'a'..='z' => letter.to_ascii_uppercase(),
            _ => letter.to_ascii_lowercase(),
        })
        .collect();
    // The last character stands for 4 bits and 2 that must be 0: a lenient decoder takes these for the same bytes.
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = text.bytes().last().unwrap_or(b'A');
    let place = ALPHABET.iter().position(|letter| *letter == last).unwrap_or(0);
    let same_bytes = format!("{}{}", &text[..42], char::from(ALPHABET[place | 1]));
    let mut bearers = vec![
        ("empty bearer", "Bearer ".to_owned()),
        ("scheme alone", "Bearer".to_owned()),
        ("first character", format!("Bearer {}", &text[..1])),
        ("first half", format!("Bearer {}", &text[..21])),
        ("last half", format!("Bearer {}", &text[21..])),
        ("all but the last character", format!("Bearer {}", &text[..42])),
        ("all but the first character", format!("Bearer {}", &text[1..])),
        ("one character more", format!("Bearer {text}A")),
        ("one character before", format!("Bearer A{text}")),
        ("padding", format!("Bearer {text}=")),
        ("twice", format!("Bearer {text}{text}")),
        ("a word after it", format!("Bearer {text} x")),
        ("a comma after it", format!("Bearer {text},")),
        ("another after a comma", format!("Bearer {text}, Bearer {text}")),
        ("quoted", format!("Bearer \"{text}\"")),
        ("as a parameter", format!("Bearer token={text}")),
        ("lower case", format!("Bearer {}", text.to_ascii_lowercase())),
        ("upper case", format!("Bearer {}", text.to_ascii_uppercase())),
        ("swapped case", format!("Bearer {swapped}")),
        ("first bit flipped", flipped(0, 0x80)),
        ("last bit flipped", flipped(31, 0x01)),
        ("middle bit flipped", flipped(16, 0x10)),
        (
            "same bytes, another last character",
            format!("Bearer {same_bytes}"),
        ),
        (
            "in hexadecimal",
            format!("Bearer {}", proof::hex(credential.bytes())),
        ),
        (
            "in standard base64",
            format!("Bearer {}", STANDARD.encode(credential.bytes())),
        ),
        ("another credential", proof::bearer(&Credential::random())),
        ("zeros", proof::bearer(&Credential::from_bytes([0; 32]))),
        ("a star", "Bearer *".to_owned()),
        ("null", "Bearer null".to_owned()),
        ("no scheme", text.clone()),
        ("no space", format!("Bearer{text}")),
        ("scheme Token", format!("Token {text}")),
        ("scheme Basic, plain", format!("Basic {text}")),
        ("the proof's scheme", format!("{} {text}", proof::SCHEME)),
    ];
    for (what, pair) in [
        ("scheme Basic, as password", format!("user:{text}")),
        ("scheme Basic, as user", format!("{text}:")),
    ] {
        bearers.push((what, format!("Basic {}", STANDARD.encode(pair))));
    }
    // A credential whose text has no letter or no `-` is its own lower case, or its own standard base64.
    bearers.retain(|(_, value)| *value != proof::bearer(credential));
    bearers
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

/// The answers to requests on one connection, as far as the daemon keeps it open: it may close after any answer.
fn conversation(
    stage: &mut Stage,
    live: &Live,
    requests: &[&[u8]],
    together: bool,
) -> Outcome<Vec<Response>> {
    let deadline = Instant::now() + PROBE;
    let talk = || -> Result<Vec<Response>, HttpFault> {
        let mut connection = Connection::open(live.target.address, deadline)?;
        let mut responses: Vec<Response> = Vec::new();
        if together {
            connection.send(&requests.concat(), deadline)?;
        }
        for request in requests {
            let response = if together {
                connection.read_response(deadline)
            } else {
                connection.exchange(request, deadline)
            };
            match response {
                Ok(response) => {
                    let closes = response.closes;
                    responses.push(response);
                    if closes {
                        break;
                    }
                }
                Err(HttpFault::Closed(0) | HttpFault::Reset) if !responses.is_empty() => break,
                Err(fault) => return Err(fault),
            }
        }
        Ok(responses)
    };
    match talk() {
        Ok(responses) => Ok(responses),
        Err(fault) => stage.fail(format!("{} requests on one connection: {fault}", requests.len())),
    }
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
            let mut text = String::from_utf8_lossy(&response.body).into_owned();
            for (name, value) in &response.headers {
                // A number here is a time or a length.
                if !["date", "content-length", "age"].contains(&name.to_ascii_lowercase().as_str()) {
                    text.push_str(&format!("\n{name}: {value}"));
                }
            }
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

/// Bytes that are no good request. The boolean says that the client ends its side after them.
fn broken_requests(live: &Live, random: Vec<u8>) -> Vec<(&'static str, Vec<u8>, bool)> {
    let good = String::from_utf8_lossy(&bearing(live).bytes()).into_owned();
    let (authority, path) = (live.target.authority.as_str(), live.target.path.as_str());
    let with = |header: &str| good.replacen("\r\n", &format!("\r\n{header}\r\n"), 1);
    let large = |length: usize| "a".repeat(length);
    let bearer = proof::bearer(&live.credential);
    [
        ("nothing at all", String::new(), true),
        ("one letter", "G".to_owned(), true),
        (
            "half a request line",
            format!("GET {}", &path[..path.len() / 2]),
            true,
        ),
        ("half a header section", good[..good.len() / 2].to_owned(), true),
        ("all but the last byte", good[..good.len() - 1].to_owned(), true),
        (
            "half a header section, dropped",
            good[..good.len() / 2].to_owned(),
            false,
        ),
        ("half a body", with("Content-Length: 1000") + "{", true),
        ("half a body, dropped", with("Content-Length: 1000") + "{", false),
        (
            "half a chunk",
            with("Transfer-Encoding: chunked") + "ff\r\nabc",
            true,
        ),
        (
            "a chunk of no size",
            with("Transfer-Encoding: chunked") + "zz\r\n\r\n",
            true,
        ),
        (
            "a chunk of too many digits",
            with("Transfer-Encoding: chunked") + "ffffffffffffffffffffffff\r\n",
            true,
        ),
        ("a negative length", with("Content-Length: -1"), true),
        (
            "a length beyond 64 bits",
            with("Content-Length: 99999999999999999999999999"),
            true,
        ),
        (
            "two lengths",
            with("Content-Length: 1\r\nContent-Length: 2") + "abc",
            true,
        ),
        (
            "no host",
            format!("GET {path} HTTP/1.1\r\nAuthorization: {bearer}\r\n\r\n"),
            true,
        ),
        ("two hosts", with(&format!("Host: {authority}")), true),
        (
            "an unknown version",
            format!("GET {path} HTTP/9.9\r\nHost: {authority}\r\n\r\n"),
            true,
        ),
        ("no version", format!("GET {path}\r\n\r\n"), true),
        ("bare line feeds", good.replace("\r\n", "\n"), true),
        ("a header without a name", with(": x"), true),
        ("a header without a colon", with("nonsense"), true),
        ("a folded header", with("X-A: b\r\n c"), true),
        ("a control character in a header", with("X-A: \u{1}\u{7f}"), true),
        (
            "the preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            true,
        ),
        (
            "a proxy's request",
            format!("CONNECT {authority} HTTP/1.1\r\n\r\n"),
            true,
        ),
        (
            "a header of 1 MiB",
            with(&format!("X-A: {}", large(1 << 20))),
            true,
        ),
        ("10,000 headers", with(&vec!["X-A: b"; 10_000].join("\r\n")), true),
        (
            "a target of 1 MiB",
            format!(
                "GET {path}?{} HTTP/1.1\r\nHost: {authority}\r\n\r\n",
                large(1 << 20)
            ),
            true,
        ),
        (
            "a method of 64 KiB",
            format!("{} / HTTP/1.1\r\n\r\n", large(1 << 16)),
            true,
        ),
        (
            "a bearer of 256 KiB",
            good.replace(&bearer, &format!("Bearer {}", large(1 << 18))),
            true,
        ),
        (
            "a body of 4 MiB",
            with(&format!("Content-Length: {}", 4 << 20)) + &large(4 << 20),
            true,
        ),
        ("a line without end", large(1 << 20), true),
    ]
    .map(|(what, text, ends)| (what, text.into_bytes(), ends))
    .into_iter()
    .chain([
        (
            "the start of TLS",
            vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
            true,
        ),
        ("zeros", vec![0; 4096], true),
        (
            "bytes that are no text",
            [0xff, 0xfe, b'\r', b'\n'].repeat(64),
            true,
        ),
        ("random bytes", random, true),
    ])
    .collect()
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
    match stage.is_ready(&live) {
        true => Ok(()),
        false => stage.fail("no good handshake after the connections were dropped"),
    }
}

fn tells_the_state_of_this_moment(stage: &mut Stage) -> Outcome {
    const ROUNDS: usize = 20;
    let (daemon, live) = stage.launch_ready()?;
    stage.expect(format!("draining, then ready, {ROUNDS} times"));
    for round in 1..=ROUNDS {
        let bytes = hide_record(stage)?;
        let what = format!("round {round}, right after the record became unreadable");
        let response = answered(stage, &live, &what, &bearing(&live))?;
        ensure_state(stage, &live, &what, "draining", &response)?;
        restore_record(stage, &bytes)?;
        let what = format!("round {round}, right after the record came back");
        let response = answered(stage, &live, &what, &bearing(&live))?;
        ensure_state(stage, &live, &what, "ready", &response)?;
    }
    stage.control("ready before and after each draining");
    stage.observed(format!("{ROUNDS} times draining and ready, pid {}", daemon.pid()));
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
        let connect = || Connection::open(live.target.address, Instant::now() + PROBE);
        let Ok(early) = connect() else {
            return stage.inconclusive("no second connection to a ready daemon");
        };
        daemon.stop()?;
        rival.publish(&stage.record_path())?;
        let bytes = bearing(&live).bytes();
        let deadline = Instant::now() + PROBE;
        let sent = [Ok(early), connect()]
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
    stage.expect("draining with all members from the removal of the record until the exit");
    let Ok(early) = Connection::open(live.target.address, Instant::now() + PROBE) else {
        return stage.inconclusive("no further connection to a ready daemon");
    };
    daemon.signal(Signal::TERM)?;
    let path = stage.record_path();
    let removed = until(stage.stand_down_deadline(), LONGEST_POLL, || {
        (!path.exists()).then_some(())
    });
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
                ensure_state(stage, &live, "after SIGTERM", "draining", &response)?;
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

// The cases of profile `proof`.

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
            let response = answered(stage, &live, &what, &request)?;
            let coding = response.header("content-encoding").map(str::to_owned);
            let mac = response.header(proof::SCHEME).unwrap_or_default().to_owned();
            let mut altered = response.clone();
            altered.body = String::from_utf8_lossy(&response.body)
                .replace("ready", "draining")
                .into_bytes();
            stage.ensure(
                matches!(coding.as_deref(), None | Some("identity")),
                format!("{what}: Content-Encoding {coding:?}"),
            )?;
            ensure_proven_state(stage, &live, &what, "ready", response, &nonce)?;
            let altered = judge(altered, &live.target, &live.credential, &nonce).proof;
            stage.ensure(
                altered == DaemonProof::Wrong,
                format!("{what}: D is also right for an altered body"),
            )?;
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
    stage.ensure(
        macs.len() >= NONCES,
        format!(
            "{NONCES} nonces were answered with {} different proofs",
            macs.len()
        ),
    )
}

/// The `Authorization` texts of the test vectors: name, text, whether it is accepted.
fn vector_headers(nonce: &str, mac: &str) -> Result<Vec<(String, String, bool)>, Stop> {
    // The nonce and the MAC of the example in chapter 07.
    const NONCE: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8";
    const MAC: &str = "QYbCoHxuMHD-KdnYUreDPSmIQF32CGWDTQuKohldPzs";
    let fault = || Stop::Fault("spec/vectors/proof.json is not as expected".to_owned());
    let file: Value = serde_json::from_str(vectors::get("proof").ok_or_else(fault)?).map_err(|_| fault())?;
    let cases = file["cases"].as_array().ok_or_else(fault)?;
    let headers: Vec<_> = cases
        .iter()
        .filter(|case| case["kind"] == "authorization")
        .filter_map(|case| {
            let input = case["input"].as_str()?.replace(NONCE, nonce).replace(MAC, mac);
            Some((
                case["name"].as_str()?.to_owned(),
                input,
                case["accept"].as_bool()?,
            ))
        })
        .collect();
    if headers.is_empty() {
        Err(fault())
    } else {
        Ok(headers)
    }
}

fn proof_accepted_in_every_spelling(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200, ready and proven for each");
    let nonce = proof::nonce();
    let mac = proof::client_mac(&live.credential, &live.target.authority, &nonce);
    let mut spellings = 0;
    for (name, value, _) in vector_headers(&nonce, &mac)?
        .iter()
        .filter(|(_, _, accept)| *accept)
    {
        let response = answered(stage, &live, name, &authorized(&live, value))?;
        ensure_proven_state(stage, &live, name, "ready", response, &nonce)?;
        spellings += 1;
    }
    stage.observed(format!("{spellings} spellings were accepted"));
    Ok(())
}

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
            let responses = conversation(stage, &live, &requests, together)?;
            let how = if together {
                "sent together"
            } else {
                "one after another"
            };
            stage.observed(format!(
                "{how}: {} of {} were answered",
                responses.len(),
                requests.len()
            ));
            for (place, response) in responses.into_iter().enumerate() {
                let what = format!("{how}, request {}", place + 1);
                if place % 3 == 0 {
                    ensure_proven_state(stage, &live, &what, "ready", response, &nonces[place])?;
                } else {
                    without_proof(stage, &what, &response)?;
                    let status = response.status;
                    stage.ensure(status == 401, format!("{what}: answered {status}"))?;
                }
            }
        }
        Ok(())
    })
}

/// Proofs in the right form of two texts of 32 bytes, with a wrong MAC.
fn wrong_macs(live: &Live) -> Vec<Attempt> {
    let (authority, nonce) = (live.target.authority.as_str(), proof::nonce());
    let key = &live.credential;
    let right = proof::client_mac(key, authority, &nonce);
    let bytes = URL_SAFE_NO_PAD.decode(&right).unwrap_or_default();
    let mut macs: Vec<(String, String)> = Vec::new();
    for (byte, bit) in [
        (0, 0x80),
        (0, 0x01),
        (7, 0x10),
        (15, 0x01),
        (16, 0x80),
        (31, 0x80),
        (31, 0x01),
    ] {
        let mut bytes = bytes.clone();
        if let Some(byte) = bytes.get_mut(byte) {
            *byte ^= bit;
        }
        macs.push((
            format!("bit {bit:#04x} of byte {byte} flipped"),
            URL_SAFE_NO_PAD.encode(bytes),
        ));
    }
    let zeros = |kept: usize| {
        let mut cut = bytes.clone();
        cut.iter_mut().skip(kept).for_each(|byte| *byte = 0);
        URL_SAFE_NO_PAD.encode(cut)
    };
    let other = |what: &str, mac: String| (what.to_owned(), mac);
    macs.extend([
        other("all zeros", zeros(0)),
        other("the first byte and zeros", zeros(1)),
        other("the first half and zeros", zeros(16)),
        other("all but the last byte", zeros(31)),
        other(
            "another key",
            proof::client_mac(&Credential::random(), authority, &nonce),
        ),
        other(
            "a key of zeros",
            proof::client_mac(&Credential::from_bytes([0; 32]), authority, &nonce),
        ),
        other(
            "the daemon's label, of no body",
            proof::daemon_mac(key, authority, &nonce, b""),
        ),
        other(
            "another nonce",
            proof::client_mac(key, authority, &proof::nonce()),
        ),
        other("the nonce itself", nonce.clone()),
        other("the credential itself", key.text()),
        other(
            "nonce and authority changed places",
            proof::client_mac(key, &nonce, authority),
        ),
        other(
            "a newline at the end",
            proof::client_mac(key, authority, &format!("{nonce}\n")),
        ),
    ]);
    macs.into_iter()
        .map(|(what, mac)| (format!("MAC: {what}"), authorized(live, &proof_of(&nonce, &mac))))
        .collect()
}

fn wrong_mac_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for each, without a proof of the daemon");
    let mut attempts = wrong_macs(&live);
    // What a daemon has proven is not what a client has: its D does not come back as a MAC.
    let nonce = proof::nonce();
    let answer = answered(
        stage,
        &live,
        "a good proof",
        &live.target.proving(&live.credential, &nonce),
    )?;
    if let Some(mac) = answer.header(proof::SCHEME).and_then(proof::parse_daemon_proof) {
        attempts.push((
            "the daemon's own D for this nonce".to_owned(),
            authorized(&live, &proof_of(&nonce, &mac)),
        ));
    }
    between_proofs(stage, &live, |stage| {
        refused(stage, &live, &attempts, without_proof)
    })
}

/// Proofs that are not two texts of 32 bytes, with the right MAC over the nonce as it is sent.
fn malformed_proofs(live: &Live) -> Vec<(&'static str, String)> {
    let mac_of = |nonce: &str| proof::client_mac(&live.credential, &live.target.authority, nonce);
    let nonce = proof::nonce();
    let mac = mac_of(&nonce);
    let bytes = URL_SAFE_NO_PAD.decode(&nonce).unwrap_or_default();
    let mac_bytes = URL_SAFE_NO_PAD.decode(&mac).unwrap_or_default();
    let scheme = proof::SCHEME;
    // The 2 bits below the last character's 4 must be 0; a lenient decoder does not look.
    let loose = |text: &str| {
        let letters = [
            "A", "E", "I", "M", "Q", "U", "Y", "c", "g", "k", "o", "s", "w", "0", "4", "8",
        ];
        let next = [
            "B", "F", "J", "N", "R", "V", "Z", "d", "h", "l", "p", "t", "x", "1", "5", "9",
        ];
        let place = letters
            .iter()
            .position(|letter| *letter == &text[42..])
            .unwrap_or(0);
        format!("{}{}", &text[..42], next[place])
    };
    let of_nonce = |nonce: &str| proof_of(nonce, &mac_of(nonce));
    let other = proof::nonce();
    vec![
        ("no parameter", scheme.to_owned()),
        ("no nonce", format!("{scheme} mac=\"{}\"", mac_of(""))),
        ("no mac", format!("{scheme} nonce=\"{nonce}\"")),
        ("empty nonce", of_nonce("")),
        ("empty mac", proof_of(&nonce, "")),
        ("both empty", proof_of("", "")),
        ("nonce of one character", of_nonce("A")),
        (
            "nonce of 16 bytes",
            of_nonce(&URL_SAFE_NO_PAD.encode(&bytes[..16])),
        ),
        (
            "nonce of 31 bytes",
            of_nonce(&URL_SAFE_NO_PAD.encode(&bytes[..31])),
        ),
        (
            "nonce of 33 bytes",
            of_nonce(&URL_SAFE_NO_PAD.encode([bytes.as_slice(), &[1]].concat())),
        ),
        (
            "nonce of 64 bytes",
            of_nonce(&URL_SAFE_NO_PAD.encode(bytes.repeat(2))),
        ),
        ("nonce of 4 KiB", of_nonce(&"A".repeat(4096))),
        ("nonce with padding", of_nonce(&format!("{nonce}="))),
        ("nonce with a space before", of_nonce(&format!(" {nonce}"))),
        ("nonce with a space after", of_nonce(&format!("{nonce} "))),
        (
            "nonce in the standard alphabet",
            of_nonce(&format!("+/{}", &nonce[2..])),
        ),
        (
            "nonce with a dot",
            of_nonce(&format!("{}.{}", &nonce[..20], &nonce[21..])),
        ),
        ("nonce in hexadecimal", of_nonce(&proof::hex(&bytes))),
        ("nonce with loose bits", of_nonce(&loose(&nonce))),
        (
            "mac of 16 bytes",
            proof_of(&nonce, &URL_SAFE_NO_PAD.encode(&mac_bytes[..16])),
        ),
        (
            "mac of 31 bytes",
            proof_of(&nonce, &URL_SAFE_NO_PAD.encode(&mac_bytes[..31])),
        ),
        ("mac of one character", proof_of(&nonce, &mac[..1])),
        ("mac with a character more", proof_of(&nonce, &format!("{mac}A"))),
        ("mac with padding", proof_of(&nonce, &format!("{mac}="))),
        ("mac in hexadecimal", proof_of(&nonce, &proof::hex(&mac_bytes))),
        ("mac in upper case", proof_of(&nonce, &mac.to_ascii_uppercase())),
        ("mac with loose bits", proof_of(&nonce, &loose(&mac))),
        (
            "two nonces, the right one first",
            format!("{scheme} nonce=\"{nonce}\", nonce=\"{other}\", mac=\"{mac}\""),
        ),
        (
            "two nonces, the right one last",
            format!("{scheme} nonce=\"{other}\", nonce=\"{nonce}\", mac=\"{mac}\""),
        ),
        (
            "the same nonce twice",
            format!("{scheme} nonce=\"{nonce}\", nonce=\"{nonce}\", mac=\"{mac}\""),
        ),
        (
            "two macs, the right one first",
            format!("{scheme} nonce=\"{nonce}\", mac=\"{mac}\", mac=\"{other}\""),
        ),
        (
            "two macs, the right one last",
            format!("{scheme} nonce=\"{nonce}\", mac=\"{other}\", mac=\"{mac}\""),
        ),
        (
            "the same mac twice",
            format!("{scheme} nonce=\"{nonce}\", mac=\"{mac}\", mac=\"{mac}\""),
        ),
    ]
}

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
    for (name, value, accept) in vector_headers(&nonce, &mac)? {
        if !accept && !PUNCTUATION.contains(&name.as_str()) {
            attempts.push((name, authorized(&live, &value)));
        }
    }
    between_proofs(stage, &live, |stage| {
        refused(stage, &live, &attempts, without_proof)
    })
}

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
                (format!("MAC and Host of {authority:?}"), request)
            });
            std::iter::once((format!("MAC over {authority:?}"), sent)).chain(same_host)
        })
        .collect();
    between_proofs(stage, &live, |stage| {
        refused(stage, &live, &attempts, without_proof)
    })
}

fn relayed_proof_refused(stage: &mut Stage) -> Outcome {
    let (_first, one) = stage.launch_ready()?;
    let beside = further_state_dir(stage, "beside")?;
    let credential = std::fs::read(stage.credential_path())?;
    record::write_new(
        &beside.join(&stage.manifest().binding.credential),
        &credential,
        0o600,
    )?;
    let second = stage.launch_with(Start::new().state_dir(&beside))?;
    let two = stage.ready(&second)?;
    if one.credential != two.credential {
        return stage.inconclusive("the second daemon did not adopt the credential that was there");
    }
    stage.expect("401 from a daemon for a proof that was made for another port, and no proof to pass back");
    let relay = Squatter::relaying(one.target.address)
        .noted(stage.transcript(), "relay")
        .start(Bind::V4)?;
    let relayed = Target {
        path: one.target.path.clone(),
        ..Target::at(relay.address())
    };
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
                refused(stage, to, &[(what.to_owned(), proving)], without_proof)?;
            }
            // The victim's record names the relay's port: that is the authority of its proof.
            let nonce = proof::nonce();
            let answer = match stage
                .wire()
                .exchange(relay.address(), &relayed.proving(&one.credential, &nonce).bytes())
            {
                Ok(response) => judge(response, &relayed, &one.credential, &nonce),
                Err(fault) => return stage.fail(format!("through the relay: {fault}")),
            };
            if relay.ledger().requests().is_empty() {
                return stage.inconclusive("the relay saw no request");
            }
            let what = "a proof for the relay's port, passed on";
            stage.observed(format!(
                "{what}: status {}, proof {:?}",
                answer.response.status, answer.proof
            ));
            without_proof(stage, what, &answer.response)?;
            // The relay keeps the Host of its own port, which a daemon may refuse before it looks at anything else.
            stage.ensure(
                matches!(answer.response.status, 401 | 421),
                format!("{what}: answered {}", answer.response.status),
            )?;
            // One that also writes the Host anew gets no further.
            let request = Request::get(&one.target.authority, &one.target.path).header(
                "Authorization",
                &proof::authorization(&one.credential, &relayed.authority, &nonce),
            );
            let what = "the same with the daemon's own Host".to_owned();
            refused(stage, &one, &[(what, request)], without_proof)
        })
    })
}

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
        let read = stage.operation(&live, &read);
        attempts.push((
            "the authenticated read".to_owned(),
            read.clone().header("Authorization", &bearer),
        ));
        attempts.push(("the authenticated read, unauthenticated".to_owned(), read));
    }
    between_proofs(stage, &live, |stage| {
        for (what, request) in &attempts {
            let response = answered(stage, &live, what, request)?;
            without_proof(stage, what, &response)?;
        }
        stage.observed(format!("{} answers without the header", attempts.len()));
        Ok(())
    })
}

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
            routes.push((what.to_owned(), stage.operation(&live, operation), served));
        }
    }
    for path in ["/", "/v1", "/nothing-here", &format!("{}/", live.target.path)] {
        let request = Request::get(&live.target.authority, path);
        routes.push((format!("GET {path}"), request, false));
    }
    let served = |stage: &mut Stage, when: &str| -> Outcome {
        for (what, request, _) in routes.iter().filter(|(_, _, served)| *served) {
            let request = request
                .clone()
                .header("Authorization", &proof::bearer(&live.credential));
            let response = answered(stage, &live, what, &request)?;
            if !(200..300).contains(&response.status) {
                let summary = response.summary(stage.transcript());
                return stage.fail(format!("{what} with the bearer {when}: {summary}"));
            }
            stage.control(format!("{what} was served to the bearer {when}"));
        }
        Ok(())
    };
    between_proofs(stage, &live, |stage| {
        served(stage, "before")?;
        // The proof is good: the handshake takes it before and after.
        let own = authorized(&live, &value);
        let response = answered(stage, &live, "the proof at the handshake", &own)?;
        ensure_proven_state(
            stage,
            &live,
            "the proof at the handshake",
            "ready",
            response,
            &nonce,
        )?;
        for (what, request, _) in &routes {
            let fresh = proof::authorization(&live.credential, &live.target.authority, &proof::nonce());
            let attempts = [
                (
                    format!("{what}, with the replayed proof"),
                    request.clone().header("Authorization", &value),
                ),
                (
                    format!("{what}, with a fresh proof"),
                    request.clone().header("Authorization", &fresh),
                ),
            ];
            refused(stage, &live, &attempts, without_proof)?;
        }
        // A connection that has proven itself is no more trusted than any other.
        let requests: Vec<Vec<u8>> = routes
            .iter()
            .map(|(_, request, _)| request.clone().header("Authorization", &value).bytes())
            .collect();
        for request in &requests {
            let responses = conversation(stage, &live, &[&own.bytes(), request], false)?;
            let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
            stage.ensure(
                matches!(statuses[..], [200] | [200, 401]),
                format!("on a proven connection: {statuses:?}"),
            )?;
        }
        served(stage, "afterwards")?;
        stage.ensure(daemon.is_running(), "the daemon has ended")
    })
}

fn draining_is_proven_too(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("503, draining, all members and a right D");
    let proves = |stage: &mut Stage, what: &str| -> Outcome {
        let nonce = proof::nonce();
        let request = live.target.proving(&live.credential, &nonce);
        let response = answered(stage, &live, what, &request)?;
        stage.observed(format!("{what}: {}", response.summary(stage.transcript())));
        ensure_proven_state(stage, &live, what, "draining", response, &nonce)
    };
    between_proofs(stage, &live, |stage| {
        let bytes = hide_record(stage)?;
        for number in 1..=3 {
            proves(stage, &format!("proof {number} while the record cannot be read"))?;
        }
        restore_record(stage, &bytes)
    })
}

fn draining_before_it_publishes(stage: &mut Stage) -> Outcome {
    let start = yielding(stage)?;
    stage.arena().make_state_dir()?;
    let credential = Credential::random();
    stage.transcript().hide(credential.bytes());
    record::write_new(
        &stage.credential_path(),
        format!("{}\n", credential.text()).as_bytes(),
        0o600,
    )?;
    let squatter = Squatter::mute()
        .noted(stage.transcript(), "mute")
        .start(Bind::V4)?;
    let other = Record {
        url: squatter.url(),
        ..Rival::new()?.record
    };
    record::replace(&stage.record_path(), other.to_json().as_bytes(), 0o600)?;
    stage.expect("draining and proven as long as the record is another's, then ready");
    let daemon = stage.launch_with(start)?;
    let Some(address) = daemon.wait_listening(stage.ready_deadline()) else {
        return stage.inconclusive("the daemon was not seen to listen");
    };
    let target = Target {
        path: stage.manifest().binding.handshake.path.clone(),
        ..Target::at(address)
    };
    let mut before = 0;
    let deadline = stage.ready_deadline();
    while Instant::now() < deadline {
        let nonce = proof::nonce();
        let response = stage
            .wire()
            .exchange(address, &target.proving(&credential, &nonce).bytes());
        // Read after the answer: as long as it is another's, the daemon had not published when it answered.
        let owner = Record::parse(&std::fs::read(stage.record_path())?).map(|record| record.id);
        let published = owner != Ok(other.id.clone());
        let Ok(response) = response else {
            // Nothing says that it serves before it publishes; a bound of its own judges that it publishes.
            if published {
                break;
            } else {
                continue;
            };
        };
        if published {
            break;
        }
        if before == 0 {
            stage.precondition("the daemon listens and answers, and the record is another's");
        }
        before += 1;
        let answer = judge(response, &target, &credential, &nonce);
        let summary = answer.response.summary(stage.transcript());
        stage.ensure(
            answer.proof == DaemonProof::Valid,
            format!("before it has published: proof {:?}, {summary}", answer.proof),
        )?;
        let faults = faults(&answer.response);
        let state = member(&answer.response, "state");
        stage.ensure(
            faults.is_empty() && state.as_deref() == Some("draining"),
            format!("before it has published: {}; {summary}", faults.join(", ")),
        )?;
        if before >= 5 {
            break;
        }
    }
    stage.observed(format!(
        "{before} answers before it published, all of them draining"
    ));
    // Its look at the squatter ends, and so does its waiting.
    drop(squatter);
    let live = stage.ready(&daemon)?;
    stage.control(format!("it published {} and was ready", live.record.id));
    if before == 0 {
        return stage.not_applicable("the daemon answers nothing before it publishes");
    }
    Ok(())
}
