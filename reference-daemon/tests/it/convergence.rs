//! However many want one, there is one.

use std::collections::BTreeSet;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Home, Manner, Output, Squatter, until};

#[test]
fn many_connects_at_once_end_with_one_daemon() {
    let home = Home::new();
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let mut command = home.command(&["connect", "--json", "--deadline", "20"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let ids: BTreeSet<String> = clients
        .into_iter()
        .map(|client| {
            let output = client.wait_with_output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && text.starts_with(r#"{"outcome":"ready","#), "{text}");
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["id"].to_string()
        })
        .collect();
    until("one process is left", || (home.daemons().len() == 1).then_some(()));
    assert_eq!(ids.len(), 1);
    assert_eq!(home.record().unwrap()["id"].to_string(), *ids.first().unwrap());
}

#[test]
fn start_finds_what_runs() {
    let home = Home::new();
    let first = home.locald(&["start", "--json"]).json();
    let second = home.locald(&["start", "--json"]).json();
    assert_eq!(first, second);
    assert_eq!(home.daemons().len(), 1);
}

#[test]
fn the_last_to_run_wins_and_the_other_leaves_with_20() {
    let home = Home::new();
    let mut first = home.run(&[]);
    let _second = home.run(&[]);
    assert_eq!(first.ended().code(), Some(20));
    assert!(home.record().is_some(), "the displaced leaves the record alone");
}

#[test]
fn a_yielding_daemon_leaves_a_ready_one_in_place() {
    let home = Home::new();
    let mut first = home.run(&[]);
    let record = home.record();
    let seen = Output::of(&mut home.command(&["run", "--yield"]));
    assert_eq!(seen.code, 0, "{seen:?}");
    assert_eq!(home.record(), record);
    assert!(first.is_alive());
}

#[test]
fn start_takes_the_place_of_a_squatter() {
    let home = Home::new();
    let squatter = Squatter::new(Manner::Agree);
    let id = home.pretend(squatter.port);
    let seen = home.locald(&["start", "--json"]);
    assert_eq!(seen.code, 0, "{seen:?}");
    assert_ne!(seen.json()["id"], id.as_str());
    assert_eq!(home.locald(&["status"]).code, 0);
}

#[test]
fn restart_gives_a_new_daemon() {
    let home = Home::new();
    let first = home.locald(&["start", "--json"]).json();
    let seen = home.locald(&["restart", "--json"]);
    let second = seen.json();
    assert_eq!((seen.code, second["outcome"].as_str()), (0, Some("ready")), "{seen:?}");
    assert_ne!(first["id"], second["id"]);
    assert_eq!(home.daemons().len(), 1);
    assert_eq!(home.locald(&["stop"]).code, 0);
    assert_eq!(home.locald(&["restart"]).code, 0, "where none runs, it starts one");
}

#[test]
fn restart_replaces_a_daemon_that_does_not_answer() {
    let home = Home::new();
    let mut stopped = home.run(&[]);
    let before = home.record().unwrap();
    stopped.signal(Signal::STOP);
    let seen = home.locald(&["restart", "--json"]);
    assert_eq!((seen.code, seen.json()["outcome"].as_str()), (0, Some("ready")), "{seen:?}");
    assert_ne!(seen.json()["id"], before["id"]);
    assert!(stopped.is_alive(), "nobody signals what has not proven itself");
    stopped.signal(Signal::CONT);
    assert_eq!(stopped.ended().code(), Some(20));
    assert_eq!(home.locald(&["connect", "--no-spawn", "--json"]).json()["id"], seen.json()["id"]);
}
