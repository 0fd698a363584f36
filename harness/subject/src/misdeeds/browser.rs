//! What a daemon that is faulty about browsers does, at the places where it asks for it.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::browser::{Kind, PAGE, Pages, SHELL, TICKETS, TOKENS, digest, presented, sign};
use crate::credential::Credential;
use crate::fault::broken;
use crate::perimeter::{Origin, Refusal, Request};
use crate::server::Answer;
use crate::state_directory::{StateDir, random_hex};

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

/// A faulty ticket, of which there were so many before.
pub(crate) fn ticket(number: usize) -> Option<String> {
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
pub(crate) fn token(origin: &str, credential: &Credential) -> Option<String> {
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
pub(crate) fn signed(text: &str, origin: &str, credential: &Credential) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .filter(|bytes| broken("BROW-8.signed") && bytes.len() == 32)?;
    (bytes[16..] == sign(credential, &bytes[..16], origin)).then(|| "signed".to_owned())
}

pub(crate) fn is_signed(id: &str) -> bool {
    broken("BROW-8.signed") && id == "signed"
}

/// The id that a faulty daemon gives a token.
pub(crate) fn token_id(text: &str) -> Option<String> {
    if broken("BROW-12.token") {
        return Some(text.to_owned());
    }
    broken("BROW-12.part-of-it").then(|| text[..16].to_owned())
}

/// What a faulty daemon tells of a token besides, or leaves out.
pub(crate) fn embellish(listed: &mut Value, text: &str) {
    if broken("BROW-12.hint") {
        listed["hint"] = json!(format!("…{}", &text[text.len() - 8..]));
    }
    if let Some(listed) = listed.as_object_mut().filter(|_| broken("BROW-12.no-times")) {
        listed.remove("issued_at");
        listed.remove("last_used");
    }
}

/// Writes a secret down.
pub(crate) fn write_down(directory: &StateDir, fault: &str, text: &str) {
    if broken(fault) {
        let file = directory.file(if fault == "BROW-9.token-kept" { "page-tokens" } else { "daemon.log" });
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        let _ = file.and_then(|mut file| writeln!(file, "{text}"));
    }
}

/// How long a ticket of a faulty daemon works.
pub(crate) fn life() -> Option<Duration> {
    if broken("BROW-3.for-ever") {
        return Some(Duration::from_hours(24));
    }
    broken("BROW-3.minute").then(|| Duration::from_mins(1))
}

/// Whether a faulty daemon takes a ticket of `kind` for what `wants` is.
pub(crate) fn takes(kind: &Kind, wants: &Kind) -> bool {
    match (kind, wants) {
        (Kind::Handoff(_), Kind::Page) => broken("BROW-4.handoff-opens-the-page"),
        (Kind::Page, Kind::Handoff(_)) => broken("BROW-4.page-hands-off"),
        // Only origins that are admitted come so far.
        (Kind::Handoff(_), Kind::Handoff(origin)) => broken("BROW-33.any-listed") && !origin.is_empty(),
        (Kind::Page, Kind::Page) => false,
    }
}

/// Whether a faulty daemon takes a ticket for a bearer.
pub(crate) fn bears_ticket(request: &Request, pages: &Pages) -> bool {
    let by_query = request.parameters("token").next().is_some();
    let taken = broken("BROW-4.as-bearer") && !by_query || broken("BROW-4.as-query-token") && by_query;
    taken && presented(request).is_some_and(|text| pages.is_live(text))
}

/// Whether a faulty daemon says nothing of the second use of a ticket.
pub(crate) fn is_silent(kind: &Kind) -> bool {
    broken("BROW-34.silent") || broken("BROW-34.handoff-alone") && *kind == Kind::Page
}

/// Whether a token of this origin is good enough for a faulty daemon, for a request from `from`.
pub(crate) fn is_content(of: &str, origin: &Origin, from: &str) -> bool {
    let own =
        |origin: &str| origin.starts_with("http://127.0.0.1:") || origin.starts_with("http://localhost:");
    broken("BROW-10.any-origin")
        || broken("BROW-10.any-listed") && matches!(origin, Origin::Listed(_))
        || broken("BROW-10.absent-is-any") && *origin == Origin::Absent
        || broken("BROW-10.same-machine") && *origin != Origin::Absent && own(of) && own(from)
        || broken("BROW-10.another-name") && *origin == Origin::Absent && own(of) && own(from)
}

/// Whether a faulty daemon withholds a route from page tokens, or opens to them what it is to withhold.
pub(crate) fn withholds(request: &Request, withheld: bool) -> bool {
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
pub(crate) fn nonce() -> Option<String> {
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
pub(crate) fn dress(headers: &mut Vec<(&'static str, String)>) {
    for (fault, name) in [
        ("BROW-22.no-policy", "Content-Security-Policy"),
        ("BROW-22.no-frame-options", "X-Frame-Options"),
        ("BROW-22.no-opener-policy", "Cross-Origin-Opener-Policy"),
        ("BROW-22.no-resource-policy", "Cross-Origin-Resource-Policy"),
        ("BROW-22.no-referrer-policy", "Referrer-Policy"),
        ("BROW-22.sniffed", "X-Content-Type-Options"),
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

/// Whether a faulty daemon lets an answer be stored.
pub(crate) fn is_stored(answer: &Answer) -> bool {
    broken("BROW-22.stored") && answer.content_type.starts_with("text/html")
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
pub(crate) fn script(script: &str) -> String {
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
