//! The routes, and what each answers.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::answer::{Answer, DRAINING, INVALID, Refusal, UNAUTHORIZED};
use crate::browser;
use crate::convergence;
use crate::credential::Credential;
use crate::fault::broken;
use crate::gate;
use crate::handshake::{self, Body, PROOF, SPEC};
use crate::notes;
use crate::perimeter::Pass;
use crate::product;
use crate::reason::Reason;
use crate::registration::{Found, Record, VERSION, parse_object};
use crate::request::Request;
use crate::state::Daemon;
use crate::state_directory::RECORD;
use crate::streams;

/// The routes, and the methods that each takes.
const ROUTES: &[(&str, &[&str])] = &[
    (handshake::PATH, &["GET"]),
    ("/v1/status", &["GET", "HEAD"]),
    ("/v1/shutdown", &["POST"]),
    (streams::PATH, &["GET", "HEAD", "POST"]),
    (browser::SHELL, &["GET", "HEAD"]),
    (browser::PAGE, &["POST"]),
    (browser::TICKETS, &["POST"]),
    (browser::HANDOFF, &["POST"]),
    (browser::TOKENS, &["GET", "HEAD"]),
];

pub(super) fn methods(path: &str) -> Option<&'static [&'static str]> {
    if browser::token_of(path).is_some() {
        return Some(&["DELETE"]);
    }
    if browser::ticket_of(path).is_some() {
        return Some(&["GET"]);
    }
    if product::is_on() {
        match path {
            product::PATH => return Some(&["POST"]),
            streams::PATH => return Some(&["GET", "HEAD"]),
            _ => {}
        }
    }
    let (_, methods) = ROUTES.iter().find(|(route, _)| *route == path)?;
    Some(match methods {
        ["GET", "HEAD"] if broken("PER-54.get-alone") => &["GET"],
        ["GET", "HEAD", "POST"] if broken("PER-54.get-alone") => &["GET", "POST"],
        methods => methods,
    })
}

/// The answer of a route whose method is right and whose body was read.
pub(super) fn route(
    daemon: &Daemon,
    request: &Request,
    pass: &Pass,
    credential: &Credential,
    body: &[u8],
) -> Result<Answer, Refusal> {
    match request.path.as_str() {
        handshake::PATH => {
            if broken("PUB-4.first-answer-late") && daemon.began.elapsed() < Duration::from_secs(2) {
                thread::sleep(Duration::from_millis(2_200));
            }
            let state = handshake_body(daemon);
            let bytes = state.to_json();
            let accept = request.header("Accept").unwrap_or_default();
            match () {
                () if broken("HS-1.redirect") => {
                    return Ok(Answer::empty(307).with("Location", format!("{}/", handshake::PATH)));
                }
                () if broken("HS-1.only-to-json") && !accept.contains("json") => {
                    return Err(Refusal(406, "not_acceptable", "Not acceptable"));
                }
                () if broken("HS-1.browsers") && accept.contains("text/html") => {
                    return Ok(Answer::empty(303).with("Location", "/"));
                }
                () if matches!(pass, Pass::Proof(_))
                    && handshake::is_replayed(request.header("Authorization")) =>
                {
                    return Err(UNAUTHORIZED);
                }
                () if broken("HS-14.no-body") && !state.ready => return Err(DRAINING),
                () => {}
            }
            let status = if state.ready || broken("HS-14.status-200") { 200 } else { 503 };
            let mut answer = Answer::empty(status);
            answer.content_type = if broken("HS-1.text") { "text/html" } else { "application/json" };
            let unreadable = || matches!(Record::read(&daemon.directory, RECORD), Found::Refused(_));
            let leaves_out = broken("HS-21.unproven")
                || broken("HS-21.not-while-draining") && !state.ready
                || broken("HS-21.not-of-an-error") && unreadable();
            match pass {
                Pass::Proof(claim) if !leaves_out => {
                    let proof = claim.answer(credential, &daemon.authority(), &bytes);
                    if broken("HS-21.twice") {
                        answer = answer.with(PROOF, proof.clone());
                    }
                    answer = answer.with(PROOF, proof);
                }
                Pass::Bearer if broken("HS-22.to-a-bearer") => {
                    let claim = handshake::Claim::of(credential, &daemon.authority(), "");
                    answer = answer.with(PROOF, claim.answer(credential, &daemon.authority(), &bytes));
                }
                _ => {}
            }
            answer.body = bytes;
            Ok(answer)
        }
        "/v1/status" if broken("CRED-9.status") => {
            let mut status = status(daemon);
            status["token"] = json!(credential.text());
            Ok(Answer::json(200, &status))
        }
        "/v1/status" => {
            // Whoever has changed a file asks this, so that the next change is not the first that is seen.
            daemon.follow_files();
            Ok(Answer::json(200, &status(daemon)))
        }
        "/v1/shutdown" => shut_down(daemon, body),
        product::PATH if product::is_on() => product::post(daemon, body),
        _ => notes::note(daemon, body),
    }
}

