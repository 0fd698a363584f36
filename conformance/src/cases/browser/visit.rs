//! What the cases without a browser arrange alike: tickets, page tokens, and what a page or its launcher sends.

use local_daemon_harness::http::Response;
use serde_json::Value;

use crate::fixtures::http::Ask;
use crate::outcome::{Outcome, fail};
use crate::stage::{ReadyDaemon, Stage};

/// The least that 256 bits are in base64url, and less than in hexadecimal digits.
pub(super) const SECRET: usize = 43;

/// Every run of characters in a text that is long enough for a ticket or a token.
pub(super) fn candidates(text: &str) -> Vec<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.split(|c| !plain(c)).filter(|run| run.len() >= SECRET).collect()
}

fn remember(stage: &mut Stage, secret: &str) -> String {
    stage.transcript().hide(secret.as_bytes());
    secret.to_owned()
}

/// The wish for a ticket, without authentication.
pub(super) fn ticket_ask(live: &ReadyDaemon, wish: &Value) -> Ask {
    let ask = Ask::new(live, "POST", "/v1/tickets").with("Content-Type", "application/json");
    ask.body(wish.to_string()).named(format!("a ticket for {wish}"))
}

fn issued(stage: &mut Stage, live: &ReadyDaemon, wish: &Value) -> Outcome<String> {
    let answer = live.answered(&ticket_ask(live, wish).bearer(live), &[201])?;
    match answer.json().as_ref().and_then(|body| body["ticket"].as_str()) {
        Some(ticket) => Ok(remember(stage, ticket)),
        None => fail(format!("201 for {wish}, and no ticket")),
    }
}

/// A ticket for the daemon's own page.
pub(in crate::cases) fn page_ticket(stage: &mut Stage, live: &ReadyDaemon) -> Outcome<String> {
    issued(stage, live, &serde_json::json!({"kind": "page"}))
}

/// A ticket for the page of `origin`.
pub(in crate::cases) fn handoff_ticket(
    stage: &mut Stage,
    live: &ReadyDaemon,
    origin: &str,
) -> Outcome<String> {
    issued(stage, live, &serde_json::json!({"kind": "handoff", "origin": origin}))
}

/// What a launcher posts, without `Origin`.
pub(in crate::cases) fn page_ask(live: &ReadyDaemon, ticket: &str) -> Ask {
    let ask = Ask::new(live, "POST", "/page").with("Content-Type", "application/x-www-form-urlencoded");
    ask.body(format!("ticket={ticket}")).named("the page for a ticket")
}

/// The request of a ticket that was used.
pub(in crate::cases) fn spent_ticket(stage: &mut Stage, live: &ReadyDaemon) -> Outcome<Ask> {
    let ticket = page_ticket(stage, live)?;
    let ask = page_ask(live, &ticket).origin("null");
    live.served(&ask)?;
    Ok(ask.named("a ticket that was used"))
}

/// What a page of another origin posts, without `Origin`.
pub(in crate::cases) fn handoff_ask(live: &ReadyDaemon, ticket: &str) -> Ask {
    let ask = Ask::new(live, "POST", "/v1/handoff").with("Content-Type", "application/json");
    ask.body(serde_json::json!({ "ticket": ticket }).to_string())
        .named("the handoff of a ticket")
}

/// What reads something, with a page token as bearer and without `Origin`.
pub(in crate::cases) fn read_ask(live: &ReadyDaemon, token: &str) -> Ask {
    let read = live.read_route().ask(live);
    read.with("Authorization", &format!("Bearer {token}"))
}

/// The page tokens in a page: what of it the daemon takes as bearer, from the page's own origin.
pub(super) fn tokens_in(stage: &mut Stage, live: &ReadyDaemon, page: &str) -> Outcome<Vec<String>> {
    let mut tokens = Vec::new();
    for candidate in candidates(page) {
        let ask = read_ask(live, candidate).named("what stands in a page, as bearer");
        if (200..300).contains(&live.answer(&ask)?.status) {
            tokens.push(remember(stage, candidate));
        }
    }
    Ok(tokens)
}

/// The text of an answer.
pub(super) fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

/// The page for a ticket of its own.
pub(super) fn page(stage: &mut Stage, live: &ReadyDaemon) -> Outcome<Response> {
    let ticket = page_ticket(stage, live)?;
    live.answered(&page_ask(live, &ticket).origin("null"), &[200])
}

/// A token of the daemon's own page.
pub(in crate::cases) fn page_token(stage: &mut Stage, live: &ReadyDaemon) -> Outcome<String> {
    let page = page(stage, live)?;
    match tokens_in(stage, live, &text(&page))?.pop() {
        Some(token) => Ok(token),
        None => fail("nothing that stands in the page opens the daemon"),
    }
}

/// A token of the page of `origin`.
pub(in crate::cases) fn handoff_token(
    stage: &mut Stage,
    live: &ReadyDaemon,
    origin: &str,
) -> Outcome<String> {
    let ticket = handoff_ticket(stage, live, origin)?;
    let answer = live.answered(&handoff_ask(live, &ticket).origin(origin), &[200])?;
    match answer.json().as_ref().and_then(|body| body["token"].as_str()) {
        Some(token) => Ok(remember(stage, token)),
        None => fail("200 for a handoff, and no token"),
    }
}

/// How many bits these texts of one length may hold, by the places at which they differ as chance has it.
pub(super) fn bits(texts: &[String]) -> usize {
    let length = texts.iter().map(String::len).min().unwrap_or_default();
    let hex = texts.iter().all(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let differs = |place: &usize| {
        let mut there: Vec<u8> = texts.iter().map(|text| text.as_bytes()[*place]).collect();
        there.sort_unstable();
        there.dedup();
        there.len() > 4
    };
    (0..length).filter(differs).count() * if hex { 4 } else { 6 }
}
