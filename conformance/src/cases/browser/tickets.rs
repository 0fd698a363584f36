//! Tickets: what they are, what they open, and how often.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault, Response};
use serde_json::json;

use super::visit::{
    Secret, bits, handoff_ask, handoff_ticket, handoff_token, page_ask, page_ticket, page_ticket_at,
    page_token, ticket_ask, tokens_in,
};
use crate::case::case;
use crate::fixtures::http::{ANSWER, Ask, Follower, LISTED, ensure_status, launch_listed};
use crate::fixtures::stream::follow;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{ReadyDaemon, Stage};

/// Two launches issue 40 tickets each: they differ, and hold 256 bits that vary as chance has it.
#[case("BROW-1")]
fn ticket_is_random(stage: &mut Stage) -> Outcome {
    stage.expect("80 different tickets, and 256 bits that vary in each launch");
    let mut all = BTreeSet::new();
    for _ in 0..2 {
        let (daemon, live) = stage.launch_ready()?;
        let mut tickets = Vec::new();
        for _ in 0..40 {
            tickets.push(page_ticket(stage, &live)?);
        }
        let bits = bits(&tickets);
        ensure!(bits >= 256, "no more than {bits} bits of the tickets vary");
        let before = all.len();
        all.extend(tickets.iter().map(ToString::to_string));
        ensure!(all.len() == before + 40, "{} of 40 tickets were there before", before + 40 - all.len());
        daemon.kill_group();
    }
    Ok(())
}

/// Sends the same request on so many connections, its last byte at the same time.
fn at_once(live: &ReadyDaemon, bytes: &[u8], count: usize) -> Vec<Result<Response, HttpFault>> {
    let deadline = Instant::now() + ANSWER;
    let together = Barrier::new(count);
    let one = || {
        let opened = Connection::open(live.target.address, deadline);
        let sent = opened.and_then(|mut connection| {
            connection.send(&bytes[..bytes.len() - 1], deadline)?;
            Ok(connection)
        });
        together.wait();
        let mut connection = sent?;
        connection.send(&bytes[bytes.len() - 1..], deadline)?;
        connection.read_response(deadline)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

/// Tickets of both kinds are redeemed by one request after the other, and by twelve at once, ten times: one
/// of them is admitted.
#[case("BROW-2")]
fn ticket_admits_once(stage: &mut Stage) -> Outcome {
    const ASKERS: usize = 12;
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("200 for one request, 401 for all others");
    for round in 0..10 {
        let (what, ask) = if round % 2 == 0 {
            let ticket = page_ticket(stage, &live)?;
            ("page", page_ask(&live, &ticket).origin("null"))
        } else {
            let ticket = handoff_ticket(stage, &live, LISTED)?;
            ("handoff", handoff_ask(&live, &ticket).origin(LISTED))
        };
        if round < 2 {
            live.served(&ask)?;
            live.answered(&ask.named(format!("the {what} a second time")), &[401])?;
            continue;
        }
        let mut admitted = 0;
        for answer in at_once(&live, &ask.bytes(), ASKERS) {
            match answer {
                Ok(answer) => {
                    admitted += usize::from(answer.status == 200);
                    ensure_status(stage, what, &answer, &[200, 401])?;
                }
                Err(fault) => return fail(format!("the {what}, one of {ASKERS}: {fault}")),
            }
        }
        ensure!(admitted == 1, "{admitted} of {ASKERS} requests with one {what} ticket were admitted");
    }
    Ok(())
}

/// What an answer says, but for its date.
fn said(response: &Response) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let headers = response.headers.iter();
    let mut headers: Vec<(String, String)> = headers
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| name != "date")
        .collect();
    headers.sort_unstable();
    (response.status, headers, response.body.clone())
}

