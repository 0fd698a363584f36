//! The credential is where it belongs, and nowhere else.

use std::fs;

use crate::browser::{page_ticket, submit, token_in};
use crate::support::{Home, Manner, Output, Raw, Squatter};

#[test]
fn a_squatter_gets_no_byte_of_the_credential() {
    let home = Home::new();
    let squatter = Squatter::new(Manner::Agree);
    for args in [
        &["connect", "--no-spawn"][..],
        &["connect"],
        &["status"],
        &["stop"],
        &["stop", "--force"],
        &["doctor"],
        &["doctor", "--fix"],
        &["restart"],
        &["start"],
    ] {
        home.pretend(squatter.port);
        let before = squatter.heard().len();
        home.locald(args);
        let heard = squatter.heard();
        assert!(heard.len() > before, "{args:?} asked the squatter nothing: the test sees nothing");
        let credential = home.credential();
        for window in credential.as_bytes().windows(6) {
            let part = std::str::from_utf8(window).unwrap();
            assert!(!heard[before..].contains(part), "{args:?}: {heard}");
        }
        assert!(!heard.contains("Bearer"), "{args:?}: {heard}");
    }
}

#[test]
fn it_is_in_no_argument_environment_log_or_answer() {
    let home = Home::new();
    let seen = Output::of(home.command(&["start", "--json"]).env("LOCALD_LOG", "trace"));
    assert_eq!(seen.code, 0, "{seen:?}");
    let pid = seen.json()["pid"].to_string();
    let credential = home.credential();
    let mut seen = vec![seen.stdout, seen.stderr];

    let encoded = credential.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    let (start, end) = credential.split_at(20);
    let in_parts = format!("{start}.{end}");
    // Requests that put it wherever a careless client might.
    let head = Raw::connect(&home).send(&format!("GET /v1/events?token={credential}"), "");
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    for line in [
        format!("GET /v1/status?token={credential}"),
        format!("GET /{credential}"),
        format!("GET /x_{credential}"),
        format!("GET /v1/x%2F{credential}"),
        format!("GET /v1/events%3Ftoken%3D{credential}"),
        format!("GET /{encoded}"),
        format!("{in_parts} /v1/status"),
    ] {
        Raw::connect(&home).ask(&line, None);
    }
    let mut raw = Raw::connect(&home);
    let head = raw.send("GET /v1/status", &format!("X-Note: {credential}\r\n"));
    seen.push(String::from_utf8(raw.body(&head)).unwrap());
    for args in [
        &["status"][..],
        &["doctor"],
        &["connect", "--json"],
        &["credential", "path"],
    ] {
        let output = home.locald(args);
        seen.extend([output.stdout, output.stderr]);
    }
    for file in ["cmdline", "environ"] {
        seen.push(String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned());
    }
    let log = fs::read_to_string(home.file("daemon.log")).unwrap();
    assert!(log.contains("/v1/events"), "the log shows the routes: {log}");
    seen.push(log);
    for text in seen {
        for form in [&credential, &encoded, &in_parts] {
            assert!(!text.contains(form), "{text}");
        }
    }
}

