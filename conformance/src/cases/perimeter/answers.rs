//! What answers look like.

use local_daemon_harness::http::Response;
use serde_json::Value;

use crate::case::case;
use crate::fixtures::http::{Ask, UNKNOWN, UNLISTED, launch_listed, lists};
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{ReadyDaemon, Stage};

/// Requests that are refused, with status and the code that the tables give.
fn refused(live: &ReadyDaemon) -> Vec<(Ask, u16, Option<&'static str>)> {
    let read = live.read_route();
    let good = || read.ask(live).bearer(live);
    let foreign = format!("evil.example:{}", live.port());
    let mut asks = vec![
        (read.ask(live).named("no credential"), 401, Some("unauthorized")),
        (Ask::new(live, "GET", UNKNOWN).named("no credential, unknown path"), 401, Some("unauthorized")),
        (live.handshake_route().ask(live).named("handshake without credential"), 401, Some("unauthorized")),
        (good().origin(UNLISTED).named("unlisted origin"), 403, Some("origin_refused")),
        (good().preflight(UNLISTED, "GET").named("unlisted preflight"), 403, Some("origin_refused")),
        (good().hosts([&*foreign]).named("foreign Host"), 421, Some("misdirected")),
        (good().target(UNKNOWN).named("unknown path"), 404, Some("not_found")),
        (good().method("FROBNICATE").named("unknown method"), 405, Some("method_not_allowed")),
        (
            live.handshake_route()
                .ask(live)
                .bearer(live)
                .method("POST")
                .named("POST of the handshake"),
            405,
            Some("method_not_allowed"),
        ),
        (
            good()
                .target(format!("{}?{}", read.path, "a".repeat(40 << 10)))
                .named("too long a target"),
            414,
            Some("uri_too_long"),
        ),
        (
            good().with("X-Filler", &"a".repeat(65 << 10)).named("too many headers"),
            431,
            Some("headers_too_large"),
        ),
    ];
    if let Ok(mutation) = live.mutation_route() {
        let ask = || Ask::new(live, &mutation.method, &mutation.path).bearer(live);
        let json = || ask().with("Content-Type", "application/json");
        asks.extend([
            (json().body("{").named("half a JSON body"), 400, None),
            (json().body("").named("an empty body"), 400, None),
            (json().body("\u{1}\0").named("a body of no text"), 400, None),
            (json().with("Content-Length", &(20 << 20).to_string()).named("too large a body"), 413, None),
        ]);
    }
    if let Ok(stream) = live.stream_route() {
        let ask = stream.ask(live).bearer(live);
        asks.push((ask.clone().with("Last-Event-ID", "x y").named("a garbled event id"), 400, None));
        asks.push((ask.parameter("after", "%ff").named("an event id of no text"), 400, None));
    }
    asks
}

/// What keeps a body from being a problem after its schema.
fn no_problem(response: &Response) -> Option<String> {
    let media_type = response.media_type().unwrap_or_default();
    if media_type != "application/problem+json" {
        return Some(format!("Content-Type is {media_type:?}"));
    }
    let Some(Value::Object(members)) = response.json() else {
        return Some("the body is no JSON object".to_owned());
    };
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    if text("title").is_none_or(str::is_empty) {
        return Some(format!("`title` is {:?}", members.get("title")));
    }
    if members.get("status").and_then(Value::as_u64) != Some(response.status.into()) {
        return Some(format!("`status` is {:?}", members.get("status")));
    }
    let named = |code: &str| {
        code.len() <= 64
            && code.starts_with(|first: char| first.is_ascii_lowercase())
            && code
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    if !text("code").is_some_and(named) {
        return Some(format!("`code` is {:?}", members.get("code")));
    }
    for name in ["type", "detail"] {
        if members.get(name).is_some_and(|member| !member.is_string()) {
            return Some(format!("`{name}` is no text"));
        }
    }
    None
}

/// Answers of 400 and more, from the perimeter and from routes: each that has a body is
/// application/problem+json with a title, its own status, and a code, which is the table's where the table
/// has one.
#[case("PER-35")]
fn errors_are_problems(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("application/problem+json with title, the answer's status, and a code");
    let asks = refused(&live);
    live.between_controls(|| {
        for (ask, status, code) in &asks {
            let response = live.answer(ask)?;
            let what = format!("{}, answered {}", ask.what, response.status);
            ensure!(response.status >= 400, "{what}, where {status} was to be refused");
            // Of bytes that never became a request a status may be all there is to say.
            if response.body.is_empty() {
                continue;
            }
            if let Some(why) = no_problem(&response) {
                return fail(format!("{what}: {why}"));
            }
            let told = response.json().and_then(|body| Some(body.get("code")?.as_str()?.to_owned()));
            let wanted = code.filter(|_| response.status == *status).map(str::to_owned);
            ensure!(wanted.is_none() || told == wanted, "{what}: code {told:?}, not {wanted:?}");
        }
        stage.observed(format!("{} refusals were looked at", asks.len()));
        Ok(())
    })
}

/// With the credential, unknown paths are 404, not_found, and methods that a route does not take 405,
/// method_not_allowed, with an Allow that names what it takes.
#[case("PER-36")]
fn unknown_path_and_method_named(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("404 and not_found; 405, method_not_allowed and Allow");
    let read = stage.read_route();
    live.served(&read.ask(&live).bearer(&live))?;
    stage.control("the read was served");
    let code = |response: &Response| {
        let body = response.json()?;
        Some(body.get("code")?.as_str()?.to_owned())
    };
    for path in [
        UNKNOWN,
        "/health",
        "/v2/status",
        "/v1/no-such-thing",
        "/.well-known/no-such-thing",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let ask = Ask::new(&live, method, path).bearer(&live);
            let response = live.answered(&ask, &[404])?;
            let told = code(&response);
            ensure!(told.as_deref() == Some("not_found"), "{method} {path}: 404 with the code {told:?}");
        }
    }
    let mut routes = vec![stage.handshake_route(), read];
    routes.extend(stage.mutation_route());
    for route in routes {
        // No route takes a method that nobody has heard of.
        let ask = Ask::new(&live, "FROBNICATE", &route.path).bearer(&live);
        let response = live.answered(&ask, &[405])?;
        let told = code(&response);
        ensure!(told.as_deref() == Some("method_not_allowed"), "{}: 405 with the code {told:?}", ask.what);
        ensure!(
            lists(&response, "allow", &route.method) && !lists(&response, "allow", "FROBNICATE"),
            "{} takes {}, and Allow is {:?}",
            ask.what,
            route.method,
            response.all("allow")
        );
    }
    Ok(())
}