/// Begins the end, if it is this daemon that is meant.
fn shut_down(daemon: &Daemon, body: &[u8]) -> Result<Answer, Refusal> {
    const OTHER: Refusal = Refusal(409, "not_this_daemon", "Not this daemon");
    const BUSY: Refusal = Refusal(409, "busy", "Busy");
    let asked = parse_object(body).map_err(|_| INVALID)?;
    let id = asked.get("id").and_then(Value::as_str).ok_or(INVALID)?;
    if id != daemon.record.id {
        return Ok(Answer::problem(OTHER, &json!({"id": daemon.record.id})));
    }
    let if_idle = match asked.get("if_idle") {
        None => false,
        Some(if_idle) => if_idle.as_bool().ok_or(INVALID)?,
    };
    let busy = daemon.stand_down_unless(Reason::Requested, |state| {
        let (requests, streams) = (state.requests - 1, state.streams);
        let active = || json!({"requests": requests, "streams": streams, "sessions": 0, "proxies": 0});
        (if_idle && requests + streams > 0).then(active)
    });
    // The drain waits until this answer was sent.
    Ok(match busy {
        Ok(()) => Answer::json(202, &json!({"id": id})),
        Err(active) => Answer::problem(BUSY, &json!({"active": active})),
    })
}

/// The answer to a handshake at this moment, by a new look at the record.
fn handshake_body(daemon: &Daemon) -> Body {
    let leaving = match daemon.standing_down() {
        Some(Reason::Displaced(_)) if broken("CONV-11.ready-again") => false,
        Some(Reason::Signal | Reason::Requested) if broken("HS-16.ready-to-the-end") => false,
        reason => reason.is_some(),
    };
    let sees_itself = broken("HS-15.last-look")
        || broken("HS-15.same-file") && convergence::is_same_file(&daemon.directory)
        || broken("HS-16.ready-to-the-end");
    let owns =
        sees_itself || handshake::first_look(|| convergence::owns(&daemon.directory, &daemon.record.id));
    let ready = handshake::tells_ready(owns && !leaving);
    Body {
        spec: SPEC.to_owned(),
        protocol: gate::told(&daemon.protocol),
        id: daemon.record.id.clone(),
        pid: if broken("HS-3.parent") {
            std::os::unix::process::parent_id()
        } else {
            daemon.record.pid
        },
        version: VERSION.to_owned(),
        ready,
        capabilities: browser::faults::capabilities(vec!["events".to_owned()], daemon.page_host.as_deref()),
    }
}

pub(super) fn status(daemon: &Daemon) -> Value {
    let body = handshake_body(daemon);
    let time = |time| humantime::format_rfc3339_millis(time).to_string();
    let state = daemon.state();
    json!({
        "spec": SPEC,
        "protocol": body.protocol,
        "id": body.id,
        "pid": body.pid,
        "version": VERSION,
        "capabilities": body.capabilities,
        "state": if body.ready { "ready" } else { "draining" },
        "mode": "manual",
        "started_at": time(daemon.started_at),
        "uptime_seconds": daemon.began.elapsed().as_secs(),
        "url": daemon.record.url,
        "socket": null,
        "active_requests": state.requests - 1,
        "streams": state.streams,
        "sessions": 0,
        "proxies": 0,
        "last_activity": time(state.last_activity.unwrap_or(daemon.started_at)),
        "idle_timeout_seconds": null,
        "idle_deadline": null,
        "memory_bytes": resident_bytes(),
        "log_path": null,
    })
}

/// What the process holds in memory.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
