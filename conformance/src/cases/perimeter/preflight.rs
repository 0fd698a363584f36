//! What a browser asks before it asks.

use local_daemon_harness::http::Response;
use local_daemon_harness::proof::{self, Credential};

use crate::case::case;
use crate::fixtures::http::{Ask, LISTED, LISTED_TOO, UNKNOWN, launch_listed, lists};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure};
use crate::stage::{ReadyDaemon, Stage};

/// The preflights of a listed origin for every path, and what they ask for.
fn preflights(live: &ReadyDaemon) -> Vec<Ask> {
    let ask = |path: &String| {
        Ask::new(live, "OPTIONS", path)
            .preflight(LISTED, "GET")
            .named(format!("preflight of {path}"))
    };
    live.paths().iter().map(ask).collect()
}

/// The answer to a preflight that is allowed.
fn allowed(live: &ReadyDaemon, ask: &Ask) -> Outcome<Response> {
    let response = live.answered(ask, &[204])?;
    live.precondition(format!("{}: 204", ask.what));
    Ok(response)
}

/// Preflights of listed origins for every bound path and unknown ones, without authentication, with the
/// credential and with a wrong one: 204 without a body, for the asking origin.
#[case("PER-15")]
fn preflight_answered_without_authentication(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("204, no body, the asking origin in Access-Control-Allow-Origin, Vary: Origin");
    let wrong = proof::bearer(&Credential::random());
    for ask in preflights(&live) {
        let too = Ask::new(&live, "OPTIONS", UNKNOWN).preflight(LISTED_TOO, "PUT");
        for (ask, origin) in [
            (ask.clone(), LISTED),
            (ask.clone().bearer(&live), LISTED),
            (ask.clone().with("Authorization", &wrong), LISTED),
            (ask.with("Access-Control-Request-Headers", "authorization"), LISTED),
            (too, LISTED_TOO),
        ] {
            let response = allowed(&live, &ask)?;
            let length = response.header("content-length").unwrap_or("0").to_owned();
            ensure!(
                response.body.is_empty() && length == "0" && response.header("transfer-encoding").is_none(),
                "{}: 204 with a body of length {length}",
                ask.what
            );
            let told = response.all("access-control-allow-origin");
            ensure!(told == [origin], "{}: for {told}", ask.what, told = in_words(&told));
            ensure!(
                lists(&response, "vary", "origin"),
                "{}: Vary is {}",
                ask.what,
                in_words(&response.all("vary"))
            );
        }
    }
    Ok(())
}

/// For each bound path the methods of the preflight's answer are compared with those that are not answered
/// 405 with the credential; for unknown paths there is no list.
#[case("PER-16")]
fn preflight_lists_the_methods_of_the_route(stage: &mut Stage) -> Outcome {
    // HEAD needs no list: browsers send it as they send GET. OPTIONS is the preflight itself.
    const ASKED: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("exactly the methods that are not answered 405");
    let mut routes = vec![stage.handshake_route(), stage.read_route()];
    if let Ok(emit) = stage.emit_route(0) {
        routes.push(emit);
    }
    if let Some(stream) = stage.manifest().binding.stream.clone() {
        let path = stream.path.clone();
        routes.retain(|route| route.path != path);
        let mut stream = stage.read_route();
        stream.path = path;
        routes.push(stream);
    }
    for route in routes {
        let path = route.path;
        let ask = Ask::new(&live, "OPTIONS", &path).preflight(LISTED, "GET");
        let response = allowed(&live, &ask.named(format!("preflight of {path}")))?;
        let listed: Vec<String> = (response.all("access-control-allow-methods").iter())
            .flat_map(|value| value.split(','))
            .map(|method| method.trim().to_owned())
            .collect();
        for method in ASKED {
            // A body that no route takes: what is asked here has no effect.
            let ask = Ask::new(&live, method, &path).bearer(&live).with("Connection", "close");
            let response = live.answer(&ask)?;
            let (taken, told) = (response.status != 405, listed.iter().any(|known| known == method));
            ensure!(
                taken == told,
                "{path} answers {method} with {}, and its preflight lists {listed}",
                response.status,
                listed = in_words(&listed)
            );
        }
        let known: Vec<&String> = listed
            .iter()
            .filter(|method| !ASKED.contains(&&***method) && !matches!(&***method, "HEAD" | "OPTIONS"))
            .collect();
        ensure!(known.is_empty(), "{path}: the preflight lists {known} too", known = in_words(&known));
    }
    for path in [UNKNOWN, "/health", "/v2/status"] {
        let ask = Ask::new(&live, "OPTIONS", path).preflight(LISTED, "GET");
        let response = allowed(&live, &ask.named(format!("preflight of {path}")))?;
        let told = response.all("access-control-allow-methods");
        ensure!(
            told.is_empty(),
            "{path} is no route, and its preflight lists {told}",
            told = in_words(&told)
        );
    }
    Ok(())
}

