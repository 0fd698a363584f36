//! What answers look like.

use std::time::Instant;

use local_daemon_harness::http::{Connection, HttpFault, Response};
use serde_json::Value;

use crate::case::case;
use crate::fixtures::http::{ANSWER, Ask, LISTED, METHODS, UNKNOWN, UNLISTED, launch_listed, lists};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, not_applicable};
use crate::stage::{ReadyDaemon, Stage};

/// Requests that are refused after step 1, with status and the code that the tables give.
fn refused(live: &ReadyDaemon) -> Vec<(Ask, u16, Option<&'static str>)> {
    let read = live.read_route();
    let good = || read.ask(live).bearer(live);
    let foreign = format!("evil.example:{}", live.port());
    let mut asks = vec![
        (good().hosts([]).named("no Host"), 400, Some("invalid_request")),
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
        return Some(format!("Content-Type is {media_type}", media_type = in_words(&media_type)));
    }
    let Some(Value::Object(members)) = response.json() else {
        return Some("the body is no JSON object".to_owned());
    };
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    if text("title").is_none_or(str::is_empty) {
        return Some(format!("`title` is {}", in_words(&members.get("title"))));
    }
    if members.get("status").and_then(Value::as_u64) != Some(response.status.into()) {
        return Some(format!("`status` is {}", in_words(&members.get("status"))));
    }
    let named = |code: &str| {
        code.len() <= 64
            && code.starts_with(|first: char| first.is_ascii_lowercase())
            && code
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    if !text("code").is_some_and(named) {
        return Some(format!("`code` is {}", in_words(&members.get("code"))));
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
            ensure!(
                wanted.is_none() || told == wanted,
                "{what}: code {told}, not {wanted}",
                told = in_words(&told),
                wanted = in_words(&wanted)
            );
        }
        stage.observed(format!("{} refusals were looked at", asks.len()));
        Ok(())
    })
}

/// With the credential, unknown paths are 404, not_found, and methods that a route does not take 405,
/// method_not_allowed, with an Allow that lists exactly the methods that are not answered 405.
#[case("PER-36")]
fn unknown_path_and_method_named(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("404 and not_found; 405, method_not_allowed, and an Allow of exactly the methods that the route takes");
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
            ensure!(
                told.as_deref() == Some("not_found"),
                "{method} {path}: 404 with the code {told}",
                told = in_words(&told)
            );
        }
    }
    let mut routes = vec![stage.handshake_route(), read];
    routes.extend(stage.mutation_route());
    routes.extend(stage.stream_route());
    for route in routes {
        // No route takes a method that nobody has heard of.
        let ask = Ask::new(&live, "FROBNICATE", &route.path).bearer(&live);
        let response = live.answered(&ask, &[405])?;
        let told = code(&response).unwrap_or_else(|| "no code".to_owned());
        ensure!(told == "method_not_allowed", "{}: 405 with the code {told}", ask.what);
        let allow = response.all("allow").join(", ");
        let lists = |method: &str| allow.split(',').any(|listed| listed.trim() == method);
        ensure!(
            lists(&route.method) && !lists("FROBNICATE"),
            "{} takes {}, and Allow is {allow}",
            route.path,
            route.method
        );
        for method in METHODS {
            // Without a body: what is asked here has no effect.
            let ask = Ask::new(&live, method, &route.path).bearer(&live).with("Connection", "close");
            let response = live.answer(&ask)?;
            let is_taken = response.status != 405;
            // Many servers answer OPTIONS themselves, on every route.
            let holds = is_taken == lists(method) || method == "OPTIONS" && is_taken;
            ensure!(holds, "{}: answered {}, and Allow is {allow}", ask.what, response.status);
        }
    }
    Ok(())
}

