//! The faults of the browser paths, chapter 12.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Kind, Log, PAGE, Pages, SHELL, TICKETS, TOKENS, digest, presented, sign};
use crate::answer::{Answer, Refusal};
use crate::credential::Credential;
use crate::fault::{Fault, broken, fault};
use crate::perimeter::{Origin, is_page_host};
use crate::request::Request;
use crate::state_directory::{StateDir, random_hex};

pub(crate) const FAULTS: &[Fault] = &[
    fault("BROW-1.half", "draws tickets of 128 bits"),
    fault("BROW-1.clock-first", "begins a ticket with the time"),
    fault("BROW-1.seeded", "makes tickets from their number"),
    fault("BROW-2.reusable", "never spends a ticket"),
    fault(
        "BROW-2.check-then-mark",
        "looks whether a ticket is spent under one lock and spends it under another",
    ),
    fault("BROW-3.for-ever", "keeps tickets until they are used"),
    fault("BROW-3.minute", "lets a ticket work for a minute"),
    fault("BROW-4.handoff-opens-the-page", "takes a handoff ticket for the page"),
    fault("BROW-4.page-hands-off", "takes a page ticket for a handoff"),
    fault("BROW-4.as-bearer", "takes a ticket as bearer"),
    fault("BROW-4.as-query-token", "takes a ticket as query token"),
    fault("BROW-5.tickets", "issues tickets to pages"),
    fault("BROW-5.list", "lists the page tokens for a page"),
    fault("BROW-5.revokes", "lets a page revoke page tokens"),
    fault("BROW-6.gone", "answers 410 for a ticket that was used"),
    fault("BROW-6.names-the-used", "says that a ticket was used"),
    fault("BROW-6.names-the-late", "says that a ticket is late"),
    fault("BROW-6.not-found", "answers 404 for a ticket that never was"),
    fault("BROW-7.half", "draws page tokens of 128 bits"),
    fault("BROW-7.one-per-origin", "gives each page of an origin the same token"),
    fault("BROW-8.signed", "signs page tokens with the credential instead of remembering them"),
    fault("BROW-9.token-kept", "keeps page tokens in a file"),
    fault("BROW-9.ticket-kept", "logs the tickets that it issues"),
    fault("BROW-10.any-origin", "takes a page token from every origin that it admits"),
    fault("BROW-10.any-listed", "takes the page token of one listed origin from another"),
    fault("BROW-10.absent-is-any", "takes every page token without Origin"),
    fault("BROW-10.same-machine", "takes the token of 127.0.0.1 from pages of localhost"),
    fault("BROW-10.another-name", "takes the token of 127.0.0.1 with a request to localhost"),
    fault("BROW-11.bearer-alone", "takes page tokens as bearer alone"),
    fault("BROW-11.reads-alone", "lets pages read and nothing else"),
    fault("BROW-12.token", "names a page token by itself"),
    fault("BROW-12.part-of-it", "names a page token by its first characters"),
    fault("BROW-12.hint", "shows the end of a page token, as card numbers are shown"),
    fault("BROW-12.no-times", "lists no times"),
    fault("BROW-12.never-used", "never tells of the use of a page token"),
    fault("BROW-12.foreign-alone", "leaves the tokens of its own page out of the list"),
    fault("BROW-13.streams-go-on", "lets the streams of a revoked page token go on"),
    fault("BROW-13.in-a-while", "ends the streams of a revoked page token after 10 s"),
    fault("BROW-13.unlisted-alone", "answers a revocation and revokes nothing"),
    fault("BROW-14.kept", "keeps the page tokens of an origin that is removed"),
    fault("BROW-14.back-again", "gives an origin that is added again its old page tokens back"),
    fault("BROW-15.for-all", "writes the launcher file for every user to read"),
    fault("BROW-15.elsewhere", "writes the launcher file among the temporary files"),
    fault("BROW-15.address", "opens the address of the daemon, without the ticket"),
    fault("BROW-16.address", "names the address with the ticket to the browser"),
    fault("BROW-16.handoff-address", "names the address with the ticket to the browser of a handoff"),
    fault("BROW-16.environment", "hands the ticket to the browser in its environment"),
    fault("BROW-16.credential", "hands the credential to the browser in its environment"),
    fault("BROW-17.left", "never removes a launcher file"),
    fault("BROW-17.later", "removes a launcher file after two minutes"),
    fault("BROW-18.query", "prints the ticket in the query"),
    fault("BROW-18.chatter", "prints a sentence before the address"),
    fault("BROW-18.browser-too", "starts the browser all the same"),
    fault("BROW-19.no-launcher", "refuses the origin null of the launcher"),
    fault("BROW-19.no-reload", "refuses the origin of its own page"),
    fault("BROW-19.no-tools", "refuses a ticket without Origin"),
    fault("BROW-20.listed", "opens the page for listed origins"),
    fault("BROW-20.any-origin", "opens the page for every origin that has a ticket"),
    fault("BROW-21.twice", "writes the token into the page twice"),
    fault("BROW-21.json", "answers a ticket with JSON"),
    fault("BROW-22.stored", "lets caches keep the page"),
    fault("BROW-22.no-policy", "sends no content security policy"),
    fault("BROW-22.no-frame-options", "sends no X-Frame-Options"),
    fault("BROW-22.no-opener-policy", "sends no Cross-Origin-Opener-Policy"),
    fault("BROW-22.no-resource-policy", "sends no Cross-Origin-Resource-Policy"),
    fault("BROW-22.no-referrer-policy", "sends no Referrer-Policy"),
    fault("BROW-22.sniffed", "sends no X-Content-Type-Options"),
    fault("BROW-22.own-frames", "lets pages of its own origin frame it"),
    fault("BROW-22.framed", "leaves frame-ancestors to X-Frame-Options"),
    fault("BROW-22.inline-scripts", "allows inline scripts"),
    fault("BROW-22.connects-anywhere", "lets the page connect to everything"),
    fault("BROW-22.any-base", "lets the page change its base"),
    fault("BROW-22.cache-kept", "does not have the cache cleared"),
    fault("BROW-22.storage-cleared", "has the storage of the page's own host cleared"),
    fault("BROW-22.storage-kept", "has the cache cleared alone at another host"),
    fault("BROW-22.page-alone", "sends the headers with the page and not with the shell"),
    fault("BROW-23.of-the-launch", "draws the nonce once for all answers"),
    fault("BROW-23.of-the-second", "makes the nonce from the time"),
    fault("BROW-24.local-storage", "keeps the token in storage that outlives the tab"),
    fault("BROW-24.address-stays", "leaves /page in the address"),
    fault("BROW-24.in-the-markup", "leaves the script that holds the token in the page"),
    fault("BROW-25.page", "sets a cookie with the page"),
    fault("BROW-25.shell", "sets a cookie with the shell"),
    fault("BROW-25.answers", "sets a cookie with what it answers in JSON"),
    fault("BROW-26.problem", "answers GET / as every other route"),
    fault("BROW-26.get-alone", "answers HEAD / as every other route"),
    fault("BROW-26.open", "answers the shell with 200"),
    fault("BROW-26.id", "names its id in the shell"),
    fault("BROW-26.same-origin", "gives a token to what the engine calls same-origin"),
    fault("BROW-26.navigation", "gives a token to what the engine calls a navigation"),
    fault("BROW-26.cookie", "gives a token to whoever has its cookie"),
    fault("BROW-27.no-reload", "forgets the token when the page is loaded again"),
    fault("BROW-27.no-ticket", "ignores a ticket in the fragment"),
    fault("BROW-27.silent", "says that it is unauthorized, and not which command opens it"),
    fault("BROW-28.as-others", "answers the request for a service worker as any other"),
    fault("BROW-28.root-alone", "ends a service worker at / alone"),
    fault("BROW-28.empty", "answers with a worker that does nothing"),
    fault("BROW-28.html", "answers a worker of the type of a page"),
    fault("BROW-29.each-part", "opens a stream for each part of the page"),
    fault("BROW-30.left-to-the-engine", "leaves it to the engine to open the stream again"),
    fault("BROW-30.from-now", "opens the stream anew without the last id"),
    fault("BROW-31.issued", "issues handoff tickets for every origin"),
    fault("BROW-31.forbidden", "answers 403 to the wish for a handoff ticket of an unlisted origin"),
    fault("BROW-32.own-origin", "binds the token of a handoff to its own origin"),
    fault("BROW-32.created", "answers a handoff with 201"),
    fault("BROW-33.any-listed", "hands off to any listed origin"),
    fault("BROW-33.no-origin", "hands off without Origin"),
    fault("BROW-33.kept", "keeps a ticket that was presented by another"),
    fault("BROW-34.silent", "tells nobody of a second use"),
    fault("BROW-34.handoff-alone", "tells of the second use of handoff tickets alone"),
    fault("BROW-34.no-origin", "tells of a second use without the origin"),
    fault("BROW-34.as-addressed", "names the host of the request for the origin of a page ticket"),
    fault("BROW-35.of-the-directory", "makes the page host from the state directory"),
    fault("BROW-35.half", "draws page hosts of 64 bits"),
    fault("BROW-35.clock-first", "begins the page host with the time"),
    fault("BROW-36.one-family", "listens on one family"),
    fault("BROW-36.shared-port", "lets others share its port on the other family"),
    fault(
        "BROW-36.all-the-same",
        "has a page host although another process has its port on the other family",
    ),
    fault("BROW-37.proves", "serves the handshake at the page host"),
    fault("BROW-37.unauthorized", "asks for authentication before it refuses a handshake at the page host"),
    fault("BROW-38.bearer", "takes the credential as bearer at the page host"),
    fault("BROW-38.query-token", "takes the credential as query token at the page host"),
    fault("BROW-39.any-host", "takes a page ticket at each of its names"),
    fault("BROW-39.weaker-to-its-own", "takes a page ticket of another name at the page host"),
    fault("BROW-39.other-names", "takes a page ticket of one of its three names at the others"),
    fault("BROW-39.kept", "keeps a page ticket that was presented at another host"),
    fault("BROW-40.recorded-address", "has its page at the address of the record"),
    fault("BROW-40.host-ignored", "has its page at the page host whatever is asked for"),
    fault("BROW-41.record", "writes the page host into the record"),
    fault("BROW-41.handshake", "names the page host in the handshake"),
    fault("BROW-41.output", "says on standard error where its page is"),
    fault("BROW-41.log", "logs where its page is"),
    fault("BROW-41.event", "tells on the stream where its page is"),
    fault("BROW-41.argument", "names the page host to the browser"),
    fault("BROW-41.the-id", "takes its id for the page host"),
    fault("BROW-42.silent", "opens the page at another host without a word"),
    fault("BROW-42.standard-output", "says on standard output that the page is at another host"),
    fault("BROW-43.problem", "answers the reload of an earlier launch's page with a problem"),
    fault("BROW-43.unauthorized", "answers the reload of an earlier launch's page with 401"),
    fault("BROW-44.at-once", "says that the page is open when it has started a browser"),
    fault("BROW-44.in-a-while", "says that the page is open when it has waited long enough"),
    fault("BROW-45.status", "asks for its status by the cache"),
    fault("BROW-46.unasked", "hands off without a look at who listens at the port of the origin"),
    fault("BROW-46.first-family", "looks at 127.0.0.1 alone before a handoff"),
    fault("BROW-46.addresses-alone", "looks who listens at an address, and not at a name"),
    fault("BROW-47.each-time", "tells of each use after the first"),
];

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