/// Whatever headers a preflight asks for, Access-Control-Allow-Headers is the same three.
#[case("PER-17")]
fn preflight_allows_three_headers(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("Access-Control-Allow-Headers: authorization, content-type, last-event-id");
    let read = stage.read_route();
    let mut asks = preflights(&live);
    for headers in [
        "",
        "authorization",
        "x-anything",
        "*",
        "content-type, x-http-method-override, cookie",
    ] {
        let ask = read.ask(&live).preflight(LISTED, "GET");
        asks.push(
            ask.with("Access-Control-Request-Headers", headers)
                .named(format!("preflight that asks for {headers}", headers = in_words(&headers))),
        );
    }
    for ask in &asks {
        let response = allowed(&live, ask)?;
        let told = response.all("access-control-allow-headers");
        ensure!(
            told == ["authorization, content-type, last-event-id"],
            "{}: Access-Control-Allow-Headers is {told}",
            ask.what,
            told = in_words(&told)
        );
    }
    Ok(())
}

/// Access-Control-Max-Age is there once, a number from 0 to 60, on every path.
#[case("PER-18")]
fn preflight_kept_for_a_minute_at_most(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("Access-Control-Max-Age once, from 0 to 60");
    for ask in preflights(&live) {
        let response = allowed(&live, &ask)?;
        let told = response.all("access-control-max-age");
        let good = matches!(told[..], [age] if age.parse::<u64>().is_ok_and(|age| age <= 60));
        ensure!(good, "{}: Access-Control-Max-Age is {told}", ask.what, told = in_words(&told));
    }
    Ok(())
}

/// OPTIONS requests that are no preflight, without Origin or without the method that is asked for, on every
/// path: 401 without the credential and with a wrong one.
#[case("PER-20")]
fn options_authenticates(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 for each; a preflight of the same path is 204");
    let wrong = proof::bearer(&Credential::random());
    let read = stage.read_route();
    live.served(&read.ask(&live).bearer(&live))?;
    for path in stage.paths() {
        let ask = Ask::new(&live, "OPTIONS", &path);
        allowed(&live, &ask.clone().preflight(LISTED, "GET"))?;
        for (what, ask) in [
            ("alone", ask.clone()),
            ("with an origin alone", ask.clone().origin(LISTED)),
            ("from a page of its own", ask.clone().origin(&live.own_origin())),
            ("asking for a method alone", ask.clone().with("Access-Control-Request-Method", "GET")),
            (
                "asking for headers alone",
                ask.clone().origin(LISTED).with("Access-Control-Request-Headers", "authorization"),
            ),
        ] {
            let ask = ask.named(format!("OPTIONS {path}, {what}"));
            live.answered(&ask, &[401])?;
            live.answered(&ask.with("Authorization", &wrong), &[401])?;
        }
    }
    // To some parsers it is no target at all.
    let star = Ask::new(&live, "OPTIONS", "*");
    live.answered(&star, &[400, 401])?;
    Ok(())
}