/// These are refused, each with 401, all alike, and none with a token.
fn refused_alike(stage: &mut Stage, live: &ReadyDaemon, host: &str, asks: Vec<Ask>) -> Outcome {
    let mut first = None;
    for ask in asks {
        let ask = ask.with("Accept", "application/json");
        let response = live.answered(&ask, &[401])?;
        let tokens = tokens_in(stage, live, host, &super::visit::text(&response))?;
        ensure!(tokens.is_empty(), "{}: a token", ask.what);
        let (what, expected) = first.get_or_insert_with(|| (ask.what.clone(), said(&response))).clone();
        let seen = response.summary(stage.transcript());
        ensure!(said(&response) == expected, "{} is not answered as {what}: {seen}", ask.what);
    }
    Ok(())
}

/// Page tickets are presented at every host but their own: refused like a text that never was a ticket, and spent.
#[case("BROW-39")]
fn page_ticket_is_of_its_host(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 at another host, the same as for no ticket, and 401 at its own host afterwards");
    let own = page_ticket(stage, &live)?.host;
    let name = |host: &str| host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned();
    let mut hosts = vec![own.clone()];
    hosts.extend(["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{}", live.port())));
    hosts.dedup();
    for of in &hosts {
        for at in hosts.iter().filter(|at| *at != of) {
            let ticket = |stage: &mut Stage| {
                if *of == own {
                    page_ticket(stage, &live)
                } else {
                    page_ticket_at(stage, &live, &name(of))
                }
            };
            let good = ticket(stage)?;
            live.served(&page_ask(&live, &good).origin("null"))?;
            let ticket = ticket(stage)?;
            let pages = vec![
                page_ask(&live, &Secret::at(at, NEVER[0]))
                    .origin("null")
                    .named(format!("no ticket at {at}")),
                page_ask(&live, &Secret::at(at, &ticket))
                    .origin("null")
                    .named(format!("a ticket of {of} at {at}")),
            ];
            refused_alike(stage, &live, at, pages)?;
            let late = page_ask(&live, &ticket).origin("null");
            live.answered(&late.named(format!("the same at {of} after {at}")), &[401])?;
        }
    }
    Ok(())
}

/// Texts that never were a ticket.
const NEVER: [&str; 4] = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "q4ZyF3q0b8dUeHtZyqkPpV5S1uE7wq9xJr2mN0cLkTs",
    "x",
    "",
];

/// Tickets of both kinds are redeemed 31 s after their issue: refused, as what never was a ticket.
#[case("BROW-3", "BROW-6", idle, deadline_s = 90)]
fn late_ticket_refused(stage: &mut Stage) -> Outcome {
    const LATE: Duration = Duration::from_secs(31);
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401, the same as for what never was a ticket");
    let page = page_ticket(stage, &live)?;
    let handoff = handoff_ticket(stage, &live, LISTED)?;
    let issued = Instant::now();
    page_token(stage, &live)?;
    handoff_token(stage, &live, LISTED)?;
    stage.control("tickets that were issued a moment later were redeemed");
    // The bound itself is what is waited for.
    std::thread::sleep(LATE.saturating_sub(issued.elapsed()));
    live.between_controls(|| {
        let of = |ask: Ask, what: &str| ask.named(what);
        let never = NEVER[0];
        let pages = vec![
            of(page_ask(&live, &Secret::at(&page.host, never)).origin("null"), "no ticket, at the page"),
            of(page_ask(&live, &page).origin("null"), "a late ticket, at the page"),
        ];
        refused_alike(stage, &live, &page.host, pages)?;
        let handoffs = vec![
            of(handoff_ask(&live, never).origin(LISTED), "no ticket, at the handoff"),
            of(handoff_ask(&live, &handoff).origin(LISTED), "a late ticket, at the handoff"),
        ];
        refused_alike(stage, &live, &handoff.host, handoffs)
    })
}

