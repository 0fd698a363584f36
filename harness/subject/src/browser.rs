//! Chapter 12, the daemon's side: tickets, the page tokens that they are exchanged for, and the page.

pub(crate) mod faults;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(super) use super::streams::{self, Log};
use crate::answer::{ORIGIN, Refusal};
use crate::credential::Credential;
use crate::fault::{broken, window};
use crate::perimeter::{Origin, is_page_host};
use crate::request::Request;
use crate::state_directory::{StateDir, hex, random_hex};

/// Where the routes of the chapter are.
pub(super) const SHELL: &str = "/";
pub(super) const PAGE: &str = "/page";
pub(super) const TICKETS: &str = "/v1/tickets";
pub(super) const HANDOFF: &str = "/v1/handoff";
pub(super) const TOKENS: &str = "/v1/page-tokens";

/// What the names of launcher files begin with.
pub(super) const LAUNCHER: &str = "launcher-";
/// How long a ticket works.
pub(super) const LIFE: Duration = Duration::from_secs(30);
/// How old a launcher file becomes at most, a sweep's interval less than it may.
const LAUNCHER_LIFE: Duration = Duration::from_secs(45);
/// The most tickets, the spent among them, that are remembered: a second use is known as one for as long.
const MOST_TICKETS: usize = 1_024;

/// What a ticket is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// The page at this `host:port`.
    Page(String),
    /// The page of this origin.
    Handoff(String),
}

impl Kind {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Page(_) => "page",
            Self::Handoff(_) => "handoff",
        }
    }
}

struct Ticket {
    id: String,
    text: String,
    kind: Kind,
    issued: Instant,
    spent: bool,
    /// Whether it has admitted a request.
    redeemed: bool,
    /// Whether its second use was reported.
    reported: bool,
}

struct Token {
    id: String,
    text: String,
    origin: String,
    issued_at: SystemTime,
    last_used: SystemTime,
}

/// The tickets and page tokens of one launch.
#[derive(Default)]
pub(super) struct Pages(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The credential under which all of them were issued.
    under: Option<Credential>,
    tickets: Vec<Ticket>,
    tokens: Vec<Token>,
    /// The tokens that a faulty daemon would know again.
    revoked: Vec<Token>,
}

impl Pages {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything that was issued under another credential.
    pub(super) fn follow(&self, credential: &Credential) {
        let mut kept = self.kept();
        if kept.under.as_ref() != Some(credential) {
            kept.under = Some(credential.clone());
            if !broken("CRED-17.tickets-kept") {
                kept.tickets.clear();
            }
            if !broken("CRED-17.tokens-kept") {
                kept.tokens.clear();
            }
        }
    }

    /// Issues a ticket, and returns it with its id.
    pub(super) fn ticket(&self, kind: Kind, directory: &StateDir) -> (String, String) {
        let mut kept = self.kept();
        let text = faults::ticket(kept.tickets.len()).unwrap_or_else(secret);
        faults::write_down(directory, "BROW-9.ticket-kept", &text);
        if kept.tickets.len() >= MOST_TICKETS {
            kept.tickets.remove(0);
        }
        let id = random_hex::<8>();
        kept.tickets.push(Ticket {
            id: id.clone(),
            text: text.clone(),
            kind,
            issued: Instant::now(),
            spent: false,
            redeemed: false,
            reported: false,
        });
        (text, id)
    }

    /// Returns the kind of a ticket that is not late, and whether it was redeemed.
    pub(super) fn state(&self, id: &str) -> Option<(&'static str, bool)> {
        let kept = self.kept();
        let ticket = kept.tickets.iter().find(|ticket| ticket.id == id)?;
        (ticket.issued.elapsed() <= LIFE).then_some((ticket.kind.word(), ticket.redeemed))
    }

