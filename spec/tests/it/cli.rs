//! The command as a person or a script meets it.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local-daemon-spec"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the command can be run")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("standard output is JSON")
}

#[test]
fn list_filters_and_its_counts_add_up() {
    let output = run(&["list", "--chapter", "publish", "--role", "client", "--json"]);
    assert!(output.status.success());
    for requirement in json(&output)["requirements"].as_array().unwrap() {
        assert_eq!(requirement["chapter"], "publish");
        assert_ne!(requirement["role"], "daemon");
    }
    let all = json(&run(&["list", "--json"]));
    let listed = all["requirements"].as_array().unwrap().len() as u64;
    let levels: u64 =
        all["counts"]["levels"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!((all["counts"]["total"].as_u64(), levels), (Some(listed), listed));
    let numbered = json(&run(&["list", "--chapter", "05-publish", "--json"]));
    assert_eq!(numbered, json(&run(&["list", "--chapter", "publish", "--json"])));
    assert_eq!(numbered["requirements"][0]["id"], "PUB-1");
}

#[test]
fn show_prints_the_sentence_and_its_place() {
    let output = run(&["show", "PUB-1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.starts_with("PUB-1  MUST\n"), "{text}");
    assert!(text.contains("(spec/chapters/05-publish.md:"), "{text}");
    assert_eq!(json(&run(&["show", "PUB-1", "--json"]))["id"], "PUB-1");
}

#[test]
fn an_unknown_id_names_the_nearest_and_ends_2() {
    for json in [&["show", "pub-3"][..], &["show", "pub-3", "--json"]] {
        let output = run(json);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(error.contains("no requirement `pub-3`") && error.contains("PUB-3"), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_unknown_chapter_profile_or_role_ends_2_and_says_what_there_is() {
    for (option, wrong, known) in [
        ("--chapter", "publishing", "convergence"),
        ("--profile", "cores", "unix-socket"),
        ("--role", "server", "daemon"),
    ] {
        let output = run(&["list", option, wrong]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(error.contains(wrong) && error.contains(known), "{error}");
    }
}

#[test]
fn check_counts_what_it_checked() {
    let output = run(&["check", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(json(&output)["findings"], serde_json::json!([]));
    assert!(json(&output)["checked"]["chapters"].as_u64() > Some(0));
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let mut child = command(&["list", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be run");
    // More than a pipe holds is still to be written when the reader leaves.
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(output.status.success());
}
