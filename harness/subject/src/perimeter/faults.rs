//! The faults of the perimeter, chapter 10.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::{HOSTS, Origin, Pass, is_page_host, is_preflight};
use crate::answer::Refusal;
use crate::credential::Credential;
use crate::fault::{Fault, broken, fault};
use crate::handshake;
use crate::request::Request;
use crate::streams;

pub(crate) const FAULTS: &[Fault] = &[
    fault("PER-1.authentication-first", "asks for the credential before it looks at Host and Origin"),
    fault("PER-1.origin-before-host", "looks at Origin before it looks at Host"),
    fault("PER-1.route-first", "answers unknown paths before it checks anything"),
    fault("PER-1.spelling", "checks the paths of its routes, and routes other spellings of them"),
    fault("PER-1.first-of-a-connection", "authenticates a connection and not each request"),
    fault("PER-1.first-length", "takes the first of two lengths"),
    fault("PER-2.note-kept", "appends a note, and then refuses its origin"),
    fault("PER-2.shutdown-obeyed", "begins to stop, and then refuses the origin"),
    fault("PER-3.unjudged", "does not look at Host"),
    fault("PER-3.any-port", "looks at the host of Host and not at its port"),
    fault("PER-3.any-case", "compares Host in any case"),
    fault("PER-3.ending", "takes every name that ends with localhost"),
    fault("PER-3.final-dot", "takes a name with a final dot for the same one"),
    fault("PER-3.any-loopback", "takes every loopback address"),
    fault("PER-3.any-launch", "takes every name of the form of a page host"),
    fault("PER-3.invalid", "calls every name that it does not have invalid"),
    fault("PER-4.bound-address", "takes the address that it bound alone"),
    fault("PER-5.missing", "takes a request without Host"),
    fault("PER-5.empty", "takes an empty Host"),
    fault("PER-5.first-of-two", "takes the first of two Hosts"),
    fault("PER-5.last-of-two", "takes the last of two Hosts"),
    fault("PER-5.misdirected", "calls a request without one Host misdirected"),
    fault("PER-5.unparsed", "compares Host and does not ask whether it is one"),
    fault("PER-6.unread", "does not look at the authority of an absolute target"),
    fault("PER-6.any-scheme", "does not look at the scheme of an absolute target"),
    fault("PER-6.invalid-scheme", "answers a target of another scheme with 400"),
    fault("PER-6.instead-of-host", "looks at the authority of an absolute target alone"),
    fault("PER-7.handshake", "does not look at the Host of a handshake"),
    fault("PER-7.page", "does not look at the Host of a request for the page"),
    fault("PER-7.served-paths-alone", "looks at the Host of requests for its routes alone"),
    fault("PER-7.options", "does not look at the Host of OPTIONS"),
    fault("PER-8.reads", "lets every origin read"),
    fault("PER-8.this-machine", "lets other pages of this machine in"),
    fault("PER-8.web-alone", "looks at the origins of http and https alone"),
    fault("PER-8.streams", "does not look at the origin of a stream"),
    fault("PER-8.with-credential", "lets every origin in that has the credential"),
    fault("PER-8.served-paths-alone", "looks at the Origin of requests for its routes alone"),
    fault("PER-8.preflight-answered", "answers every preflight by 204, without permissions for some"),
    fault("PER-9.reflected", "names the asking origin to every origin"),
    fault("PER-9.same-origin", "names its own origin to itself"),
    fault("PER-9.always", "exposes headers in every answer"),
    fault("PER-9.preflight", "names the methods to a preflight that it refuses"),
    fault("PER-10.beginning", "compares the beginning"),
    fault("PER-10.ending", "compares the end"),
    fault("PER-10.within", "looks for the listed host within the origin"),
    fault("PER-10.any-case", "compares in any case"),
    fault("PER-10.any-scheme", "compares without the scheme"),
    fault("PER-10.any-port", "compares without the port"),
    fault("PER-10.subdomains", "takes the subdomains of a listed origin as well"),
    fault("PER-11.null", "takes the origin null for none"),
    fault("PER-11.first-of-two", "takes the first of two origins"),
    fault("PER-12.same-machine", "takes its other names for the same origin"),
    fault("PER-12.same-family", "takes its IPv6 address for the same origin"),
    fault("PER-12.first-address", "takes the origin of 127.0.0.1 for the same one at localhost"),
    fault("PER-12.own-page", "takes the origin of its page for the same one"),
    fault("PER-13.not-for-errors", "names the origin in answers that are no errors"),
    fault("PER-13.no-vary", "leaves Vary out"),
    fault("PER-13.twice", "adds the header in two places"),
    fault("PER-14.credentials", "allows credentials mode"),
    fault("PER-14.exposes-all", "exposes every header by a star"),
    fault("PER-15.authenticates", "asks a preflight for the credential"),
    fault("PER-15.with-a-body", "answers a preflight by 200 and a body"),
    fault("PER-16.every-method", "lists every method for every route"),
    fault("PER-16.asked-for", "lists the method that is asked for"),
    fault("PER-16.unknown-path", "lists a method for unknown paths"),
    fault("PER-17.asked-for", "allows the headers that are asked for"),
    fault("PER-17.one-more", "allows one header more"),
    fault("PER-18.day", "lets a preflight be kept for a day"),
    fault("PER-18.left-out", "does not say how long a preflight may be kept"),
    fault("PER-19.remembered", "admits an origin whose preflight it has answered"),
    fault("PER-20.harmless", "answers OPTIONS without authentication"),
    fault("PER-20.with-an-origin", "takes every OPTIONS of a listed origin for a preflight"),
    fault("PER-21.unknown-path-first", "answers 404 before it asks for the credential"),
    fault("PER-21.method-first", "answers 405 before it asks for the credential"),
    fault("PER-21.names-the-path", "names the path in the refusal"),
    fault("PER-21.another-challenge", "offers Basic"),
    fault("PER-21.hints", "says that a bearer is nearly right"),
    fault("PER-21.other-header", "takes the credential from another header"),
    fault("PER-23.cookie", "takes the credential from a cookie"),
    fault("PER-23.body", "takes the credential from a body"),
    fault("PER-23.parameter", "takes the credential from another parameter"),
    fault("PER-24.first-of-two", "takes the first of two authorizations"),
    fault("PER-24.last-of-two", "takes the last of two authorizations"),
    fault("PER-24.any-scheme", "does not look at the scheme"),
    fault("PER-24.no-scheme", "takes a credential without a scheme"),
    fault("PER-25.everywhere", "takes the query token on every route"),
    fault("PER-25.ignored", "ignores the query token where it takes none"),
    fault("PER-25.any-method", "takes the query token with every method of the stream"),
    fault("PER-26.beginning", "compares as much of the query token as there is"),
    fault("PER-26.any-case", "compares the query token in any case"),
    fault("PER-26.trimmed", "trims the query token"),
    fault("PER-26.before-origin", "lets a query token in from every origin"),
    fault("PER-27.query", "logs the request line with its query token"),
    fault("PER-27.half", "logs the beginning of the bearer"),
    fault("PER-28.at-once", "answers an upgrade before its checks"),
    fault("PER-28.origin", "does not look at the origin of an upgrade"),
    fault("PER-28.no-authentication", "answers an upgrade before it asks for the credential"),
    fault("PER-29.short-target", "takes targets of 2 KiB"),
    fault("PER-29.few-headers", "takes 99 headers"),
    fault("PER-29.short-body", "takes bodies of 16 KiB"),
    fault("PER-29.few-connections", "takes 64 connections"),
    fault("PER-29.few-handshakes", "takes 100 handshakes in a second"),
    fault("PER-30.any-target", "has no limit for a target"),
    fault("PER-30.any-header", "has no limit for the header section"),
    fault("PER-30.any-body", "has no limit for a body"),
    fault("PER-30.endless-head", "keeps a head until it ends"),
    fault("PER-31.every-connection", "takes every connection"),
    fault("PER-31.waits-its-turn", "lets connections wait for their turn"),
    fault("PER-31.every-handshake", "takes every handshake"),
    fault("PER-31.no-retry-after", "does not say when to come again"),
    fault("PER-32.all-counted", "counts good handshakes and refuses them as well"),
    fault("PER-33.head", "waits for a head for ever"),
    fault("PER-33.each-byte", "begins to count anew with each byte"),
    fault("PER-33.body", "waits for a body for ever"),
    fault("PER-33.unread", "waits for a reader for ever"),
    fault("PER-34.exits", "ends over a head that is too large"),
    fault("PER-34.deaf", "listens no more after what is no HTTP"),
    fault("PER-35.sentence", "answers errors by a sentence"),
    fault("PER-35.plain-json", "answers errors as plain JSON"),
    fault("PER-35.no-code", "leaves the code out"),
    fault("PER-35.another-status", "names another status in the body"),
    fault("PER-36.method-not-found", "answers 404 for a method that a route does not take"),
    fault("PER-36.no-allow", "does not say what a route takes"),
    fault("PER-36.more-methods", "says that a route takes what it does not take"),
    fault("PER-36.first-method", "says the first method of a route alone"),
    fault("PER-37.never", "answers JSON to everybody"),
    fault("PER-37.not-for-errors", "answers errors as JSON to everybody"),
    fault("PER-37.handshake-too", "answers a handshake as text"),
    fault("PER-37.named-alone", "weighs JSON by its own name alone, and no wildcard"),
    fault("PER-37.first-header", "reads the first of several Accept headers"),
    fault("PER-37.widest", "weighs JSON by the best range that covers it, not by the closest"),
    fault("PER-38.stored", "lets answers be stored"),
    fault("PER-39.development", "admits the usual development servers"),
    fault("PER-39.extensions", "admits every extension"),
    fault("PER-39.shells", "admits a desktop shell"),
    fault("PER-40.normalised-at-start", "admits what a lenient reader makes of an entry"),
    fault("PER-40.normalised-by-command", "adds what a lenient reader makes of an entry"),
    fault("PER-40.unchecked-by-command", "adds an entry as it is"),
    fault("PER-40.any-scheme", "admits an entry of any scheme"),
    fault("PER-41.at-start", "reads the list at its start alone"),
    fault("PER-41.every-other-second", "reads the list every 2 s"),
    fault("PER-48.as-it-was", "keeps the list when the file fails a check"),
    fault("PER-48.unchecked", "reads the list without a check of the file"),
    fault("PER-42.goes-on", "does not look at open streams"),
    fault("PER-42.in-a-while", "looks at open streams after 10 s"),
    fault("PER-43.first-come", "refuses the newest connection, whatever the others are"),
    fault("PER-44.read-first", "reads a body before it judges the request"),
    fault("PER-44.of-the-route", "takes as much of a ticket's body as of any other"),
    fault("PER-45.as-others", "gives a ticket's body the time of any other"),
    fault("PER-46.counted", "counts a request with a ticket as open work before its body has come"),
    fault("PER-47.each-refusal", "logs each request that it refuses"),
    fault("PER-47.each-eviction", "logs each connection that it closes for another one"),
    fault("PER-47.warns", "warns of each request that it refuses"),
    fault("PER-49.at-once", "closes a connection as soon as it has refused"),
    fault("PER-49.what-has-come", "discards what has come by the time of the refusal, and no more"),
    fault("PER-49.first-pause", "closes a connection after a refusal when nothing comes for a moment"),
    fault("PER-49.half-open", "discards the rest of a body without an end of its own half"),
    fault("PER-50.too-large", "calls every body that it cannot read too large"),
    fault("PER-50.cut", "closes the connection over a size that is none"),
    fault("PER-50.longer-chunks", "ignores what follows a chunk in its line"),
    fault("PER-51.unexposed", "exposes no header to the origins that it admits"),
    fault("PER-52.no-date", "does not say what time it is"),
    fault("PER-53.to-anybody", "sends an interim answer to every client that expects one"),
    fault("PER-54.get-alone", "takes no HEAD where it takes GET"),
    fault("PER-55.unsaid", "does not say that it closes a connection"),
];