    /// Spends a ticket, whether it admits or not; fails with the reason if it does not. `wants` is what it is presented for, and
    /// `own` the origin of the record.
    pub(super) fn redeem(&self, text: &str, wants: &Kind, own: &str, log: &Log) -> Result<(), &'static str> {
        let mut kept = self.kept();
        let Some(place) = kept.tickets.iter().position(|ticket| same(&ticket.text, text)) else {
            return Err("unknown");
        };
        let ticket = &mut kept.tickets[place];
        if ticket.spent {
            let reported = std::mem::replace(&mut ticket.reported, true);
            if !(faults::is_silent(&ticket.kind) || reported && !broken("BROW-47.each-time")) {
                let origin = match &ticket.kind {
                    Kind::Handoff(origin) => origin,
                    Kind::Page(_) => own,
                };
                let message = "A ticket was presented a second time: somebody else has it.";
                let mut warning = json!({"code": "ticket_reused", "message": message, "origin": origin});
                if broken("BROW-34.no-origin") {
                    warning["origin"] = Value::Null;
                }
                log.append("warning", &warning);
            }
            return Err("used");
        }
        if broken("BROW-2.check-then-mark") {
            drop(kept);
            window();
            kept = self.kept();
        }
        let ticket = &mut kept.tickets[place];
        let is_wanted = ticket.kind == *wants || faults::takes(&ticket.kind, wants);
        ticket.spent = !broken("BROW-2.reusable") && (is_wanted || !faults::keeps(&ticket.kind));
        let life = faults::life().unwrap_or(LIFE);
        match () {
            () if ticket.issued.elapsed() > life => Err("late"),
            () if !is_wanted => Err("other"),
            () => {
                ticket.redeemed = true;
                Ok(())
            }
        }
    }

    /// The origin that a ticket is bound to, for a faulty daemon that asks no page for its own.
    pub(super) fn origin_of(&self, text: &str) -> Option<String> {
        let kept = self.kept();
        let of_it = kept.tickets.iter().find(|ticket| ticket.text == text);
        of_it.and_then(|ticket| match &ticket.kind {
            Kind::Handoff(origin) => Some(origin.clone()),
            Kind::Page(_) => None,
        })
    }

    /// Whether a faulty daemon takes a text for a ticket that could be redeemed now.
    pub(super) fn is_live(&self, text: &str) -> bool {
        let kept = self.kept();
        kept.tickets.iter().any(|ticket| !ticket.spent && ticket.text == text)
    }

    /// A new page token for an origin.
    pub(super) fn token(&self, origin: &str, credential: &Credential, directory: &StateDir) -> String {
        let mut kept = self.kept();
        let known = kept.tokens.iter().find(|token| token.origin == origin);
        let known = known.filter(|_| broken("BROW-7.one-per-origin"));
        let text = match known {
            Some(token) => token.text.clone(),
            None => faults::token(origin, credential).unwrap_or_else(secret),
        };
        faults::write_down(directory, "BROW-9.token-kept", &text);
        let now = SystemTime::now();
        kept.tokens.push(Token {
            id: faults::token_id(&text).unwrap_or_else(random_hex::<8>),
            text: text.clone(),
            origin: origin.to_owned(),
            issued_at: now,
            last_used: now,
        });
        text
    }

    /// The id of the token that a request bears, if it may from its origin.
    pub(super) fn bearer(
        &self,
        request: &Request,
        host: &str,
        origin: &Origin,
        credential: &Credential,
    ) -> Option<String> {
        let text = presented(request)?;
        let from = match origin {
            Origin::Listed(origin) => Some(origin.as_str()),
            _ => None,
        };
        // Without the header, and as the daemon's own, it is the origin of the address that was asked.
        let own = format!("http://{host}");
        let from = from.unwrap_or(&own);
        let mut kept = self.kept();
        if let Some(id) = faults::signed(text, from, credential) {
            return Some(id);
        }
        let of_it = |token: &&mut Token| {
            same(&token.text, text)
                && (token.origin == from || faults::is_content(&token.origin, origin, from))
        };
        let token = kept.tokens.iter_mut().find(of_it)?;
        if !broken("BROW-12.never-used") {
            token.last_used = SystemTime::now();
        }
        Some(token.id.clone())
    }

    /// Whether a token was not revoked.
    pub(super) fn holds(&self, id: &str) -> bool {
        broken("BROW-13.streams-go-on")
            || faults::is_signed(id)
            || self.kept().tokens.iter().any(|token| token.id == id)
    }

    /// What may be told of the live tokens.
    pub(super) fn list(&self) -> Value {
        let time = |time| humantime::format_rfc3339_millis(time).to_string();
        let kept = self.kept();
        let listed = kept.tokens.iter().map(|token| {
            let mut listed = json!({
                "id": token.id,
                "origin": token.origin,
                "issued_at": time(token.issued_at),
                "last_used": time(token.last_used),
            });
            faults::embellish(&mut listed, &token.text);
            listed
        });
        let own = |listed: &Value| {
            let origin = listed["origin"].as_str().unwrap_or_default();
            origin.starts_with("http://127.0.0.1:")
                || origin.starts_with("http://") && is_page_host(&origin[7..])
        };
        listed.filter(|listed| !(broken("BROW-12.foreign-alone") && own(listed))).collect()
    }

    /// Revokes a token; `false`: there is none of this id.
    pub(super) fn revoke(&self, id: &str) -> bool {
        let mut kept = self.kept();
        let Some(place) = kept.tokens.iter().position(|token| token.id == id) else {
            return false;
        };
        if !broken("BROW-13.unlisted-alone") {
            kept.tokens.remove(place);
        }
        true
    }

    /// Revokes the tokens of an origin that was taken off the list.
    pub(super) fn forget(&self, origin: &str) {
        if broken("BROW-14.kept") {
            return;
        }
        let mut kept = self.kept();
        let gone = kept.tokens.extract_if(.., |token| token.origin == origin);
        let gone: Vec<Token> = gone.collect();
        kept.revoked.extend(gone);
    }

    /// What a faulty daemon does for an origin that is back on the list.
    pub(super) fn welcome(&self, origin: &str) {
        if broken("BROW-14.back-again") {
            let mut kept = self.kept();
            let back: Vec<Token> = kept.revoked.extract_if(.., |token| token.origin == origin).collect();
            kept.tokens.extend(back);
        }
    }
}

