//! The daemon's own page: who gets it, what its answers carry, and the shell that holds nothing.

use std::collections::{BTreeMap, BTreeSet};

use local_daemon_harness::http::Response;
use serde_json::json;

use super::visit::{
    Secret, handoff_ask, handoff_ticket, handoff_token, page, page_ask, page_ticket, page_ticket_at,
    page_token, read_ask, text, ticket_ask, tokens_in,
};
use crate::case::case;
use crate::fixtures::http::{Ask, LISTED, LISTED_TOO, UNKNOWN, UNLISTED, launch_listed};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{ReadyDaemon, Stage};

/// The daemon's names, each with its port.
fn own_hosts(live: &ReadyDaemon) -> [String; 3] {
    ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{}", live.port()))
}

/// Live page tickets are posted in a form with `Origin: null`, with the daemon's own origin and with none, each
/// at its page host and at the name that was requested: an HTML page that contains one token, once.
#[case("BROW-19", "BROW-21")]
fn page_for_a_ticket(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("200, `text/html`, and one token that stands there once");
    for host in [None, Some("127.0.0.1"), Some("localhost"), Some("[::1]")] {
        for origin in ["null", "own", "none"] {
            let ticket = match host {
                Some(host) => page_ticket_at(stage, &live, host)?,
                None => page_ticket(stage, &live)?,
            };
            let what = format!("a live ticket at {} from the origin {origin}", ticket.host);
            let ask = page_ask(&live, &ticket);
            let ask = match origin {
                "null" => ask.origin("null"),
                "own" => ask.origin(&ticket.origin()),
                _ => ask,
            };
            let ask = ask.named(&*what);
            let page = live.answered(&ask, &[200])?;
            ensure!(
                page.media_type().as_deref() == Some("text/html"),
                "{what}: {}",
                in_words(&page.header("Content-Type"))
            );
            let page = text(&page);
            let tokens = tokens_in(stage, &live, &ticket.host, &page)?;
            let times = tokens.first().map_or(0, |token| page.matches(&**token).count());
            ensure!(
                tokens.len() == 1 && times == 1,
                "{what}: a token stands in the page {} times",
                tokens.len().max(times)
            );
            let holds_ticket = page.contains(&*ticket);
            ensure!(!holds_ticket, "{what}: the ticket stands in the page");
        }
    }
    Ok(())
}

/// Live page tickets are posted from allowlisted origins, from others and from the daemon's own other names:
/// 403, and no token.
#[case("BROW-20")]
fn page_for_no_other_origin(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("403 for each, and no token");
    let own = page_token(stage, &live)?.origin();
    stage.control("a live ticket got the page from the origin null");
    let mut origins: Vec<String> = [
        LISTED,
        LISTED_TOO,
        UNLISTED,
        "http://127.0.0.1",
        "file://",
        "NULL",
        "",
    ]
    .map(str::to_owned)
    .into();
    origins.extend(own_hosts(&live).map(|host| format!("http://{host}")));
    origins.push(format!("http://127.0.0.1:{}", live.port() ^ 1));
    origins.retain(|origin| *origin != own);
    for origin in origins {
        let ticket = page_ticket(stage, &live)?;
        let ask = page_ask(&live, &ticket).origin(&origin);
        let ask = ask.named(format!("a live ticket from {origin}", origin = in_words(&origin)));
        let refused = live.answered(&ask, &[403])?;
        let tokens = tokens_in(stage, &live, &ticket.host, &text(&refused))?;
        ensure!(tokens.is_empty(), "{}: a token", ask.what);
    }
    let ticket = page_ticket(stage, &live)?;
    let two = page_ask(&live, &ticket).origin("null").origin(&own);
    live.answered(&two.named("a live ticket with two origins"), &[403])?;
    page_token(stage, &live)?;
    stage.control("a live ticket got the page afterwards");
    Ok(())
}

