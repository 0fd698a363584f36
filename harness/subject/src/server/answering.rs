//! Answers one request that has passed the checks.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::pages;
use super::routes::{methods, route, status};
use crate::answer::{
    Answer, DRAINING, FORBIDDEN, INVALID, METHOD, MISDIRECTED, NOT_FOUND, OVERLOADED, Refusal, UNAUTHORIZED,
};
use crate::browser;
use crate::credential::Credential;
use crate::fault::broken;
use crate::handshake::{self, PROOF};
use crate::notes;
use crate::perimeter::{self, Origin, Pass};
use crate::reason::Reason;
use crate::registration::{Found, Record, authority};
use crate::request::{BODY, Incoming, NoRequest, Request};
use crate::state::{Daemon, State};
use crate::state_directory::RECORD;
use crate::streams;

/// The most handshakes that are refused by a 401 at once, and how many of them a second forgives.
const REFUSED_HANDSHAKES: u32 = 1_500;
const FORGIVEN: f64 = 200.0;
/// The longest body of a request that has not authenticated, and how long the whole of it may take.
const STRANGER_BODY: usize = 4 * 1024;
const STRANGER_BODY_TIME: Duration = Duration::from_secs(4);

/// Whether a faulty daemon answers a request that shows nothing.
fn is_open_to(request: &Request, earlier: bool) -> bool {
    let handshake = request.path == handshake::PATH;
    let bare = request.headers("Authorization").next().is_none();
    bare && handshake && request.method == "GET" && broken("HS-6.open")
        || bare && handshake && earlier && broken("HS-6.once-per-connection")
        || bare && !handshake && earlier && broken("HS-8.once-per-connection")
        || request.path == "/v1/status" && request.method == "GET" && broken("HS-8.status-open")
        || request.method == "HEAD" && broken("HS-8.head-open")
        || request.method == "OPTIONS" && broken("HS-8.options-open")
}