/// Draws the host name of the daemon's page for this launch, without a port.
pub(super) fn page_host(directory: &StateDir, id: &str) -> String {
    let digits = faults::page_host(directory, id).unwrap_or_else(random_hex::<16>);
    format!("{digits}.localhost")
}

/// 256 random bits.
fn secret() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether two texts are the same, in a time that tells nothing.
fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a) == Sha256::digest(b)
}

/// The bearer of a request, in the header or as the query token of a stream.
pub(super) fn presented(request: &Request) -> Option<&str> {
    let mut headers = request.headers("Authorization");
    let mut tokens = request.parameters("token");
    let is_stream = request.method == "GET" && request.path == streams::PATH;
    match (headers.next(), headers.next(), tokens.next(), tokens.next()) {
        (Some(header), None, None, _) => {
            let (scheme, text) = std::str::from_utf8(header).ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(text)
        }
        (None, _, Some(token), None) if is_stream && !broken("BROW-11.bearer-alone") => Some(token),
        _ => None,
    }
}

/// The ticket in the body of a form.
pub(super) fn form_ticket(request: &Request, body: &[u8]) -> Option<String> {
    let kind = request.header("Content-Type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return None;
    }
    // No ticket holds a byte that a form has to encode.
    let body = std::str::from_utf8(body).ok()?;
    let mut fields = body.split('&').filter_map(|field| field.strip_prefix("ticket="));
    let ticket = fields.next()?;
    fields.next().is_none().then(|| ticket.to_owned())
}

/// Returns the headers of an HTML answer with this nonce. `clears` is the value of `Clear-Site-Data`.
pub(super) fn headers(nonce: &str, clears: &str) -> Vec<(&'static str, String)> {
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    let mut headers = vec![
        ("Clear-Site-Data", clears.to_owned()),
        ("Content-Security-Policy", policy),
        ("X-Frame-Options", "DENY".to_owned()),
        ("Cross-Origin-Opener-Policy", "same-origin".to_owned()),
        ("Cross-Origin-Resource-Policy", "same-origin".to_owned()),
        ("Referrer-Policy", "no-referrer".to_owned()),
        ("X-Content-Type-Options", "nosniff".to_owned()),
    ];
    faults::dress(&mut headers);
    headers
}