/// The HTML answers of a daemon, each with what it is.
fn pages(stage: &mut Stage, live: &ReadyDaemon) -> Outcome<Vec<(&'static str, Response)>> {
    let own = page_ticket(stage, live)?;
    let weaker = page_ticket_at(stage, live, "127.0.0.1")?;
    let shell = Ask::new(live, "GET", "/").with("Accept", "text/html,*/*;q=0.8");
    let refused = page_ask(live, &Secret::at(&own.host, "x")).origin("null");
    let refused = refused.with("Accept", "text/html,*/*;q=0.8").named("no ticket, from a browser");
    Ok(vec![
        ("the page", page(live, &own)?),
        (WEAKER, page(live, &weaker)?),
        ("the shell", live.answered(&shell.clone().hosts([&*own.host]), &[401])?),
        ("the shell at 127.0.0.1", live.answered(&shell, &[401])?),
        ("the shell for a refused ticket", live.answered(&refused, &[401])?),
        ("the shell for the credential", live.answered(&shell.bearer(live), &[200])?),
    ])
}

/// The one answer that also clears the storage of the origin.
const WEAKER: &str = "the page at 127.0.0.1";

/// The directives of a policy, each with its values.
fn directives(policy: &str) -> BTreeMap<String, Vec<String>> {
    let directives = policy.split(';').filter_map(|directive| {
        let mut words = directive.split_whitespace().map(str::to_owned);
        Some((words.next()?.to_ascii_lowercase(), words.collect()))
    });
    directives.collect()
}

/// The nonce of an answer, if its policy allows scripts and styles by it alone.
fn nonce(response: &Response) -> Option<String> {
    let policy = directives(response.header("Content-Security-Policy")?);
    let of = |name: &str| match policy.get(name).map(Vec::as_slice) {
        Some([one]) => one.strip_prefix("'nonce-")?.strip_suffix('\'').map(str::to_owned),
        _ => None,
    };
    of("script-src").filter(|nonce| !nonce.is_empty() && of("style-src").as_ref() == Some(nonce))
}

/// Returns the members of a header that is a list.
fn list_of(response: &Response, name: &str) -> Vec<String> {
    let all = response.all(name);
    let members = all.iter().flat_map(|value| value.split(','));
    members.map(|member| member.trim().to_owned()).collect()
}