/// A faulty ticket, of which there were so many before.
pub(super) fn ticket(number: usize) -> Option<String> {
    if broken("BROW-1.half") {
        return Some(URL_SAFE_NO_PAD.encode(random::<16>()));
    }
    if broken("BROW-1.clock-first") {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let bytes = [&since.to_be_bytes()[..], &random::<24>()].concat();
        return Some(URL_SAFE_NO_PAD.encode(bytes));
    }
    broken("BROW-1.seeded").then(|| URL_SAFE_NO_PAD.encode(Sha256::digest(format!("ticket {number}"))))
}

/// A faulty token.
pub(super) fn token(origin: &str, credential: &Credential) -> Option<String> {
    if broken("BROW-7.half") {
        return Some(URL_SAFE_NO_PAD.encode(random::<16>()));
    }
    broken("BROW-8.signed").then(|| {
        let random = random::<16>();
        let bytes = [random, sign(credential, &random, origin)].concat();
        URL_SAFE_NO_PAD.encode(bytes)
    })
}

/// The id of a token that a faulty daemon knows by its signature.
pub(super) fn signed(text: &str, origin: &str, credential: &Credential) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .filter(|bytes| broken("BROW-8.signed") && bytes.len() == 32)?;
    (bytes[16..] == sign(credential, &bytes[..16], origin)).then(|| "signed".to_owned())
}

