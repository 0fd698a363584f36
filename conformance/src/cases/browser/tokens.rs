//! Page tokens: where each is accepted, how they are listed, and when they end.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use local_daemon_harness::http::Response;
use local_daemon_harness::process::Signal;
use serde_json::{Value, json};

use super::visit::{
    Secret, bits, handoff_token, page_ask, page_ticket, page_ticket_at, page_token, read_ask, text,
    token_for, tokens_in,
};
use crate::case::case;
use crate::fixtures::http::{ANSWER, Ask, Follower, LISTED, LISTED_TOO, UNLISTED, launch_listed, marker};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{ReadyDaemon, Stage, Start};

/// The list of page tokens.
fn listed(live: &ReadyDaemon) -> Outcome<(Response, Vec<Value>)> {
    let response = live.served(&Ask::new(live, "GET", "/v1/page-tokens").bearer(live))?;
    match response.json() {
        Some(Value::Array(list)) => Ok((response, list)),
        _ => fail("the list of page tokens is no array"),
    }
}

/// Revokes the only token of an origin.
fn revoke(live: &ReadyDaemon, origin: &str) -> Outcome<Instant> {
    let (_, list) = listed(live)?;
    let of_it: Vec<&Value> = list.iter().filter(|entry| entry["origin"] == origin).collect();
    let [entry] = of_it[..] else {
        return fail(format!("{} tokens of {origin} are listed, not 1", of_it.len()));
    };
    let id = entry["id"].as_str().unwrap_or_default();
    let ask = Ask::new(live, "DELETE", &format!("/v1/page-tokens/{id}")).bearer(live);
    live.answered(&ask.named(format!("the revocation of the token of {origin}")), &[204])?;
    Ok(Instant::now())
}

/// 40 tickets are redeemed by the daemon's page and by that of an origin: each gets a token of its own, of
/// 256 bits that vary.
#[case("BROW-7")]
fn token_is_random(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("40 different tokens, of which 256 bits vary");
    let mut tokens = Vec::new();
    for _ in 0..20 {
        tokens.push(page_token(stage, &live)?);
        tokens.push(handoff_token(stage, &live, LISTED)?);
    }
    let different: BTreeSet<&str> = tokens.iter().map(|token| &**token).collect();
    ensure!(different.len() == tokens.len(), "{} of {} tokens differ", different.len(), tokens.len());
    let bits = bits(&tokens);
    ensure!(bits >= 256, "no more than {bits} bits of the tokens vary");
    Ok(())
}

/// The daemon of a page that holds a token ends, by a signal and by force, and another starts in its place:
/// 401.
#[case("BROW-8")]
fn token_ends_with_its_launch(stage: &mut Stage) -> Outcome {
    stage.expect("401 from the next launch");
    let start = || Start::new().allowing(LISTED);
    let daemon = stage.launch_with(start())?;
    let mut live = stage.ready(&daemon)?;
    let mut daemon = daemon;
    for force in [false, true] {
        // The origin of the daemon's own page changes with its port: that of another does not.
        let token = handoff_token(stage, &live, LISTED)?;
        let own = page_token(stage, &live)?;
        live.served(&read_ask(&live, &token).origin(LISTED))?;
        stage.precondition("a page holds a token that opens the daemon");
        if !force {
            daemon.signal(Signal::TERM)?;
            daemon.wait_exit(Instant::now() + stage.manifest().daemon.stand_down_timeout() + ANSWER);
        }
        daemon.kill_group();
        daemon = stage.launch_with(start())?;
        live = stage.ready(&daemon)?;
        let here = page_ticket(stage, &live)?;
        let asks = [
            read_ask(&live, &Secret::at(&live.target.authority, &token))
                .origin(LISTED)
                .named("the token of an earlier launch"),
            read_ask(&live, &Secret::at(&here.host, &own)).named("the token of an earlier launch's own page"),
        ];
        live.between_controls(|| live.all_answered(&asks, &[401]))?;
    }
    Ok(())
}

/// Every file below `place` that holds one of these texts; the suite's own are not among them.
pub(super) fn holding(
    place: &Path,
    secrets: &[(&str, String)],
    found: &mut Vec<String>,
) -> std::io::Result<()> {
    for entry in std::fs::read_dir(place)? {
        let path = entry?.path();
        let Ok(facts) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if facts.is_dir() {
            holding(&path, secrets, found)?;
        } else if facts.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let held = secrets.iter().find(|(_, secret)| {
                let secret = secret.as_bytes();
                bytes.windows(secret.len()).any(|window| window == secret)
            });
            found.extend(held.map(|(what, _)| format!("{} holds {what}", path.display())));
        }
    }
    Ok(())
}

