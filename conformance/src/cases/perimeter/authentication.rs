//! Who is let in.

use local_daemon_harness::http::Response;
use local_daemon_harness::proof::{self, Credential};

use crate::case::case;
use crate::fixtures::http::{Ask, METHODS, UNKNOWN, UNLISTED, launch_listed};
use crate::fixtures::malformed::wrong_bearers;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{ReadyDaemon, Stage};

/// What tells one answer from another: status, headers but `Date`, body. An answer to HEAD has no body, and what frames
/// one may be missing.
fn likeness(response: &Response, of_head: bool) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let skipped =
        |name: &str| name == "date" || (of_head && matches!(name, "content-length" | "transfer-encoding"));
    let mut headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !skipped(name))
        .collect();
    headers.sort();
    let body = if of_head { Vec::new() } else { response.body.clone() };
    (response.status, headers, body)
}

/// Each is refused in the same way as the first of its kind: GET of an unknown path.
fn refused_alike(live: &ReadyDaemon, asks: &[(bool, Ask)]) -> Outcome {
    let first = Ask::new(live, "GET", UNKNOWN);
    let first = live.answered(&first, &[401])?;
    let offers = first.all("www-authenticate").iter().any(|value| {
        value.to_ascii_lowercase().starts_with("bearer") || value.to_ascii_lowercase().contains(", bearer")
    });
    ensure!(offers, "WWW-Authenticate is {}", in_words(&first.all("www-authenticate")));
    for (of_head, ask) in asks {
        let response = live.answered(ask, &[401])?;
        let (wanted, seen) = (likeness(&first, *of_head), likeness(&response, *of_head));
        if wanted == seen {
            continue;
        }
        let only = |one: &[(String, String)], other: &[(String, String)]| {
            let headers = one.iter().filter(|header| !other.contains(header));
            in_words(&headers.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>())
        };
        return fail(format!(
            "{}: answered {}, with the headers {}; an unknown path {}, with the headers {}",
            ask.what,
            response.summary(live.transcript()),
            only(&seen.1, &wanted.1),
            first.summary(live.transcript()),
            only(&wanted.1, &seen.1)
        ));
    }
    live.observed(format!("{} requests were refused alike", asks.len()));
    Ok(())
}

/// Every bound path and unknown ones with seven methods, without authentication and with a wrong credential:
/// 401, and status, headers but Date, and body are the same for all; WWW-Authenticate offers Bearer.
#[case("PER-21")]
fn refusal_is_the_same_everywhere(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401, the same in status, headers but Date, and body");
    let wrong = proof::bearer(&Credential::random());
    let mut asks = Vec::new();
    // Chapter 12 gives the answer to GET of the page a body of its own.
    let page = stage.manifest().binding.page.clone();
    for path in stage.paths().iter().filter(|path| Some(*path) != page.as_ref()) {
        for method in METHODS {
            let ask = Ask::new(&live, method, path);
            let refused = ask.clone().with("Authorization", &wrong);
            asks.push((method == "HEAD", ask));
            asks.push((method == "HEAD", refused.named(format!("{method} {path}, wrong credential"))));
        }
    }
    live.between_controls(|| refused_alike(&live, &asks))
}

/// Bearers that a careless comparison takes for the credential, and the credential in other headers, on the
/// bound read: 401, the same each time.
#[case("PER-21")]
fn wrong_bearer_opens_no_route(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401, the same for each");
    let read = stage.read_route();
    live.served(&read.ask(&live).bearer(&live))?;
    let mut asks: Vec<(bool, Ask)> = wrong_bearers(&live.credential)
        .into_iter()
        .map(|(what, value)| (false, read.ask(&live).with("Authorization", &value).named(what)))
        .collect();
    let (text, bearer) = (live.credential.text(), proof::bearer(&live.credential));
    for header in [
        "X-Api-Key",
        "X-Auth-Token",
        "X-Token",
        "X-Authorization",
        "Proxy-Authorization",
        "Authentication",
        "From",
        "X-Forwarded-Authorization",
        "Local-Daemon-Proof",
        "Sec-WebSocket-Protocol",
        "Referer",
    ] {
        for value in [&text, &bearer] {
            let ask = read.ask(&live).with(header, value);
            asks.push((false, ask.named(format!("the credential in {header}"))));
        }
    }
    live.between_controls(|| refused_alike(&live, &asks))
}

