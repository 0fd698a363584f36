//! The handoff: a token for the page of another origin.

use serde_json::json;

use super::visit::{
    Secret, handoff_ask, handoff_ticket, handoff_token, read_ask, text, ticket_ask, tokens_in,
};
use crate::case::case;
use crate::fixtures::http::{Ask, LISTED, LISTED_TOO, UNLISTED, launch_listed};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::Stage;

/// Tickets are asked for, for origins that are not on the list, were removed from it, or are none: 400, and
/// no ticket.
#[case("BROW-31")]
fn handoff_ticket_for_a_listed_origin(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("400, and no ticket");
    let removed = "https://removed.example";
    let exit = stage.add_origin(removed)?;
    ensure!(exit.code == Some(0), "the origin was not added: {exit}");
    handoff_ticket(stage, &live, removed)?;
    stage.control("a ticket was issued for an origin that was listed");
    let exit = stage.remove_origin(removed)?;
    ensure!(exit.code == Some(0), "the origin was not removed: {exit}");
    let upper = LISTED.to_ascii_uppercase();
    let slash = format!("{LISTED}/");
    let longer = format!("{LISTED}.evil.example");
    let origins = [
        UNLISTED, removed, "null", "*", "", "file://", &upper, &slash, &longer,
    ];
    live.between_controls(|| {
        for origin in origins {
            let wish = ticket_ask(&live, &json!({"kind": "handoff", "origin": origin}));
            let refused = live.answered(&wish.bearer(&live), &[400])?;
            let holds = refused.json().unwrap_or_default()["ticket"].is_string();
            ensure!(!holds, "a ticket for {origin}", origin = in_words(&origin));
        }
        Ok(())
    })?;
    handoff_ticket(stage, &live, LISTED)?;
    stage.control("a ticket was issued for a listed origin afterwards");
    Ok(())
}

/// A live ticket is presented by the page of its origin: 200, and a token that opens the daemon from there
/// alone.
#[case("BROW-32")]
fn handoff_binds_its_token(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("200 with the token and its origin, and a token that is of this origin");
    for origin in [LISTED, LISTED_TOO] {
        let ticket = handoff_ticket(stage, &live, origin)?;
        let ask = handoff_ask(&live, &ticket).origin(origin);
        let response = live.answered(&ask, &[200])?;
        let body = response.json().unwrap_or_default();
        let Some(token) = body["token"].as_str() else {
            return fail("200, and no token");
        };
        stage.transcript().hide(token.as_bytes());
        let token = Secret::at(&live.target.authority, token);
        ensure!(body["origin"] == origin, "the answer to {origin} names {}", body["origin"]);
        let read = |origin: &str| {
            let ask = read_ask(&live, &token).origin(origin);
            ask.named(format!("its token from {origin}"))
        };
        let other = if origin == LISTED { LISTED_TOO } else { LISTED };
        let asks = [
            read(other),
            read(&live.own_origin()),
            read_ask(&live, &token).named("its token without Origin"),
        ];
        let own = read(origin);
        live.served(&own)?;
        live.all_answered(&asks, &[401])?;
        live.served(&own)?;
    }
    Ok(())
}

/// Live tickets are presented from another listed origin, from the daemon's own and without Origin: 401, and
/// 401 from their own origin afterwards.
#[case("BROW-33")]
fn handoff_from_elsewhere_spends_the_ticket(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 from elsewhere, without a token, and 401 from its own origin afterwards");
    let own = live.own_origin();
    for from in [Some(LISTED_TOO), Some(own.as_str()), None] {
        handoff_token(stage, &live, LISTED)?;
        stage.control("a live ticket was admitted from its origin");
        let ticket = handoff_ticket(stage, &live, LISTED)?;
        let bare = handoff_ask(&live, &ticket);
        let elsewhere = from.into_iter().fold(bare.clone(), Ask::origin);
        let elsewhere = elsewhere.named(format!("a live ticket from {from}", from = in_words(&from)));
        let refused = live.answered(&elsewhere, &[401])?;
        let tokens = tokens_in(stage, &live, &live.target.authority, &text(&refused))?;
        ensure!(tokens.is_empty(), "{}: a token", elsewhere.what);
        let late = bare
            .origin(LISTED)
            .named(format!("the same from its origin after {from}", from = in_words(&from)));
        live.answered(&late, &[401])?;
    }
    Ok(())
}
