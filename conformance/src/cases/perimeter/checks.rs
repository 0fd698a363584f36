//! The checks as a whole: their order, that nothing gets round them, and that a refusal is one.

use std::time::Instant;

use local_daemon_harness::http::{Connection, HttpFault, Response};
use local_daemon_harness::proof::{self, Credential};

use crate::case::case;
use crate::fixtures::http::{ANSWER, Ask, Follower, LISTED, UNKNOWN, UNLISTED, launch_listed, marker};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, not_applicable};
use crate::stage::{ReadyDaemon, Stage};

/// Requests that break two, three or all of the rules at once: each is answered by the first check of the
/// table that it fails, whatever its path, method and credential.
#[case("PER-1")]
fn checks_in_their_order(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("414 before 421, 421 before 403, 403 before 401, 401 before anything that a route says");
    let read = stage.read_route();
    let foreign = format!("evil.example:{}", live.port());
    let wrong = proof::bearer(&Credential::random());
    let long = format!("{}?{}", read.path, "a".repeat(40 * 1024));
    let get = |path: &str| Ask::new(&live, "GET", path);
    let mut groups: [(u16, Vec<Ask>); 4] = [414, 421, 403, 401].map(|status| (status, Vec::new()));
    groups[0].1 = vec![
        get(&long).hosts([&*foreign]).named("too long a target, foreign Host"),
        get(&long).origin(UNLISTED).named("too long a target, unlisted origin"),
        get(&long).named("too long a target, no credential"),
        get(&long)
            .hosts([&*foreign])
            .origin(UNLISTED)
            .bearer(&live)
            .named("too long a target, foreign Host, unlisted origin"),
    ];
    for path in stage.paths() {
        for method in ["GET", "POST", "OPTIONS"] {
            let ask = Ask::new(&live, method, &path);
            let named = |ask: Ask, why: &str| {
                let what = format!("{method} {path}: {why}");
                ask.named(what)
            };
            let at_foreign = ask.clone().hosts([&*foreign]);
            groups[1].1.extend([
                named(at_foreign.clone().origin(UNLISTED), "foreign Host, unlisted origin"),
                named(
                    at_foreign.clone().origin(UNLISTED).bearer(&live),
                    "foreign Host, unlisted origin, credential",
                ),
                named(at_foreign.clone(), "foreign Host, no credential"),
                named(at_foreign.preflight(LISTED, "GET"), "foreign Host, preflight"),
            ]);
            groups[2].1.extend([
                named(ask.clone().origin(UNLISTED), "unlisted origin, no credential"),
                named(
                    ask.clone().origin(UNLISTED).with("Authorization", &wrong),
                    "unlisted origin, wrong credential",
                ),
                named(ask.clone().origin(UNLISTED).bearer(&live), "unlisted origin, credential"),
                named(ask.clone().preflight(UNLISTED, "GET"), "unlisted preflight"),
            ]);
            let refused = ask.with("Authorization", &wrong);
            groups[3].1.extend([
                named(refused.clone(), "wrong credential"),
                named(
                    refused.clone().with("Content-Type", "application/json").with("Content-Length", "0"),
                    "wrong credential and no body",
                ),
                named(refused.with("Local-Daemon-Protocol", "other/9"), "wrong credential, another protocol"),
            ]);
        }
    }
    // The shell and what chapter 12 lets judge tickets stand for themselves there.
    groups[3].1.push(
        get(UNKNOWN)
            .method("POST")
            .with("Content-Length", &(20 << 20).to_string())
            .with("Connection", "close")
            .named("no credential, too large a body announced"),
    );
    live.between_controls(|| {
        for (status, asks) in &groups {
            live.all_answered(asks, &[*status])?;
        }
        Ok(())
    })
}

