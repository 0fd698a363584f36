//! The credential is where it belongs, and nowhere else.

use std::fs;

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
    assert!(log.contains("/v1/events") && log.contains("[redacted]"), "the log shows the requests: {log}");
    seen.push(log);
    for text in seen {
        assert!(!text.contains(&credential) && !text.contains(&encoded), "{text}");
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