/// Whether a faulty daemon takes a name for one of its own; `None` where it judges as it should.
pub(super) fn own_name(name: &[u8], port: u16, page: Option<&str>) -> Option<bool> {
    let name = std::str::from_utf8(name).ok()?;
    let (host, named) = name.rsplit_once(':').unwrap_or((name, ""));
    let is = |host: &str| HOSTS.contains(&host) || Some(host) == page;
    let right_port = named == port.to_string();
    if broken("PER-3.any-port") {
        Some(is(host))
    } else if broken("PER-3.any-case") {
        Some(is(&host.to_ascii_lowercase()) && right_port)
    } else if broken("PER-3.ending") {
        Some((host.ends_with("localhost") || is(host)) && right_port)
    } else if broken("PER-3.final-dot") {
        Some(is(host.strip_suffix('.').unwrap_or(host)) && right_port)
    } else if broken("PER-3.any-loopback") {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let loopback = address.is_ok_and(|address| address.to_canonical().is_loopback());
        Some((loopback || is(host)) && right_port)
    } else if broken("PER-3.any-launch") {
        Some((is_page_host(name) || is(host)) && right_port)
    } else if broken("PER-4.bound-address") {
        Some((host == "127.0.0.1" || Some(host) == page) && right_port)
    } else {
        None
    }
}

