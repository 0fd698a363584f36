//! Chapter 12: the routes of the daemon's page.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::answer::{Answer, INVALID, NOT_FOUND, ORIGIN, Refusal, UNAUTHORIZED};
use crate::browser::faults;
use crate::browser::{
    HANDOFF, Kind, LIFE, PAGE, SHELL, TICKETS, TOKENS, WORKER, form_ticket, headers, html, nonce, ticket_of,
    token_of,
};
use crate::credential::Credential;
use crate::fault::broken;
use crate::perimeter::{HOSTS, Origin, Pass, is_page_host};
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
    let is_asked = ["GET", "HEAD"].contains(&request.method.as_str()) && request.path == SHELL;
    let is_left_out = broken("BROW-26.problem") || request.method == "HEAD" && broken("BROW-26.get-alone");
    if !is_asked || is_left_out {
        return None;
    }
    let token = faults::gives_unasked(request).then(|| {
        let own = format!("http://{}", request.header("Host").unwrap_or_default());
        daemon.origins.pages.token(&own, credential, &daemon.directory)
    });
    let status = if broken("BROW-26.open") { 200 } else { status };
    let mut shell = page(status, token.as_deref(), CACHE);
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

/// `Clear-Site-Data` at the page host: the storage, which holds the token of the page, stays.
const CACHE: &str = "\"cache\"";
/// `Clear-Site-Data` at a host where an earlier owner of the port may also have left something in the storage.
const CACHE_AND_STORAGE: &str = "\"cache\", \"storage\"";

/// An HTML answer.
fn page(status: u16, token: Option<&str>, clears: &str) -> Answer {
    let nonce = nonce();
    let bare = broken("BROW-22.page-alone") && token.is_none();
    Answer {
        headers: if bare { Vec::new() } else { headers(&nonce, clears) },
        content_type: "text/html; charset=utf-8",
        body: html(&nonce, token).into_bytes(),
        ..Answer::empty(status)
    }
}

/// Returns the answer to the reload of an earlier launch's page (BROW-43).
pub(super) fn gone(daemon: &Daemon, request: &Request) -> Option<Answer> {
    let host = request.header("Host").unwrap_or_default();
    let is_earlier = is_page_host(host) && Some(host) != daemon.page_authority().as_deref();
    if !is_earlier || !browses(request) || broken("BROW-43.problem") {
        return None;
    }
    let nonce = nonce();
    let html = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>subject</title>\
                <p>The daemon was started again since. Its page is opened by: daemonspec-subject open</p></html>\n";
    Some(Answer {
        headers: headers(&nonce, CACHE),
        content_type: "text/html; charset=utf-8",
        body: html.into(),
        ..Answer::empty(if broken("BROW-43.unauthorized") { 401 } else { 421 })
    })
}

/// Whether a browser shows the answer.
fn browses(request: &Request) -> bool {
    request.header("Accept").is_some_and(|accept| accept.contains("text/html"))
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
        PAGE => admit(daemon, request, credential, body),
        TICKETS => issue(daemon, body),
        HANDOFF => hand_off(daemon, origin, &own, credential, body),
        TOKENS => Ok(Answer::json(200, &pages.list())),
        path if ticket_of(path).is_some() => state(daemon, request, ticket_of(path)?),
        path => match token_of(path)? {
            id if pages.revoke(id) => Ok(Answer::empty(204)),
            _ => Err(NOT_FOUND),
        },
    })
}

/// Answers whether a ticket was redeemed, as soon as it is, or after the requested time.
fn state(daemon: &Daemon, request: &Request, id: &str) -> Result<Answer, Refusal> {
    let mut waits = request.parameters("wait_seconds");
    let seconds = match (waits.next(), waits.next()) {
        (None, _) => 0,
        (Some(seconds), None) => seconds.parse().ok().filter(|seconds| *seconds <= 30).ok_or(INVALID)?,
        _ => return Err(INVALID),
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let (kind, mut redeemed) = daemon.origins.pages.state(id).ok_or(NOT_FOUND)?;
    while !redeemed && Instant::now() < until && daemon.standing_down().is_none() {
        thread::sleep(Duration::from_millis(20));
        match daemon.origins.pages.state(id) {
            Some((_, now)) => redeemed = now,
            None => break,
        }
    }
    Ok(Answer::json(200, &json!({"id": id, "kind": kind, "redeemed": redeemed})))
}

fn issue(daemon: &Daemon, body: &[u8]) -> Result<Answer, Refusal> {
    let asked = parse_object(body).map_err(|_| INVALID)?;
    let text = |name: &str| asked.get(name).and_then(Value::as_str);
    let kind = match (text("kind"), asked.get("origin"), asked.get("host")) {
        (Some("page"), None, host) => Kind::Page(page_at(daemon, host)?),
        (Some("handoff"), Some(_), None) => {
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
    let mut answer = json!({"kind": kind.word(), "expires_in_seconds": LIFE.as_secs()});
    match &kind {
        Kind::Handoff(origin) => answer["origin"] = json!(origin),
        Kind::Page(at) => answer["page_url"] = json!(format!("http://{at}{PAGE}")),
    }
    let (ticket, id) = daemon.origins.pages.ticket(kind, &daemon.directory);
    answer["ticket"] = json!(ticket);
    answer["id"] = json!(id);
    Ok(Answer::json(201, &answer))
}

/// Returns where the page of a requested ticket is: at the page host, if there is one and no other host is requested.
fn page_at(daemon: &Daemon, host: Option<&Value>) -> Result<String, Refusal> {
    let own = daemon.page_authority().filter(|_| !broken("BROW-40.recorded-address"));
    let own = own.unwrap_or_else(|| daemon.authority());
    match host.map(|host| host.as_str().filter(|host| HOSTS.contains(host)).ok_or(INVALID)) {
        Some(host) if !broken("BROW-40.host-ignored") => Ok(format!("{}:{}", host?, daemon.address.port())),
        _ => Ok(own),
    }
}

/// Returns the origin of the record.
fn recorded(daemon: &Daemon, own: &str) -> String {
    if broken("BROW-34.as-addressed") {
        return own.to_owned();
    }
    format!("http://{}", daemon.authority())
}

fn admit(
    daemon: &Daemon,
    request: &Request,
    credential: &Credential,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let pages = &daemon.origins.pages;
    let Some(ticket) = form_ticket(request, body) else {
        return Err(NO_FORM);
    };
    let at = request.header("Host").unwrap_or_default();
    let own = format!("http://{at}");
    let why = match pages.redeem(&ticket, &Kind::Page(at.to_owned()), &recorded(daemon, &own), &daemon.log) {
        Ok(()) => {
            let token = pages.token(&own, credential, &daemon.directory);
            if broken("BROW-21.json") {
                return Ok(Answer::json(200, &json!({"token": token})));
            }
            let whole =
                broken("BROW-22.storage-cleared") || !is_page_host(at) && !broken("BROW-22.storage-kept");
            return Ok(page(200, Some(&token), if whole { CACHE_AND_STORAGE } else { CACHE }));
        }
        Err(why) => why,
    };
    let refusal = faults::refusal(why).unwrap_or(TICKET_REFUSED);
    if browses(request) && refusal == TICKET_REFUSED {
        return Ok(page(401, None, CACHE).with("WWW-Authenticate", "Bearer"));
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
