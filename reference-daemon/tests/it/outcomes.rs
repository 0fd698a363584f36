//! Each outcome is told apart from every other, by its word, its exit code and what there is to do.

use std::fs::{self, File};
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Home, Manner, Output, Refusing, Squatter, chmod};

/// The commands that look at what is there agree on the outcome; the text names the place and says what to do.
fn assert_outcome(home: &Home, outcome: &str, code: i32, place: &str, advice: &str) {
    for args in [&["connect", "--no-spawn"][..], &["status"]] {
        let seen = home.locald(&[args, &["--json"]].concat());
        let json = seen.json();
        assert_eq!((seen.code, json["outcome"].as_str()), (code, Some(outcome)), "{args:?} {seen:?}");
        assert_eq!(json["state_dir"].as_str(), home.state_dir().to_str());
        assert!(json["detail"].as_str().unwrap().contains(place), "{seen:?}");
    }
    let seen = home.locald(&["status"]);
    assert_eq!((seen.code, seen.stdout.as_str()), (code, ""), "{seen:?}");
    assert!(seen.stderr.contains(place) && seen.stderr.contains(advice), "{seen:?}");
}

#[test]
fn ready() {
    let home = Home::new();
    let daemon = home.run(&[]);
    let seen = home.locald(&["connect", "--no-spawn", "--json"]);
    let (json, record) = (seen.json(), home.record().unwrap());
    assert_eq!((seen.code, json["outcome"].as_str()), (0, Some("ready")), "{seen:?}");
    for member in ["id", "url", "pid"] {
        assert_eq!(json[member], record[member], "{member}");
    }
    assert_eq!(json["pid"], daemon.pid().as_raw_nonzero().get());
    assert_eq!(
        (json["protocol"].as_str(), json["version"].as_str()),
        (Some("locald/1"), record["version"].as_str())
    );
    assert_eq!(json["state_dir"].as_str(), home.state_dir().to_str());
    let seen = home.locald(&["connect", "--no-spawn"]);
    assert!(seen.stdout.contains(record["url"].as_str().unwrap()), "{seen:?}");
}

#[test]
fn absent() {
    let home = Home::new();
    assert_outcome(&home, "absent", 10, home.state_dir().to_str().unwrap(), "locald start");
    assert!(!home.state_dir().exists(), "a look makes nothing");
}

#[test]
fn a_malformed_record_is_absent_and_says_why() {
    let home = Home::new();
    home.pretend(1);
    fs::write(home.file("registration.json"), "{\"id\"").unwrap();
    assert_outcome(&home, "absent", 10, "registration.json", "locald start");
}

#[test]
fn stale() {
    let home = Home::new();
    let nobody = Refusing::new();
    home.pretend(nobody.port);
    assert_outcome(&home, "stale", 11, &nobody.port.to_string(), "locald start");
    let seen = home.locald(&["stop", "--json"]);
    assert_eq!((seen.code, seen.json()["outcome"].as_str()), (0, Some("not-running")), "{seen:?}");
    assert!(home.record().is_some(), "clients remove no record");
}

#[test]
fn a_daemon_that_does_not_answer_is_busy_and_nothing_is_done_to_it() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    let record = home.record();
    daemon.signal(Signal::STOP);
    let place = record.as_ref().unwrap()["url"].as_str().unwrap().to_owned();
    assert_outcome(&home, "busy", 12, &place, "locald restart");
    for args in [&["stop", "--json"][..], &["stop", "--force", "--json"]] {
        let seen = home.locald(args);
        assert_eq!((seen.code, seen.json()["outcome"].as_str()), (12, Some("busy")), "{seen:?}");
    }
    let seen = home.locald(&["doctor", "--fix", "--json"]);
    assert_eq!((seen.code, seen.json()["fixed"].as_array().map(Vec::len)), (1, Some(0)), "{seen:?}");
    daemon.signal(Signal::CONT);
    assert_eq!(home.record(), record);
    assert_eq!(home.locald(&["status"]).code, 0, "it lives, and is still the one");
    assert!(daemon.is_alive());
}

#[test]
fn a_mute_socket_is_busy() {
    let home = Home::new();
    let mute = Squatter::new(Manner::Mute);
    home.pretend(mute.port);
    assert_outcome(&home, "busy", 12, &mute.port.to_string(), "locald restart");
}

#[test]
fn foreign() {
    let home = Home::new();
    let squatter = Squatter::new(Manner::Agree);
    home.pretend(squatter.port);
    assert_outcome(&home, "foreign", 13, &squatter.port.to_string(), "locald start");
}