/// The `Host` that a faulty daemon does not judge.
pub(super) fn unjudged_host(request: &Request, served: bool) -> Option<&[u8]> {
    let (first, last) = (request.headers("Host").next(), request.headers("Host").last());
    let several = request.headers("Host").count() > 1;
    let unjudged = broken("PER-3.unjudged")
        || broken("PER-6.instead-of-host") && request.authority.is_some()
        || broken("PER-7.handshake") && request.path == handshake::PATH
        || broken("PER-7.page") && request.path == "/"
        || broken("PER-7.served-paths-alone") && !served
        || broken("PER-7.options") && request.method == "OPTIONS";
    if broken("PER-5.first-of-two") && several || unjudged && first.is_some() {
        return first;
    }
    if broken("PER-5.last-of-two") && several {
        return last;
    }
    let missing = broken("PER-5.missing") && first.is_none() || broken("PER-5.empty") && first == Some(b"");
    missing.then_some(b"127.0.0.1")
}

/// Whether a faulty daemon takes an origin that it is to refuse for none.
pub(crate) fn unjudged_origin(request: &Request, port: u16, served: bool, bears: bool) -> bool {
    let origins: Vec<&[u8]> = request.headers("Origin").collect();
    let same_machine = || {
        let names = ["127.0.0.1", "localhost", "[::1]"];
        names.iter().any(|name| format!("http://{name}:{port}").as_bytes() == origins[0])
    };
    let this_machine = || {
        ["http://127.0.0.1:", "http://localhost:"]
            .iter()
            .any(|start| origins[0].starts_with(start.as_bytes()))
    };
    broken("PER-8.reads") && request.method == "GET" && !served_as_stream(request)
        || broken("PER-8.with-credential") && bears
        || broken("PER-8.this-machine") && !same_machine() && this_machine()
        || broken("PER-8.web-alone") && !is_of_the_web(origins[0])
        || broken("PER-8.streams") && served_as_stream(request)
        || broken("PER-8.served-paths-alone") && !served
        || broken("PER-11.null") && origins == [b"null"]
        || broken("PER-12.same-machine") && origins.len() == 1 && same_machine()
        || broken("PER-12.same-family") && origins == [format!("http://[::1]:{port}").as_bytes()]
        || broken("PER-12.first-address")
            && origins == [format!("http://127.0.0.1:{port}").as_bytes()]
            && request.header("Host").is_some_and(|host| host.starts_with("localhost:"))
        || broken("PER-12.own-page")
            && origins.len() == 1
            && std::str::from_utf8(origins[0])
                .is_ok_and(|origin| origin.strip_prefix("http://").is_some_and(is_page_host))
        || broken("PER-28.origin") && upgrades(request)
        || broken("PER-26.before-origin")
            && served_as_stream(request)
            && request.parameters("token").next().is_some()
}