/// Other ways to write `path`.
fn spellings(path: &str) -> Vec<String> {
    let (first, rest) = path[1..].split_at(1.min(path.len() - 1));
    let encoded = format!("%{}", proof::hex(first.as_bytes()));
    vec![
        format!("/{path}"),
        format!("//evil.example{path}"),
        format!("{path}/"),
        format!("/.{path}"),
        format!("/x/..{path}"),
        format!("/%2e%2e{path}"),
        format!("/..{path}"),
        format!("{path}/."),
        format!("{path}/../../..{path}"),
        format!("/{encoded}{rest}"),
        path.replace("/v1", "/%76%31"),
        path.replacen('/', "/%2f", 1),
        format!("{path}%00"),
        format!("{path};x=1"),
        format!("{path}?"),
        format!("{path}?x=/.well-known/local-daemon"),
        path.to_ascii_uppercase(),
        format!("/.well-known/local-daemon/..{path}"),
        format!("/.well-known/local-daemon/..;{path}"),
        format!("/public/..{path}"),
    ]
}

/// Double slashes, dot segments, percent-encoding, parameters, method overrides and forwarded paths lead to
/// no route without the checks: 401 without the credential, 403 from an unlisted origin.
#[case("PER-1")]
fn no_spelling_gets_round_the_checks(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 without the credential, 403 with it from an unlisted origin");
    let read = stage.read_route();
    let mut targets = Vec::new();
    for path in stage.paths().iter().filter(|path| path.len() > 1) {
        targets.extend(spellings(path));
    }
    let get = |target: &str| Ask::new(&live, "GET", target);
    let mut open: Vec<Ask> = targets.iter().map(|target| get(target)).collect();
    let mut unlisted: Vec<Ask> =
        targets.iter().map(|target| get(target).origin(UNLISTED).bearer(&live)).collect();
    let overrides = [
        ("X-HTTP-Method-Override", "OPTIONS"),
        ("X-HTTP-Method", "HEAD"),
        ("X-Method-Override", "OPTIONS"),
        ("X-Original-URL", "/.well-known/local-daemon"),
        ("X-Rewrite-URL", "/"),
        ("X-Forwarded-Prefix", "/public"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Real-IP", "127.0.0.1"),
        ("Forwarded", "for=127.0.0.1;host=localhost"),
        ("Via", "1.1 localhost"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Access-Control-Request-Method", "GET"),
        ("Referer", "http://127.0.0.1/"),
        ("Accept", "text/html"),
        ("X-Requested-With", "XMLHttpRequest"),
    ];
    for (name, value) in overrides {
        for method in ["GET", "POST"] {
            let ask = read.ask(&live).method(method).with(name, value);
            let ask = ask.named(format!("{method} {}, {name}: {value}", read.path));
            unlisted.push(ask.clone().origin(UNLISTED).bearer(&live));
            open.push(ask);
        }
    }
    live.between_controls(|| {
        live.all_answered(&open, &[401])?;
        live.all_answered(&unlisted, &[403])
    })
}

/// The answers on one connection, as far as the daemon keeps it open: it may close it after any of them.
fn conversation(live: &ReadyDaemon, asks: &[Ask], together: bool) -> Outcome<Vec<Response>> {
    let deadline = Instant::now() + ANSWER;
    let talk = || -> Result<Vec<Response>, HttpFault> {
        let mut connection = Connection::open(live.target.address, deadline)?;
        if together {
            connection.send(&asks.iter().flat_map(Ask::bytes).collect::<Vec<_>>(), deadline)?;
        }
        let mut answers: Vec<Response> = Vec::new();
        for ask in asks {
            let answer = if together {
                connection.read_response(deadline)
            } else {
                connection.exchange(&ask.bytes(), deadline)
            };
            match answer {
                Ok(answer) => answers.push(answer),
                Err(HttpFault::Closed(0) | HttpFault::Reset) if !answers.is_empty() => break,
                Err(fault) => return Err(fault),
            }
            if answers.last().is_some_and(|answer| answer.closes) {
                break;
            }
        }
        Ok(answers)
    };
    match talk() {
        Ok(answers) => Ok(answers),
        Err(fault) => fail(format!("{} requests on one connection: {fault}", asks.len())),
    }
}

/// Good and bad requests one after another and all at once on one connection, and HTTP/1.0: each is answered
/// for itself.
#[case("PER-1")]
fn each_request_of_a_connection_judged(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("each answer is the one that its request gets alone; HTTP/1.0 is judged alike");
    let read = stage.read_route();
    let foreign = format!("evil.example:{}", live.port());
    let good = || read.ask(&live).bearer(&live);
    let bad = [
        (read.ask(&live), 401),
        (good().origin(UNLISTED), 403),
        (good().hosts([&*foreign]), 421),
    ];
    let mut seen = 0;
    for (refused, status) in &bad {
        for together in [false, true] {
            let asks = [
                good(),
                refused.clone(),
                good(),
                refused.clone(),
                refused.clone(),
                good(),
            ];
            let wanted = [200, *status, 200, *status, *status, 200];
            let answers = conversation(&live, &asks, together)?;
            let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            seen += statuses.len();
            ensure!(
                statuses == wanted[..statuses.len()],
                "together: {together}: answered {statuses}, not {wanted}",
                statuses = in_words(&statuses),
                wanted = in_words(&wanted)
            );
        }
    }
    stage.precondition(format!("{seen} requests were answered on 6 connections"));
    let old = |ask: &Ask| {
        let text = String::from_utf8_lossy(&ask.bytes()).replacen("HTTP/1.1", "HTTP/1.0", 1);
        text.into_bytes()
    };
    for (refused, status) in bad.iter().chain([&(good(), 200)]) {
        match live.exchange(&old(refused)) {
            Ok(answer) => {
                ensure!(answer.status == *status, "HTTP/1.0: answered {}, not {status}", answer.status);
            }
            Err(fault) => return fail(format!("HTTP/1.0, to be answered {status}: {fault}")),
        }
    }
    Ok(())
}

/// A request in every form that is refused: by its host, its origin, its authentication.
fn refusals(live: &ReadyDaemon, ask: &Ask, query_token: &str) -> Vec<(Ask, u16)> {
    let foreign = format!("evil.example:{}", live.port());
    let text = live.credential.text();
    let good = ask.clone().bearer(live);
    let wrong = proof::bearer(&Credential::random());
    let named = |ask: Ask, what: &str, status: u16| (ask.named(what), status);
    let mut refused = vec![
        named(good.clone().hosts([&*foreign]), "foreign Host", 421),
        named(good.clone().origin(UNLISTED), "unlisted origin", 403),
        named(good.clone().origin("null"), "null origin", 403),
        named(good.clone().origin(LISTED).origin(UNLISTED), "two origins", 403),
        named(ask.clone(), "no credential", 401),
        named(ask.clone().origin(LISTED), "listed origin, no credential", 401),
        named(ask.clone().with("Authorization", &wrong), "wrong credential", 401),
        named(good.clone().bearer(live), "credential twice", 401),
        named(ask.clone().with("Cookie", &format!("token={text}")), "credential as cookie", 401),
        named(ask.clone().parameter(query_token, &text), "query token", 401),
        named(good.clone().parameter(query_token, &text), "query token beside the credential", 401),
        named(ask.clone().with("Authorization", &format!("Basic {text}")), "another scheme", 401),
    ];
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ] {
        let form = ask.clone().without("Content-Type").with("Content-Type", kind);
        refused.push(named(form.clone(), "a form", 401));
        refused.push(named(form.origin(UNLISTED), "a form, unlisted origin", 403));
    }
    refused
}

fn query_token(stage: &Stage) -> String {
    let stream = stage.manifest().binding.stream.clone();
    stream.and_then(|stream| stream.query_token).unwrap_or_else(|| "token".to_owned())
}

/// The request that makes a number appear on the event stream is sent with every kind of refusal, as simple
/// POST and as form too, each time with its own number; then in its good form. Only the last number appears
/// (opencode#6355, CVE-2026-22812).
#[case("PER-2")]
fn refused_request_has_no_effect(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("no number of a refused request, and the number of the good one");
    let stream = stage.stream_route()?;
    let mut follower = Follower::open(&live, &stream.ask(&live).bearer(&live))?;
    stage.precondition("an event stream is open");
    let token = query_token(stage);
    let probe = stage.emit_route(0)?;
    let mut refused = Vec::new();
    for place in 0..refusals(&live, &probe.ask(&live), &token).len() {
        let number = marker(stage);
        let ask = stage.emit_route(number)?.ask(&live);
        let (ask, status) = refusals(&live, &ask, &token).swap_remove(place);
        live.answered(&ask, &[status])?;
        refused.push((number, ask.what));
    }
    none_appears(stage, &live, &mut follower, refused)
}

/// The number of a good request appears on the stream, and none of those that were sent before with others.
fn none_appears(
    stage: &mut Stage,
    live: &ReadyDaemon,
    follower: &mut Follower,
    others: Vec<(u64, String)>,
) -> Outcome {
    let last = marker(stage);
    let good = stage.emit_route(last)?.ask(live).bearer(live);
    live.served(&good.named("the number that shall appear"))?;
    ensure!(
        follower.wait_for(last, Instant::now() + ANSWER),
        "the number of the good request does not appear on the stream"
    );
    stage.control("the good request made its number appear");
    let appeared: Vec<String> = others
        .into_iter()
        .filter_map(|(number, what)| follower.has(number).then_some(what))
        .collect();
    ensure!(appeared.is_empty(), "refused, and done anyway: {appeared}", appeared = in_words(&appeared));
    Ok(())
}

/// The request that ends the daemon is sent with every kind of refusal: the same launch still answers.
#[case("PER-2")]
fn refused_shutdown_has_no_effect(stage: &mut Stage) -> Outcome {
    let Some(shutdown) = stage.manifest().binding.shutdown.clone() else {
        return not_applicable("the manifest has no `binding.shutdown`");
    };
    let (daemon, live) = launch_listed(stage)?;
    stage.expect("each is refused, and the daemon goes on");
    let mut ask = Ask::new(&live, &shutdown.method, &shutdown.path).with("Content-Type", "application/json");
    // Names the daemon that is meant where the contract asks for it, so that nothing but the refusal stops it.
    ask = ask.body(shutdown.body.unwrap_or_else(|| format!(r#"{{"id":"{}"}}"#, live.record.id)));
    let token = query_token(stage);
    live.between_controls(|| {
        for (ask, status) in refusals(&live, &ask, &token) {
            live.answered(&ask, &[status])?;
        }
        let exit = daemon.exit();
        ensure!(exit.is_none(), "the daemon ended: {exit}", exit = in_words(&exit));
        Ok(())
    })
}

/// `head`, `framing` and `body` as one request that is no HTTP.
fn malformed(live: &ReadyDaemon, method: &str, path: &str, body: &str) -> Vec<(String, String)> {
    let length = body.len();
    let own = &live.target.authority;
    let bearer = proof::bearer(&live.credential);
    let head = format!("Host: {own}\r\nAuthorization: {bearer}\r\nContent-Type: application/json\r\n");
    let framed = |what: &str, headers: &str| {
        (what.to_owned(), format!("{method} {path} HTTP/1.1\r\n{head}{headers}\r\n\r\n{body}"))
    };
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let in_chunks = |what: &str, headers: &str, chunks: &str| {
        (what.to_owned(), format!("{method} {path} HTTP/1.1\r\n{head}{headers}\r\n\r\n{chunks}"))
    };
    let longer = length + 1;
    let mut shapes = vec![
        framed("two lengths", &format!("Content-Length: {length}\r\nContent-Length: {longer}")),
        framed("a list of lengths", &format!("Content-Length: {length}, {longer}")),
        framed("a signed length", &format!("Content-Length: +{length}")),
        framed("a negative length", "Content-Length: -1"),
        framed("a length in hexadecimal", &format!("Content-Length: 0x{length:x}")),
        framed("an empty length", "Content-Length:"),
        framed("a folded header", &format!("X-A: b\r\n c\r\nContent-Length: {length}")),
        framed("a space before a colon", &format!("Content-Length : {length}")),
        framed("a header without a colon", &format!("Content-Length: {length}\r\nnonsense")),
        framed("a header without a name", &format!("Content-Length: {length}\r\n: x")),
        framed("a zero byte in a header", &format!("Content-Length: {length}\r\nX-A: b\0c")),
        framed("a bare carriage return in a header", &format!("Content-Length: {length}\r\nX-A: b\rX-B: c")),
        framed("a space in a header's name", &format!("Content-Length: {length}\r\nX A: b")),
        in_chunks("an unknown coding", "Transfer-Encoding: xchunked", &chunked),
        in_chunks("chunked, and another coding before it", "Transfer-Encoding: gzip, chunked", &chunked),
        in_chunks("chunked, and another coding after it", "Transfer-Encoding: chunked, identity", &chunked),
        in_chunks("a chunk of no size", "Transfer-Encoding: chunked", &format!("zz\r\n{body}\r\n0\r\n\r\n")),
        in_chunks(
            "a chunk of a signed size",
            "Transfer-Encoding: chunked",
            &format!("+{length:x}\r\n{body}\r\n0\r\n\r\n"),
        ),
        in_chunks(
            "a chunk size in 0x",
            "Transfer-Encoding: chunked",
            &format!("0x{length:x}\r\n{body}\r\n0\r\n\r\n"),
        ),
        in_chunks(
            "a chunk longer than it says",
            "Transfer-Encoding: chunked",
            &format!("{:x}\r\n{body}\r\n0\r\n\r\n", length - 1),
        ),
    ];
    let whole = |start: &str| format!("{start}\r\n{head}Content-Length: {length}\r\n\r\n{body}");
    for (what, start) in [
        ("no version", format!("{method} {path}")),
        ("another protocol", format!("{method} {path} SMTP/1.1")),
        ("a version that is none", format!("{method} {path} HTTP/x.y")),
        ("no target", format!("{method} HTTP/1.1")),
        ("a target of two words", format!("{method} {path} x HTTP/1.1")),
        ("a control character in the target", format!("{method} {path}\u{1} HTTP/1.1")),
        ("a method of no token", format!("{method}( {path} HTTP/1.1")),
    ] {
        shapes.push((what.to_owned(), whole(&start)));
    }
    shapes
}

/// The same request, with the credential, framed as no HTTP is: contradicting, signed or unknown lengths,
/// codings that are none, folded and malformed headers. None is served, and no number appears.
#[case("PER-1", "PER-2")]
fn what_is_no_http_has_no_effect(stage: &mut Stage) -> Outcome {
    stage.mutation_route()?;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("none is answered 2xx, and the only number is that of the good request");
    let stream = stage.stream_route()?;
    let mut follower = Follower::open(&live, &stream.ask(&live).bearer(&live))?;
    stage.precondition("an event stream is open");
    let mut sent = Vec::new();
    let probe = stage.emit_route(0)?;
    let count = malformed(&live, &probe.method, &probe.path, probe.body.as_deref().unwrap_or("{}")).len();
    for place in 0..count {
        let number = marker(stage);
        let emit = stage.emit_route(number)?;
        let body = emit.body.clone().unwrap_or_else(|| "{}".to_owned());
        let (what, text) = malformed(&live, &emit.method, &emit.path, &body).swap_remove(place);
        stage.transcript().note("suite", "request", &what);
        // To close the connection without a word is as good as a refusal; to wait for more is, too.
        if let Ok(response) = exchange_and_finish(&live, text.as_bytes()) {
            let seen = response.summary(stage.transcript());
            ensure!(!(200..300).contains(&response.status), "{what}: answered {seen}");
        }
        sent.push((number, what));
    }
    none_appears(stage, &live, &mut follower, sent)?;
    stage.observed(format!("{count} shapes were refused"));
    Ok(())
}

/// Like [`exchange`], and says after the request that nothing more comes.
fn exchange_and_finish(live: &ReadyDaemon, bytes: &[u8]) -> Result<Response, HttpFault> {
    let deadline = Instant::now() + ANSWER;
    let mut connection = Connection::open(live.target.address, deadline)?;
    connection.send(bytes, deadline)?;
    connection.finish()?;
    connection.read_response(deadline)
}