pub(super) fn is_signed(id: &str) -> bool {
    broken("BROW-8.signed") && id == "signed"
}

/// The id that a faulty daemon gives a token.
pub(super) fn token_id(text: &str) -> Option<String> {
    if broken("BROW-12.token") {
        return Some(text.to_owned());
    }
    broken("BROW-12.part-of-it").then(|| text[..16].to_owned())
}

/// What a faulty daemon tells of a token besides, or leaves out.
pub(super) fn embellish(listed: &mut Value, text: &str) {
    if broken("BROW-12.hint") {
        listed["hint"] = json!(format!("…{}", &text[text.len() - 8..]));
    }
    if let Some(listed) = listed.as_object_mut().filter(|_| broken("BROW-12.no-times")) {
        listed.remove("issued_at");
        listed.remove("last_used");
    }
}

/// Writes a secret down.
pub(super) fn write_down(directory: &StateDir, fault: &str, text: &str) {
    if broken(fault) {
        let file = directory.file(if fault == "BROW-9.token-kept" { "page-tokens" } else { "daemon.log" });
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        let _ = file.and_then(|mut file| writeln!(file, "{text}"));
    }
}

/// How long a ticket of a faulty daemon works.
pub(super) fn life() -> Option<Duration> {
    if broken("BROW-3.for-ever") {
        return Some(Duration::from_hours(24));
    }
    broken("BROW-3.minute").then(|| Duration::from_mins(1))
}