/// Whether an origin has no other scheme than a web page.
fn is_of_the_web(origin: &[u8]) -> bool {
    let origin = String::from_utf8_lossy(origin);
    origin.split_once("://").is_none_or(|(scheme, _)| ["http", "https"].contains(&scheme))
}

fn served_as_stream(request: &Request) -> bool {
    request.method == "GET" && request.path == streams::PATH
}

/// Whether a request asks for another protocol on its connection.
pub(crate) fn upgrades(request: &Request) -> bool {
    request.headers("Upgrade").next().is_some()
}

/// Whether a faulty comparison takes an origin for one that is on the list.
pub(crate) fn alike(origin: &str, listed: &str) -> bool {
    let parts = |origin: &str| {
        let (scheme, rest) = origin.split_once("://").unwrap_or(("", origin));
        let (host, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
        [scheme, host, port].map(str::to_owned)
    };
    let ([scheme, host, port], [listed_scheme, listed_host, listed_port]) = (parts(origin), parts(listed));
    broken("PER-10.beginning") && origin.starts_with(listed)
        || broken("PER-10.ending") && host.ends_with(&listed_host)
        || broken("PER-10.within") && origin.contains(&*listed_host)
        || broken("PER-10.any-case") && origin.eq_ignore_ascii_case(listed)
        || broken("PER-10.any-scheme") && (&host, &port) == (&listed_host, &listed_port)
        || broken("PER-10.any-port") && (&scheme, &host) == (&listed_scheme, &listed_host)
        || broken("PER-10.subdomains")
            && scheme == listed_scheme
            && host.ends_with(&format!(".{listed_host}"))
}

/// Whether a faulty daemon admits an origin that nobody put on the list.
pub(crate) fn admitted_by_default(origin: &str) -> bool {
    broken("PER-39.development") && (origin == "http://localhost:3000" || origin == "http://localhost:5173")
        || broken("PER-39.extensions") && origin.starts_with("chrome-extension://")
        || broken("PER-39.shells") && origin == "tauri://localhost"
}

/// The origins whose preflight a faulty daemon remembers.
static PREFLIGHTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remembers the origin of a preflight.
pub(crate) fn remember(origin: &Origin) {
    if let Origin::Listed(origin) = origin {
        let mut known = PREFLIGHTED.lock().unwrap_or_else(PoisonError::into_inner);
        known.push(origin.clone());
    }
}

/// Whether a faulty daemon admits an origin because of its preflight.
pub(crate) fn remembered(origin: &str) -> bool {
    let known = PREFLIGHTED.lock().unwrap_or_else(PoisonError::into_inner);
    broken("PER-19.remembered") && known.iter().any(|other| other == origin)
}

/// How a faulty daemon lets a request in that shows no credential, or shows it elsewhere.
pub(super) fn pass(request: &Request, credential: &Credential) -> Option<Pass> {
    let is = |token: &str| credential.is(token.as_bytes());
    let all: Vec<&str> = request
        .headers("Authorization")
        .filter_map(|value| std::str::from_utf8(value).ok())
        .collect();
    let bears =
        |header: &&str| header.split_once(' ').is_some_and(|(scheme, token)| scheme == "Bearer" && is(token));
    let cookies = || request.header("Cookie").unwrap_or_default().split(';');
    let token = request.parameters("token").next();
    let is_stream = served_as_stream(request);
    let lets_in = broken("PER-23.cookie")
        && cookies().any(|pair| pair.trim().strip_prefix("token=").is_some_and(is))
        || broken("PER-23.parameter") && request.parameters("access_token").any(is)
        || broken("PER-21.other-header") && request.header("X-Api-Key").is_some_and(is)
        || broken("PER-24.first-of-two") && all.len() > 1 && all.first().is_some_and(bears)
        || broken("PER-24.last-of-two") && all.len() > 1 && all.last().is_some_and(bears)
        || broken("PER-24.any-scheme")
            && all.len() == 1
            && all[0].split_once(' ').is_some_and(|(_, token)| is(token))
        || broken("PER-24.no-scheme") && all.len() == 1 && is(all[0])
        || broken("PER-25.everywhere") && token.is_some_and(is)
        || broken("PER-25.ignored") && !is_stream && token.is_some() && all.len() == 1 && bears(&all[0])
        || broken("PER-25.any-method") && request.path == streams::PATH && token.is_some_and(is)
        || broken("PER-26.beginning")
            && is_stream
            && token.is_some_and(|token| credential.text().starts_with(token))
        || broken("PER-26.any-case")
            && is_stream
            && token.is_some_and(|token| credential.text().eq_ignore_ascii_case(token))
        || broken("PER-26.trimmed") && is_stream && token.is_some_and(|token| is(token.trim()));
    lets_in.then_some(Pass::Bearer)
}

/// A path as a faulty router reads it.
pub(crate) fn respelt(path: &str) -> String {
    let lower = path.to_ascii_lowercase();
    let parts = lower.split('/').filter(|part| !part.is_empty() && *part != ".");
    format!("/{}", parts.collect::<Vec<_>>().join("/"))
}

/// What a faulty daemon logs of a request before it answers.
pub(crate) fn log(request: &Request) {
    let bearer = request.header("Authorization").unwrap_or_default();
    let token = request.parameters("token").next().unwrap_or_default();
    if broken("PER-27.query") && !token.is_empty() {
        eprintln!("{} {}?token={token}", request.method, request.path);
    }
    if broken("PER-27.half") && bearer.len() > 20 && bearer.is_ascii() {
        eprintln!("authorized by {}...", &bearer[..24]);
    }
}

/// The methods that a faulty daemon names to a preflight.
pub(crate) fn preflight_methods(known: Option<String>, request: &Request) -> Option<String> {
    if broken("PER-16.every-method") && known.is_some() {
        return Some("GET, POST, PUT, PATCH, DELETE".to_owned());
    }
    if broken("PER-16.asked-for") && known.is_some() {
        return request.header("Access-Control-Request-Method").map(str::to_owned);
    }
    if broken("PER-16.unknown-path") {
        return Some(known.unwrap_or_else(|| "GET".to_owned()));
    }
    known
}

/// The headers that a faulty daemon names to a preflight.
pub(crate) fn preflight_headers(request: &Request) -> String {
    let three = "authorization, content-type, last-event-id";
    if broken("PER-17.asked-for") {
        return request.header("Access-Control-Request-Headers").unwrap_or(three).to_owned();
    }
    if broken("PER-17.one-more") {
        return format!("{three}, x-requested-with");
    }
    three.to_owned()
}

/// Whether a faulty daemon takes a request for a preflight.
pub(crate) fn preflight(request: &Request) -> bool {
    is_preflight(request) || broken("PER-20.with-an-origin") && request.method == "OPTIONS"
}

/// What a faulty daemon adds to every answer of a request, or takes away.
pub(crate) fn share(
    headers: &mut Vec<(&'static str, String)>,
    origin: &Result<Origin, Refusal>,
    request: &Request,
) {
    let asking = request.header("Origin").unwrap_or_default().to_owned();
    match origin {
        Err(_) if broken("PER-9.reflected") => headers.push(("Access-Control-Allow-Origin", asking)),
        Err(_) if broken("PER-9.preflight") && is_preflight(request) => {
            headers.push(("Access-Control-Allow-Methods", "GET".to_owned()));
        }
        Ok(Origin::Same) if broken("PER-9.same-origin") => {
            headers.push(("Access-Control-Allow-Origin", asking));
        }
        Ok(Origin::Absent) if broken("PER-9.always") => {
            headers.push(("Access-Control-Expose-Headers", "content-type".to_owned()));
        }
        Ok(Origin::Listed(_)) => {
            if broken("PER-13.no-vary") {
                headers.retain(|(name, _)| *name != "Vary");
            }
            if broken("PER-13.twice") {
                headers.push(("Access-Control-Allow-Origin", asking));
            }
            if broken("PER-14.credentials") {
                headers.push(("Access-Control-Allow-Credentials", "true".to_owned()));
            }
            if broken("PER-14.exposes-all") {
                headers.push(("Access-Control-Expose-Headers", "*".to_owned()));
            }
        }
        _ => {}
    }
}

/// An origin as a lenient reader writes it.
pub(crate) fn normalised(origin: &str) -> String {
    let lower = origin.to_ascii_lowercase();
    lower.trim_end_matches('/').trim_end_matches(":443").to_owned()
}