/// A used ticket, one of the other kind and texts that never were one are presented on both routes: the
/// answers are the same, 401, and hold no token.
#[case("BROW-6")]
fn refused_tickets_look_alike(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401, the same for each");
    let used_page = page_ticket(stage, &live)?;
    live.served(&page_ask(&live, &used_page).origin("null"))?;
    let used_handoff = handoff_ticket(stage, &live, LISTED)?;
    live.served(&handoff_ask(&live, &used_handoff).origin(LISTED))?;
    let mut texts: Vec<(String, String)> =
        NEVER.iter().map(|text| (in_words(text), (*text).to_owned())).collect();
    texts.push(("a used page ticket".to_owned(), used_page.to_string()));
    texts.push(("a used handoff ticket".to_owned(), used_handoff.to_string()));
    texts.push(("the credential".to_owned(), live.credential.text()));
    live.between_controls(|| {
        let pages = texts.iter().map(|(what, text)| {
            let ask = page_ask(&live, &Secret::at(&used_page.host, text)).origin("null");
            ask.named(format!("{what}, at the page"))
        });
        refused_alike(stage, &live, &used_page.host, pages.collect())?;
        let handoffs = texts.iter().map(|(what, text)| {
            let ask = handoff_ask(&live, text).origin(LISTED);
            ask.named(format!("{what}, at the handoff"))
        });
        refused_alike(stage, &live, &used_handoff.host, handoffs.collect())
    })
}

/// Live tickets are presented for the other kind, as bearer on every kind of route, and as query token: 401.
#[case("BROW-4")]
fn ticket_opens_its_own_route_alone(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 for each");
    let page = page_token(stage, &live)?;
    handoff_token(stage, &live, LISTED)?;
    stage.control("a ticket of each kind opened its own route");
    let read = stage.read_route();
    let mut routes = vec![
        read.ask(&live),
        ticket_ask(&live, &json!({"kind": "page"})),
        Ask::new(&live, "GET", "/v1/page-tokens"),
        Ask::new(&live, "GET", "/"),
    ];
    let stream = stage.stream_route().ok().map(|stream| stream.ask(&live));
    routes.extend(stream.clone());
    let mut asks = vec![
        handoff_ask(&live, &page_ticket(stage, &live)?)
            .origin(LISTED)
            .named("a page ticket at the handoff"),
        page_ask(&live, &Secret::at(&page.host, &handoff_ticket(stage, &live, LISTED)?))
            .origin("null")
            .named("a handoff ticket at the page"),
    ];
    for route in routes {
        for of_page in [true, false] {
            let ticket = if of_page {
                page_ticket(stage, &live)?
            } else {
                handoff_ticket(stage, &live, LISTED)?
            };
            let what = if of_page { "page" } else { "handoff" };
            let ask = route.clone().hosts([&*ticket.host]).with("Authorization", &format!("Bearer {ticket}"));
            let ask = if of_page { ask } else { ask.origin(LISTED) };
            asks.push(ask.named(format!("{}, a {what} ticket as bearer", route.what)));
        }
    }
    let name = stage.manifest().binding.stream.clone();
    if let (Some(stream), Some(name)) = (stream, name.and_then(|stream| stream.query_token)) {
        let page = page_ticket(stage, &live)?;
        let handoff = handoff_ticket(stage, &live, LISTED)?;
        let by_page = stream.clone().hosts([&*page.host]).parameter(&name, &page);
        asks.push(by_page.named("a page ticket as query token"));
        let handoff = stream.parameter(&name, &handoff).origin(LISTED);
        asks.push(handoff.named("a handoff ticket as query token"));
    }
    live.between_controls(|| live.all_answered(&asks, &[401]))
}