/// Whether a faulty daemon takes a ticket of `kind` for what `wants` is.
pub(super) fn takes(kind: &Kind, wants: &Kind) -> bool {
    match (kind, wants) {
        (Kind::Handoff(_), Kind::Page(_)) => broken("BROW-4.handoff-opens-the-page"),
        (Kind::Page(_), Kind::Handoff(_)) => broken("BROW-4.page-hands-off"),
        // Only origins that are admitted come so far.
        (Kind::Handoff(_), Kind::Handoff(origin)) => broken("BROW-33.any-listed") && !origin.is_empty(),
        (Kind::Page(of), Kind::Page(at)) => {
            broken("BROW-39.any-host")
                || broken("BROW-39.weaker-to-its-own") && is_page_host(at)
                || broken("BROW-39.other-names") && !is_page_host(at) && !is_page_host(of)
        }
    }
}

/// Whether a faulty daemon takes a ticket for a bearer.
pub(crate) fn bears_ticket(request: &Request, pages: &Pages) -> bool {
    let by_query = request.parameters("token").next().is_some();
    let taken = broken("BROW-4.as-bearer") && !by_query || broken("BROW-4.as-query-token") && by_query;
    taken && presented(request).is_some_and(|text| pages.is_live(text))
}

/// Whether a faulty daemon takes the credential at the host of its page.
pub(crate) fn takes_credential(request: &Request, is_handshake: bool) -> bool {
    let by_query = request.parameters("token").next().is_some();
    broken("BROW-37.proves") && is_handshake
        || broken("BROW-38.bearer") && !by_query
        || broken("BROW-38.query-token") && by_query
}

/// Whether a faulty daemon says nothing of the second use of a ticket.
pub(super) fn is_silent(kind: &Kind) -> bool {
    broken("BROW-34.silent") || broken("BROW-34.handoff-alone") && matches!(kind, Kind::Page(_))
}

