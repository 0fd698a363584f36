//! The token in the URL, and where secrets must not turn up.

use std::path::Path;
use std::time::Instant;

use local_daemon_harness::proof::{self, Credential};

use crate::case::case;
use crate::fixtures::http::{ANSWER, Ask, Follower, LISTED, UNKNOWN, UNLISTED, launch_listed, marker};
use crate::fixtures::malformed::wrong_bearers;
use crate::fixtures::words::in_words;
use crate::manifest::StreamBinding;
use crate::outcome::{Outcome, ensure, not_applicable};
use crate::stage::Stage;

fn stream_with_token(stage: &mut Stage) -> Outcome<(StreamBinding, String)> {
    let stream = stage.manifest().binding.stream.clone();
    match stream.and_then(|stream| stream.query_token.clone().map(|name| (stream, name))) {
        Some(bound) => Ok(bound),
        None => not_applicable("the manifest has no `binding.stream.query_token`"),
    }
}

/// The credential as `token` parameter, and a wrong one, alone and has_bearer a valid Authorization, on reads,
/// the handshake, unknown paths, and with other methods on the event stream: 401, and no effect.
#[case("PER-25")]
fn query_token_on_streams_alone(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 for each, and no number on the stream");
    let (text, wrong) = (live.credential.text(), Credential::random().text());
    let read = stage.read_route();
    let stream = stage.manifest().binding.stream.clone();
    let mut asks = Vec::new();
    let mut paths = vec![
        read.path.clone(),
        stage.handshake_route().path,
        UNKNOWN.to_owned(),
    ];
    if let Some(stream) = &stream {
        paths.extend([
            format!("{}/../{}", stream.path, read.path.trim_start_matches('/')),
            format!("{}%2f..", stream.path),
            format!("/x{}", stream.path),
        ]);
    }
    for path in &paths {
        for token in [&text, &wrong, &String::new()] {
            let ask = Ask::new(&live, "GET", path).parameter("token", token);
            asks.push(ask.clone().named(format!("{path} with a token alone")));
            asks.push(
                ask.clone().bearer(&live).named(format!("{path} with a token has_bearer the credential")),
            );
            asks.push(ask.clone().method("HEAD").named(format!("HEAD {path} with a token")));
            asks.push(ask.parameter("x", "1").named(format!("{path} with a token and more")));
        }
        let later = Ask::new(&live, "GET", path).parameter("x", "1").parameter("token", &text);
        asks.push(later.bearer(&live).named(format!("{path} with a token at the end")));
    }
    let mut follower = None;
    let mut numbers = Vec::new();
    if let (Some(stream), Ok(_)) = (&stream, stage.emit_route(0)) {
        let ask = Ask::new(&live, "GET", &stream.path).bearer(&live);
        follower = Some(Follower::open(&live, &ask)?);
        for has_bearer in [false, true] {
            for headers in [
                &[][..],
                &[("X-HTTP-Method-Override", "GET")],
                &[("Accept", "text/event-stream")],
            ] {
                let number = marker(stage);
                let emit = stage.emit_route(number)?.ask(&live).parameter("token", &text);
                let emit = headers.iter().fold(emit, |ask, (name, value)| ask.with(name, value));
                let emit = if has_bearer { emit.bearer(&live) } else { emit };
                asks.push(emit.named(format!(
                    "a number by token, {headers}, also with the credential: {has_bearer}",
                    headers = in_words(&headers)
                )));
                numbers.push(number);
            }
        }
        for method in ["PUT", "DELETE", "OPTIONS"] {
            let ask = Ask::new(&live, method, &stream.path).parameter("token", &text);
            asks.push(ask.named(format!("{method} of the stream with a token")));
        }
    }
    live.between_controls(|| live.all_answered(&asks, &[401]))?;
    if let Some(mut follower) = follower {
        let last = marker(stage);
        let good = stage.emit_route(last)?.ask(&live).bearer(&live);
        live.served(&good)?;
        ensure!(
            follower.wait_for(last, Instant::now() + ANSWER),
            "the number of the good request does not appear on the stream"
        );
        let done = numbers.iter().filter(|number| follower.has(**number)).count();
        ensure!(done == 0, "{done} refused requests were done all the same");
    }
    Ok(())
}

/// The right token opens the event stream, from no origin and a listed one; tokens that a careless comparison
/// takes for it are 401, an unlisted origin 403, a foreign Host 421.
#[case("PER-26")]
fn query_token_compared_as_a_bearer(stage: &mut Stage) -> Outcome {
    let (stream, name) = stream_with_token(stage)?;
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("200 for the right token, 401 for every other, 403 and 421 before either");
    let ask = || Ask::new(&live, "GET", &stream.path);
    let right = || ask().parameter(&name, &live.credential.text());
    let opens = |stage: &mut Stage, what: &str, ask: Ask| -> Outcome {
        Follower::open(&live, &ask.named(what))?;
        stage.control(format!("{what}: the stream opens"));
        Ok(())
    };
    opens(stage, "the right token", right())?;
    opens(stage, "the right token from a listed origin", right().origin(LISTED))?;
    let mut wrong: Vec<Ask> = wrong_bearers(&live.credential)
        .into_iter()
        .filter_map(|(what, value)| {
            let token = value.strip_prefix("Bearer ")?;
            let plain = token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
            plain.then(|| ask().parameter(&name, token).named(format!("token: {what}")))
        })
        .collect();
    let bearer = format!("Bearer%20{}", live.credential.text());
    let proven = Credential::random();
    wrong.extend([
        ask().parameter(&name, &bearer).named("token: a whole bearer"),
        right().parameter(&name, &proven.text()).named("two tokens, the right one first"),
        ask()
            .parameter(&name, &proven.text())
            .parameter(&name, &live.credential.text())
            .named("two tokens, the right one last"),
        right()
            .with("Authorization", &proof::bearer(&proven))
            .named("the right token has_bearer a wrong credential"),
        ask()
            .parameter(&name, &proven.text())
            .bearer(&live)
            .named("a wrong token has_bearer the right credential"),
        ask().named("no token at all"),
    ]);
    let foreign = format!("evil.example:{}", live.port());
    let unlisted = [UNLISTED, "null", "http://localhost:3000"]
        .map(|origin| right().origin(origin).named(format!("the right token from {origin}")));
    live.between_controls(|| {
        live.all_answered(&wrong, &[401])?;
        live.all_answered(&unlisted, &[403])?;
        live.answered(&right().hosts([&*foreign]).named("the right token at a foreign Host"), &[421])?;
        Ok(())
    })?;
    opens(stage, "the right token afterwards", right())
}