/// Tickets and tokens are issued, used, refused and revoked; neither then nor after the daemon's end does a
/// file hold one.
#[case("BROW-9")]
fn no_ticket_or_token_in_a_file(stage: &mut Stage) -> Outcome {
    let (daemon, live) = launch_listed(stage)?;
    stage.expect("no file that holds a ticket or a token");
    let mut secrets = Vec::new();
    let mut keep = |what, secret: &str| secrets.push((what, secret.to_owned()));
    let unused = page_ticket(stage, &live)?;
    keep("an unused ticket", &unused);
    let used = page_ticket(stage, &live)?;
    let page = live.served(&page_ask(&live, &used).origin("null"))?;
    live.answered(&page_ask(&live, &used).origin("null"), &[401])?;
    keep("a used ticket", &used);
    for token in tokens_in(stage, &live, &used.host, &text(&page))? {
        keep("a page token", &token);
    }
    let foreign = handoff_token(stage, &live, LISTED)?;
    keep("the token of a handoff", &foreign);
    live.served(&read_ask(&live, &foreign).origin(LISTED))?;
    live.answered(&read_ask(&live, &foreign).origin(LISTED_TOO), &[401])?;
    let revoked = handoff_token(stage, &live, LISTED_TOO)?;
    keep("a revoked token", &revoked);
    revoke(&live, LISTED_TOO)?;
    stage.precondition(format!("{} tickets and tokens went through the daemon", secrets.len()));
    let look = |stage: &mut Stage, when: &str| {
        let mut found = Vec::new();
        holding(stage.arena().path(), &secrets, &mut found)?;
        ensure!(found.is_empty(), "{when}, {}", found.join(", "));
        Ok(())
    };
    look(stage, "while the daemon runs")?;
    daemon.signal(Signal::TERM)?;
    daemon.wait_exit(Instant::now() + stage.manifest().daemon.stand_down_timeout() + ANSWER);
    look(stage, "after its end")
}

/// The stream by query token, where the subject takes one.
fn by_query(live: &ReadyDaemon, token: &Secret) -> Option<Ask> {
    let stream = live.manifest().binding.stream.clone()?;
    let name = stream.query_token?;
    Some(Ask::new(live, "GET", &stream.path).hosts([&*token.host]).parameter(&name, token))
}

/// Tokens of the daemon's page, at its own host and at another name, and of two origins are presented from each of them and
/// without Origin, as bearer and by query: accepted from their own alone.
#[case("BROW-10")]
fn token_is_of_its_origin(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect(
        "2xx from the token's own origin, 401 from every other that is admitted, 403 from what is not",
    );
    let ticket = page_ticket_at(stage, &live, "127.0.0.1")?;
    let of_other = token_for(stage, &live, &ticket)?;
    let (other_host, other_own) = (of_other.host.clone(), of_other.origin());
    let page = page_token(stage, &live)?;
    let (own_host, own) = (page.host.clone(), page.origin());
    let tokens = [
        ("its own page", own.clone(), page),
        ("its page at its other name", other_own.clone(), of_other),
        ("a listed origin", LISTED.to_owned(), handoff_token(stage, &live, LISTED)?),
        ("another listed origin", LISTED_TOO.to_owned(), handoff_token(stage, &live, LISTED_TOO)?),
    ];
    // Host, Origin, and the origin that this is to the daemon.
    let places = [
        (&own_host, None, Some(own.as_str())),
        (&own_host, Some(own.as_str()), Some(own.as_str())),
        (&other_host, None, Some(other_own.as_str())),
        (&other_host, Some(other_own.as_str()), Some(other_own.as_str())),
        (&own_host, Some(LISTED), Some(LISTED)),
        (&other_host, Some(LISTED), Some(LISTED)),
        (&own_host, Some(LISTED_TOO), Some(LISTED_TOO)),
        (&own_host, Some(UNLISTED), None),
        (&own_host, Some("null"), None),
        (&own_host, Some(other_own.as_str()), None),
    ];
    for (whose, origin, token) in &tokens {
        for (host, from, is) in places {
            let expected: &[u16] = match is {
                None => &[403],
                Some(is) if is == origin => &[200],
                Some(_) => &[401],
            };
            let what = format!("the token of {whose} at {host} from {from}", from = in_words(&from));
            let placed = |ask: Ask, how: &str| {
                let ask = ask.hosts([host.as_str()]);
                from.into_iter().fold(ask, Ask::origin).named(format!("{what}, {how}"))
            };
            let bearer = placed(read_ask(&live, token), "as bearer");
            live.answered(&bearer, expected)?;
            if let Some(ask) = by_query(&live, token) {
                live.answered(&placed(ask, "by query"), expected)?;
            }
        }
    }
    Ok(())
}