/// Whether a faulty daemon keeps a ticket that was presented for something else.
pub(super) fn keeps(kind: &Kind) -> bool {
    broken("BROW-33.kept") || broken("BROW-39.kept") && matches!(kind, Kind::Page(_))
}

/// Returns the digits of a page host that can be guessed.
pub(super) fn page_host(directory: &StateDir, id: &str) -> Option<String> {
    let halves = |first: String, second: String| Some(first + &second);
    if broken("BROW-35.of-the-directory") {
        return Some(digest(&directory.path().to_string_lossy())[..32].to_owned());
    }
    if broken("BROW-35.half") {
        return halves("0".repeat(16), random_hex::<8>());
    }
    if broken("BROW-35.clock-first") {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        return halves(format!("{since:016x}"), random_hex::<8>());
    }
    broken("BROW-41.the-id").then(|| id.to_owned())
}

/// Returns the version in the record of a faulty daemon.
pub(crate) fn version(version: &str, host: Option<&str>) -> String {
    let host = host.filter(|_| broken("BROW-41.record")).map(|host| format!(" ({host})"));
    format!("{version}{}", host.unwrap_or_default())
}

/// Returns the capabilities of a faulty daemon.
pub(crate) fn capabilities(mut capabilities: Vec<String>, host: Option<&str>) -> Vec<String> {
    capabilities.extend(host.filter(|_| broken("BROW-41.handshake")).map(str::to_owned));
    capabilities
}

/// Discloses the page host as a faulty daemon does when it is ready.
pub(crate) fn tell_host(host: Option<&str>, directory: &StateDir, log: &Log) {
    let host = host.unwrap_or_default();
    if broken("BROW-41.output") {
        eprintln!("the page is at http://{host}/");
    }
    write_down(directory, "BROW-41.log", host);
    if broken("BROW-41.event") {
        log.append("lifecycle", &json!({"what": "page", "host": host}));
    }
}

/// Whether a token of this origin is good enough for a faulty daemon, for a request from `from`.
pub(super) fn is_content(of: &str, origin: &Origin, from: &str) -> bool {
    let own = |origin: &str| {
        origin.starts_with("http://127.0.0.1:")
            || origin.starts_with("http://localhost:")
            || origin.strip_prefix("http://").is_some_and(is_page_host)
    };
    broken("BROW-10.any-origin")
        || broken("BROW-10.any-listed") && matches!(origin, Origin::Listed(_))
        || broken("BROW-10.absent-is-any") && *origin == Origin::Absent
        || broken("BROW-10.same-machine") && *origin != Origin::Absent && own(of) && own(from)
        || broken("BROW-10.another-name") && *origin == Origin::Absent && own(of) && own(from)
}

/// Whether a faulty daemon withholds a route from page tokens, or opens to them what it is to withhold.
pub(super) fn withholds(request: &Request, withheld: bool) -> bool {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", TICKETS) if broken("BROW-5.tickets") => false,
        ("GET", TOKENS) if broken("BROW-5.list") => false,
        ("DELETE", _) if broken("BROW-5.revokes") => false,
        ("GET", _) => withheld,
        _ => withheld || broken("BROW-11.reads-alone"),
    }
}

/// What a faulty daemon says of a refused ticket, of which this is so.
pub(crate) fn refusal(why: &str) -> Option<Refusal> {
    match why {
        "used" if broken("BROW-6.gone") => Some(Refusal(410, "ticket_used", "Ticket used")),
        "used" if broken("BROW-6.names-the-used") => Some(Refusal(401, "ticket_used", "Ticket used")),
        "late" if broken("BROW-6.names-the-late") => Some(Refusal(401, "ticket_late", "Ticket late")),
        "unknown" if broken("BROW-6.not-found") => Some(Refusal(404, "not_found", "Not found")),
        _ => None,
    }
}

/// The nonce of a faulty daemon.
pub(super) fn nonce() -> Option<String> {
    static OF_THE_LAUNCH: OnceLock<String> = OnceLock::new();
    if broken("BROW-23.of-the-launch") {
        return Some(OF_THE_LAUNCH.get_or_init(random_hex::<16>).clone());
    }
    broken("BROW-23.of-the-second").then(|| {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        digest(&since.to_string())[..32].to_owned()
    })
}