/// The credential in cookies, in bodies and in other query parameters, on a read, the handshake and the event
/// stream: 401.
#[case("PER-23")]
fn no_credential_from_elsewhere(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for each");
    let text = live.credential.text();
    let bearer = proof::bearer(&live.credential);
    let stream = stage.manifest().binding.stream.clone();
    let query_token = stream.as_ref().and_then(|stream| stream.query_token.clone());
    let mut paths = vec![stage.read_route().path, stage.handshake_route().path];
    paths.extend(stream.map(|stream| stream.path));
    let names = [
        "token",
        "access_token",
        "auth",
        "authorization",
        "credential",
        "key",
        "api_key",
        "apikey",
        "bearer",
        "session",
        "ticket",
        "page_token",
        "jwt",
        "secret",
        "local-daemon",
        "Token",
        "TOKEN",
        "_token",
        "t",
    ];
    let mut asks = Vec::new();
    for path in &paths {
        let ask = || Ask::new(&live, "GET", path);
        for name in names {
            asks.push(
                ask().with("Cookie", &format!("{name}={text}")).named(format!("{path}, cookie {name}")),
            );
            // The one that a stream may take is judged with the query token.
            if query_token.as_deref() != Some(name) && name != "token" {
                asks.push(ask().parameter(name, &text).named(format!("{path}, parameter {name}")));
            }
        }
        asks.push(
            ask()
                .with("Cookie", &format!("Authorization={bearer}"))
                .named("cookie with a whole bearer"),
        );
        asks.push(
            ask()
                .with("Cookie", &format!("a=b; __Host-token={text}; token=\"{text}\""))
                .named("quoted and prefixed cookies"),
        );
        for (kind, body) in [
            (
                "application/json",
                format!(r#"{{"token":"{text}","credential":"{text}","authorization":"{bearer}"}}"#),
            ),
            ("application/x-www-form-urlencoded", format!("token={text}&access_token={text}&ticket={text}")),
            ("text/plain", text.clone()),
        ] {
            for method in ["GET", "POST"] {
                let ask = ask().method(method).with("Content-Type", kind).body(&*body);
                asks.push(ask.named(format!("{method} {path}, {kind} body")));
            }
        }
    }
    live.between_controls(|| live.all_answered(&asks, &[401]))
}

/// Two Authorization headers, equal or not, in either order, in one line or two, and the credential under
/// unknown schemes: 401.
#[case("PER-24")]
fn one_authorization_of_a_known_scheme(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for each");
    let (text, right) = (live.credential.text(), proof::bearer(&live.credential));
    let wrong = proof::bearer(&Credential::random());
    let mut paths = vec![stage.read_route().path, stage.handshake_route().path];
    paths.extend(stage.manifest().binding.stream.clone().map(|stream| stream.path));
    let mut asks = Vec::new();
    for path in &paths {
        let ask = || Ask::new(&live, "GET", path);
        let pairs = [
            ("the right one twice", &right, &right),
            ("the right one first", &right, &wrong),
            ("the right one last", &wrong, &right),
            ("the right one and an empty one", &right, &String::new()),
            ("an empty one and the right one", &String::new(), &right),
            ("the right one and another scheme", &right, &"Basic eDp5".to_owned()),
            ("another scheme and the right one", &"Basic eDp5".to_owned(), &right),
        ]
        .map(|(what, one, other)| {
            let ask = ask().with("Authorization", one).with("authorization", other);
            ask.named(format!("{path}: {what}"))
        });
        asks.extend(pairs);
        for scheme in [
            "Basic",
            "Digest",
            "Negotiate",
            "NTLM",
            "Token",
            "ApiKey",
            "Key",
            "OAuth",
            "Credential",
            "Local-Daemon",
            "BearerX",
            "X-Bearer",
            "Bear",
            "DPoP",
            "MAC",
            "token",
        ] {
            let ask = ask().with("Authorization", &format!("{scheme} {text}"));
            asks.push(ask.named(format!("{path}: scheme {scheme}")));
        }
        for (what, value) in [
            ("two in one line", format!("{right}, {right}")),
            ("another scheme before it in one line", format!("Basic eDp5, {right}")),
            ("a parameter after it", format!("{right}; x=1")),
            ("no scheme", text.clone()),
        ] {
            asks.push(ask().with("Authorization", &value).named(format!("{path}: {what}")));
        }
    }
    live.between_controls(|| live.all_answered(&asks, &[401]))
}

/// WebSocket handshakes and other upgrades on every path: a foreign Host is 421, an unlisted origin 403, no
/// credential 401, in that order, and never 101.
#[case("PER-28")]
fn upgrade_meets_the_same_checks(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("421, 403, 401, in this order; never 101 without all three");
    let foreign = format!("evil.example:{}", live.port());
    let upgrades: [(&str, &[(&str, &str)]); 4] = [
        (
            "WebSocket",
            &[
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
        ),
        ("WebSocket in brief", &[("Connection", "keep-alive, upgrade"), ("Upgrade", "WebSocket")]),
        (
            "HTTP/2",
            &[
                ("Connection", "Upgrade, HTTP2-Settings"),
                ("Upgrade", "h2c"),
                ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ],
        ),
        ("the protocol itself", &[("Connection", "upgrade"), ("Upgrade", "local-daemon/1")]),
    ];
    let mut groups: [(u16, Vec<Ask>); 3] = [421, 403, 401].map(|status| (status, Vec::new()));
    for path in stage.paths() {
        for (what, headers) in upgrades {
            let ask = (headers.iter())
                .fold(Ask::new(&live, "GET", &path), |ask, (name, value)| ask.with(name, value));
            let named = |ask: Ask, why: &str| ask.named(format!("{what} at {path}, {why}"));
            groups[0].1.extend([
                named(ask.clone().hosts([&*foreign]).bearer(&live), "foreign Host"),
                named(ask.clone().hosts([&*foreign]).origin(UNLISTED), "foreign Host, unlisted origin"),
            ]);
            groups[1].1.extend([
                named(ask.clone().origin(UNLISTED).bearer(&live), "unlisted origin"),
                named(ask.clone().origin("null").bearer(&live), "null origin"),
                named(ask.clone().origin("wss://app.example").bearer(&live), "another scheme"),
                named(ask.clone().origin(UNLISTED), "unlisted origin, no credential"),
            ]);
            groups[2].1.extend([
                named(ask.clone(), "no credential"),
                named(ask.with("Authorization", "Bearer x"), "wrong credential"),
            ]);
        }
    }
    live.between_controls(|| {
        for (status, asks) in &groups {
            live.all_answered(asks, &[*status])?;
        }
        let read = stage.read_route();
        let ask = read.ask(&live).bearer(&live).with("Connection", "upgrade").with("Upgrade", "websocket");
        let response = live.answer(&ask.named("an upgrade that passes the checks"))?;
        stage.observed(format!("an upgrade with the credential is answered {}", response.status));
        Ok(())
    })
}