/// Answers and refusals to requests whose Accept gives text/plain a higher quality than application/json are text/plain; the
/// others are JSON; the handshake is always JSON. Of several ranges the closest one counts.
#[case("PER-37")]
fn text_for_who_prefers_it(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("text/plain if its quality is the higher one, JSON otherwise, JSON for every handshake");
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
            (&["text/plain"][..], true),
            (&["text/plain;q=0.9, application/json;q=0.5"], true),
            (&["application/json;q=0.5, text/plain"], true),
            (&["text/plain, */*;q=0.1"], true),
            (&["text/*;q=0.8, application/json;q=0.5"], true),
            (&["application/*, application/json;q=0.1, text/plain;q=0.5"], true),
            (&["application/json;q=0.5", "text/plain"], true),
            (&["*/*"], false),
            (&["application/json"], false),
            (&["text/plain, application/json"], false),
            (&["text/plain;q=0.5, application/json, application/problem+json"], false),
            (&["application/*, text/plain;q=0.5"], false),
            (&["*/*, text/plain;q=0.5"], false),
            (&["text/plain;q=0"], false),
        ] {
            let what = format!("{}, Accept: {}", ask.what, accept.join(", and Accept: "));
            let ask = accept.iter().fold(ask.clone(), |ask, accept| ask.with("Accept", accept));
            let response = live.answer(&ask.named(&*what))?;
            let told = response.media_type().unwrap_or_default();
            ensure!(
                response.status == plain.status,
                "{what}: answered {}, otherwise {}",
                response.status,
                plain.status
            );
            let wanted = if text { "text/plain" } else { &media_type };
            ensure!(told == wanted, "{what}: Content-Type is {told}, not {wanted}");
            ensure!(!text || !response.body.is_empty(), "{what}: the text is empty");
        }
        stage.precondition(format!("{}: {media_type} otherwise", ask.what));
    }
    let ask = handshake.ask(&live).bearer(&live).with("Accept", "text/plain");
    let response = live.served(&ask.named("the handshake, Accept: text/plain"))?;
    let told = response.media_type().unwrap_or_default();
    ensure!(told == "application/json", "the handshake's Content-Type is {told}", told = in_words(&told));
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
            "{}: Cache-Control is {}",
            ask.what,
            in_words(&response.all("cache-control"))
        );
    }
    stage.precondition(format!("{} authenticated requests were answered", asks.len()));
    Ok(())
}

/// Answers of many statuses to a listed origin: each exposes the two headers that a page may need.
#[case("PER-51")]
fn listed_origin_sees_two_headers(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("Access-Control-Expose-Headers: local-daemon-protocol, retry-after");
    let read = stage.read_route();
    let mut asks = vec![read.ask(&live).bearer(&live).named("a good read")];
    asks.extend(stage.stream_route().map(|stream| stream.ask(&live).bearer(&live).named("a stream")));
    asks.extend(refused(&live).into_iter().map(|(ask, ..)| ask));
    asks.retain(|ask| !ask.says("Origin"));
    let mut seen = 0;
    for ask in asks {
        let ask = ask.origin(LISTED);
        let response = live.answer(&ask)?;
        if response.header("access-control-allow-origin").is_none() {
            continue;
        }
        seen += 1;
        let exposed = response.all("access-control-expose-headers").join(", ");
        let both = ["local-daemon-protocol", "retry-after"]
            .iter()
            .all(|name| lists(&response, "access-control-expose-headers", name));
        ensure!(
            both,
            "{}, answered {}: Access-Control-Expose-Headers is `{exposed}`",
            ask.what,
            response.status
        );
    }
    stage.precondition(format!("{seen} answers may be read by a listed origin"));
    Ok(())
}

/// Whether a text has the form of a date in HTTP: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn is_date(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| match c {
            '0'..='9' => '0',
            'a'..='z' | 'A'..='Z' => 'a',
            other => other,
        })
        .collect();
    shape == "aaa, 00 aaa 0000 00:00:00 aaa" && text.ends_with(" GMT")
}