/// CRED-9: no answer contains it, whichever part of the request does.
#[test]
fn no_answer_repeats_it() {
    let home = Home::new();
    let _daemon = home.run(&["--allow-origin", "https://app.example"]);
    let credential = home.credential();
    let c = &*credential;
    let encoded = c.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    let mut listener = Raw::connect(&home);
    let head = listener.send("GET /v1/events", &format!("User-Agent: agent/{c}\r\n"));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");

    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let requests: Vec<(String, String, String)> = [
        ("GET /v1/status", "", ""),
        ("GET /v1/events?topics={}", "", ""),
        ("GET /v1/events?topics=note&{}=x", "", ""),
        ("GET /v1/events?topics={}&topics={}", "", ""),
        ("GET /v1/events?after={}", "", ""),
        ("GET /v1/events?token={}&token={}", "", ""),
        ("GET /v1/events", "Last-Event-ID: {}\r\n", ""),
        ("GET /v1/status?token={}", "", ""),
        ("GET /v1/status?{}", "Accept: text/plain\r\n", ""),
        ("GET /{}", "", ""),
        ("GET /v1/x%2F{}", "Accept: text/plain\r\n", ""),
        ("POST /v1/status/{}", "", ""),
        ("DELETE /v1/page-tokens/{}", "", ""),
        ("DELETE /v1/page-tokens/%ff{}", "", ""),
        ("{} /v1/status", "", ""),
        ("GET /v1/status", "{}: x\r\n", ""),
        ("GET /v1/status", "X-Note: {}\r\n", ""),
        ("GET /v1/status", "Cookie: {}={}\r\n", ""),
        ("GET /v1/status", "Accept: {}\r\n", ""),
        ("GET /v1/status", "Origin: {}\r\n", ""),
        ("GET /v1/status", "Origin: https://{}\r\n", ""),
        ("GET /v1/status", "Local-Daemon-Protocol: {}\r\n", ""),
        ("GET /v1/status", "Expect: {}\r\n", ""),
        ("GET http://{}/v1/status", "", ""),
        ("GET /.well-known/local-daemon/{}", "", ""),
        ("OPTIONS /v1/{}", "Origin: https://app.example\r\nAccess-Control-Request-Method: {}\r\n", ""),
        ("POST /v1/events", "", "{}"),
        ("POST /v1/events", "", r#"{"topic":"{}","data":1}"#),
        ("POST /v1/events", "", r#"{"topic":"{}""#),
        ("POST /v1/events", "", r#"{"{}":"{}"}"#),
        ("POST /v1/events", "", r#"{"topic":"note","{}":1,"{}":2}"#),
        ("POST /v1/events", "Content-Type: {}\r\n", r#"{"topic":["{}"]}"#),
        ("POST /v1/tickets", "", r#"{"kind":"{}"}"#),
        ("POST /v1/tickets", "", r#"{"kind":"page","{}":"{}"}"#),
        ("POST /v1/tickets", "", r#"{"kind":"handoff","origin":"{}"}"#),
        ("POST /v1/tickets", "", r#"{"kind":"handoff","origin":"https://{}"}"#),
        ("POST /v1/handoff", "", r#"{"ticket":"{}"}"#),
        ("POST /v1/handoff", "Origin: https://app.example\r\n", r#"{"ticket":"{}","{}":1}"#),
        ("POST /v1/shutdown", "", r#"{"id":"{}"}"#),
        ("POST /v1/shutdown", "", r#"{"id":"x","if_idle":"{}"}"#),
        ("POST /page", form, "ticket={}"),
        ("POST /page", form, "{}={}&ticket={}&ticket={}"),
        ("POST /page?{}", "Content-Type: {}\r\n", "{}"),
        (
            "POST /page",
            "Content-Type: application/x-www-form-urlencoded\r\nAccept: text/html\r\n",
            "ticket={}",
        ),
    ]
    .iter()
    .flat_map(|(line, headers, body)| {
        [c, &encoded].map(|text| {
            let (line, headers) = (line.replace("{}", text), headers.replace("{}", c));
            (line, headers, body.replace("{}", text))
        })
    })
    .collect();
    for (line, headers, body) in requests {
        for authorization in [String::new(), format!("Authorization: Bearer {c}\r\n")] {
            let headers = format!("{authorization}Connection: close\r\n{headers}");
            let answer = Raw::connect(&home).whole(&line, &headers, &body);
            assert!(answer.starts_with("HTTP/1.1 "), "{line} {headers} {body}: {answer}");
            let seen = answer.to_ascii_lowercase();
            for text in [c, &encoded].map(str::to_ascii_lowercase) {
                assert!(!seen.contains(&text), "{line} {headers} {body}: {answer}");
            }
        }
    }
}

#[test]
fn show_prints_it_and_rotate_replaces_it_for_all() {
    let home = Home::new();
    let seen = home.locald(&["credential", "show", "--json"]);
    assert_eq!((seen.code, seen.json()["outcome"].as_str()), (10, Some("absent")), "{seen:?}");
    let _daemon = home.run(&[]);
    let first = home.credential();
    assert_eq!(home.locald(&["credential", "show"]).stdout.trim_end(), first);
    assert_eq!(
        home.locald(&["credential", "path"]).stdout.trim_end(),
        home.file("credential").to_str().unwrap()
    );

    let mut old = Raw::connect(&home);
    assert_eq!(old.ask("GET /v1/status", None).0, 200);
    let seen = home.locald(&["credential", "rotate"]);
    assert_eq!(seen.code, 0, "{seen:?}");
    assert!(!seen.stdout.contains(&home.credential()));
    assert_ne!(home.credential(), first);
    crate::support::until("the daemon takes the new one on", || {
        (home.locald(&["connect", "--no-spawn"]).code == 0).then_some(())
    });
    assert_eq!(old.ask("GET /v1/status", None).0, 401, "the old one is dead");
}

/// CRED-16, CRED-17.
#[test]
fn rotation_ends_what_the_old_credential_opened() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let (unused, redeemed) = (page_ticket(&home), page_ticket(&home));
    let token = token_in(&submit(&home, &redeemed, "Origin: null\r\n"));
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let with_token = || Raw::connect(&home).bare("GET /v1/page", &bearer, "").status;
    assert_eq!(with_token(), 404, "the token is let in");
    let mut stream = Raw::connect(&home);
    assert!(stream.send("GET /v1/events?after=00000000-0", "").starts_with("HTTP/1.1 200"));

    let seen = home.locald(&["credential", "rotate"]);
    assert!(seen.code == 0 && seen.stdout.contains("locald open"), "{seen:?}");
    while stream.frame().is_some() {}
    assert_eq!(submit(&home, &unused, "Origin: null\r\n").status, 401);
    assert_eq!(with_token(), 401);
    let mut stream = Raw::connect(&home);
    assert!(stream.send("GET /v1/events", "").starts_with("HTTP/1.1 200"), "a client comes back");
}
