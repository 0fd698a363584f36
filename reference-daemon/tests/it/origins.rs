//! The list of origins: by command, by hand, and what a running daemon makes of it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{BOUND, Home, chmod, until};

const APP: &str = "https://app.example";

/// The status of a GET of `path` from the page of an origin, and the connection.
fn ask(home: &Home, path: &str, origin: &str) -> (u16, TcpStream) {
    let record = home.record().expect("a daemon that runs has its record");
    let authority = record["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    let credential = home.credential();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nOrigin: {origin}\r\nAuthorization: Bearer {credential}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    (str::from_utf8(&line[9..]).unwrap().parse().unwrap(), stream)
}

#[test]
fn list_is_edited_by_command() {
    let home = Home::new();
    let empty = home.locald(&["origins", "list", "--json"]);
    assert_eq!((empty.code, &empty.json()["origins"]), (0, &json!([])), "{empty:?}");
    for (args, changed, origins) in [
        (["add", APP], true, vec![APP]),
        (["add", APP], false, vec![APP]),
        (["add", "http://[::1]:5173"], true, vec![APP, "http://[::1]:5173"]),
        (["remove", APP], true, vec!["http://[::1]:5173"]),
        (["remove", APP], false, vec!["http://[::1]:5173"]),
    ] {
        let seen = home.locald(&["origins", args[0], args[1], "--json"]);
        assert_eq!(seen.code, 0, "{seen:?}");
        assert_eq!(seen.json()["outcome"], "done");
        assert_eq!((&seen.json()["changed"], &seen.json()["origins"]), (&json!(changed), &json!(origins)));
    }
    let mode = fs::metadata(home.file("config.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for bad in ["*", "null", "https://app.example/", "-x"] {
        let seen = home.locald(&["origins", "add", bad]);
        assert_eq!(seen.code, 2, "{bad}: {seen:?}");
        assert!(seen.stderr.contains("is not an origin"), "{seen:?}");
    }
}

#[test]
fn no_control_character_reaches_the_terminal() {
    let home = Home::new();
    assert_eq!(home.locald(&["origins", "add", APP]).code, 0);
    let config = home.file("config.toml");
    fs::write(&config, "[origins]\nallow = [\"a\\u001b[2Jb\\nc\\u009bd\"]\n").unwrap();
    assert_eq!(home.locald(&["origins", "list"]).stdout, "a [2Jb c d\n");
    assert_eq!(
        home.locald(&["origins", "list", "--json"]).json()["origins"],
        json!(["a\u{1b}[2Jb\nc\u{9b}d"])
    );
    fs::write(home.file("registration.json.taken-\u{1b}[2J"), "").unwrap();
    fs::write(&config, "[origins]\nallow = \"\u{1b}[2J\"\n").unwrap();
    for seen in [home.locald(&["doctor"]), home.locald(&["origins", "list"])] {
        assert!(!seen.stdout.contains('\u{1b}') && !seen.stderr.contains('\u{1b}'), "{seen:?}");
    }
}

#[test]
fn broken_file_is_named_and_left_alone() {
    let home = Home::new();
    assert_eq!(home.locald(&["origins", "add", APP]).code, 0);
    fs::write(home.file("config.toml"), "[origins").unwrap();
    let seen = home.locald(&["origins", "add", "https://b.example"]);
    assert_eq!(seen.code, 1, "{seen:?}");
    assert!(seen.stderr.contains("config.toml") && seen.stderr.contains("mend"), "{seen:?}");
    assert_eq!(fs::read_to_string(home.file("config.toml")).unwrap(), "[origins");
}

#[test]
fn running_daemon_follows_the_file_and_tells_of_it() {
    let home = Home::new();
    let _daemon = home.run(&["--allow-origin", "https://given.example"]);
    until("a record", || home.record());
    assert_eq!(ask(&home, "/v1/status", APP).0, 403);
    let (status, mut events) = ask(&home, "/v1/events?topics=origins", "https://given.example");
    assert_eq!(status, 200);

    let config = home.file("config.toml");
    fs::write(&config, format!("[origins]\nallow = ['{APP}']\n")).unwrap();
    fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(ask(&home, "/v1/status", APP).0, 200);
    let (status, mut stream) = ask(&home, "/v1/events", APP);
    assert_eq!(status, 200);

    fs::remove_file(&config).unwrap();
    assert_eq!(ask(&home, "/v1/status", APP).0, 403);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(ask(&home, "/v1/status", "https://given.example").0, 200);

    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while !text.contains("removed") {
        let read = events.read(&mut piece).unwrap();
        assert!(read > 0, "{text}");
        text += str::from_utf8(&piece[..read]).unwrap();
    }
    let added = text.find(&format!(r#"{{"what":"added","origin":"{APP}"}}"#));
    let added = added.or_else(|| text.find(&format!(r#"{{"origin":"{APP}","what":"added"}}"#)));
    assert!(added.is_some_and(|added| added < text.find("removed").unwrap()), "{text}");
}

/// PER-48, LIFE-37.
#[test]
fn origin_taken_off_in_a_file_that_others_may_read_is_off_and_the_user_is_told() {
    let home = Home::new();
    let _daemon = home.run(&["--allow-origin", "https://given.example"]);
    assert_eq!(home.locald(&["origins", "add", APP]).code, 0);
    let (status, mut events) = ask(&home, "/v1/events?topics=warning", "https://given.example");
    assert_eq!(status, 200);
    let config = home.file("config.toml");
    // In one step: in between it would be a good file.
    let saved = home.file("saved");
    fs::write(&saved, "[origins]\nallow = ['https://b.example']\n").unwrap();
    chmod(&saved, 0o644);
    fs::rename(&saved, &config).unwrap();
    for (origin, expected) in [
        (APP, 403),
        ("https://b.example", 403),
        ("https://given.example", 200),
    ] {
        assert_eq!(ask(&home, "/v1/status", origin).0, expected, "{origin}");
    }
    fs::write(&config, "[origins]\nallow = ['ws://b.example']\n").unwrap();
    assert_eq!(ask(&home, "/v1/status", APP).0, 403);
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while text.matches("config_invalid").count() < 2 {
        let read = events.read(&mut piece).unwrap();
        assert!(read > 0, "{text}");
        text += str::from_utf8(&piece[..read]).unwrap();
    }
    assert!(
        text.contains("0644") && text.contains("origin 1 of the list") && !text.contains("ws://"),
        "{text}"
    );
}