/// Answers and refusals to requests that prefer text/plain are text/plain that a person can read; those that
/// prefer JSON, or nothing, are JSON; the handshake is always JSON.
#[case("PER-37")]
fn text_for_who_prefers_it(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("text/plain for who prefers it, JSON for everybody else, JSON for every handshake");
    let read = stage.read_route();
    let mut asks: Vec<(Ask, u16)> =
        refused(&live).into_iter().map(|(ask, status, _)| (ask, status)).collect();
    let handshake = stage.handshake_route();
    if read.path != handshake.path {
        asks.push((read.ask(&live).bearer(&live).named("a good read"), 200));
    }
    if let Ok(mutation) = stage.mutation_route() {
        asks.push((mutation.ask(&live).bearer(&live).named("a good change"), 201));
    }
    for (ask, _) in &asks {
        let plain = live.answer(ask)?;
        let media_type = plain.media_type().unwrap_or_default();
        if plain.body.is_empty() || !media_type.ends_with("json") {
            continue;
        }
        for (accept, text) in [
            ("text/plain", true),
            ("text/plain;q=0.9, application/json;q=0.5", true),
            ("application/json;q=0.5, text/plain", true),
            ("text/plain, */*;q=0.1", true),
            ("*/*", false),
            ("application/json", false),
            ("text/plain;q=0.5, application/json, application/problem+json", false),
            ("text/plain;q=0", false),
        ] {
            let ask = ask.clone().with("Accept", accept);
            let what = format!("{}, Accept: {accept}", ask.what);
            let response = live.answer(&ask.named(&*what))?;
            let told = response.media_type().unwrap_or_default();
            ensure!(
                response.status == plain.status,
                "{what}: answered {}, otherwise {}",
                response.status,
                plain.status
            );
            let wanted = if text { "text/plain" } else { &media_type };
            ensure!(told == wanted, "{what}: Content-Type is {told:?}, not {wanted:?}");
            let readable = std::str::from_utf8(&response.body)
                .is_ok_and(|body| !body.trim().is_empty() && !body.trim_start().starts_with(['{', '[']));
            ensure!(!text || readable, "{what}: not readable: {}", response.summary(stage.transcript()));
        }
        stage.precondition(format!("{}: {media_type} otherwise", ask.what));
    }
    let ask = handshake.ask(&live).bearer(&live).with("Accept", "text/plain");
    let response = live.served(&ask.named("the handshake, Accept: text/plain"))?;
    let told = response.media_type().unwrap_or_default();
    ensure!(told == "application/json", "the handshake's Content-Type is {told:?}");
    Ok(())
}

/// Answers to authenticated requests, good and bad, say Cache-Control: no-store.
#[case("PER-38")]
fn answers_not_stored(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("Cache-Control: no-store");
    let read = stage.read_route();
    let mut asks = vec![
        read.ask(&live).bearer(&live),
        stage.handshake_route().ask(&live).bearer(&live),
        Ask::new(&live, "GET", UNKNOWN).bearer(&live),
        Ask::new(&live, "FROBNICATE", &read.path).bearer(&live),
    ];
    asks.extend(stage.mutation_route().map(|mutation| mutation.ask(&live).bearer(&live)));
    asks.extend(stage.stream_route().map(|stream| stream.ask(&live).bearer(&live)));
    for ask in &asks {
        let response = live.answer(ask)?;
        ensure!(
            lists(&response, "cache-control", "no-store"),
            "{}: Cache-Control is {:?}",
            ask.what,
            response.all("cache-control")
        );
    }
    stage.precondition(format!("{} authenticated requests were answered", asks.len()));
    Ok(())
}
