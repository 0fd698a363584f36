//! Chapter 12: the routes of the daemon's page.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::answer::{Answer, INVALID, NOT_FOUND, ORIGIN, Refusal, UNAUTHORIZED};
use crate::browser::faults;
use crate::browser::{
    HANDOFF, Kind, LIFE, PAGE, SHELL, TICKETS, TOKENS, WORKER, form_ticket, headers, html, nonce, token_of,
};
use crate::credential::Credential;
use crate::fault::broken;
use crate::perimeter::{Origin, Pass};
use crate::registration::parse_object;
use crate::request::Request;
use crate::state::Daemon;

/// Refusals of this chapter alone.
const TICKET_REFUSED: Refusal = Refusal(401, "ticket_refused", "Ticket refused");
const NOT_LISTED: Refusal = Refusal(400, "origin_not_listed", "Origin not listed");
const NO_FORM: Refusal = Refusal(415, "unsupported_media_type", "Not a form");

/// What is answered to the engine that asks for a service worker.
pub(super) fn worker(request: &Request) -> Option<Answer> {
    let asks = request.method == "GET" && request.header("Service-Worker") == Some("script");
    if !asks || broken("BROW-28.as-others") || broken("BROW-28.root-alone") && request.path != SHELL {
        return None;
    }
    let script = if broken("BROW-28.empty") { "// none\n" } else { WORKER };
    Some(Answer {
        content_type: if broken("BROW-28.html") { "text/html" } else { "text/javascript" },
        body: script.into(),
        ..Answer::empty(200)
    })
}

/// How a request comes in that has no credential.
pub(super) fn pass(
    daemon: &Daemon,
    request: &Request,
    origin: &Origin,
    credential: &Credential,
) -> Option<Pass> {
    let shows_nothing =
        request.headers("Authorization").next().is_none() && request.parameters("token").next().is_none();
    if request.method == "POST" && [PAGE, HANDOFF].contains(&request.path.as_str()) && shows_nothing {
        return Some(Pass::Ticket);
    }
    if faults::bears_ticket(request, &daemon.origins.pages) {
        return Some(Pass::Bearer);
    }
    let host = request.header("Host").unwrap_or_default();
    let id = daemon.origins.pages.bearer(request, host, origin, credential);
    id.map(Pass::Page)
}

/// Whether a stream that was opened by `pass` may go on.
pub(super) fn may_follow(daemon: &Daemon, pass: &Pass, opened: Instant) -> bool {
    match pass {
        Pass::Page(_) if broken("BROW-13.in-a-while") && opened.elapsed() < Duration::from_secs(10) => true,
        Pass::Page(id) => daemon.origins.pages.holds(id),
        _ => true,
    }
}

/// The shell, where that is what was asked for.
pub(super) fn shell(
    daemon: &Daemon,
    request: &Request,
    status: u16,
    credential: &Credential,
) -> Option<Answer> {
    if (request.method.as_str(), request.path.as_str()) != ("GET", SHELL) || broken("BROW-26.problem") {
        return None;
    }
    let token = faults::gives_unasked(request).then(|| {
        let own = format!("http://{}", daemon.authority());
        daemon.origins.pages.token(&own, credential, &daemon.directory)
    });
    let mut shell = page(if broken("BROW-26.open") { 200 } else { status }, token.as_deref());
    if broken("BROW-26.id") {
        let note = format!("<!-- {} -->\n", daemon.record.id);
        shell.body.extend_from_slice(note.as_bytes());
    }
    Some(if shell.status == 401 {
        shell.with("WWW-Authenticate", "Bearer")
    } else {
        shell
    })
}

/// An HTML answer.
fn page(status: u16, token: Option<&str>) -> Answer {
    let nonce = nonce();
    let bare = broken("BROW-22.page-alone") && token.is_none();
    Answer {
        headers: if bare { Vec::new() } else { headers(&nonce) },
        content_type: "text/html; charset=utf-8",
        body: html(&nonce, token).into_bytes(),
        ..Answer::empty(status)
    }
}

