//! Helpers of the cases without a browser: tickets, page tokens, and the requests of a page or its launcher.

use std::fmt;
use std::ops::Deref;

use local_daemon_harness::http::Response;
use serde_json::{Value, json};

use crate::fixtures::http::Ask;
use crate::outcome::{Outcome, fail};
use crate::stage::{ReadyDaemon, Stage};

/// The least that 256 bits are in base64url, and less than in hexadecimal digits.
pub(super) const SECRET: usize = 43;

/// Every run of characters in a text that is long enough for a ticket or a token.
pub(in crate::cases) fn candidates(text: &str) -> Vec<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.split(|c| !plain(c)).filter(|run| run.len() >= SECRET).collect()
}

/// A ticket or a token, and the host at which it is presented.
#[derive(Debug, Clone)]
pub(in crate::cases) struct Secret {
    text: String,
    /// `host:port`
    pub(in crate::cases) host: String,
}

impl Secret {
    /// Presents a text at a host as if it were one.
    pub(in crate::cases) fn at(host: &str, text: &str) -> Self {
        Self { text: text.to_owned(), host: host.to_owned() }
    }

    /// The host without its port.
    pub(in crate::cases) fn name(&self) -> &str {
        self.host.rsplit_once(':').map_or(&self.host, |(name, _)| name)
    }

    /// The origin of a page at that host.
    pub(in crate::cases) fn origin(&self) -> String {
        format!("http://{}", self.host)
    }
}

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn remember(stage: &mut Stage, host: &str, text: &str) -> Secret {
    stage.transcript().hide(text.as_bytes());
    Secret::at(host, text)
}

/// The request for a ticket, without authentication.
pub(in crate::cases) fn ticket_ask(live: &ReadyDaemon, wish: &Value) -> Ask {
    let ask = Ask::new(live, "POST", "/v1/tickets").with("Content-Type", "application/json");
    ask.body(wish.to_string()).named(format!("a ticket for {wish}"))
}

/// Requests a ticket, and returns it with the answer.
pub(in crate::cases) fn issued(
    stage: &mut Stage,
    live: &ReadyDaemon,
    wish: &Value,
) -> Outcome<(Secret, Value)> {
    let answer = live.answered(&ticket_ask(live, wish).bearer(live), &[201])?;
    let body = answer.json().unwrap_or_default();
    let Some(ticket) = body["ticket"].as_str() else {
        return fail(format!("201 for {wish}, and no ticket"));
    };
    let page = body["page_url"]
        .as_str()
        .and_then(|url| url.strip_prefix("http://")?.strip_suffix("/page"));
    let ticket = match (page, wish["kind"] == "page") {
        (Some(host), true) => remember(stage, host, ticket),
        (None, true) => return fail(format!("201 for {wish}, and no `page_url` of a page")),
        (_, false) => remember(stage, &live.target.authority, ticket),
    };
    Ok((ticket, body))
}

/// A ticket for the daemon's own page.
pub(in crate::cases) fn page_ticket(stage: &mut Stage, live: &ReadyDaemon) -> Outcome<Secret> {
    Ok(issued(stage, live, &json!({"kind": "page"}))?.0)
}

/// A ticket for the daemon's own page at one of its three other names.
pub(in crate::cases) fn page_ticket_at(stage: &mut Stage, live: &ReadyDaemon, host: &str) -> Outcome<Secret> {
    Ok(issued(stage, live, &json!({"kind": "page", "host": host}))?.0)
}

/// A ticket for the page of `origin`.
pub(in crate::cases) fn handoff_ticket(
    stage: &mut Stage,
    live: &ReadyDaemon,
    origin: &str,
) -> Outcome<Secret> {
    Ok(issued(stage, live, &json!({"kind": "handoff", "origin": origin}))?.0)
}

/// What a launcher posts, without `Origin`.
pub(in crate::cases) fn page_ask(live: &ReadyDaemon, ticket: &Secret) -> Ask {
    let ask = Ask::new(live, "POST", "/page").with("Content-Type", "application/x-www-form-urlencoded");
    ask.hosts([&*ticket.host]).body(format!("ticket={ticket}")).named("the page for a ticket")
}

