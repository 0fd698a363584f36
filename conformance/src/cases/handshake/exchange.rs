//! What the cases of the handshake send, and what they see in an answer.

use std::os::unix::fs::symlink;
use std::time::Instant;

use local_daemon_harness::http::{Connection, HttpFault, Request, Response, is_protocol};
use local_daemon_harness::{http, proof, record};
use serde_json::{Map, Value};

use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{PROBE, ReadyDaemon, Stage};

/// The one JSON object of an answer, or what HS-1 is broken by.
pub(super) fn object(response: &Response) -> Result<Map<String, Value>, String> {
    let media_type = response.media_type().unwrap_or_default();
    if media_type != "application/json" {
        return Err(format!("Content-Type is {media_type}", media_type = in_words(&media_type)));
    }
    record::parse_object(&response.body).map_err(|fault| format!("the body is {fault}"))
}

/// The members of the table in chapter 07 that are missing or of another type, by HS-2 and the handshake's schema.
pub(super) fn bad_members(body: &Map<String, Value>) -> Vec<&'static str> {
    let text =
        |name: &str, valid: fn(&str) -> bool| body.get(name).and_then(Value::as_str).is_some_and(valid);
    let pid = body.get("pid").and_then(Value::as_i64);
    let names: Option<Vec<&str>> = body
        .get("capabilities")
        .and_then(Value::as_array)
        .and_then(|list| list.iter().map(Value::as_str).collect());
    let distinct = |mut names: Vec<&str>| {
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        names.len() == all && !names.contains(&"")
    };
    [
        ("spec", text("spec", |spec| spec == "local-daemon/1")),
        ("protocol", text("protocol", is_protocol)),
        ("id", text("id", record::is_id)),
        ("pid", pid.is_some_and(|pid| (1..=i64::from(i32::MAX)).contains(&pid))),
        ("version", text("version", |_| true)),
        ("state", text("state", |word| matches!(word, "ready" | "draining"))),
        ("capabilities", names.is_some_and(distinct)),
    ]
    .into_iter()
    .filter_map(|(name, good)| (!good).then_some(name))
    .collect()
}

/// The answer tells this state, of the daemon whose record is `live`'s. Its other members are other cases' affair.
pub(super) fn ensure_state(live: &ReadyDaemon, what: &str, word: &str, response: &Response) -> Outcome {
    let (told, id) = (member(response, "state"), member(response, "id"));
    ensure!(
        told.as_deref() == Some(word) && id.as_deref() == Some(&live.record.id),
        "{what}: not {word} of id {}; the answer was {}",
        live.record.id,
        response.summary(live.transcript())
    );
    Ok(())
}

/// A `draining` answer has status 503 and the members of the ready one (HS-14).
pub(super) fn ensure_draining_like(
    live: &ReadyDaemon,
    what: &str,
    ready: &Response,
    response: &Response,
) -> Outcome {
    ensure_state(live, what, "draining", response)?;
    ensure!(response.status == 503, "{what}: draining with status {}", response.status);
    let names = |response: &Response| -> Vec<String> {
        object(response).map_or_else(|why| vec![why], |body| body.keys().cloned().collect())
    };
    let (wanted, seen) = (names(ready), names(response));
    ensure!(
        wanted == seen,
        "{what}: members {seen}, of a ready answer {wanted}",
        seen = in_words(&seen),
        wanted = in_words(&wanted)
    );
    Ok(())
}

/// Something that has to be refused, and what it is.
pub(super) type Attempt = (String, Request);

/// The good handshake of profile `core`.
pub(super) fn bearing(live: &ReadyDaemon) -> Request {
    live.target.bearing(&live.credential)
}

/// A request to the handshake with this `Authorization`.
pub(super) fn authorized(live: &ReadyDaemon, authorization: &str) -> Request {
    Request::get(&live.target.authority, &live.target.path).header("Authorization", authorization)
}

/// A proof of exactly these two texts.
pub(super) fn proof_of(nonce: &str, mac: &str) -> String {
    format!("{} nonce=\"{nonce}\", mac=\"{mac}\"", proof::SCHEME)
}

/// Sends bytes to a live daemon on a connection of their own. The transcript has only `what` they are: they may hold
/// half of a secret, which redaction does not recognise.
pub(super) fn quietly(live: &ReadyDaemon, what: &str, bytes: &[u8]) -> Result<Response, HttpFault> {
    live.transcript().note("suite", "request", what);
    let answer = http::exchange(live.target.address, bytes, Instant::now() + PROBE);
    let seen = match &answer {
        Ok(response) => response.summary(live.transcript()),
        Err(fault) => fault.to_string(),
    };
    live.transcript().note("suite", "answer", seen);
    answer
}

/// Sends a request that has to be answered; that it is not violates the requirements.
pub(super) fn answered(live: &ReadyDaemon, what: &str, request: &Request) -> Outcome<Response> {
    match quietly(live, what, &request.bytes()) {
        Ok(response) => Ok(response),
        Err(fault) => fail(format!("{what}: {fault}")),
    }
}

/// Sends each attempt and expects 401; what came is handed to `look`.
pub(super) fn refused(
    live: &ReadyDaemon,
    attempts: &[Attempt],
    mut look: impl FnMut(&str, &Response) -> Outcome,
) -> Outcome {
    for (what, request) in attempts {
        let response = answered(live, what, request)?;
        let summary = response.summary(live.transcript());
        ensure!(response.status == 401, "{what}: answered {summary}");
        look(what, &response)?;
    }
    live.observed(format!("{} requests were answered 401", attempts.len()));
    Ok(())
}

/// No header `Local-Daemon-Proof` (HS-22).
pub(super) fn without_proof(what: &str, response: &Response) -> Outcome {
    let carries = response.header(proof::SCHEME).is_some();
    ensure!(!carries, "{what}: the answer of status {} carries a proof", response.status);
    Ok(())
}

/// The answers to requests on one connection, as far as the daemon keeps it open: it may close after any answer.
pub(super) fn conversation(live: &ReadyDaemon, requests: &[&[u8]], together: bool) -> Outcome<Vec<Response>> {
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
        Err(fault) => fail(format!("{} requests on one connection: {fault}", requests.len())),
    }
}

/// The text of a member of an answer's body.
pub(super) fn member(response: &Response, name: &str) -> Option<String> {
    let body = response.json()?;
    match body.get(name)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Replaces the record, in one step, by something that no daemon can read and that is not "no such file": a symbolic
/// link to a directory. The daemon goes on, and has to answer `draining` (CONV-6, HS-16). Returns the record's bytes.
pub(super) fn hide_record(stage: &Stage) -> Outcome<Vec<u8>> {
    let path = stage.record_path();
    let bytes = std::fs::read(&path)?;
    let aside = stage.arena().path().join("unreadable");
    symlink(".", &aside)?;
    std::fs::rename(&aside, &path)?;
    stage.transcript().note("suite", "record", "is a symbolic link to a directory");
    Ok(bytes)
}

/// Puts the record back, in one step.
pub(super) fn restore_record(stage: &Stage, bytes: &[u8]) -> Outcome {
    record::replace(&stage.record_path(), bytes, 0o600)?;
    stage.transcript().note("suite", "record", "is as it was");
    Ok(())
}