/// Page tokens of both kinds, tickets and nothing at all ask for tickets, for the list of tokens and for a
/// revocation: none is done; a page token is told that it may not.
#[case("BROW-5")]
fn credential_alone_makes_tickets(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("403 with `forbidden_scope` for a page token, 401 for less, and nothing done");
    let page = page_token(stage, &live)?;
    let foreign = handoff_token(stage, &live, LISTED)?;
    let list = Ask::new(&live, "GET", "/v1/page-tokens");
    let listed = live.served(&list.clone().bearer(&live))?;
    let ids = |response: &Response| -> Vec<String> {
        let list = response.json().unwrap_or_default();
        let entries = list.as_array().into_iter().flatten();
        entries.filter_map(|entry| entry["id"].as_str().map(str::to_owned)).collect()
    };
    let before = ids(&listed);
    ensure!(before.len() == 2, "{} page tokens are listed, not 2", before.len());
    let mut routes = vec![
        ticket_ask(&live, &json!({"kind": "page"})),
        ticket_ask(&live, &json!({"kind": "handoff", "origin": LISTED})),
        list.clone(),
    ];
    routes.extend(
        before
            .iter()
            .map(|id| Ask::new(&live, "DELETE", &format!("/v1/page-tokens/{id}")).named("a revocation")),
    );
    live.between_controls(|| {
        for route in &routes {
            for (what, token, origin) in [
                ("a page", &page, None),
                ("a foreign page", &foreign, Some(LISTED)),
            ] {
                let ask = route.clone().hosts([&*token.host]);
                let ask = ask.with("Authorization", &format!("Bearer {token}"));
                let ask = origin.into_iter().fold(ask, Ask::origin);
                let ask = ask.named(format!("{} by the token of {what}", route.what));
                let refused = live.answered(&ask, &[403])?;
                let code = refused.json().unwrap_or_default()["code"].clone();
                ensure!(code == "forbidden_scope", "{}: code {code}", ask.what);
            }
            let bare = route.clone().named(format!("{} by nobody", route.what));
            live.answered(&bare, &[401])?;
        }
        let listed = live.answer(&list.clone().bearer(&live))?;
        ensure!(ids(&listed) == before, "page tokens were revoked");
        Ok(())
    })
}

/// Tickets of both kinds are presented twice while a stream of warnings is open: it tells of each, and of the
/// origin: that of the handoff, or of the record, although the page ticket is presented at another name.
#[case("BROW-34")]
fn second_use_is_told(stage: &mut Stage) -> Outcome {
    let stream = stage.stream_route()?;
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("a `warning` with the code `ticket_reused` and the origin, for each second use");
    let warnings = stream.ask(&live).bearer(&live).parameter("topics", "warning");
    for (what, origin) in [("handoff", Some(LISTED)), ("page", None)] {
        let ask = match origin {
            Some(origin) => handoff_ask(&live, &handoff_ticket(stage, &live, origin)?).origin(origin),
            None => page_ask(&live, &page_ticket(stage, &live)?).origin("null"),
        };
        live.served(&ask)?;
        let other = format!("localhost:{}", live.port());
        let ask = if origin.is_none() { ask.hosts([&*other]) } else { ask };
        let mut follower = Follower::open(&live, &warnings)?;
        stage.precondition(format!("a {what} ticket was used, and a stream of warnings is open"));
        live.answered(&ask, &[401])?;
        let Some(line) = follower.wait_for_line("ticket_reused", Instant::now() + ANSWER) else {
            return fail(format!("no warning tells of the second use of a {what} ticket"));
        };
        let event: serde_json::Value =
            serde_json::from_str(line.trim_start_matches("data:").trim()).unwrap_or_default();
        let own = live.own_origin();
        let told = event["data"]["origin"].as_str();
        ensure!(
            told == Some(origin.unwrap_or(&own))
                && event["topic"] == "warning"
                && event["data"]["code"] == "ticket_reused",
            "of the second use of a {what} ticket it tells {line}"
        );
    }
    Ok(())
}

/// Used tickets of both kinds are presented 20 times each: a stream warns once for each ticket.
#[case("BROW-47")]
fn reused_ticket_is_told_once(stage: &mut Stage) -> Outcome {
    const TIMES: usize = 20;
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("one `warning` for each ticket");
    let mut stream = live.open_stream("?topics=warning")?;
    let page = page_ask(&live, &page_ticket(stage, &live)?).origin("null");
    let handoff = handoff_ask(&live, &handoff_ticket(stage, &live, LISTED)?).origin(LISTED);
    let asks = [page, handoff];
    for ask in &asks {
        live.served(ask)?;
        live.all_answered(&vec![ask.clone(); TIMES], &[401])?;
    }
    // An event too many arrives within this time.
    let seen = follow(&mut stream, Instant::now() + Duration::from_secs(1), |_| false);
    let told = seen.events.iter().filter(|event| event.payload()["code"] == "ticket_reused").count();
    stage.observed(format!("{told} warnings for {} uses of {} tickets", asks.len() * TIMES, asks.len()));
    ensure!(told == asks.len(), "{told} warnings for {} tickets", asks.len());
    Ok(())
}