/// Uses a page ticket, and returns the request that presents it again.
pub(in crate::cases) fn spent_ticket(stage: &mut Stage, live: &ReadyDaemon) -> Outcome<Ask> {
    let ticket = page_ticket(stage, live)?;
    let ask = page_ask(live, &ticket).origin("null");
    live.served(&ask)?;
    Ok(ask.named("a ticket that was used"))
}

/// What a page of another origin posts, without `Origin`.
pub(in crate::cases) fn handoff_ask(live: &ReadyDaemon, ticket: &str) -> Ask {
    let ask = Ask::new(live, "POST", "/v1/handoff").with("Content-Type", "application/json");
    ask.body(json!({ "ticket": ticket }).to_string()).named("the handoff of a ticket")
}

/// What reads something, with a page token as bearer and without `Origin`.
pub(in crate::cases) fn read_ask(live: &ReadyDaemon, token: &Secret) -> Ask {
    let read = live.read_route().ask(live).hosts([&*token.host]);
    read.with("Authorization", &format!("Bearer {token}"))
}

/// Returns the page tokens in a page at this host: the words that the daemon accepts as bearer, from the page's own origin.
pub(in crate::cases) fn tokens_in(
    stage: &mut Stage,
    live: &ReadyDaemon,
    host: &str,
    page: &str,
) -> Outcome<Vec<Secret>> {
    let mut tokens = Vec::new();
    for candidate in candidates(page) {
        let token = Secret::at(host, candidate);
        let ask = read_ask(live, &token).named("what stands in a page, as bearer");
        if (200..300).contains(&live.answer(&ask)?.status) {
            tokens.push(remember(stage, host, candidate));
        }
    }
    Ok(tokens)
}

/// The text of an answer.
pub(in crate::cases) fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

/// The page for a ticket.
pub(in crate::cases) fn page(live: &ReadyDaemon, ticket: &Secret) -> Outcome<Response> {
    live.answered(&page_ask(live, ticket).origin("null"), &[200])
}

/// A token of the daemon's own page.
pub(in crate::cases) fn page_token(stage: &mut Stage, live: &ReadyDaemon) -> Outcome<Secret> {
    let ticket = page_ticket(stage, live)?;
    token_for(stage, live, &ticket)
}

/// The token for a page ticket.
pub(in crate::cases) fn token_for(stage: &mut Stage, live: &ReadyDaemon, ticket: &Secret) -> Outcome<Secret> {
    let page = page(live, ticket)?;
    match tokens_in(stage, live, &ticket.host, &text(&page))?.pop() {
        Some(token) => Ok(token),
        None => fail("nothing that stands in the page opens the daemon"),
    }
}

/// A token of the page of `origin`.
pub(in crate::cases) fn handoff_token(
    stage: &mut Stage,
    live: &ReadyDaemon,
    origin: &str,
) -> Outcome<Secret> {
    let ticket = handoff_ticket(stage, live, origin)?;
    let answer = live.answered(&handoff_ask(live, &ticket).origin(origin), &[200])?;
    match answer.json().as_ref().and_then(|body| body["token"].as_str()) {
        Some(token) => Ok(remember(stage, &live.target.authority, token)),
        None => fail("200 for a handoff, and no token"),
    }
}

/// How many bits these texts of one length may hold, by the places at which they differ as chance has it.
pub(in crate::cases) fn bits<T: Deref<Target = str>>(texts: &[T]) -> usize {
    let length = texts.iter().map(|text| text.len()).min().unwrap_or_default();
    let hex = texts.iter().all(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let differs = |place: &usize| {
        let mut there: Vec<u8> = texts.iter().map(|text| text.as_bytes()[*place]).collect();
        there.sort_unstable();
        there.dedup();
        there.len() > 4
    };
    (0..length).filter(differs).count() * if hex { 4 } else { 6 }
}