/// A page's own token and that of an origin read, change something, open the stream by bearer and by query,
/// and stop the daemon.
#[case("BROW-11")]
fn token_opens_every_route(stage: &mut Stage) -> Outcome {
    for foreign in [false, true] {
        let (_daemon, live) = launch_listed(stage)?;
        stage.expect("2xx for each");
        let token = if foreign {
            handoff_token(stage, &live, LISTED)?
        } else {
            page_token(stage, &live)?
        };
        let whose = if foreign { "an origin's" } else { "the page's own" };
        let placed = |ask: Ask| {
            let ask = ask.hosts([&*token.host]);
            if foreign { ask.origin(LISTED) } else { ask }
        };
        let bearer = format!("Bearer {token}");
        let mut asks = vec![placed(read_ask(&live, &token))];
        if let Ok(mutation) = stage.mutation_route() {
            // An engine names the origin with what may change something, same-origin or not.
            let own = token.origin();
            let ask = mutation.ask(&live).hosts([&*token.host]).with("Authorization", &bearer);
            asks.push(ask.origin(if foreign { LISTED } else { &own }));
        }
        for ask in asks {
            let what = format!("{} with {whose} token", ask.what);
            live.served(&ask.named(what))?;
        }
        if let Ok(stream) = stage.stream_route() {
            let streams = [
                ("bearer", Some(placed(stream.ask(&live)).with("Authorization", &bearer))),
                ("query", by_query(&live, &token).map(placed)),
            ];
            for (how, ask) in streams {
                if let Some(ask) = ask {
                    let mut follower =
                        Follower::open(&live, &ask.named(format!("the stream by {how}, {whose} token")))?;
                    let number = marker(stage);
                    let emit = stage.emit_route(number)?.ask(&live).with("Authorization", &bearer);
                    live.served(&placed(emit).named(format!("a note with {whose} token")))?;
                    let came = follower.wait_for(number, Instant::now() + ANSWER);
                    ensure!(came, "the stream by {how} does not deliver");
                }
            }
        }
        if let Some(shutdown) = stage.manifest().binding.shutdown.clone() {
            let ask = Ask::new(&live, &shutdown.method, &shutdown.path)
                .with("Content-Type", "application/json")
                .body(json!({"id": live.record.id}).to_string())
                .with("Authorization", &bearer);
            live.served(&placed(ask).named(format!("a shutdown with {whose} token")))?;
        }
    }
    Ok(())
}

/// How much of a token counts as a part of it.
const PART: usize = 8;