/// Answers a request; `false` if the connection ends with it.
pub(super) fn answer(daemon: &Arc<Daemon>, incoming: &mut Incoming, request: &Request) -> io::Result<bool> {
    let mut respelt = request.clone();
    respelt.path = perimeter::faults::respelt(&request.path);
    let is_respelt =
        broken("PER-1.spelling") && methods(&request.path).is_none() && methods(&respelt.path).is_some();
    let request = if is_respelt { &respelt } else { request };
    let trusted = is_respelt || broken("PER-1.first-of-a-connection") && incoming.trusted;
    let (port, served) = (daemon.address.port(), methods(&request.path).is_some());
    let bears = || {
        let (credential, _) = daemon.credential.current();
        perimeter::authenticate(request, &daemon.authority(), &credential).is_some()
    };
    let listed = |origin: &str| daemon.origins.admits(origin, &daemon.log);
    let page = daemon.page_host.as_deref();
    let mut host = perimeter::host(request, port, page, served);
    if broken("PER-1.origin-before-host") {
        let named = request.headers("Host").next().unwrap_or_default();
        host = perimeter::origin(request, named, listed).and(host);
    }
    let origin = host.and_then(|host| match perimeter::origin(request, host, listed) {
        Err(_)
            if perimeter::faults::unjudged_origin(
                request,
                port,
                served,
                broken("PER-8.with-credential") && bears(),
            ) =>
        {
            Ok(Origin::Absent)
        }
        judged => judged,
    });
    // What every answer to this request carries, also where it is refused for its `Host`.
    let reader = match &origin {
        Ok(Origin::Listed(origin)) => Some(origin.clone()),
        Ok(_) => None,
        Err(_) => perimeter::reader(request, listed),
    };
    let mut shared = reader.map_or_else(Vec::new, |origin| {
        let mut headers = vec![
            ("Access-Control-Allow-Origin", origin),
            ("Vary", "Origin".to_owned()),
        ];
        if !broken("PER-51.unexposed") {
            headers.push(("Access-Control-Expose-Headers", "local-daemon-protocol, retry-after".to_owned()));
        }
        headers
    });
    perimeter::faults::share(&mut shared, &origin, request);
    let origin = browser::page_origin(request, origin);
    let finish = |incoming: &Incoming, mut answer: Answer, body_is_read: bool| {
        let is_handshake = request.path == handshake::PATH && answer.content_type == "application/json";
        let is_json = broken("PER-37.never")
            || broken("PER-37.not-for-errors") && answer.status >= 400
            || is_handshake && !broken("PER-37.handshake-too");
        if !is_json && prefers_plain(request) {
            answer = answer.in_plain_text();
        }
        if answer.status < 400 || !broken("PER-13.not-for-errors") {
            answer.headers.extend(shared.clone());
        }
        browser::faults::set_cookie(request, &mut answer);
        if answer.status >= 400 && broken("PER-47.each-refusal") {
            eprintln!("refused {} with {}", request.method, answer.status);
        }
        if answer.status >= 400 && broken("PER-47.warns") {
            daemon
                .log
                .append("warning", &json!({"code": "refused", "message": "A request was refused."}));
        }
        let closes = !request.modern
            || request.wants("close")
            || !body_is_read
            || request.path == handshake::PATH && broken("HS-34.closes");
        answer.write(&incoming.stream, closes, request.method != "HEAD")?;
        Ok(!closes)
    };
    let no_body = !request.has_body();
    if broken("PER-44.read-first") && !no_body {
        match incoming.body(request, BODY) {
            Ok(body) => incoming.ahead = Some(body),
            Err(NoRequest::Refused(refusal)) => return finish(incoming, refusal.into(), false),
            Err(NoRequest::Closed) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let is_preflight = perimeter::is_preflight(request);
    if broken("PER-28.at-once") && perimeter::faults::upgrades(request) {
        return finish(incoming, Answer::empty(101), no_body);
    }
    if broken("PER-1.authentication-first") && !is_preflight && !bears() {
        return finish(incoming, UNAUTHORIZED.into(), no_body);
    }
    if broken("HS-14.turned-away") && daemon.standing_down() == Some(Reason::Signal) {
        return finish(incoming, DRAINING.into(), no_body);
    }
    if broken("PER-1.route-first") && !served {
        return finish(incoming, NOT_FOUND.into(), no_body);
    }
    let origin = match origin {
        Ok(origin) => origin,
        Err(refusal) if broken("PER-2.note-kept") && request.method == "POST" && bears() => {
            let body = incoming.body(request, BODY).unwrap_or_default();
            let _ = notes::note(daemon, &body);
            return finish(incoming, refusal.into(), false);
        }
        Err(refusal) if broken("PER-2.shutdown-obeyed") && request.path == "/v1/shutdown" && bears() => {
            daemon.stand_down(Reason::Requested);
            return finish(incoming, refusal.into(), no_body);
        }
        Err(_) if broken("PER-8.preflight-answered") && is_preflight => {
            return finish(incoming, Answer::empty(204), no_body);
        }
        Err(MISDIRECTED) if let Some(gone) = pages::gone(daemon, request) => {
            return finish(incoming, gone, no_body);
        }
        Err(refusal) => return finish(incoming, request.excess.unwrap_or(refusal).into(), no_body),
    };
    if let Some(excess) = request.excess {
        return finish(incoming, excess.into(), no_body);
    }
    if matches!(origin, Origin::Listed(_)) && perimeter::faults::preflight(request) {
        if broken("PER-15.authenticates") && !bears() {
            return finish(incoming, UNAUTHORIZED.into(), no_body);
        }
        perimeter::faults::remember(&origin);
        let mut answer = match () {
            () if broken("PER-15.with-a-body") => Answer::json(200, &json!({})),
            () => Answer::empty(204),
        };
        answer = answer.with("Access-Control-Allow-Headers", perimeter::faults::preflight_headers(request));
        if !broken("PER-18.left-out") {
            let seconds = if broken("PER-18.day") { "86400" } else { "60" };
            answer = answer.with("Access-Control-Max-Age", seconds);
        }
        let methods = methods(&request.path).map(|methods| methods.join(", "));
        if let Some(methods) = perimeter::faults::preflight_methods(methods, request) {
            answer = answer.with("Access-Control-Allow-Methods", methods);
        }
        return finish(incoming, answer, no_body);
    }
    if let Some(worker) = pages::worker(request) {
        return finish(incoming, worker, no_body);
    }
    let known = methods(&request.path);
    if broken("PER-20.harmless") && request.method == "OPTIONS" {
        return finish(incoming, Answer::empty(204).with("Allow", "OPTIONS"), no_body);
    }
    if broken("PER-28.no-authentication") && perimeter::faults::upgrades(request) {
        return finish(incoming, Answer::problem(INVALID, &Value::Null), no_body);
    }
    if broken("PER-21.unknown-path-first") && known.is_none() {
        return finish(incoming, NOT_FOUND.into(), no_body);
    }
    if broken("PER-21.method-first")
        && known.is_some_and(|methods| !methods.contains(&request.method.as_str()))
    {
        return finish(incoming, METHOD.into(), no_body);
    }
    let is_handshake = request.path == handshake::PATH;
    let crowded = broken("PER-29.few-handshakes") && daemon.count(|state| state.is_flooded(100))
        || broken("PER-32.all-counted") && daemon.count(|state| state.is_flooded(REFUSED_HANDSHAKES));
    if is_handshake && crowded {
        return finish(incoming, OVERLOADED.into(), no_body);
    }
    let (credential, _) = daemon.credential.current();
    daemon.origins.pages.follow(&credential);
    log(daemon, request);
    perimeter::faults::log(request);
    // A page never has the credential: if it is presented at the page host, that is a mistake (BROW-38).
    let named = [request.header("Host"), request.authority.as_deref()];
    let at_page = page.is_some() && named.contains(&daemon.page_authority().as_deref());
    let withheld = at_page && !browser::faults::takes_credential(request, is_handshake);
    let passes = |credential: &_| {
        let pass = perimeter::authenticate(request, &daemon.authority(), credential);
        pass.filter(|_| !withheld)
    };
    let passes_by_fault = || {
        let open = (trusted || daemon.credential.is_open()).then_some(Pass::Bearer);
        let recorded = || match Record::read(&daemon.directory, RECORD) {
            Found::Record(there) => perimeter::authenticate(request, authority(&there.url)?, &credential),
            _ => None,
        };
        open.or_else(|| daemon.credential.retired().iter().find_map(passes))
            .or_else(|| broken("HS-20.record-of-now").then(recorded)?)
    };
    let earlier = std::mem::replace(&mut incoming.passed, false);
    let open = || is_open_to(request, earlier).then_some(Pass::Bearer);
    let by_page = || pages::pass(daemon, request, &origin, &credential);
    let passed = passes(&credential).or_else(by_page).or_else(passes_by_fault).or_else(open);
    incoming.passed = earlier || passed.is_some();
    let known = methods(&request.path);
    if passed.is_none() && known.is_none() && broken("HS-8.not-found-first") {
        return finish(incoming, NOT_FOUND.into(), no_body);
    }
    let taken = known.is_none_or(|methods| methods.contains(&request.method.as_str()));
    if passed.is_none() && !taken && broken("HS-8.method-first") {
        return finish(incoming, METHOD.into(), no_body);
    }
    let passed = passed.map(|pass| match pass {
        Pass::Proof(claim) if broken("HS-21.first-of-a-connection") => {
            Pass::Proof(incoming.first.get_or_insert(claim).clone())
        }
        pass => pass,
    });
    let Some(pass) = passed else {
        if let Some(shell) = pages::shell(daemon, request, 401, &credential) {
            return finish(incoming, shell, no_body);
        }
        let header = || {
            String::from_utf8_lossy(request.headers("Authorization").next().unwrap_or_default()).into_owned()
        };
        if broken("CRED-8.refused-header") {
            eprintln!("refused {}", header());
        }
        if is_handshake
            && !broken("PER-31.every-handshake")
            && daemon.count(|state| state.is_flooded(REFUSED_HANDSHAKES))
        {
            return finish(incoming, OVERLOADED.into(), no_body);
        }
        if broken("PER-23.body") {
            let body = incoming.body(request, BODY).unwrap_or_default();
            let body = String::from_utf8_lossy(&body).into_owned();
            if body.contains(&credential.text()) {
                return finish(incoming, Answer::json(200, &status(daemon)), true);
            }
        }
        if broken("PER-21.names-the-path") {
            let more = json!({"detail": format!("{} wants a bearer", request.path)});
            return finish(incoming, Answer::problem(UNAUTHORIZED, &more), no_body);
        }
        if broken("PER-21.hints") && header().contains(&credential.text()[..8]) {
            let more = json!({"detail": "nearly"});
            return finish(incoming, Answer::problem(UNAUTHORIZED, &more), no_body);
        }
        let repeats = broken("CRED-9.header-repeated");
        let more = if repeats { json!({"detail": header()}) } else { Value::Null };
        let more = if broken("HS-9.id-in-the-problem") {
            json!({"instance": daemon.record.id})
        } else {
            more
        };
        let mut refused = Answer::problem(UNAUTHORIZED, &more);
        if request.path == handshake::PATH {
            refused = refused_handshake(daemon, request, &credential, refused);
        }
        return finish(incoming, refused, no_body);
    };
    incoming.trusted = true;
    let is_stranger = matches!(pass, Pass::Ticket);
    if !is_stranger {
        daemon.state().strangers.leave(incoming.number);
    }
    let Some(methods) = methods(&request.path) else {
        let repeats = broken("CRED-9.path-repeated");
        let more = if repeats { json!({"detail": request.path}) } else { Value::Null };
        return finish(incoming, Answer::problem(NOT_FOUND, &more), no_body);
    };
    if broken("CRED-9.topics-repeated")
        && let Some(topics) = request.parameters("topics").next()
    {
        let more = json!({"detail": format!("there is no topic {topics}")});
        return finish(incoming, Answer::problem(INVALID, &more), no_body);
    }
    if !methods.contains(&request.method.as_str()) {
        if broken("PER-36.method-not-found") {
            return finish(incoming, NOT_FOUND.into(), no_body);
        }
        if broken("PER-36.no-allow") {
            return finish(incoming, METHOD.into(), no_body);
        }
        let allowed = match methods {
            [first, ..] if broken("PER-36.first-method") => (*first).to_owned(),
            methods if broken("PER-36.more-methods") => format!("{}, DELETE", methods.join(", ")),
            methods => methods.join(", "),
        };
        return finish(incoming, Answer::from(METHOD).with("Allow", allowed), no_body);
    }
    if matches!(pass, Pass::Page(_)) && browser::is_withheld(request) {
        return finish(incoming, FORBIDDEN.into(), no_body);
    }
    let (method, path) = (request.method.as_str(), request.path.as_str());
    if (method, path) == ("HEAD", streams::PATH) {
        let answer = Answer { content_type: "text/event-stream", ..Answer::empty(200) };
        return finish(incoming, answer, no_body);
    }
    if (method, path) == ("GET", streams::PATH) {
        let wish = match streams::wish(request, &daemon.log) {
            Ok(_) if daemon.standing_down().is_some() && !broken("STR-6.opens") => Err(DRAINING),
            wish => wish,
        };
        return match wish {
            Ok(wish) => {
                let by = (&origin, &pass, &credential);
                stream(daemon, incoming, request, by, &wish, shared.clone()).map(|()| false)
            }
            Err(refusal) if broken("CRED-9.topics-repeated") => {
                let more = json!({"detail": format!("{:?}", request.query)});
                finish(incoming, Answer::problem(refusal, &more), no_body)
            }
            Err(refusal) => finish(incoming, refusal.into(), no_body),
        };
    }
    let _work = (!is_stranger || broken("PER-46.counted")).then(|| Work::begin(daemon));
    let unlimited = broken("STR-8.megabyte")
        || broken("STR-8.appended")
        || broken("STR-8.data-alone")
        || broken("STR-8.announced-alone") && request.header("Content-Length").is_none();
    incoming.body_until =
        (is_stranger && !broken("PER-45.as-others")).then(|| Instant::now() + STRANGER_BODY_TIME);
    let most = if is_stranger && !broken("PER-44.of-the-route") {
        STRANGER_BODY
    } else if broken("PER-29.short-body") {
        16 * 1024
    } else if request.path == streams::PATH && !unlimited {
        notes::MOST
    } else {
        BODY
    };
    match incoming.body(request, most) {
        Ok(body) => {
            let answer = pages::route(daemon, request, &origin, &credential, &body)
                .unwrap_or_else(|| route(daemon, request, &pass, &credential, &body))
                .unwrap_or_else(Answer::from);
            finish(incoming, answer, true)
        }
        Err(NoRequest::Refused(refusal)) => finish(incoming, refusal.into(), false),
        Err(NoRequest::Closed) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// What a faulty daemon makes of a refused handshake.
fn refused_handshake(daemon: &Daemon, request: &Request, credential: &Credential, refused: Answer) -> Answer {
    let unauthenticated = request.headers("Authorization").next().is_none();
    if broken("HS-6.forbidden") && unauthenticated {
        return Answer::from(Refusal(403, "forbidden", "Forbidden"));
    }
    if broken("HS-6.no-challenge") && unauthenticated {
        return Answer { headers: Vec::new(), ..refused };
    }
    if broken("HS-22.for-anybody")
        && let Some(claim) = request.header("Authorization").and_then(handshake::Claim::parse)
    {
        let proof = claim.answer(credential, &daemon.authority(), &refused.body);
        return refused.with(PROOF, proof);
    }
    refused
}

/// What a faulty daemon writes down about a request.
fn log(daemon: &Daemon, request: &Request) {
    if broken("CRED-8.request-line") {
        eprintln!("{} {} {:?}", request.method, request.path, request.query);
    }
    if broken("CRED-8.debug") && std::env::var_os("SUBJECT_LOG").is_some() {
        eprintln!("{} {}", request.method, request.path);
    }
    if broken("CRED-8.percent-encoded") || broken("CRED-8.longer-word") {
        let secret = daemon.credential.current().0.text();
        let path = if broken("CRED-8.percent-encoded") {
            request.path.replace(&secret, "[redacted]")
        } else {
            let is_secret_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let words = request.path.split_inclusive(|c| !is_secret_char(c));
            words.filter(|word| word.trim_end_matches(|c| !is_secret_char(c)) != secret).collect()
        };
        eprintln!("{} {path}", request.method);
    }
    if broken("CRED-8.log-file") {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(daemon.directory.file("daemon.log"));
        let _ = log.and_then(|mut log| writeln!(log, "{request:?} {:?}", request.header("Authorization")));
    }
}

impl State {
    /// Counts a handshake that is refused, and tells whether there were more than `most` beyond what a second forgives.
    fn is_flooded(&mut self, most: u32) -> bool {
        let since = self.refused_at.replace(Instant::now());
        let forgiven = since.map_or(0.0, |since| since.elapsed().as_secs_f64() * FORGIVEN);
        self.refused = (self.refused - forgiven).max(0.0) + 1.0;
        self.refused > f64::from(most)
    }
}

/// A request in progress.
struct Work<'a>(&'a Daemon);

impl<'a> Work<'a> {
    fn begin(daemon: &'a Daemon) -> Self {
        daemon.count(|state| state.requests += 1);
        Self(daemon)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.count(|state| {
            state.requests -= 1;
            state.last_activity = Some(SystemTime::now());
        });
    }
}

/// Whether `text/plain` is preferred to JSON.
fn prefers_plain(request: &Request) -> bool {
    let headers = if broken("PER-37.first-header") { 1 } else { usize::MAX };
    let accepted = request
        .headers("Accept")
        .take(headers)
        .filter_map(|value| std::str::from_utf8(value).ok());
    let weight = |range: &str| {
        let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
        let kind = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| Some(part.strip_prefix("q=")?.parse().unwrap_or(0.0)));
        (kind, quality.unwrap_or(1.0))
    };
    let ranges: Vec<(String, f64)> = accepted.flat_map(|value| value.split(',')).map(weight).collect();
    let named = |kind: &&str| ranges.iter().find(|(range, _)| range == kind).map(|(_, quality)| *quality);
    // The first of the kinds that is named counts: the others are wider.
    let of = |kinds: &[&str]| kinds.iter().find_map(named).unwrap_or(0.0);
    let json = ["application/json", "application/*", "*/*"];
    let json = match () {
        () if broken("PER-37.named-alone") => of(&json[..1]),
        () if broken("PER-37.widest") => json.iter().filter_map(named).fold(0.0, f64::max),
        () => of(&json),
    };
    of(&["text/plain", "text/*", "*/*"]) > json
}

/// Serves the event stream.
fn stream(
    daemon: &Daemon,
    incoming: &Incoming,
    request: &Request,
    (origin, pass, credential): (&Origin, &Pass, &Credential),
    wish: &streams::Wish,
    shared: Vec<(&'static str, String)>,
) -> io::Result<()> {
    struct Open<'a>(&'a Daemon);
    impl Drop for Open<'_> {
        fn drop(&mut self) {
            if !broken("STR-24.counted") {
                self.0.count(|state| state.streams -= 1);
            }
        }
    }
    daemon.count(|state| state.streams += 1);
    let _open = Open(daemon);
    let mut answer = Answer::empty(200);
    answer.content_type = if broken("STR-1.plain-text") {
        "text/plain; charset=utf-8"
    } else {
        "text/event-stream"
    };
    answer.headers.extend(shared);
    let mut head = answer.head(true);
    if broken("STR-1.storable") {
        head = head.replace("no-store", "no-cache");
    }
    if broken("STR-2.withheld") {
        daemon.log.wait_for_an_event();
    }
    if request.modern {
        head += "Transfer-Encoding: chunked\r\n";
    }
    (&*incoming.stream).write_all(format!("{head}\r\n").as_bytes())?;
    let opened = Instant::now();
    let wanted = || match origin {
        Origin::Listed(_) if broken("PER-42.goes-on") => true,
        Origin::Listed(_) if broken("PER-42.in-a-while") && opened.elapsed() < Duration::from_secs(10) => {
            true
        }
        Origin::Listed(origin) => daemon.origins.admits(origin, &daemon.log),
        _ => true,
    };
    let replaced = || match () {
        () if broken("CRED-16.go-on") => false,
        () if broken("CRED-16.in-a-while") && opened.elapsed() < Duration::from_secs(10) => false,
        () => daemon.credential.current().0 != *credential,
    };
    let wanted = || wanted() && pages::may_follow(daemon, pass, opened) && !replaced();
    streams::follow(&incoming.stream, request.modern, &daemon.log, wish, wanted)
}