/// The page, the shell, and the shell for a refused ticket each carry every header of the table, and a policy
/// that allows scripts and styles by nonce alone.
#[case("BROW-22")]
fn headers_of_a_page(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("each header of the table, once, on each HTML answer");
    for (what, response) in pages(stage, &live)? {
        ensure!(
            response.media_type().as_deref() == Some("text/html"),
            "{what} is {}",
            in_words(&response.header("Content-Type"))
        );
        for (name, value) in [
            ("Cache-Control", "no-store"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ] {
            let there = response.all(name);
            let right = matches!(there[..], [one] if one.eq_ignore_ascii_case(value));
            ensure!(
                right,
                "{what}: {name}: {there}, not {value}",
                there = in_words(&there),
                value = in_words(&value)
            );
        }
        let clears: BTreeSet<String> = list_of(&response, "Clear-Site-Data").into_iter().collect();
        let expected: &[&str] = if what == WEAKER { &["\"cache\"", "\"storage\""] } else { &["\"cache\""] };
        ensure!(
            clears.iter().eq(expected),
            "{what}: Clear-Site-Data: {clears}, not {expected}",
            clears = in_words(&clears),
            expected = in_words(&expected)
        );
        let policies = response.all("Content-Security-Policy");
        let [policy] = policies[..] else {
            return fail(format!("{what} has {} policies", policies.len()));
        };
        let has = directives(policy);
        for (name, value) in [
            ("default-src", "'none'"),
            ("connect-src", "'self'"),
            ("base-uri", "'none'"),
            ("form-action", "'self'"),
            ("frame-ancestors", "'none'"),
        ] {
            let there = has.get(name).cloned().unwrap_or_default();
            ensure!(there == [value], "{what}: {name} is {there}, not {value}", there = in_words(&there));
        }
        let known = ["default-src", "connect-src", "script-src", "style-src"];
        let more = has.iter().find(|(name, value)| {
            name.contains("-src") && !known.contains(&name.as_str()) && **value != ["'none'"]
        });
        ensure!(more.is_none(), "{what}: its policy allows more: {more}", more = in_words(&more));
        ensure!(
            nonce(&response).is_some(),
            "{what}: its policy allows scripts or styles by more than one nonce: {policy}"
        );
    }
    Ok(())
}

/// Pages and shells are asked for, many within a second: no nonce comes twice, and each script and style
/// bears it.
#[case("BROW-23")]
fn nonce_is_new(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("a nonce that no other answer has, on each script and style of the answer");
    let mut seen = BTreeSet::new();
    let shell = Ask::new(&live, "GET", "/");
    let mut answers = pages(stage, &live)?;
    for _ in 0..40 {
        answers.push(("the shell", live.answered(&shell, &[401])?));
    }
    let ticket = page_ticket(stage, &live)?;
    answers.push(("the page", page(&live, &ticket)?));
    for (what, response) in answers {
        let Some(nonce) = nonce(&response) else {
            return fail(format!("{what} has no nonce"));
        };
        let text = text(&response);
        let bears = format!("nonce=\"{nonce}\"");
        for element in ["<script", "<style"] {
            let begins = text.match_indices(element);
            let bare = begins
                .map(|(at, _)| text[at..].split('>').next().unwrap_or_default())
                .find(|tag| !tag.replace('\'', "\"").contains(&bears));
            ensure!(bare.is_none(), "{what}: {bare} does not bear the nonce", bare = in_words(&bare));
        }
        ensure!(seen.insert(nonce), "{what} has the nonce of another answer");
    }
    stage.observed(format!("{} answers, each with its own nonce", seen.len()));
    Ok(())
}

/// Every route is asked in its good form, refused, from pages, by proof and by ticket: no answer sets a
/// cookie.
#[case("BROW-25")]
fn no_cookie(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("no `Set-Cookie`");
    let read = stage.read_route();
    let own = live.own_origin();
    let token = handoff_token(stage, &live, LISTED)?;
    let page_ticket = page_ticket(stage, &live)?;
    let handoff_ticket = handoff_ticket(stage, &live, LISTED)?;
    let mut asks = vec![
        stage.handshake_route().ask(&live).bearer(&live),
        Ask::new(&live, "GET", "/"),
        Ask::new(&live, "GET", "/").bearer(&live),
        Ask::new(&live, "GET", "/").with("Cookie", "session=1; ldp=1"),
        page_ask(&live, &page_ticket).origin("null"),
        page_ask(&live, &page_ticket).origin("null").with("Accept", "text/html"),
        page_ask(&live, &Secret::at(&live.target.authority, "x")).origin(LISTED),
        handoff_ask(&live, &handoff_ticket).origin(LISTED),
        handoff_ask(&live, &handoff_ticket).origin(LISTED),
        ticket_ask(&live, &json!({"kind": "page"})).bearer(&live),
        ticket_ask(&live, &json!({"kind": "handoff", "origin": UNLISTED})).bearer(&live),
        Ask::new(&live, "GET", "/v1/page-tokens").bearer(&live),
        Ask::new(&live, "DELETE", "/v1/page-tokens/0123456789abcdef").bearer(&live),
        Ask::new(&live, "GET", "/sw.js").with("Service-Worker", "script"),
        read_ask(&live, &token).origin(LISTED),
        read.ask(&live).preflight(LISTED, "GET"),
        read.ask(&live).bearer(&live).origin(UNLISTED),
        read.ask(&live).bearer(&live).origin(&own),
        read.ask(&live).bearer(&live).hosts(["evil.example"]),
        Ask::new(&live, "GET", UNKNOWN).bearer(&live),
        Ask::new(&live, "GET", UNKNOWN),
    ];
    asks.push(read.ask(&live));
    asks.push(read.ask(&live).bearer(&live));
    asks.extend(stage.stream_route().ok().map(|stream| stream.ask(&live).bearer(&live)));
    let mut served = 0;
    for ask in &asks {
        let response = live.answer(ask)?;
        served += usize::from((200..300).contains(&response.status));
        let cookies = response.all("Set-Cookie").len();
        ensure!(cookies == 0, "{}: {} sets {cookies} cookies", ask.what, response.status);
    }
    ensure!(served >= 10, "no more than {served} of {} requests were served", asks.len());
    stage.observed(format!("{} answers, {served} of them good ones", asks.len()));
    Ok(())
}

/// `HEAD /`, and `GET /` with cookies, `Sec-Fetch-*`, wrong and foreign authentication, at each of the daemon's names: 401,
/// and an HTML page in which nothing opens the daemon or names its launch.
#[case("BROW-26")]
fn shell_holds_nothing(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 with a challenge, `text/html`, and nothing in it that opens the daemon");
    let token = page_token(stage, &live)?;
    let foreign = handoff_token(stage, &live, LISTED)?;
    let ticket = page_ticket(stage, &live)?;
    let own = token.origin();
    let bare = || Ask::new(&live, "GET", "/").hosts([&*token.host]);
    let mut asks = vec![
        bare().named("nothing"),
        bare().method("HEAD").named("HEAD"),
        bare()
            .with("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
            .named("a browser's Accept"),
        bare().with("Accept", "application/json").named("a program's Accept"),
        bare()
            .with("Cookie", &format!("session={token}; token={token}; ldp={token}"))
            .named("a token as cookie"),
        bare()
            .with("Cookie", &format!("session={0}; token={0}; ldp={0}", live.credential.text()))
            .named("the credential as cookie"),
        bare().with("Referer", &format!("{own}/")).named("the page as Referer"),
        bare().with("Authorization", "Bearer x").named("a wrong bearer"),
        bare().with("Authorization", &format!("Bearer {ticket}")).named("a ticket as bearer"),
        bare().with("Authorization", &format!("Bearer {foreign}")).named("a foreign page's token"),
        bare().parameter("token", &token).named("a token in the query"),
        bare().parameter("ticket", &ticket).named("a ticket in the query"),
    ];
    for site in ["same-origin", "none", "same-site", "cross-site"] {
        for mode in ["navigate", "cors", "same-origin", "no-cors"] {
            let fetch = bare()
                .with("Sec-Fetch-Site", site)
                .with("Sec-Fetch-Mode", mode)
                .with("Sec-Fetch-Dest", "document")
                .with("Sec-Fetch-User", "?1");
            asks.push(fetch.clone().named(format!("Sec-Fetch of {site}, {mode}")));
            let fetch = fetch.with("Cookie", "ldp=1; session=1").origin(&own);
            asks.push(fetch.named(format!("Sec-Fetch of {site}, {mode}, Origin and cookies")));
        }
    }
    asks.extend(own_hosts(&live).map(|host| bare().hosts([&*host]).named(format!("at {host}"))));
    for ask in &asks {
        let shell = live.answered(ask, &[401])?;
        ensure!(
            shell.media_type().as_deref() == Some("text/html") && shell.header("WWW-Authenticate").is_some(),
            "{}: {}",
            ask.what,
            in_words(&shell.header("Content-Type"))
        );
        let text = text(&shell);
        for (what, secret) in [
            ("the credential", live.credential.text()),
            ("a token", token.to_string()),
            ("another page's token", foreign.to_string()),
            ("a ticket", ticket.to_string()),
            ("the id of the launch", live.record.id.clone()),
        ] {
            let holds = text.contains(&secret);
            ensure!(!holds, "{}: the shell holds {what}", ask.what);
        }
        // A new token may be bound to any of the daemon's names.
        for host in own_hosts(&live).iter().chain([&token.host]) {
            let tokens = tokens_in(stage, &live, host, &text)?;
            ensure!(tokens.is_empty(), "{}: the shell holds a new token", ask.what);
        }
    }
    live.served(&read_ask(&live, &token))?;
    stage.control("the page's token still opens the daemon");
    Ok(())
}

/// The request of an engine for a service worker, on routes and on paths that are none: a script that
/// unregisters its worker, unless `Host` or `Origin` is refused.
#[case("BROW-28")]
fn service_worker_ends_itself(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect(
        "200, a JavaScript type, and a script that unregisters; 421 and 403 where the perimeter refuses",
    );
    let read = stage.read_route().path;
    let own = live.own_origin();
    let wants = |path: &str| {
        let ask = Ask::new(&live, "GET", path).with("Service-Worker", "script");
        ask.with("Sec-Fetch-Dest", "serviceworker").named(format!("the worker {path}"))
    };
    for path in ["/", "/sw.js", "/page", "/assets/worker.js?v=3", UNKNOWN, &read] {
        for origin in [None, Some(own.as_str()), Some(LISTED)] {
            let ask = origin.into_iter().fold(wants(path), Ask::origin);
            let response = live.answered(&ask, &[200])?;
            let script = response.media_type().is_some_and(|kind| kind.ends_with("/javascript"));
            ensure!(script, "{}: {}", ask.what, in_words(&response.header("Content-Type")));
            let unregisters = text(&response).contains("unregister(");
            ensure!(unregisters, "{}: a script that unregisters nothing", ask.what);
        }
        live.answered(&wants(path).origin(UNLISTED), &[403])?;
        live.answered(&wants(path).hosts(["evil.example"]), &[421])?;
    }
    Ok(())
}