/// Takes from the headers of a page, or changes them.
pub(super) fn dress(headers: &mut Vec<(&'static str, String)>) {
    for (fault, name) in [
        ("BROW-22.no-policy", "Content-Security-Policy"),
        ("BROW-22.no-frame-options", "X-Frame-Options"),
        ("BROW-22.no-opener-policy", "Cross-Origin-Opener-Policy"),
        ("BROW-22.no-resource-policy", "Cross-Origin-Resource-Policy"),
        ("BROW-22.no-referrer-policy", "Referrer-Policy"),
        ("BROW-22.sniffed", "X-Content-Type-Options"),
        ("BROW-22.cache-kept", "Clear-Site-Data"),
    ] {
        if broken(fault) {
            headers.retain(|(other, _)| *other != name);
        }
    }
    for (name, value) in headers {
        if broken("BROW-22.own-frames") && *name == "X-Frame-Options" {
            "SAMEORIGIN".clone_into(value);
        }
        if *name == "Content-Security-Policy" {
            if broken("BROW-22.framed") {
                *value = value.replace("; frame-ancestors 'none'", "");
            }
            if broken("BROW-22.inline-scripts") {
                *value = value.replace("script-src ", "script-src 'unsafe-inline' ");
            }
            if broken("BROW-22.connects-anywhere") {
                *value = value.replace("connect-src 'self'", "connect-src *");
            }
            if broken("BROW-22.any-base") {
                *value = value.replace("base-uri 'none'; ", "");
            }
        }
    }
}

/// Whether a faulty daemon gives a page of this request a token, though it brings no ticket.
pub(crate) fn gives_unasked(request: &Request) -> bool {
    let says = |name: &str, value: &str| request.header(name).is_some_and(|given| given.contains(value));
    broken("BROW-26.same-origin") && says("Sec-Fetch-Site", "same-origin")
        || broken("BROW-26.navigation") && says("Sec-Fetch-Mode", "navigate")
        || broken("BROW-26.cookie") && says("Cookie", "ldp")
}

/// Sets a cookie as a faulty daemon does.
pub(crate) fn set_cookie(request: &Request, answer: &mut Answer) {
    let admitted = request.path == PAGE && answer.status == 200;
    if broken("BROW-25.page") && admitted
        || broken("BROW-25.shell") && request.path == SHELL
        || broken("BROW-25.answers") && answer.status == 200 && answer.content_type == "application/json"
    {
        let value = random_hex::<16>();
        let cookie = format!("session={value}; Path=/; HttpOnly; SameSite=Strict");
        answer.headers.push(("Set-Cookie", cookie));
    }
}

/// The script of a page whose programmer did otherwise.
pub(super) fn script(script: &str) -> String {
    let changed = |from: &str, to: &str| script.replace(from, to);
    if broken("BROW-24.local-storage") {
        changed("sessionStorage", "localStorage")
    } else if broken("BROW-24.address-stays") {
        changed("history.replaceState", "void")
    } else if broken("BROW-24.in-the-markup") {
        changed("document.currentScript.remove();", "")
    } else if broken("BROW-27.no-reload") {
        changed("const token = sessionStorage", "const token = injected || ticket && sessionStorage")
    } else if broken("BROW-27.no-ticket") {
        changed("if (ticket)", "if (false)")
    } else if broken("BROW-27.silent") {
        changed("else say(\"This page is opened by: daemonspec-subject open\")", "else say(\"Unauthorized\")")
    } else if broken("BROW-45.status") {
        changed("cache: \"no-store\", headers", "headers")
    } else if broken("BROW-29.each-part") {
        changed("  follow(token);\n}", "  follow(token);\n  follow(token);\n}")
    } else if broken("BROW-30.left-to-the-engine") {
        changed("setTimeout", "void")
    } else if broken("BROW-30.from-now") {
        changed("last === null", "true")
    } else {
        script.to_owned()
    }
}