/// The routes of the chapter; `None` where it is another's.
pub(super) fn route(
    daemon: &Daemon,
    request: &Request,
    origin: &Origin,
    credential: &Credential,
    body: &[u8],
) -> Option<Result<Answer, Refusal>> {
    let pages = &daemon.origins.pages;
    let own = format!("http://{}", request.header("Host").unwrap_or_default());
    Some(match request.path.as_str() {
        SHELL => shell(daemon, request, 200, credential).ok_or(UNAUTHORIZED),
        PAGE => admit(daemon, request, &own, credential, body),
        TICKETS => issue(daemon, body),
        HANDOFF => hand_off(daemon, origin, &own, credential, body),
        TOKENS => Ok(Answer::json(200, &pages.list())),
        path => match token_of(path)? {
            id if pages.revoke(id) => Ok(Answer::empty(204)),
            _ => Err(NOT_FOUND),
        },
    })
}

fn issue(daemon: &Daemon, body: &[u8]) -> Result<Answer, Refusal> {
    let asked = parse_object(body).map_err(|_| INVALID)?;
    let text = |name: &str| asked.get(name).and_then(Value::as_str);
    let kind = match (text("kind"), asked.get("origin")) {
        (Some("page"), None) => Kind::Page,
        (Some("handoff"), Some(_)) => {
            let origin = text("origin").ok_or(INVALID)?;
            let listed = daemon.origins.admits(origin, &daemon.log);
            if !listed && broken("BROW-31.forbidden") {
                return Err(ORIGIN);
            }
            if !listed && !broken("BROW-31.issued") {
                return Err(NOT_LISTED);
            }
            Kind::Handoff(origin.to_owned())
        }
        _ => return Err(INVALID),
    };
    let mut answer = json!({"kind": text("kind"), "expires_in_seconds": LIFE.as_secs()});
    if let Kind::Handoff(origin) = &kind {
        answer["origin"] = json!(origin);
    }
    answer["ticket"] = json!(daemon.origins.pages.ticket(kind, &daemon.directory));
    Ok(Answer::json(201, &answer))
}

/// The origin of the record.
fn recorded(daemon: &Daemon, own: &str) -> String {
    if broken("BROW-34.as-addressed") {
        return own.to_owned();
    }
    format!("http://{}", daemon.authority())
}

fn admit(
    daemon: &Daemon,
    request: &Request,
    own: &str,
    credential: &Credential,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let pages = &daemon.origins.pages;
    let Some(ticket) = form_ticket(request, body) else {
        return Err(NO_FORM);
    };
    let why = match pages.redeem(&ticket, &Kind::Page, &recorded(daemon, own), &daemon.log) {
        Ok(()) => {
            let token = pages.token(own, credential, &daemon.directory);
            if broken("BROW-21.json") {
                return Ok(Answer::json(200, &json!({"token": token})));
            }
            return Ok(page(200, Some(&token)));
        }
        Err(why) => why,
    };
    let refusal = faults::refusal(why).unwrap_or(TICKET_REFUSED);
    let browses = request.header("Accept").is_some_and(|accept| accept.contains("text/html"));
    if browses && refusal == TICKET_REFUSED {
        return Ok(page(401, None).with("WWW-Authenticate", "Bearer"));
    }
    Err(refusal)
}

fn hand_off(
    daemon: &Daemon,
    origin: &Origin,
    own: &str,
    credential: &Credential,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let pages = &daemon.origins.pages;
    let asked = parse_object(body).map_err(|_| INVALID)?;
    let ticket = asked.get("ticket").and_then(Value::as_str).ok_or(INVALID)?;
    let from = match origin {
        Origin::Listed(origin) => origin.clone(),
        Origin::Same => own.to_owned(),
        Origin::Absent if broken("BROW-33.no-origin") => pages.origin_of(ticket).unwrap_or_default(),
        // No ticket is bound to none.
        Origin::Absent => String::new(),
    };
    match pages.redeem(ticket, &Kind::Handoff(from.clone()), &recorded(daemon, own), &daemon.log) {
        Ok(()) => {
            let bound = if broken("BROW-32.own-origin") { own } else { &from };
            let token = pages.token(bound, credential, &daemon.directory);
            let status = if broken("BROW-32.created") { 201 } else { 200 };
            Ok(Answer::json(status, &json!({"token": token, "origin": from})))
        }
        Err(why) => Err(faults::refusal(why).unwrap_or(TICKET_REFUSED)),
    }
}