#[test]
fn incompatible() {
    let home = Home::new();
    let mut daemon = home.run_with(&[], &[("LOCALD_PROTOCOL", "locald/2")]);
    assert_outcome(&home, "incompatible", 14, "locald/2", "--replace");
    // An older client never fights a newer daemon, and nobody fights another name's.
    for protocol in ["locald/1", "other/9"] {
        let seen = home.locald_as(protocol, &["connect", "--json"]);
        assert_eq!((seen.code, seen.json()["outcome"].as_str()), (14, Some("incompatible")), "{seen:?}");
        assert_eq!(home.locald_as(protocol, &["stop"]).code, 14);
    }
    assert_eq!(home.locald_as("locald/2", &["status"]).code, 0);
    assert!(daemon.is_alive());
}

#[test]
fn a_newer_client_displaces_and_an_older_one_when_told_to() {
    let home = Home::new();
    let mut first = home.run_with(&[], &[("LOCALD_PROTOCOL", "locald/2")]);
    let seen = home.locald_as("locald/3", &["connect", "--json"]);
    assert_eq!((seen.code, seen.json()["protocol"].as_str()), (0, Some("locald/3")), "{seen:?}");
    assert_eq!(first.ended().code(), Some(20));
    let seen = home.locald(&["connect", "--replace", "--json"]);
    assert_eq!((seen.code, seen.json()["protocol"].as_str()), (0, Some("locald/1")), "{seen:?}");
}

#[test]
fn loose_modes_are_invalid_for_clients_and_daemons() {
    for (name, loose) in [("credential", 0o644), ("credential", 0o620), ("", 0o755)] {
        let home = Home::new();
        home.pretend(1);
        let path = home.file(name);
        chmod(&path, loose);
        let place = path.to_str().unwrap().trim_end_matches('/').to_owned();
        assert_outcome(&home, "invalid", 15, &place, "locald doctor");
        for args in [
            &["run"][..],
            &["run", "--json"],
            &["start"],
            &["connect"],
            &["credential", "show"],
            &["stop"],
        ] {
            let seen = home.locald(args);
            assert_eq!(seen.code, 15, "{args:?} {seen:?}");
            assert!(format!("{}{}", seen.stdout, seen.stderr).contains(&place), "{args:?} {seen:?}");
        }
        assert!(home.daemons().is_empty());
    }
}

#[test]
fn a_daemon_that_cannot_start_says_why_to_who_started_it() {
    let home = Home::new();
    let mut command = home.command(&["connect", "--json"]);
    let seen = Output::of(command.env("LOCALD_LOG", "loud"));
    let json = seen.json();
    assert_eq!((seen.code, json["outcome"].as_str()), (16, Some("spawn-failed")), "{seen:?}");
    assert!(json["detail"].as_str().unwrap().contains("LOCALD_LOG=loud"), "{seen:?}");
    assert!(home.daemons().is_empty());
}

#[test]
fn usage() {
    let home = Home::new();
    for args in [
        &["connect", "--deadline", "0"][..],
        &["connect", "--deadline", "soon"],
        &["connect", "--private", "--replace"],
        &["run", "--allow-origin", "null"],
        &["run", "--allow-origin", "https://*.example"],
        &["run", "--port", "80"],
        &["credential"],
    ] {
        let seen = home.locald(args);
        assert_eq!(seen.code, 2, "{args:?} {seen:?}");
    }
    for (name, value) in [
        ("LOCALD_PROTOCOL", "locald"),
        ("LOCALD_LOG", "loud"),
        ("LOCALD_LOG_FORMAT", "xml"),
        ("LOCALD_IDLE_TIMEOUT_SECONDS", "0"),
        ("LOCALD_IDLE_TIMEOUT_SECONDS", "31536001"),
        ("LOCALD_IDLE_TIMEOUT_SECONDS", "+5"),
    ] {
        let seen = Output::of(home.command(&["run"]).env(name, value));
        assert_eq!(seen.code, 2, "{name} {seen:?}");
        assert!(seen.stderr.contains(name), "{seen:?}");
    }
}

/// An answer that cannot be written is an error, unless its reader has left.
#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let home = Home::new();
    assert_eq!(home.locald(&["start"]).code, 0);
    let ended = |args: &[&str], stdout: Stdio| {
        let output = home.command(args).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["start"],
        &["connect", "--json"],
        &["credential", "show"],
        &["credential", "path"],
        &["origins", "list"],
        &["open", "--print-url"],
        &["doctor"],
        &["pages", "list"],
        &["--help"],
        &["--version"],
        &["stop", "--json"],
        &["status", "--json"],
    ] {
        let (code, said) = ended(args, File::options().write(true).open("/dev/full").unwrap().into());
        assert!(code == Some(1) && said.contains("No space left"), "{args:?}: {code:?}: {said}");
    }
    assert_eq!(home.locald(&["start"]).code, 0);
    for args in [&["status"][..], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(ended(args, writer.into()), (Some(0), String::new()), "{args:?}");
    }
}