/// How much of a secret counts as a part: shorter pieces turn up by chance.
const PART: usize = 12;

/// Which piece of `secret` stands in `text`.
fn part_in<'a>(text: &[u8], secret: &'a str) -> Option<&'a str> {
    (0..=secret.len() - PART)
        .map(|start| &secret[start..start + PART])
        .find(|part| text.windows(PART).any(|window| window == part.as_bytes()))
}

/// Every file below `place`, but the credential and what was there before the daemon.
fn files(place: &Path, credential: &Path, found: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(place)? {
        let path = entry?.path();
        let facts = std::fs::symlink_metadata(&path)?;
        if facts.is_dir() {
            files(&path, credential, found)?;
        } else if facts.is_file() && path != credential {
            found.push((path.display().to_string(), std::fs::read(&path)?));
        }
    }
    Ok(())
}

/// Right and wrong tokens are sent in queries, headers and broken requests; afterwards neither the output nor
/// any file of the daemon holds a part of them (mcp-memory-service#1117, jupyter_server#1681).
#[case("PER-27")]
fn no_secret_in_log_or_file(stage: &mut Stage) -> Outcome {
    let (daemon, live) = launch_listed(stage)?;
    stage.expect(format!("no {PART} characters in a row of any token that was sent"));
    let right = live.credential.text();
    // Wrong ones are as secret: they are yesterday's, or another daemon's.
    let wrong = [(); 4].map(|()| Credential::random().text());
    let read = stage.read_route();
    let mut paths = vec![
        read.path.clone(),
        UNKNOWN.to_owned(),
        stage.handshake_route().path,
    ];
    paths.extend(stage.manifest().binding.stream.clone().map(|stream| stream.path));
    paths.extend(stage.manifest().binding.mutation.clone().map(|operation| operation.path));
    for token in wrong.iter().chain([&right]) {
        for path in &paths {
            for method in ["GET", "POST", "OPTIONS"] {
                let ask = Ask::new(&live, method, path);
                let bearer = format!("Bearer {token}");
                let asks = [
                    ask.clone().parameter("token", token),
                    ask.clone().parameter("token", token).origin(UNLISTED),
                    ask.clone().parameter("token", token).hosts(["evil.example"]),
                    ask.clone().with("Authorization", &bearer),
                    ask.clone().with("Authorization", &bearer).origin(LISTED),
                    ask.clone().with("Authorization", &bearer).with("Authorization", &bearer),
                    ask.clone().with("Cookie", &format!("token={token}")),
                    ask.clone().with("Referer", &format!("http://{}/?token={token}", live.target.authority)),
                    ask.with("Content-Type", "application/json").body(format!("{{\"token\":\"{token}\"")),
                ];
                for ask in asks {
                    // Whether it is refused is other cases' affair.
                    let _ = live.exchange(&ask.bytes());
                }
            }
        }
        let own = &live.target.authority;
        for text in [
            format!("GET {}?token={token}\u{1} HTTP/1.1\r\nHost: {own}\r\n\r\n", read.path),
            format!("GET {}?token={token} HTTP/9.9\r\nHost: {own}\r\n\r\n", read.path),
            format!("GET {} HTTP/1.1\r\nHost: {own}\r\nAuthorization : Bearer {token}\r\n\r\n", read.path),
            format!("GET {} HTTP/1.1\r\nHost: {own}\r\nAuthorization: Bearer {token}\0\r\n\r\n", read.path),
        ] {
            let _ = live.exchange(text.as_bytes());
        }
    }
    live.served(&read.ask(&live).bearer(&live))?;
    stage.control("the good request was served afterwards");
    daemon.signal(local_daemon_harness::process::Signal::TERM)?;
    let deadline = Instant::now() + stage.manifest().daemon.stand_down_timeout() + ANSWER;
    if daemon.wait_exit(deadline).is_none() {
        daemon.kill_group();
    }
    let output = daemon.wait_output_end(deadline).unwrap_or_else(|| daemon.output());
    let mut texts = vec![("its output".to_owned(), output.all())];
    files(stage.arena().path(), &stage.credential_path(), &mut texts)?;
    let secrets: Vec<(&str, &String)> = wrong
        .iter()
        .map(|token| ("a wrong token", token))
        .chain([("the credential", &right)])
        .collect();
    for (place, text) in &texts {
        for (what, secret) in &secrets {
            let found = part_in(text, secret).is_some();
            ensure!(!found, "{place} holds a part of {what}");
        }
    }
    let bytes: usize = texts.iter().map(|(_, text)| text.len()).sum();
    stage.observed(format!("{} texts of {bytes} bytes were searched", texts.len()));
    Ok(())
}