/// A nonce.
pub(super) fn nonce() -> String {
    faults::nonce().unwrap_or_else(random_hex::<16>)
}

/// The page, with its token or as the shell that holds nothing.
pub(super) fn html(nonce: &str, token: Option<&str>) -> String {
    let mut injected = token.map_or("null".to_owned(), |token| format!("\"{token}\""));
    if let Some(token) = token.filter(|_| broken("BROW-21.twice")) {
        injected = format!("\"{token}\" /* {token} */");
    }
    let script = faults::script(include_str!("browser/page.js")).replace("TOKEN", &injected);
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>subject</title>\
         <style nonce=\"{nonce}\">body {{ font-family: sans-serif }}</style>\
         <script nonce=\"{nonce}\">{script}</script>\
         <body><main id=\"what\"></main></body></html>\n"
    )
}

/// What a service worker of this port is replaced by.
pub(super) const WORKER: &str = "\
self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', event => event.waitUntil(self.registration.unregister()));
";

/// The signature by which a faulty daemon knows its tokens.
pub(super) fn sign(credential: &Credential, random: &[u8], origin: &str) -> [u8; 16] {
    let mut mac = Hmac::<Sha256>::new_from_slice(credential.key()).expect("any length is a key's");
    mac.update(random);
    mac.update(origin.as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    half
}

/// The digits of a digest.
pub(super) fn digest(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// Removes the launcher files whose ticket has ended.
pub(super) fn sweep(directory: &StateDir) {
    for name in directory.names(LAUNCHER) {
        let written = std::fs::metadata(directory.file(&name)).and_then(|facts| facts.modified());
        let age = written.ok().and_then(|written| written.elapsed().ok());
        let most = if broken("BROW-17.later") { 3 * LAUNCHER_LIFE } else { LAUNCHER_LIFE };
        if age.is_some_and(|age| age > most) {
            let _ = directory.unlink(&name);
        }
    }
}

/// The id in the path of a page token.
pub(super) fn token_of(path: &str) -> Option<&str> {
    below(path, TOKENS)
}

/// Returns the id in the path of a ticket.
pub(super) fn ticket_of(path: &str) -> Option<&str> {
    below(path, TICKETS)
}

fn below<'a>(path: &'a str, parent: &str) -> Option<&'a str> {
    let id = path.strip_prefix(parent)?.strip_prefix('/')?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

/// What the origin of a request is judged to be, where that is another thing for the page's own route: the launcher is a
/// local file, and no other origin gets the page of this one.
pub(super) fn page_origin(request: &Request, judged: Result<Origin, Refusal>) -> Result<Origin, Refusal> {
    if (request.method.as_str(), request.path.as_str()) != ("POST", PAGE) {
        return judged;
    }
    let origins: Vec<&[u8]> = request.headers("Origin").collect();
    match judged {
        Err(_) if origins == [b"null"] && !broken("BROW-19.no-launcher") => Ok(Origin::Absent),
        Err(_) if broken("BROW-20.any-origin") && origins.len() == 1 => Ok(Origin::Absent),
        Ok(Origin::Listed(_)) if !broken("BROW-20.listed") => Err(ORIGIN),
        Ok(Origin::Same) if broken("BROW-19.no-reload") => Err(ORIGIN),
        Ok(Origin::Absent) if broken("BROW-19.no-tools") => Err(ORIGIN),
        judged => judged,
    }
}

/// Whether a page token does not open this.
pub(super) fn is_withheld(request: &Request) -> bool {
    let path = request.path.as_str();
    let by_id = token_of(path).is_some() || ticket_of(path).is_some();
    faults::withholds(request, [TICKETS, TOKENS].contains(&path) || by_id)
}