/// The list is read before and after the use of tokens, and after one was revoked: each live one by id,
/// origin and times, and by no part of itself.
#[case("BROW-12")]
fn tokens_are_listed(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("each live token once, by id, origin and the times of its issue and last use");
    let page = page_token(stage, &live)?;
    let own = page.origin();
    let tokens = [
        (own.clone(), page),
        (LISTED.to_owned(), handoff_token(stage, &live, LISTED)?),
        (LISTED_TOO.to_owned(), handoff_token(stage, &live, LISTED_TOO)?),
    ];
    stage.precondition("three pages hold a token each");
    let times = |entry: &Value, name: &str| {
        let text = entry[name].as_str().unwrap_or_default();
        humantime::parse_rfc3339(text).ok()
    };
    let (response, list) = listed(&live)?;
    let said = text(&response);
    for (origin, token) in &tokens {
        let of_it: Vec<&Value> = list.iter().filter(|entry| entry["origin"] == **origin).collect();
        ensure!(of_it.len() == 1, "{} entries of {origin}", of_it.len());
        let entry = of_it[0];
        let whole = entry["id"].as_str().is_some_and(|id| !id.is_empty())
            && times(entry, "issued_at").is_some_and(|issued| Some(issued) <= times(entry, "last_used"));
        ensure!(whole, "the entry of {origin} lacks something: {entry}");
        let part = (0..=token.len() - PART).find(|start| said.contains(&token[*start..start + PART]));
        ensure!(part.is_none(), "the list holds a part of the token of {origin}");
    }
    ensure!(list.len() == tokens.len(), "{} entries, not {}", list.len(), tokens.len());
    let ids: BTreeSet<&str> = list.iter().filter_map(|entry| entry["id"].as_str()).collect();
    ensure!(ids.len() == tokens.len(), "two tokens have one id");
    // A clock has to go on by as much as the list tells, which is a second at most.
    let used_at = |list: &[Value]| {
        let entry = list.iter().find(|entry| entry["origin"] == LISTED);
        entry.and_then(|entry| times(entry, "last_used"))
    };
    let (first, deadline) = (used_at(&list), Instant::now() + ANSWER);
    loop {
        live.served(&read_ask(&live, &tokens[1].1).origin(LISTED))?;
        let (_, list) = listed(&live)?;
        if used_at(&list) > first {
            break;
        }
        ensure!(Instant::now() < deadline, "a token is used, and the time of its last use stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    revoke(&live, LISTED)?;
    let (_, list) = listed(&live)?;
    ensure!(
        list.len() == 2 && list.iter().all(|entry| entry["origin"] != LISTED),
        "a revoked token is listed"
    );
    Ok(())
}

/// Of two tokens with open streams one is revoked: the next request with it is refused, its streams end
/// within 2 s, and the other's go on.
#[case("BROW-13")]
fn revoked_token_ends_at_once(stage: &mut Stage) -> Outcome {
    const BOUND: Duration = Duration::from_secs(2);
    const LATE: Duration = Duration::from_millis(700);
    let stream = stage.stream_route()?;
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 for the next request, the end of its streams within 2 s, and no end of the others");
    let (page, foreign) = (page_token(stage, &live)?, handoff_token(stage, &live, LISTED)?);
    let own = page.origin();
    let of_page = || stream.ask(&live).hosts([&*page.host]).with("Authorization", &format!("Bearer {page}"));
    let mut ending = vec![("the page's stream", Follower::open(&live, &of_page())?)];
    if let Some(ask) = by_query(&live, &page) {
        ending.push(("the page's stream by query", Follower::open(&live, &ask)?));
    }
    let of_foreign = stream.ask(&live).with("Authorization", &format!("Bearer {foreign}"));
    let mut staying = [
        ("the other page's stream", Follower::open(&live, &of_foreign.origin(LISTED))?),
        ("the credential's stream", Follower::open(&live, &stream.ask(&live).bearer(&live))?),
    ];
    let number = marker(stage);
    let emit = stage.emit_route(number)?.ask(&live).bearer(&live);
    live.served(&emit.named("a number for all"))?;
    for (what, follower) in ending.iter_mut().chain(&mut staying) {
        let came = follower.wait_for(number, Instant::now() + ANSWER);
        ensure!(came, "{what} does not deliver before the revocation");
    }
    stage.precondition("the streams of two tokens and of the credential deliver");
    let at = revoke(&live, &own)?;
    let refused = [
        read_ask(&live, &page).named("a read with the revoked token"),
        of_page().named("the stream with the revoked token"),
    ];
    live.all_answered(&refused, &[401])?;
    for (what, follower) in &mut ending {
        let ended = follower.wait_end(at + BOUND + LATE);
        ensure!(ended, "{what} goes on for more than 2 s after the revocation");
    }
    let number = marker(stage);
    let emit = stage.emit_route(number)?.ask(&live).bearer(&live);
    live.served(&emit.named("a number for who is left"))?;
    for (what, follower) in &mut staying {
        let came = follower.wait_for(number, Instant::now() + ANSWER);
        ensure!(came, "{what} ended with it");
    }
    live.served(&read_ask(&live, &foreign).origin(LISTED))?;
    Ok(())
}

/// An origin whose page holds a token is removed from the list and added again, with and without a request
/// between: the token is refused, and that of another origin is not.
#[case("BROW-14")]
fn removed_origin_loses_its_tokens(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for the token of the origin that was removed, 2xx for that of the other");
    let edit = |stage: &mut Stage, adds: bool, origin: &str| {
        let exit = if adds { stage.add_origin(origin)? } else { stage.remove_origin(origin)? };
        ensure!(exit.code == Some(0), "the change of the list: {exit}");
        Ok(())
    };
    edit(stage, true, LISTED)?;
    edit(stage, true, LISTED_TOO)?;
    let stays = handoff_token(stage, &live, LISTED_TOO)?;
    for asked_between in [true, false, false] {
        let token = handoff_token(stage, &live, LISTED)?;
        let ask = read_ask(&live, &token).origin(LISTED);
        live.served(&ask)?;
        stage.precondition("the origin is listed, and its token opens the daemon");
        edit(stage, false, LISTED)?;
        if asked_between {
            live.answered(&ask, &[403])?;
        }
        edit(stage, true, LISTED)?;
        let ask = ask.named(format!("the old token, a request between: {asked_between}"));
        live.between_controls(|| live.answered(&ask, &[401]).map(drop))?;
        let (_, list) = listed(&live)?;
        let gone = list.iter().all(|entry| entry["origin"] != LISTED);
        ensure!(gone, "the list has the old token");
        live.served(&read_ask(&live, &stays).origin(LISTED_TOO))?;
    }
    Ok(())
}