/// Good answers, refusals, a preflight's answer and the head of a stream say what time it is.
#[case("PER-52")]
fn answers_are_dated(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("a Date in each answer of status 200 to 499");
    let read = stage.read_route();
    let mut asks = vec![
        read.ask(&live).bearer(&live).named("a good read"),
        stage.handshake_route().ask(&live).bearer(&live).named("a handshake"),
        read.ask(&live).preflight(LISTED, "GET").named("a preflight"),
    ];
    asks.extend(
        stage
            .mutation_route()
            .map(|mutation| mutation.ask(&live).bearer(&live).named("a good change")),
    );
    asks.extend(stage.stream_route().map(|stream| stream.ask(&live).bearer(&live).named("a stream")));
    asks.extend(refused(&live).into_iter().map(|(ask, ..)| ask));
    for ask in &asks {
        let response = live.answer(ask)?;
        let date = response.header("date").unwrap_or("missing");
        ensure!(
            is_date(date) || response.status >= 500,
            "{}, answered {}: Date is {date}",
            ask.what,
            response.status
        );
    }
    stage.precondition(format!("{} requests were answered", asks.len()));
    Ok(())
}

/// Sends bytes and reads all that comes until the daemon closes the connection.
fn all_that_comes(live: &ReadyDaemon, bytes: &[u8]) -> Result<String, HttpFault> {
    let deadline = Instant::now() + ANSWER;
    let mut connection = Connection::open(live.target.address, deadline)?;
    connection.send(bytes, deadline)?;
    Ok(String::from_utf8_lossy(&connection.read_raw(deadline)).into_owned())
}

/// A request of HTTP/1.0 expects an interim answer, which its client would take for the answer. It gets none, and is served.
#[case("PER-53")]
fn no_interim_answer_to_old_clients(stage: &mut Stage) -> Outcome {
    let mutation = stage.mutation_route()?;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("one answer, which is not an interim one");
    let ask = mutation.ask(&live).bearer(&live).with("Expect", "100-continue");
    let text = String::from_utf8_lossy(&ask.bytes()).replacen("HTTP/1.1", "HTTP/1.0", 1);
    let what = format!("{} {} by HTTP/1.0", mutation.method, mutation.path);
    match all_that_comes(&live, text.as_bytes()) {
        Ok(answer) => {
            let status: String = answer.split(' ').nth(1).unwrap_or_default().to_owned();
            stage.precondition(format!("{what}: answered {status}"));
            ensure!(!status.starts_with('1'), "{what}: the first answer is {status}");
            Ok(())
        }
        Err(fault) => fail(format!("{what}: {fault}")),
    }
}

/// HEAD is sent to the routes that were seen to take GET: the status and the type of GET's answer, and nothing after the
/// head.
#[case("PER-54")]
fn head_is_taken_where_get_is(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("what GET is answered, without a body");
    let handshake = stage.handshake_route();
    let mut routes = vec![stage.read_route()];
    routes.extend(stage.stream_route());
    routes.retain(|route| route.method == "GET" && route.path != handshake.path);
    if routes.is_empty() {
        return not_applicable("the manifest binds no route that takes GET, except for the handshake");
    }
    for route in routes {
        let get = live.served(&route.ask(&live).bearer(&live))?;
        let ask = route.ask(&live).method("HEAD").bearer(&live).with("Connection", "close");
        let what = format!("HEAD {}", route.path);
        let head = live.answer(&ask.clone().named(&*what))?;
        ensure!(head.status == get.status, "{what}: answered {}, and GET {}", head.status, get.status);
        let (of_head, of_get) = (head.media_type().unwrap_or_default(), get.media_type().unwrap_or_default());
        ensure!(of_head == of_get, "{what}: Content-Type is {of_head}, and that of GET {of_get}");
        let text = match all_that_comes(&live, &ask.bytes()) {
            Ok(text) => text,
            Err(fault) => return fail(format!("{what}: {fault}")),
        };
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        ensure!(body.is_empty(), "{what}: {} bytes come after the head", body.len());
    }
    Ok(())
}
